"""From verdicts to a decision and to the final comparison, against hand-computed numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halo_forge.measuring import choose, compare, facts, measure_lap, measure_test
from halo_forge.records import Completion, Measurement, Verdict

REWARD = {"passed": 1.0, "ran": 0.7, "broken": 0.0, "error": 0.0}


def verdict(prompt_id: str, index: int, outcome: str) -> Verdict:
    if outcome == "broken":
        return Verdict(prompt_id, index, "compile", "failed", 0.0)
    status = "failed" if outcome == "ran" else outcome
    return Verdict(prompt_id, index, "tests", status, REWARD[outcome])  # type: ignore[arg-type]


def answers(outcomes: dict[str, list[str]]) -> tuple[list[Completion], list[Verdict]]:
    keys = [(prompt_id, index, each) for prompt_id, found in outcomes.items() for index, each in enumerate(found)]
    completions = [Completion(prompt_id, index, "text", (1, 2), "stop", 0, 0) for prompt_id, index, _ in keys]
    return completions, [verdict(*key) for key in keys]


def history(*values: float | None) -> list[Measurement]:
    return [
        Measurement(version + 1, version, {} if value is None else {"dev/pass_rate": value})
        for version, value in enumerate(values)
    ]


@pytest.mark.parametrize(
    ("values", "best"),
    [
        ((0.5,), 0),
        ((0.5, 0.6), 1),
        ((0.5, 0.5), 0),  # the earlier one of equals
        ((0.1, 0.4, 0.3, 0.4), 1),
        ((0.0, 0.0, 0.0), 0),  # zero is a value
        ((None, 0.0), 1),  # and better than none
        ((None, None), 0),
        ((0.2, None, 0.1), 0),
    ],
)
def test_the_best_version(values: tuple[float | None, ...], best: int) -> None:
    decision = choose(history(*values), "dev/pass_rate", num_cycles=9)
    assert decision.best_version == best
    assert (decision.cycle, decision.action) == (len(values), "continue")
    assert ("was not measured" in decision.reason) == all(value is None for value in values)


def test_the_run_ends_after_the_last_lap_only() -> None:
    actions = [choose(history(*[0.1] * laps), "dev/pass_rate", num_cycles=3).action for laps in (1, 2, 3, 4)]
    assert actions == ["continue", "continue", "continue", "finish"]


def test_the_reason_names_metric_version_and_value() -> None:
    assert choose(history(0.25, 0.5), "dev/pass_rate", 3).reason == "dev/pass_rate of v1 is 0.5000, the highest so far"


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_no_version_is_better_than_the_chosen_one_and_none_before_it_as_good(values: list[float]) -> None:
    best = choose(history(*values), "dev/pass_rate", 10).best_version
    assert values[best] == max(values)
    assert max(values) not in values[:best]


def test_a_lap_is_measured_on_both_sets() -> None:
    train = answers({"a": ["passed", "broken"], "b": ["ran", "ran"]})
    dev = answers({"c": ["passed", "passed", "error"], "d": ["broken", "broken", "broken"]})
    measurement = measure_lap(3, train, dev)
    assert (measurement.cycle, measurement.policy_version) == (3, 2)
    expected = {
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


def test_the_last_lap_has_dev_alone() -> None:
    measurement = measure_lap(4, ([], []), answers({"c": ["passed"]}))
    assert measurement.metrics["dev/pass_rate"] == 1.0
    assert all(name.startswith("dev/") for name in measurement.metrics)


def test_the_test_set_belongs_to_no_cycle() -> None:
    measurement = measure_test(2, answers({"a": ["passed", "broken"]}))
    assert (measurement.cycle, measurement.policy_version) == (0, 2)
    assert measurement.metrics["test/pass_rate"] == 0.5


def test_facts_count_the_samples_of_a_prompt() -> None:
    found = facts(*answers({"b": ["passed"], "a": ["passed", "ran", "broken"]}))
    assert (list(found.prompt_ids), found.num_samples_expected) == (["b", "a"], 3)


def test_compare_is_paired_by_prompt() -> None:
    start = answers({"a": ["broken", "broken"], "b": ["passed", "broken"], "c": ["ran", "ran"]})
    worse = answers({"a": ["broken", "broken"], "b": ["broken", "broken"], "c": ["broken", "broken"]})
    better = answers({"a": ["ran", "broken"], "b": ["passed", "passed"], "c": ["ran", "ran"]})
    result = compare(2, [start[1], worse[1], better[1]], {0: start, 2: better})
    assert (result.chosen_version, result.adapter) == (2, "cycles/002/adapter")
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
    result = compare(0, [start[1]], {0: start})
    assert (result.chosen_version, result.adapter) == (0, None)
    assert result.dev["pass_rate"]["difference"] == result.test["pass_rate"]["difference"] == 0.0


def test_without_test_prompts() -> None:
    start = answers({"a": ["passed"], "b": ["broken"]})
    assert compare(0, [start[1]], {}).test == {}


def test_prompts_without_a_judged_sample_on_one_side_are_left_out() -> None:
    start = answers({"a": ["error", "error"], "b": ["broken", "broken"], "c": ["passed", "passed"]})
    chosen = answers({"a": ["passed", "passed"], "b": ["passed", "broken"], "c": ["passed", "error"]})
    found = compare(1, [start[1], chosen[1]], {}).dev["pass_rate"]
    assert (found["num_prompts"], found["start"], found["chosen"]) == (2, 0.5, 0.75)


def test_one_shared_prompt_is_no_comparison() -> None:
    start, chosen = answers({"a": ["passed"], "b": ["error"]}), answers({"a": ["passed"], "b": ["passed"]})
    assert compare(1, [start[1], chosen[1]], {}).dev == {}
