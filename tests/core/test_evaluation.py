"""From verdicts to a decision and to the final comparison, against hand-computed numbers."""

from __future__ import annotations

import math
from typing import Any

import pytest

from halo_forge.core.decisions import Assessment, Decision, DecisionsSection
from halo_forge.core.evaluation import (
    compare,
    facts,
    judge,
    judge_again,
    kept_facts,
    measure_test,
    measure_version,
    with_outcome,
)
from halo_forge.core.records import Completion, Measurement, Selection, Verdict
from halo_forge.core.selection import PastCycle

REWARD = {"passed": 1.0, "ran": 0.7, "broken": 0.0, "error": 0.0}


def verdict(prompt_id: str, index: int, outcome: str) -> Verdict:
    if outcome == "broken":
        return Verdict(prompt_id=prompt_id, index=index, stage="compile", status="failed", reward=0.0)
    status = "failed" if outcome == "ran" else outcome
    return Verdict(prompt_id=prompt_id, index=index, stage="tests", status=status, reward=REWARD[outcome])  # type: ignore[arg-type]


def answers(pass_counts: dict[str, list[str]]) -> tuple[list[Completion], list[Verdict]]:
    keys = [(prompt_id, index, each) for prompt_id, found in pass_counts.items() for index, each in enumerate(found)]
    completions = [Completion(prompt_id, index, "text", (1, 2), "stop", 0, 0) for prompt_id, index, _ in keys]
    return completions, [verdict(*key) for key in keys]


def dev(*passes: int, num: int = 4) -> list[Verdict]:
    """The dev verdicts of prompts with so many passes of `num`."""
    pass_counts = {f"p{number:02d}": ["passed"] * each + ["ran"] * (num - each) for number, each in enumerate(passes)}
    return answers(pass_counts)[1]


def decisions(*best: int) -> list[Decision]:
    return [Decision(cycle + 1, "held", "continue", each, "") for cycle, each in enumerate(best)]


LOOSE = DecisionsSection(min_prompts=4, max_standard_error=1.0)


def test_a_version_is_judged_against_the_incumbent() -> None:
    verdicts = [dev(0, 0, 0, 0), dev(4, 4, 4, 3), dev(2, 1, 2, 2), dev(3, 1, 1, 1)]
    assert judge(LOOSE, [], verdicts[:1]) == Assessment("baseline", None)
    better = judge(LOOSE, decisions(0), verdicts[:2])
    assert (better.outcome, better.compared_with) == ("improved", 0)
    worse = judge(LOOSE, decisions(0, 1), verdicts[:3])
    assert (worse.outcome, worse.compared_with) == ("suspect", 1)
    assert worse.screen is not None and worse.screen.difference == pytest.approx(7 / 16 - 15 / 16)
    # v3 is compared with v1, whatever v2 was.
    third = judge(LOOSE, decisions(0, 1, 1), verdicts)
    assert third.screen is not None and third.screen.difference == pytest.approx(6 / 16 - 15 / 16)
    again = judge_again(LOOSE, worse, dev(4, 4, 4, 4), dev(1, 2, 1, 2))
    assert again.outcome == "degraded"
    assert again.confirmation is not None and again.confirmation.difference == pytest.approx(-10 / 16)
    assert judge_again(LOOSE, worse, dev(4, 4, 4, 4), dev(4, 4, 4, 4)).outcome == "suspect_not_confirmed"


@pytest.mark.parametrize(("metric", "difference"), [("pass_rate", 0.0), ("compile_rate", 0.5), ("reward_mean", 0.35)])
def test_the_metric_that_decides(metric: str, difference: float) -> None:
    start = answers({prompt: ["broken", "ran"] for prompt in "abcd"})[1]
    after = answers({prompt: ["ran", "ran"] for prompt in "abcd"})[1]
    settings = DecisionsSection(metric=f"dev/{metric}", min_prompts=4, max_standard_error=1.0)  # type: ignore[arg-type]
    found = judge(settings, decisions(0), [start, after])
    assert found.screen is not None and found.screen.difference == pytest.approx(difference)


