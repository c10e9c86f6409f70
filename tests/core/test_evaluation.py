"""From verdicts to a decision and to the final comparison, against hand-computed numbers."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from policy_versions import decided, samples_of, training, version

from halo_forge.core.decisions import Assessment, DecisionsSection
from halo_forge.core.evaluation import (
    Result,
    compare,
    confirm,
    kept_facts,
    measure_test,
    measure_version,
    screen,
    set_facts,
)
from halo_forge.core.records import Decision, PolicyVersion, Sample, Verdict

REWARD = {"passed": 1.0, "ran": 0.7, "broken": 0.0, "error": 0.0}


def verdict(prompt_id: str, index: int, outcome: str) -> Verdict:
    if outcome == "broken":
        return Verdict(prompt_id=prompt_id, index=index, stage="compile", status="failed", reward=0.0)
    status = "failed" if outcome == "ran" else outcome
    return Verdict(prompt_id=prompt_id, index=index, stage="tests", status=status, reward=REWARD[outcome])  # type: ignore[arg-type]


def samples(outcomes: dict[str, list[str]]) -> tuple[Sample, ...]:
    return samples_of(
        verdict(prompt_id, index, each) for prompt_id, found in outcomes.items() for index, each in enumerate(found)
    )


def dev(*passes: int, num: int = 4) -> tuple[Sample, ...]:
    """The dev samples of prompts with so many passes of `num`."""
    return samples({f"p{number:02d}": ["passed"] * each + ["ran"] * (num - each) for number, each in enumerate(passes)})


def versions(*known: tuple[tuple[Sample, ...], int]) -> list[PolicyVersion]:
    """(dev samples, the best version once they were known) of v_0, v_1 ..."""
    return [version(number, dev=dev, decision=decided(number, best)) for number, (dev, best) in enumerate(known)]


LOOSE = DecisionsSection(min_prompts=4, max_standard_error=1.0)


def test_a_version_is_screened_against_the_incumbent() -> None:
    start, better, worse, last = dev(0, 0, 0, 0), dev(4, 4, 4, 3), dev(2, 1, 2, 2), dev(3, 1, 1, 1)
    assert screen(LOOSE, [], start) == Assessment("baseline", None)
    first = screen(LOOSE, versions((start, 0)), better)
    assert (first.outcome, first.compared_with) == ("ahead", 0)
    second = screen(LOOSE, versions((start, 0), (better, 1)), worse)
    assert (second.outcome, second.compared_with) == ("suspect", 1)
    assert second.screen is not None and second.screen.difference == pytest.approx(7 / 16 - 15 / 16)
    # v3 is compared with v1, whatever v2 was.
    third = screen(LOOSE, versions((start, 0), (better, 1), (worse, 1)), last)
    assert third.screen is not None and third.screen.difference == pytest.approx(6 / 16 - 15 / 16)
    again = confirm(LOOSE, second, dev(4, 4, 4, 4), dev(1, 2, 1, 2))
    assert again.outcome == "degraded"
    assert again.confirmation is not None and again.confirmation.difference == pytest.approx(-10 / 16)
    assert confirm(LOOSE, second, dev(4, 4, 4, 4), dev(4, 4, 4, 4)).outcome == "suspect_not_confirmed"


@pytest.mark.parametrize(("metric", "difference"), [("pass_rate", 0.0), ("compile_rate", 0.5), ("reward_mean", 0.35)])
def test_the_metric_that_decides(metric: str, difference: float) -> None:
    start = samples({prompt: ["broken", "ran"] for prompt in "abcd"})
    after = samples({prompt: ["ran", "ran"] for prompt in "abcd"})
    settings = DecisionsSection(metric=f"dev/{metric}", min_prompts=4, max_standard_error=1.0)  # type: ignore[arg-type]
    found = screen(settings, versions((start, 0)), after)
    assert found.screen is not None and found.screen.difference == pytest.approx(difference)


@pytest.mark.parametrize(
    ("outcome", "number"),
    [
        ("ahead", 1.0),
        ("held", 0.0),
        ("suspect_not_confirmed", 0.0),
        ("degraded", -1.0),
        ("underpowered", None),
        ("too_few_to_tell", None),
    ],
)
def test_what_schedules_see_of_an_outcome(outcome: Any, number: float | None) -> None:
    decision = dataclasses.replace(decided(1), outcome=outcome)
    found = version(1, metrics={"dev/pass_rate": 0.5}, decision=decision).metrics
    assert found.get("decision/outcome") == number
    assert found["dev/pass_rate"] == 0.5


def test_what_schedules_see_of_the_training_that_made_a_version() -> None:
    trained = training(1, metrics={"learning_rate_mass": 2e-4, "kept/num_unique": 3.0, "loss_mean": 1.0})
    found = version(1, metrics={"dev/pass_rate": 0.5}, trained=trained).metrics
    assert found == {"dev/pass_rate": 0.5, "learning_rate_mass": 2e-4, "kept/num_unique": 3.0}


def test_a_version_is_measured_on_both_sets() -> None:
    train = samples({"a": ["passed", "broken"], "b": ["ran", "ran"]})
    dev = samples({"c": ["passed", "passed", "error"], "d": ["broken", "broken", "broken"]})
    measurement = measure_version(2, train, dev, {"kl_to_start": 0.25})
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
    measurement = measure_version(3, (), samples({"c": ["passed"]}), {})
    assert measurement.metrics["dev/pass_rate"] == 1.0
    assert all(name.startswith("dev/") for name in measurement.metrics)


def test_the_test_set_belongs_to_no_cycle() -> None:
    measurement = measure_test(2, samples({"a": ["passed", "broken"]}))
    assert (measurement.cycle, measurement.policy_version) == (0, 2)
    assert measurement.metrics["test/pass_rate"] == 0.5


def test_facts_count_the_samples_of_the_prompt_with_the_fewest() -> None:
    found = set_facts(samples({"b": ["passed"], "a": ["passed", "ran", "broken"]}))
    # The fewest of any prompt: pass@k is told of all prompts or of none.
    assert (list(found.prompt_ids), found.num_samples_expected) == (["b", "a"], 1)


def finished(best: int, *dev: tuple[Sample, ...]) -> list[PolicyVersion]:
    """The versions of a run that ended with v_`best` as the one to keep."""
    number = len(dev) - 1
    last = Decision(number + 1, "held", "finish", best, "done", ending="converged")
    return [*versions(*((each, 0) for each in dev[:-1])), version(number, dev=dev[-1], decision=last)]


def compared(found: list[PolicyVersion], tests: dict[int, tuple[Sample, ...]]) -> Result:
    """The result of a run whose leads test confirms, or does not."""
    return compare(LOOSE, found, tests, "test", tests or {each.number: each.dev for each in found})


def test_compare_is_paired_by_prompt() -> None:
    start = samples({"a": ["broken", "broken"], "b": ["passed", "broken"], "c": ["ran", "ran"]})
    worse = samples({"a": ["broken", "broken"], "b": ["broken", "broken"], "c": ["broken", "broken"]})
    better = samples({"a": ["ran", "broken"], "b": ["passed", "passed"], "c": ["ran", "ran"]})
    result = compared(finished(2, start, worse, better, worse), {0: start, 2: better, 3: worse})
    assert (result.chosen_version, result.adapter) == (2, "cycles/002/adapter")
    assert (result.last_version, result.conclusion) == (3, "converged")
    assert result.reason.startswith("done; v2 against v0 in pass_rate on test: +0.167")
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
    start = samples({"a": ["passed"], "b": ["broken"]})
    result = compared(finished(0, start), {0: start})
    assert (result.chosen_version, result.adapter) == (0, None)
    assert result.dev["pass_rate"]["difference"] == result.test["pass_rate"]["difference"] == 0.0


def test_equal_answers_are_no_proof_that_nothing_differs() -> None:
    """Learning rate 0: the same seeds give the same answers; what could have been seen is told all the same."""
    start = samples({name: ["passed", "broken"] for name in "abcd"})
    found = compared(finished(0, start, start), {}).last_dev["pass_rate"]
    error = math.sqrt(2 * 0.25 / 4)  # each rate 1/2, two samples: 0.25 / (2 - 1) for each prompt of each version
    assert found["difference"] == 0.0
    assert found["standard_error"] == pytest.approx(error)
    assert found["minimum_detectable_effect"] == pytest.approx(2.8 * error)
    assert (found["low"], found["high"]) == pytest.approx((-1.96 * error, 1.96 * error))


def test_without_test_prompts() -> None:
    start = samples({"a": ["passed"], "b": ["broken"]})
    assert compared(finished(0, start), {}).test == {}


def test_prompts_without_a_judged_sample_on_one_side_are_left_out() -> None:
    start = samples({"a": ["error", "error"], "b": ["broken", "broken"], "c": ["passed", "passed"]})
    chosen = samples({"a": ["passed", "passed"], "b": ["passed", "broken"], "c": ["passed", "error"]})
    found = compared(finished(1, start, chosen), {}).dev["pass_rate"]
    assert (found["num_prompts"], found["start"], found["chosen"]) == (2, 0.5, 0.75)


def test_one_shared_prompt_is_no_comparison() -> None:
    start, chosen = samples({"a": ["passed"], "b": ["error"]}), samples({"a": ["passed"], "b": ["passed"]})
    assert compared(finished(1, start, chosen), {}).dev == {}


def test_only_what_led_to_the_sampled_version_was_kept_before() -> None:
    def kept(digest: str) -> tuple[Sample, ...]:
        return samples_of(
            [Verdict(prompt_id=digest, index=0, stage="tests", status="passed", reward=1.0, normal_digest=digest)]
        )

    def run(*cycles: tuple[str, int, int]) -> list[PolicyVersion]:
        """(what it keeps, the version it trains from, the version it samples) of each cycle but for the last one."""
        found = [version(0)]
        for number, (digest, train_from, sample_from) in enumerate(cycles, start=1):
            decision = dataclasses.replace(decided(number), sample_from=sample_from)
            found.append(version(number, trained=training(number, kept(digest), parent=train_from), decision=decision))
        return found

    straight = run(("a", 0, 1), ("b", 1, 2), ("c", 2, 3))
    found = kept_facts(kept("d"), straight)
    assert (found.digests, found.earlier) == (["d"], {"a", "b", "c"})
    # v1 improved, v2 held, v3 fell: cycle 4 samples v1, which only cycle 1 made; cycle 5 samples v4.
    assert kept_facts(kept("d"), run(("a", 0, 1), ("b", 1, 2), ("c", 2, 1))).earlier == {"a"}
    back = run(("a", 0, 1), ("b", 1, 2), ("c", 2, 1), ("d", 1, 4))
    assert kept_facts(kept("e"), back).earlier == {"a", "d"}
