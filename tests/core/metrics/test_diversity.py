"""Diversity against the reference table of group sizes."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_versions import samples_of

from halo_forge.core.metrics import SetFacts
from halo_forge.core.metrics.diversity import (
    GZIP_BYTES,
    distinct_at,
    duplicate_probability,
    effective_number,
    gzip_ratio,
    inverse_simpson,
    measure,
)
from halo_forge.core.records import Completion, Sample, Verdict

# Group sizes -> distinct@4, exp(H), 1 / sum q^2, duplicate probability.
TABLE: list[tuple[list[int], float, float, float, float]] = [
    ([8], 1, 1, 1, 1),
    ([4, 4], 1.9714, 2, 2, 0.4286),
    ([5, 1, 1, 1], 2.5, 2.9257, 2.2857, 0.3571),
    ([3, 3, 2], 2.6429, 2.9512, 2.9091, 0.25),
    ([1] * 8, 4, 8, 8, 0),
]
SIZES = st.lists(st.integers(1, 6), min_size=1, max_size=6)


def facts(groups: dict[str, Sequence[int]], *, with_error: bool = False) -> SetFacts:
    verdicts = []
    for prompt_id, sizes in groups.items():
        digests = [f"d{group}" for group, size in enumerate(sizes) for _ in range(size)]
        verdicts += [
            Verdict(prompt_id=prompt_id, index=index, stage="tests", status="failed", reward=0.7, normal_digest=digest)
            for index, digest in enumerate(digests)
        ]
        if with_error:
            verdicts.append(
                Verdict(
                    prompt_id=prompt_id,
                    index=len(digests),
                    stage="run",
                    status="error",
                    reward=0.0,
                    normal_digest="another",
                )
            )
            verdicts.append(
                Verdict(prompt_id=prompt_id, index=len(digests) + 1, stage="extract", status="failed", reward=0.0)
            )
    return SetFacts(samples_of(verdicts), tuple(groups), 8)


@pytest.mark.parametrize(("sizes", "distinct", "effective", "inverse", "duplicate"), TABLE)
def test_reference_table(sizes: list[int], distinct: float, effective: float, inverse: float, duplicate: float) -> None:
    assert distinct_at(sizes, 4) == pytest.approx(distinct, abs=5e-5)
    assert effective_number(sizes) == pytest.approx(effective, abs=5e-5)
    assert inverse_simpson(sizes) == pytest.approx(inverse, abs=5e-5)
    assert duplicate_probability(sizes) == pytest.approx(duplicate, abs=5e-5)


def test_passing_programs_are_counted_apart() -> None:
    # Two programs that pass are equal but for spacing; two broken ones differ.
    made = [("p", "passed", "s1", "n1"), ("p", "passed", "s2", "n1"), ("p", "failed", "s3", "n2")]
    made += [("p", "failed", "s4", "n3"), ("q", "failed", "s5", "n5"), ("q", "failed", "s6", "n6")]
    verdicts = [
        Verdict(
            prompt_id=prompt_id,
            index=index,
            stage="tests",
            status=status,  # type: ignore[arg-type]
            reward=1.0,
            source_digest=source,
            normal_digest=normal,
        )
        for index, (prompt_id, status, source, normal) in enumerate(made)
    ]
    found = measure(SetFacts(samples_of(verdicts), ("p", "q"), 4))
    assert found["diversity/unique_fraction"] == pytest.approx((3 / 4 + 1) / 2)
    assert found["diversity/exact_unique_fraction"] == 1.0
    assert found["diversity/passing/unique_fraction"] == 0.5
    assert found["diversity/passing/exact_unique_fraction"] == 1.0
    assert found["diversity/passing/duplicate_probability"] == 1.0
    assert "diversity/passing/distinct@4" not in found  # only two programs pass


def test_prompts_are_averaged_and_samples_without_a_program_left_out() -> None:
    found = measure(facts({"a": [8], "b": [5, 1, 1, 1]}, with_error=True))
    assert found == {
        "diversity/unique_fraction": pytest.approx((1 / 8 + 4 / 8) / 2),
        "diversity/distinct@4": pytest.approx(1.75),
        "diversity/effective_number": pytest.approx((1 + 2.9257) / 2, abs=5e-5),
        "diversity/inverse_simpson": pytest.approx((1 + 2.2857) / 2, abs=5e-5),
        "diversity/duplicate_probability": pytest.approx((1 + 0.3571) / 2, abs=5e-5),
    }


def test_prompts_with_too_few_programs_are_left_out() -> None:
    assert measure(facts({"a": [1]})) == {}
    assert "diversity/distinct@4" not in measure(facts({"a": [2, 1]}))
    assert measure(facts({"a": [2, 1], "b": [4]}))["diversity/distinct@4"] == 1.0
    assert measure(facts({"a": [2], "b": [1]})) == measure(facts({"a": [2]}))
    with pytest.raises(ValueError, match="4 items cannot be drawn from 3"):
        distinct_at([2, 1], 4)
    with pytest.raises(ValueError, match="2 items"):
        duplicate_probability([1])


@given(SIZES, st.integers(1, 6))
def test_bounds(sizes: list[int], num_drawn: int) -> None:
    if num_drawn <= sum(sizes):
        assert 1 - 1e-9 <= distinct_at(sizes, num_drawn) <= min(num_drawn, len(sizes)) + 1e-9
    assert 1 - 1e-9 <= effective_number(sizes) <= len(sizes) + 1e-9


@settings(max_examples=40)
@given(SIZES.filter(lambda sizes: sum(sizes) >= 2))
def test_two_draws_are_distinct_unless_they_are_duplicates(sizes: list[int]) -> None:
    assert distinct_at(sizes, 2) == pytest.approx(2 - duplicate_probability(sizes))


def completions(texts: Sequence[tuple[str, int, str]]) -> SetFacts:
    made = [
        Sample(
            Completion(prompt_id, index, text, (), "stop", 0, 0),
            Verdict(prompt_id=prompt_id, index=index, stage="run", status="passed", reward=1.0),
        )
        for prompt_id, index, text in texts
    ]
    return SetFacts(made, sorted({prompt_id for prompt_id, _, _ in texts}), 8)


def noise(seed: int, num_bytes: int) -> str:
    return "".join(random.Random(seed).choices("abcdefghijklmnopqrstuvwxyz", k=num_bytes))


def test_gzip_ratio_sees_repetition() -> None:
    different = gzip_ratio(completions([("a", index, noise(index, 1000)) for index in range(20)]))
    same = gzip_ratio(completions([("a", index, noise(0, 1000)) for index in range(20)]))
    assert different is not None and same is not None
    # 26 letters hold ln(26)/ln(2) = 4.7 of 8 bits.
    assert 1.5 < different < 1.75
    assert same > 10


def test_gzip_ratio_needs_its_budget() -> None:
    assert gzip_ratio(completions([("a", 0, "x" * (GZIP_BYTES - 1))])) is None
    assert gzip_ratio(completions([("a", 0, "x" * GZIP_BYTES)])) is not None
    assert gzip_ratio(completions([])) is None


def test_gzip_ratio_takes_turns_and_ignores_the_order() -> None:
    texts = [(prompt_id, index, noise(index * 2 + ord(prompt_id), 9000)) for prompt_id in "ab" for index in range(3)]
    ratio = gzip_ratio(completions(texts))
    assert gzip_ratio(completions(texts[::-1])) == ratio
    # The budget ends within the first samples of both prompts, so the others do not count.
    first = [text for text in texts if text[1] == 0]
    assert gzip_ratio(completions(first)) == ratio