@pytest.mark.parametrize(
    ("outcome", "number"),
    [("improved", 1.0), ("held", 0.0), ("suspect_not_confirmed", 0.0), ("degraded", -1.0), ("underpowered", None)],
)
def test_what_schedules_see_of_an_outcome(outcome: Any, number: float | None) -> None:
    measurement = Measurement(2, 1, {"dev/pass_rate": 0.5})
    found = with_outcome(measurement, Assessment(outcome, 0)).metrics
    assert found.get("decision/outcome") == number
    assert found["dev/pass_rate"] == 0.5


def test_a_lap_is_measured_on_both_sets() -> None:
    train = answers({"a": ["passed", "broken"], "b": ["ran", "ran"]})
    dev = answers({"c": ["passed", "passed", "error"], "d": ["broken", "broken", "broken"]})
    measurement = measure_version(3, train, dev, {"kl_to_start": 0.25})
    assert (measurement.cycle, measurement.policy_version) == (3, 2)
    expected = {
        "kl_to_start": 0.25,
        "train/compile_rate": 0.75,
        "train/pass_rate": 0.25,
        "train/reward_mean": (0.5 + 0.7) / 2,
        "train/coverage": 0.5,
        "dev/compile_rate": 0.5,
        "dev/pass_rate": 0.5,
        "dev/always": 0.5,
        "dev/never": 0.5,
        "dev/verifier_error_fraction": 1 / 6,
    }
    assert {name: measurement.metrics[name] for name in expected} == pytest.approx(expected)
    assert list(measurement.metrics) == sorted(measurement.metrics)


def test_the_final_evaluation_has_dev_alone() -> None:
    measurement = measure_version(4, ([], []), answers({"c": ["passed"]}), {})
    assert measurement.metrics["dev/pass_rate"] == 1.0
    assert all(name.startswith("dev/") for name in measurement.metrics)


def test_the_test_set_belongs_to_no_cycle() -> None:
    measurement = measure_test(2, answers({"a": ["passed", "broken"]}))
    assert (measurement.cycle, measurement.policy_version) == (0, 2)
    assert measurement.metrics["test/pass_rate"] == 0.5


def test_facts_count_the_samples_of_the_prompt_with_the_fewest() -> None:
    found = facts(*answers({"b": ["passed"], "a": ["passed", "ran", "broken"]}))
    # The fewest of any prompt: pass@k is told of all prompts or of none.
    assert (list(found.prompt_ids), found.num_samples_expected) == (["b", "a"], 1)


def last(best: int, version: int) -> Decision:
    """The decision of a run that ends with v_`version`."""
    return Decision(version + 1, "held", "finish", best, "done", conclusion="converged")


def test_compare_is_paired_by_prompt() -> None:
    start = answers({"a": ["broken", "broken"], "b": ["passed", "broken"], "c": ["ran", "ran"]})
    worse = answers({"a": ["broken", "broken"], "b": ["broken", "broken"], "c": ["broken", "broken"]})
    better = answers({"a": ["ran", "broken"], "b": ["passed", "passed"], "c": ["ran", "ran"]})
    result = compare(last(2, 3), [start[1], worse[1], better[1], worse[1]], {0: start, 2: better, 3: worse})
    assert (result.chosen_version, result.adapter) == (2, "cycles/002/adapter")
    assert (result.last_version, result.conclusion, result.reason) == (3, "converged", "done")
    for found in (result.last_dev, result.last_test):
        assert found["compile_rate"]["last"] == 0.0
        assert found["compile_rate"]["difference"] == pytest.approx(-0.5)
    for found in (result.dev, result.test):
        compiled, passed, reward = found["compile_rate"], found["pass_rate"], found["reward_mean"]
        assert (compiled["start"], compiled["chosen"]) == pytest.approx((0.5, 5 / 6))
        assert compiled["difference"] == pytest.approx(1 / 3)  # 0.5, 0.5 and 0
        assert compiled["standard_error"] == pytest.approx(1 / 6)
        assert (passed["start"], passed["chosen"]) == pytest.approx((1 / 6, 1 / 3))
        assert reward["difference"] == pytest.approx((0.35 + 0.5 + 0.0) / 3)
        assert compiled["low"] <= compiled["difference"] <= compiled["high"]
        assert compiled["num_prompts"] == 3


