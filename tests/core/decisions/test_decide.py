"""What follows from a assessment, cycle after cycle, and when a run stops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halo_forge.core.decisions import (
    Assessment,
    DecisionsSection,
    VersionComparison,
    decide,
    dropped_cycles,
    incumbent,
    signs_of_collapse,
)
from halo_forge.core.records import OUTCOME_NUMBER, Decision, Outcome

OUTCOMES: list[Outcome] = ["ahead", "held", "suspect_not_confirmed", "degraded", "underpowered", "too_few_to_tell"]
LAX: dict[str, Any] = {"stop_patience": None}


def comparison(difference: float = 0.0, error: float = 0.02) -> VersionComparison:
    return VersionComparison(difference, error, difference / error, 64)


def play(outcomes: Sequence[Outcome], num_cycles: int = 99, **values: Any) -> list[Decision]:
    """The decisions of cycles whose versions 1, 2 ... are judged like this; it ends where a decision ends."""
    settings, decisions = DecisionsSection(**values), [decide_first(num_cycles)]
    for outcome in outcomes:
        fresh = comparison(-0.1) if outcome in ("degraded", "suspect_not_confirmed") else None
        assessment = Assessment(outcome, incumbent(decisions), comparison(), fresh)
        decisions.append(decide(settings, decisions, assessment, [{}] * (len(decisions) + 1), num_cycles))
        if decisions[-1].ends:
            break
    return decisions


def decide_first(num_cycles: int) -> Decision:
    return decide(DecisionsSection(), [], Assessment("baseline", None), [{}], num_cycles)


def actions(decisions: Sequence[Decision]) -> list[str]:
    return [decision.action for decision in decisions]


def test_the_start_model_is_the_first_incumbent() -> None:
    first = decide_first(3)
    assert (first.cycle, first.policy_version, first.outcome, first.action) == (1, 0, "baseline", "continue")
    assert (first.best_version, first.compared_with, first.screen, first.ending) == (0, None, {}, None)
    assert (first.train_from, first.sample_from, first.resamples) == (0, 0, False)
    assert "baseline" not in OUTCOME_NUMBER and "underpowered" not in OUTCOME_NUMBER


def test_the_incumbent_is_the_last_that_was_ahead() -> None:
    found = play(["held", "ahead", "suspect_not_confirmed", "underpowered", "ahead", "held"])
    assert [decision.best_version for decision in found] == [0, 0, 2, 2, 2, 5, 5]
    assert [decision.compared_with for decision in found] == [None, 0, 0, 2, 2, 2, 5]
    assert all(decision.train_from == decision.sample_from == decision.policy_version for decision in found)


def test_a_rollback_and_what_stays_of_it() -> None:
    found = play(["ahead", "held", "degraded", "held", "degraded", "ahead"], **LAX)
    assert actions(found) == ["continue", "continue", "continue", "rollback", "continue", "rollback", "continue"]
    back = found[3]
    assert (back.train_from, back.sample_from, back.seed_tag, back.num_rollbacks) == (1, 1, "rollback", 1)
    assert back.resamples
    assert [decision.learning_rate_factor for decision in found] == [1.0, 1.0, 1.0, 0.5, 0.5, 0.25, 0.25]
    assert [decision.temperature_add for decision in found] == pytest.approx([0, 0, 0, 0.1, 0.1, 0.2, 0.2])
    assert [decision.num_rollbacks for decision in found] == [0, 0, 0, 1, 1, 2, 2]
    # The next version descends from v_4, which cycle 4 trained from v_1.
    assert (found[4].train_from, found[4].seed_tag, found[4].resamples) == (4, "sample", False)
    assert dropped_cycles(found) == {3, 5}


def test_going_on_lower_is_no_return() -> None:
    found = play(["ahead", "degraded", "degraded", "degraded"], on_decline="continue_lower", **LAX)
    assert actions(found)[2:] == ["continue_lower"] * 3
    assert [decision.train_from for decision in found] == [0, 1, 2, 3, 4]
    assert [decision.learning_rate_factor for decision in found] == [1.0, 1.0, 0.5, 0.25, 0.125]
    assert {decision.num_rollbacks for decision in found} == {0}
    assert {decision.temperature_add for decision in found} == {0.0}


def test_from_the_start_model() -> None:
    back = play(["ahead", "degraded"], on_decline="from_base", **LAX)[-1]
    assert (back.action, back.train_from, back.sample_from, back.best_version) == ("from_base", 0, 1, 1)
    assert back.num_rollbacks == 1


@pytest.mark.parametrize(
    ("max_rollbacks", "expected"),
    [(0, ["stop"]), (1, ["rollback", "stop"]), (2, ["rollback", "rollback", "stop"])],
)
def test_so_many_returns_and_no_more(max_rollbacks: int, expected: list[str]) -> None:
    found = play(["degraded"] * 9, max_rollbacks=max_rollbacks, **LAX)
    assert actions(found)[1:] == expected
    assert found[-1].ending == "declined"
    assert "max_rollbacks" in found[-1].reason


def test_patience_needs_power() -> None:
    assert actions(play(["held"] * 9))[1:] == ["continue", "continue", "stop"]
    stopped = play(["held"] * 9)[-1]
    assert stopped.ending == "converged"
    assert "3 versions in a row without improvement, where a gain of 0.056 would have been detected" in stopped.reason
    # What tells nothing is no evidence that nothing improves.
    assert actions(play(["held", "held", "underpowered", "held", "held"])).count("stop") == 0
    assert actions(play(["held", "ahead", "held", "held", "suspect_not_confirmed"]))[-1] == "stop"
    # A decline has its answer first, and the count starts again after it.
    assert actions(play(["held", "held", "degraded", "held", "held"]))[3:] == ["rollback", "continue", "continue"]
    assert actions(play(["degraded"] * 5, on_decline="continue_lower"))[1:] == ["continue_lower"] * 5
    assert "stop" not in actions(play(["held"] * 9, **LAX))


@pytest.mark.parametrize(
    ("outcomes", "ending"),
    [
        (["ahead", "ahead"], "completed"),
        (["ahead", "held"], "completed"),
        (["ahead", "underpowered"], "completed"),
        (["underpowered", "too_few_to_tell"], "completed"),
        (["held", "held"], "completed"),
        (["held", "held", "held"], "converged"),
        (["ahead", "degraded"], "completed"),
        (["held", "degraded"], "declined"),
        (["held", "held", "degraded"], "declined"),
    ],
)
def test_all_cycles_done(outcomes: list[Outcome], ending: str) -> None:
    last = play(outcomes, num_cycles=len(outcomes))[-1]
    assert (last.action, last.ending, last.ends) == ("finish", ending, True)
    assert "all cycles completed" in last.reason


def test_what_rests_on_one_prompt_is_no_lead_and_no_evidence_that_nothing_improves() -> None:
    found = play(["held", "held", "too_few_to_tell", "held", "held"])
    assert {decision.best_version for decision in found} == {0}
    assert {decision.action for decision in found} == {"continue"}
    assert found[3].reason.endswith("too few passes to tell: one prompt decides")
    reward = play(["too_few_to_tell"], metric="dev/reward_mean")[-1]
    assert reward.reason.endswith("too few rewards to tell: one prompt decides")


def test_where_nothing_passes_the_reason_says_so() -> None:
    nothing = Assessment("too_few_to_tell", 0, VersionComparison(0.0, 0.01, None, 64, uniform=True, all_zero=True))
    found = decide(DecisionsSection(), [decide_first(9)], nothing, [{}, {}], 9)
    assert found.reason.endswith("too few passes to tell: there are none") and found.action == "continue"


def test_a_fall_of_another_metric_is_said_in_the_same_line() -> None:
    fell = {"compile_rate": VersionComparison(-0.094, 0.06, -1.57, 32), "reward_mean": comparison(-0.087, 0.05)}
    found = decide(
        DecisionsSection(), [decide_first(9)], Assessment("ahead", 0, comparison(0.03), None, fell), [{}, {}], 9
    )
    (line,) = found.reason.split("; ")
    assert line.endswith(": ahead, but compile_rate fell by 0.094 (z -1.57) and reward_mean fell by 0.087 (z -1.74)")
    assert found.opposed["compile_rate"]["difference"] == -0.094
    assert Decision.from_row(found.to_row()) == found


def ended(history: Sequence[Mapping[str, float]], at_floor: bool = False, **values: Any) -> str | None:
    settings = DecisionsSection(**values)
    assessment = Assessment("held", 0, comparison())
    return decide(settings, [decide_first(9)], assessment, history, 9, at_floor=at_floor).ending


def test_the_learning_rate_at_its_floor() -> None:
    assert ended([{}, {}]) is None
    assert ended([{}, {}], at_floor=True) == "converged"
    assert ended([{}, {}], at_floor=True, stop_at_floor=False) is None


@pytest.mark.parametrize(("loss", "ending"), [(0.0, "exhausted"), (0.099, "exhausted"), (0.1, None), (0.5, None)])
def test_nothing_left_to_learn(loss: float, ending: str | None) -> None:
    assert ended([{}, {"kept/nll_before": loss}]) == ending
    assert ended([{}, {"kept/nll_before": loss}], stop_below_loss=0.0) is None


FRESH = {"dev/diversity/distinct@4": 3.2, "dev/diversity/duplicate_probability": 0.1, "probe/entropy": 0.6}
SPENT = {"dev/diversity/distinct@4": 1.5, "dev/diversity/duplicate_probability": 0.7, "probe/entropy": 0.2}


def test_collapse_takes_all_signs_and_at_least_two() -> None:
    assert len(signs_of_collapse([FRESH, SPENT])) == 3
    assert ended([FRESH, SPENT]) == "collapsed"
    assert ended([FRESH, SPENT], stop_on_collapse=False) is None
    for name in FRESH:
        assert signs_of_collapse([FRESH, {**SPENT, name: FRESH[name]}]) == []
        assert signs_of_collapse([FRESH, {name: SPENT[name]}]) == []
    assert signs_of_collapse([FRESH, {}]) == []  # the final evaluation has no train samples
    assert signs_of_collapse([FRESH, FRESH]) == []


def test_a_suspect_is_not_decided_on() -> None:
    with pytest.raises(ValueError, match="confirmed or cleared"):
        decide(DecisionsSection(), [decide_first(9)], Assessment("suspect", 0, comparison(-0.1)), [{}, {}], 9)


def test_a_decision_comes_back_from_its_file() -> None:
    for decision in play(["ahead", "degraded", "held"]):
        assert Decision.from_row(decision.to_row()) == decision


@given(st.lists(st.sampled_from(OUTCOMES), max_size=12), st.integers(1, 8), st.integers(0, 3))
def test_whatever_happens(outcomes: list[Outcome], num_cycles: int, max_rollbacks: int) -> None:
    """A run ends after its last cycle at the latest, never returns too often, and never trains from the future."""
    found = play([*outcomes, *["held"] * 8], num_cycles=num_cycles, max_rollbacks=max_rollbacks)
    assert [decision.ends for decision in found] == [False] * (len(found) - 1) + [True]
    assert len(found) <= num_cycles + 1
    for version, decision in enumerate(found):
        assert decision.policy_version == version
        assert 0 <= decision.best_version <= version
        assert decision.train_from <= version and decision.sample_from <= version
        assert decision.num_rollbacks <= max_rollbacks
        assert 0.0 < decision.learning_rate_factor <= 1.0
        assert (decision.ending is not None) == decision.ends


def test_the_incumbents_own_answers_are_no_evidence_that_nothing_improves() -> None:
    same = VersionComparison(0.0, 0.04, None, 64, uniform=True)
    decisions = [decide_first(9)]
    for _ in range(5):
        decisions.append(decide(DecisionsSection(), decisions, Assessment("held", 0, same), [{}, {}], 9))
    assert {decision.action for decision in decisions} == {"continue"}


def test_a_decline_comes_before_what_else_could_end_the_run() -> None:
    gone = {"dev/diversity/distinct@4": 1.0, "probe/entropy": 0.1, "kept/nll_before": 0.0}
    start = {"dev/diversity/distinct@4": 4.0, "probe/entropy": 1.0}
    for outcome, action in (("held", "stop"), ("degraded", "rollback")):
        assessment = Assessment(outcome, 0, comparison(-0.1), comparison(-0.1))  # type: ignore[arg-type]
        found = decide(DecisionsSection(), [decide_first(9)], assessment, [start, gone], 9, at_floor=True)
        assert found.action == action


@pytest.mark.parametrize(
    ("start_from", "on_decline", "train_from"),
    [
        ("previous", "rollback", 1), ("previous", "from_base", 0), ("previous", "continue_lower", 2),
        ("best", "rollback", 1), ("best", "from_base", 0), ("best", "continue_lower", 1),
        ("base", "rollback", 0), ("base", "from_base", 0), ("base", "continue_lower", 0),
    ],
)  # fmt: skip
def test_the_decision_says_where_training_really_starts(start_from: str, on_decline: Any, train_from: int) -> None:
    settings = DecisionsSection(on_decline=on_decline)
    earlier = play(["ahead"], on_decline=on_decline)
    assessment = Assessment("degraded", 1, comparison(-0.1), comparison(-0.1))
    found = decide(settings, earlier, assessment, [{}, {}, {}], 9, start_from=start_from)
    assert found.train_from == train_from
    assert f"train from v{train_from}" in found.reason


def test_a_factor_of_1_leaves_the_learning_rate_to_its_schedule() -> None:
    assessment = Assessment("degraded", 0, comparison(-0.1), comparison(-0.1))
    found = decide(DecisionsSection(learning_rate_factor=1.0), [decide_first(9)], assessment, [{}, {}], 9)
    assert found.learning_rate_factor == 1.0 and "learning rate follows its schedule" in found.reason


def test_only_what_was_undone_is_dropped() -> None:
    assert dropped_cycles(play(["ahead", "degraded", "degraded"], on_decline="continue_lower")) == set()


@pytest.mark.parametrize(("mass", "ends"), [(1e-3, True), (0.0, False)])
def test_a_model_that_was_not_trained_has_not_converged(mass: float, ends: bool) -> None:
    earlier = play(["held", "held"])
    history = [{}, *[{"learning_rate_mass": mass}] * 3]
    found = decide(DecisionsSection(), earlier, Assessment("held", 0, comparison()), history, 9)
    assert (found.ending == "converged") is ends
