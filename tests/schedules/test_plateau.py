"""Performance-based decay: replayed by hand, and its bounds against every history."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halo_forge.schedules.plateau import Plateau

METRIC = "dev/pass_rate"


def rates(schedule: Plateau, measured: list[float | None], num_cycles: int = 20) -> list[float]:
    """The value of each cycle 1 .. len(measured), where measured[v] is the metric of version v."""
    history = [{} if value is None else {METRIC: value} for value in measured]
    return [schedule.value(cycle, num_cycles, history[:cycle]) for cycle in range(1, len(measured) + 1)]


def halving(**settings: object) -> Plateau:
    return Plateau.model_validate({"base": 8.0, "decay": 0.5, "min": 1.0, **settings})


def test_every_stall_decays_with_patience_1_and_no_cooldown() -> None:
    found = rates(halving(patience=1, cooldown=0), [0.50, 0.60, 0.61, 0.70, 0.70, 0.65])
    assert found == [8, 8, 4, 4, 2, 1]


def test_decays_compound_and_stop_at_the_floor() -> None:
    found = rates(halving(patience=1, cooldown=0), [0.5] * 7)
    assert found == [8, 4, 2, 1, 1, 1, 1]


def test_patience_counts_misses_since_the_last_improvement() -> None:
    found = rates(halving(patience=2, cooldown=0), [0.50, 0.50, 0.60, 0.60, 0.60, 0.60])
    assert found == [8, 8, 8, 8, 4, 4]


def test_versions_in_the_cooldown_are_no_misses() -> None:
    found = rates(halving(patience=2, cooldown=1), [0.5] * 9)
    assert found == [8, 8, 4, 4, 4, 2, 2, 2, 1]


def test_an_improvement_in_the_cooldown_moves_the_reference() -> None:
    found = rates(halving(patience=1, cooldown=1), [0.50, 0.50, 0.60, 0.55])
    assert found == [8, 4, 4, 2]


def test_slow_gains_add_up_against_the_reference() -> None:
    found = rates(halving(patience=2, cooldown=0), [0.50, 0.51, 0.52, 0.53, 0.54, 0.55, 0.56])
    assert found == [8] * 7


def test_the_threshold_is_absolute_reached_by_equality_and_safe_at_0() -> None:
    assert 0.42 - 0.40 < 0.02, "the float that the rounding allowance is for"
    assert rates(halving(patience=1, cooldown=0), [0.40, 0.42]) == [8, 8]
    assert rates(halving(patience=1, cooldown=0), [0.40, 0.4199]) == [8, 4]
    assert rates(halving(patience=1, cooldown=0), [0.0, 0.0, 0.02]) == [8, 4, 4]
    assert rates(halving(patience=1, cooldown=0), [0.95, 0.97]) == [8, 8]


@pytest.mark.parametrize("absent", [None, math.nan, math.inf])
def test_a_missing_measurement_changes_nothing(absent: float | None) -> None:
    schedule = halving(patience=2, cooldown=0)
    assert rates(schedule, [0.5, 0.5, absent, absent, 0.5]) == [8, 8, 8, 8, 4]
    assert rates(schedule, [absent, 0.9, 0.5, 0.5]) == [8, 8, 8, 4]
    assert schedule.value(9, 20, []) == 8


def test_a_later_cycle_than_the_run_has_replays_the_run_only() -> None:
    history = [{METRIC: 0.5}] * 10
    schedule = halving(patience=1, cooldown=0)
    assert schedule.value(9, 2, history) == schedule.value(2, 2, history) == 4


def test_the_metric_is_a_setting() -> None:
    history = [{METRIC: 0.5, "dev/compile_rate": 0.5 + 0.1 * version} for version in range(4)]
    assert halving(patience=1, cooldown=0, metric="dev/compile_rate").value(4, 9, history) == 8
    assert halving(patience=1, cooldown=0).value(4, 9, history) == 1


@given(
    patience=st.integers(1, 4),
    cooldown=st.integers(0, 3),
    decay=st.floats(0.1, 1.0),
    measured=st.lists(st.none() | st.floats(0, 1) | st.just(math.nan), min_size=1, max_size=15),
)
def test_bounds_hold_for_every_history_and_are_reached(
    patience: int, cooldown: int, decay: float, measured: list[float | None]
) -> None:
    schedule = Plateau(base=1.0, decay=decay, min=0.01, patience=patience, cooldown=cooldown)
    found = rates(schedule, measured)
    assert found == sorted(found, reverse=True), "the value never rises"
    bounds = [schedule.bounds(cycle, 20) for cycle in range(1, len(measured) + 1)]
    assert all(low <= value <= high for value, (low, high) in zip(found, bounds, strict=True))
    assert rates(schedule, [0.5] * len(measured)) == [low for low, _ in bounds]
    assert rates(schedule, [None] * len(measured)) == [high for _, high in bounds]