def test_the_start_model_against_itself() -> None:
    start = answers({"a": ["passed"], "b": ["broken"]})
    result = compare(last(0, 0), [start[1]], {0: start})
    assert (result.chosen_version, result.adapter) == (0, None)
    assert result.dev["pass_rate"]["difference"] == result.test["pass_rate"]["difference"] == 0.0


def test_equal_answers_are_no_proof_that_nothing_differs() -> None:
    """Learning rate 0: the same seeds give the same answers; what could have been seen is told all the same."""
    start = answers({name: ["passed", "broken"] for name in "abcd"})
    found = compare(last(0, 1), [start[1], start[1]], {}).last_dev["pass_rate"]
    error = math.sqrt(2 * 0.25 / 4)  # each rate 1/2, two samples: 0.25 / (2 - 1) for each prompt of each version
    assert found["difference"] == 0.0
    assert found["standard_error"] == pytest.approx(error)
    assert found["minimum_detectable_effect"] == pytest.approx(2.8 * error)
    assert (found["low"], found["high"]) == pytest.approx((-1.96 * error, 1.96 * error))


def test_without_test_prompts() -> None:
    start = answers({"a": ["passed"], "b": ["broken"]})
    assert compare(last(0, 0), [start[1]], {}).test == {}


def test_prompts_without_a_judged_sample_on_one_side_are_left_out() -> None:
    start = answers({"a": ["error", "error"], "b": ["broken", "broken"], "c": ["passed", "passed"]})
    chosen = answers({"a": ["passed", "passed"], "b": ["passed", "broken"], "c": ["passed", "error"]})
    found = compare(last(1, 1), [start[1], chosen[1]], {}).dev["pass_rate"]
    assert (found["num_prompts"], found["start"], found["chosen"]) == (2, 0.5, 0.75)


def test_one_shared_prompt_is_no_comparison() -> None:
    start, chosen = answers({"a": ["passed"], "b": ["error"]}), answers({"a": ["passed"], "b": ["passed"]})
    assert compare(last(1, 1), [start[1], chosen[1]], {}).dev == {}


def test_only_what_led_to_the_sampled_version_was_kept_before() -> None:
    def cycle(number: int, digest: str) -> PastCycle:
        completion = Completion(digest, 0, "text", (1,), "stop", 0, 0)
        passed = Verdict(prompt_id=digest, index=0, stage="tests", status="passed", reward=1.0, normal_digest=digest)
        return PastCycle.of(number, [completion], [passed], Selection(((digest, 0),), {}, 0.5))

    def decision(cycle: int, train_from: int, sample_from: int) -> Decision:
        return Decision(cycle, "held", "continue", 0, "", train_from=train_from, sample_from=sample_from)

    past = [cycle(1, "a"), cycle(2, "b"), cycle(3, "c"), cycle(4, "d")]
    straight = [decision(each, each - 1, each - 1) for each in (1, 2, 3, 4)]
    assert (kept_facts(past, straight).digests, kept_facts(past, straight).earlier) == (["d"], {"a", "b", "c"})
    # v1 improved, v2 held, v3 fell: cycle 4 samples v1, which only cycle 1 made; cycle 5 samples v4.
    back = [*straight[:3], decision(4, 1, 1)]
    assert kept_facts(past, back).earlier == {"a"}
    assert kept_facts([*past, cycle(5, "e")], [*back, decision(5, 4, 4)]).earlier == {"a", "d"}
