"""Decay by the decisions of the run: replayed by hand, against the state machine, and within its bounds."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from halo_forge.core.schedules.plateau import OUTCOME, Plateau

METRIC = "dev/pass_rate"
UP, SAME, DOWN = 1.0, 0.0, -1.0


def rates(schedule: Plateau, outcomes: list[float | None], num_cycles: int = 20) -> list[float]:
    """The value of each cycle 1 .. len(outcomes) + 1, where outcomes[v-1] is that of version v."""
    judged = [{} if outcome is None else {OUTCOME: outcome} for outcome in outcomes]
    history = [{METRIC: 0.5}, *judged]
    return [schedule.value(cycle, num_cycles, history[:cycle]) for cycle in range(1, len(history) + 1)]


def measured_rates(schedule: Plateau, measured: list[float | None]) -> list[float]:
    """The same by the metric alone: measured[v] is that of version v."""
    history = [{} if value is None else {METRIC: value} for value in measured]
    return [schedule.value(cycle, 20, history[:cycle]) for cycle in range(1, len(measured) + 1)]


def halving(**settings: object) -> Plateau:
    return Plateau.model_validate({"base": 8.0, "decay": 0.5, "decay_on_decline": 0.25, "min": 1.0, **settings})


def by_metric(**settings: object) -> Plateau:
    return halving(**{"metric": METRIC, "patience": 1, "cooldown": 0, **settings})


def test_the_factors_of_the_default_settings() -> None:
    schedule = Plateau(base=1.0)
    assert rates(schedule, [SAME, SAME, UP, DOWN]) == pytest.approx([1.0, 1.0, 0.7, 0.7, 0.35])


def test_decays_compound_and_stop_at_the_floor() -> None:
    assert rates(halving(patience=1, cooldown=0), [SAME] * 6) == [8, 4, 2, 1, 1, 1, 1]


def test_patience_counts_versions_that_held_since_the_last_improvement() -> None:
    assert rates(halving(cooldown=0), [SAME, UP, SAME, SAME, UP, SAME]) == [8, 8, 8, 8, 4, 4, 4]


def test_a_stall_waits_for_the_end_of_the_cooldown() -> None:
    assert rates(halving(patience=1, cooldown=1), [SAME] * 5) == [8, 4, 4, 2, 2, 1]
    assert rates(halving(patience=1, cooldown=2), [SAME] * 5) == [8, 4, 4, 4, 2, 2]
    # Where patience is longer than the cooldown, the cooldown is over when the waiting is.
    assert rates(halving(patience=2, cooldown=1), [SAME] * 5) == [8, 8, 4, 4, 2, 2]


def test_a_decline_lowers_at_once_even_in_a_cooldown_and_starts_another() -> None:
    assert rates(halving(patience=1, cooldown=1), [SAME, DOWN, SAME, SAME]) == [8, 4, 1, 1, 1]
    assert rates(halving(base=64.0, patience=1, cooldown=1), [DOWN, SAME, SAME]) == [64, 16, 16, 8]
    # What was waited for before the decline is forgotten.
    assert rates(halving(base=64.0, patience=2, cooldown=0), [SAME, DOWN, SAME, SAME]) == [64, 64, 16, 16, 8]


@pytest.mark.parametrize("absent", [None, math.nan, math.inf])
def test_a_version_that_could_not_be_judged_changes_nothing(absent: float | None) -> None:
    assert rates(halving(cooldown=0), [SAME, absent, absent, SAME]) == [8, 8, 8, 8, 4]
    # Not even the cooldown.
    assert rates(halving(patience=1, cooldown=1), [SAME, absent, SAME, SAME]) == [8, 4, 4, 4, 2]
    assert halving().value(9, 20, []) == 8


def test_the_outcome_of_the_start_model_is_none() -> None:
    schedule = halving(patience=1, cooldown=0)
    assert schedule.value(2, 9, [{OUTCOME: DOWN}, {OUTCOME: UP}]) == 8


def test_a_later_cycle_than_the_run_has_replays_the_run_only() -> None:
    history = [{OUTCOME: SAME}] * 10
    schedule = halving(patience=1, cooldown=0)
    assert schedule.value(9, 2, history) == schedule.value(2, 2, history) == 4


def test_a_stall_at_the_floor_is_told_for_the_newest_version_only() -> None:
    schedule = halving(base=2.0, patience=1, cooldown=0)

    def stalled(*outcomes: float) -> bool:
        return schedule.stalled_at_floor(len(outcomes) + 1, 9, [{}, *({OUTCOME: outcome} for outcome in outcomes)])

    assert not stalled()
    assert not stalled(SAME), "this stall lowers the value to the floor"
    assert stalled(SAME, SAME)
    assert not stalled(SAME, UP)
    assert not stalled(SAME, SAME, UP)
    # A decline has its own policy, and its own end.
    assert not stalled(SAME, DOWN)


def test_only_by_decisions_it_answers_a_decline() -> None:
    assert halving().lowers_on_decline
    assert not by_metric().lowers_on_decline
    assert measured_rates(by_metric(), [0.9, 0.1]) == [8, 4]


def test_by_metric_slow_gains_add_up_against_the_reference() -> None:
    assert measured_rates(by_metric(patience=2), [0.50, 0.51, 0.52, 0.53, 0.54, 0.55, 0.56]) == [8] * 7
    assert measured_rates(by_metric(), [0.50, 0.60, 0.61, 0.70, 0.70, 0.65]) == [8, 8, 4, 4, 2, 1]


def test_by_metric_the_threshold_is_absolute_reached_by_equality_and_safe_at_0() -> None:
    assert 0.42 - 0.40 < 0.02, "the float that the rounding allowance is for"
    assert measured_rates(by_metric(), [0.40, 0.42]) == [8, 8]
    assert measured_rates(by_metric(), [0.40, 0.4199]) == [8, 4]
    assert measured_rates(by_metric(), [0.0, 0.0, 0.02]) == [8, 4, 4]
    assert measured_rates(by_metric(min_improvement=0.03), [0.95, 0.97]) == [8, 4]


def test_by_metric_the_first_measured_version_is_the_reference() -> None:
    assert measured_rates(by_metric(), [None, 0.9, math.nan, 0.5]) == [8, 8, 8, 4]


def test_a_threshold_without_a_metric_is_refused() -> None:
    with pytest.raises(ValidationError, match="without a metric"):
        halving(min_improvement=0.01)


@given(
    patience=st.integers(1, 4),
    cooldown=st.integers(0, 3),
    decay=st.floats(0.1, 1.0),
    on_decline=st.floats(0.1, 1.0),
    outcomes=st.lists(st.sampled_from([UP, SAME, DOWN, None]), max_size=12),
    metric=st.sampled_from([None, METRIC]),
)
def test_bounds_hold_for_every_history(
    patience: int, cooldown: int, decay: float, on_decline: float, outcomes: list[float | None], metric: str | None
) -> None:
    settings = {"decay": decay, "decay_on_decline": on_decline, "patience": patience, "cooldown": cooldown}
    schedule = Plateau(base=1.0, min=1e-9, metric=metric, **settings)
    found = rates(schedule, outcomes)
    assert found == sorted(found, reverse=True), "the value never rises"
    bounds = [schedule.bounds(cycle, 20) for cycle in range(1, len(found) + 1)]
    assert all(low <= value <= high for value, (low, high) in zip(found, bounds, strict=True))


def test_bounds_are_reached() -> None:
    only_declines, only_stalls = halving(min=0.0), halving(min=0.0, decay_on_decline=1.0)
    assert rates(only_declines, [DOWN] * 5) == [only_declines.bounds(cycle, 9)[0] for cycle in range(1, 7)]
    assert rates(only_stalls, [SAME] * 5) == [only_stalls.bounds(cycle, 9)[0] for cycle in range(1, 7)]
    # A stall now and a decline later can be worse than either alone.
    mixed = halving(min=0.0, patience=1, cooldown=1, decay=0.1, decay_on_decline=0.25)
    assert mixed.bounds(3, 9)[0] == pytest.approx(8 * 0.1 * 0.25)
    assert rates(mixed, [SAME, DOWN])[-1] == mixed.bounds(3, 9)[0]
    assert mixed.bounds(3, 9)[1] == 8
