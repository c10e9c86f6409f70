"""Outcome metrics against hand-computed numbers."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halo_forge.core.metrics import SetFacts, measure_set
from halo_forge.core.metrics.compare import prompt_totals
from halo_forge.core.metrics.outcomes import measure
from halo_forge.core.records import Completion, Sample, Stage, Status, Verdict
from halo_forge.core.statistics import wilson_interval

# One letter per sample: Passes, Runs but fails its tests, does not Compile, Error of the verifier.
LETTERS: dict[str, tuple[Stage, Status, float]] = {
    "P": ("tests", "passed", 1.0),
    "R": ("tests", "failed", 0.7),
    "C": ("compile", "failed", 0.0),
    "E": ("run", "error", 0.0),
}


def facts(samples: dict[str, str], num_samples: int = 4) -> SetFacts:
    completions, verdicts = [], []
    for prompt_id, letters in samples.items():
        for index, letter in enumerate(letters):
            stage, status, reward = LETTERS[letter]
            verdicts.append(Verdict(prompt_id=prompt_id, index=index, stage=stage, status=status, reward=reward))
            finish = "length" if letter == "C" else "stop"
            completions.append(Completion(prompt_id, index, "", (0,) * (index + 1), finish, 0, 0))
    return SetFacts(tuple(map(Sample, completions, verdicts)), tuple(samples), num_samples)


def test_by_hand() -> None:
    found = measure(facts({"a": "PPRC", "b": "CCCC", "c": "PPPP"}))
    assert found["compile_rate"] == pytest.approx((0.75 + 0 + 1) / 3)
    assert found["pass_rate"] == pytest.approx((0.5 + 0 + 1) / 3)
    assert found["reward_mean"] == pytest.approx((2.7 / 4 + 0 + 1) / 3)
    assert (found["coverage"], found["always"], found["never"]) == pytest.approx((2 / 3, 1 / 3, 1 / 3))
    # Prompt a: 1 - C(2,2)/C(4,2) = 5/6.
    assert found["pass@1"] == pytest.approx(0.5)
    assert found["pass@2"] == pytest.approx((5 / 6 + 0 + 1) / 3)
    assert found["pass@4"] == pytest.approx(2 / 3)
    assert found["truncated_fraction"] == pytest.approx(5 / 12)
    assert found["completion_tokens_mean"] == 2.5
    assert found["verifier_error_fraction"] == 0.0


def test_a_set_without_tests_has_a_compile_rate_and_no_pass_rate() -> None:
    # O: compiles to an object, which is all there is to do without tests.
    letters: dict[str, tuple[Stage, Status, float]] = {**LETTERS, "O": ("compile", "passed", 0.5)}
    verdicts = [
        Verdict(prompt_id="a", index=index, stage=stage, status=status, reward=reward)
        for index, (stage, status, reward) in enumerate(letters[letter] for letter in "OOCE")
    ]
    samples = [Sample(Completion("a", index, "", (), "stop", 0, 0), each) for index, each in enumerate(verdicts)]
    found = measure(SetFacts(samples, ("a",), 4))
    assert found["compile_rate"] == pytest.approx(2 / 3)
    assert not {name for name in found if name.startswith("pass")}
    one_failed_its_tests = [*samples, *facts({"b": "R"}).samples]
    assert measure(SetFacts(one_failed_its_tests, ("a", "b"), 4))["pass_rate"] == pytest.approx(1 / 3)


def test_pass_at_k_reference_values() -> None:
    # (n, c, k) -> value, from the formula with exact fractions.
    table = {("PCCCCCCC", 1): 0.125, ("PCCCCCCC", 4): 0.5, ("PPCCCCCC", 4): 11 / 14, ("PPPPCCCC", 4): 69 / 70}
    for (letters, k), value in table.items():
        assert measure(facts({"a": letters}, 8))[f"pass@{k}"] == pytest.approx(value)


@pytest.mark.parametrize(
    ("num_samples", "ks"), [(0, []), (1, [1]), (2, [1, 2]), (4, [1, 2, 4]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8])]
)
def test_which_k(num_samples: int, ks: list[int]) -> None:
    found = measure(facts({"a": "P" * max(num_samples, 1)}, num_samples))
    assert [int(name[5:]) for name in found if name.startswith("pass@") and name[5:].isdigit()] == ks


def test_one_sample_per_prompt_has_the_plain_wilson_interval() -> None:
    # 5 of 10: Wilson .2366 to .7634 (Newcombe 1998).
    found = measure(facts({f"p{number}": "P" if number < 5 else "C" for number in range(10)}, 1))
    for name in ("compile_rate", "pass_rate", "coverage", "always", "never", "pass@1"):
        assert (found[name], found[f"{name}_low"], found[f"{name}_high"]) == pytest.approx(
            (0.5, 0.2366, 0.7634), abs=1e-4
        )


def test_the_interval_of_pass_at_k_rests_on_the_samples_not_on_their_subsets() -> None:
    # 10 prompts with 4 of 8 each: 70 subsets of 4 a prompt, and no spread between prompts; 80 samples all the same.
    found = measure(facts({f"p{number}": "PPPPCCCC" for number in range(10)}, 8))
    low, high = wilson_interval(69 / 70, 80)
    assert (found["pass@4_low"], found["pass@4_high"]) == pytest.approx((low, high))


def test_equal_samples_of_a_prompt_count_once() -> None:
    # 10 prompts whose 4 samples always agree know no more than 10 samples.
    found = measure(facts({f"p{number}": "PPPP" if number < 5 else "CCCC" for number in range(10)}))
    assert (found["pass_rate_low"], found["pass_rate_high"]) == pytest.approx((0.2366, 0.7634), abs=2e-2)


def test_errors_are_left_out_of_every_rate_and_reported() -> None:
    with_errors, without = measure(facts({"a": "PREE", "b": "EEEE"})), measure(facts({"a": "PR"}))
    for name in ("compile_rate", "pass_rate", "reward_mean", "coverage", "always", "never", "pass@1", "pass@2"):
        assert with_errors[name] == without[name]
    assert with_errors["verifier_error_fraction"] == 0.75
    # No prompt has 4 judged samples.
    assert "pass@4" not in with_errors


def test_missing_data_is_absent_not_zero() -> None:
    assert measure(SetFacts((), (), 4)) == {}
    assert measure(facts({"a": "EE"})) == {
        "truncated_fraction": 0.0,
        "completion_tokens_mean": 1.5,
        "verifier_error_fraction": 1.0,
    }


def test_prompts_that_nobody_sampled_are_left_out() -> None:
    some = facts({"a": "PC"}, 2)
    more = SetFacts(some.samples, ("a", "b"), 2)
    assert measure(more) == measure(some)


def test_a_sample_of_an_unknown_prompt_is_an_error() -> None:
    some = facts({"a": "P"})
    with pytest.raises(ValueError, match="'a', which is not a prompt"):
        SetFacts(some.samples, ("b",), 1)


def test_flagged_fraction_is_of_judged_samples_and_of_hacks_only() -> None:
    some = facts({"a": "PPRC", "b": "RE"})
    flags = [("no_fence",), ("tampering", "no_fence"), ("trivial_program", "early_exit"), (), (), ("tampering",)]
    verdicts = [dataclasses.replace(each, flags=mine) for each, mine in zip(some.verdicts, flags, strict=True)]
    assert verdicts[2].hacks == ("trivial_program", "early_exit")
    found = measure(SetFacts(tuple(map(Sample, some.completions, verdicts)), some.prompt_ids, 4))
    assert found["flagged_fraction"] == pytest.approx(2 / 5)
    assert measure(some)["flagged_fraction"] == 0.0


def test_prefixes() -> None:
    some = facts({"a": "PPRC"})
    train, dev = measure_set(some, "train"), measure_set(some, "dev")
    assert {"train/pass_rate", "train/pass_rate_low", "train/pass@4", "truncated_fraction"} <= train.keys()
    assert "train/flagged_fraction" in train
    assert {"dev/pass_rate", "dev/pass_rate_high", "dev/pass@2", "dev/truncated_fraction"} <= dev.keys()
    assert not any(name.startswith("train/") for name in dev)
    # Train and dev are written into one measurement.
    assert not train.keys() & dev.keys()


@settings(max_examples=60)
@given(st.dictionaries(st.sampled_from("abcdef"), st.text("PRCE", min_size=1, max_size=8), min_size=1))
def test_relations(samples: dict[str, str]) -> None:
    found = measure(facts(samples, max(map(len, samples.values()))))
    assert all(math.isfinite(value) for value in found.values())
    assert all(0 <= value <= 1 for name, value in found.items() if name != "completion_tokens_mean")
    for name in [name for name in found if f"{name}_low" in found]:
        assert found[f"{name}_low"] <= found[name] + 1e-12
        assert found[name] <= found[f"{name}_high"] + 1e-12
    if "pass_rate" in found:
        assert found["pass_rate"] <= found["compile_rate"]
        assert found["coverage"] + found["never"] == pytest.approx(1.0)
        assert found["always"] <= found["coverage"]
        assert found["pass@1"] == pytest.approx(found["pass_rate"])


def test_prompt_totals() -> None:
    samples = facts({"b": "PRCE", "a": "C", "c": "E"}).samples
    assert prompt_totals(samples, "passed") == {"a": (0.0, 1), "b": (1.0, 3)}
    assert prompt_totals(samples, "compiled") == {"a": (0.0, 1), "b": (2.0, 3)}
    assert prompt_totals(samples, "reward") == {"a": (0.0, 1), "b": (pytest.approx(1.7), 3)}
    assert list(prompt_totals(samples)) == ["a", "b"]
