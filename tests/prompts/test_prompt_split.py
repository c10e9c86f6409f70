"""The split by hash and the near-duplicate search."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halo_forge.core.records import Prompt
from halo_forge.prompts.similarity import near_duplicates, shingles
from halo_forge.prompts.split import apply, limited, split_of


def prompt(prompt_id: str, text: str = "x") -> Prompt:
    return Prompt(id=prompt_id, messages=({"role": "user", "content": text},))


def test_split_never_changes() -> None:
    # A change here makes every earlier run incomparable: tasks moved between the splits.
    ids = ("c/number_theory/digit_sum", "HumanEval/0", "mbpp/601", "", "a", "b")
    assert [split_of(prompt_id) for prompt_id in ids] == ["dev", "dev", "train", "train", "train", "train"]


def test_shares_of_many_ids() -> None:
    counts = Counter(split_of(f"id {number}") for number in range(10_000))
    # Four standard deviations of a binomial share with 10,000 draws are at most 2 points.
    assert abs(counts["train"] / 10_000 - 0.6) < 0.02
    assert abs(counts["dev"] / 10_000 - 0.2) < 0.02
    assert abs(counts["test"] / 10_000 - 0.2) < 0.02


@settings(max_examples=50)
@given(st.lists(st.text(min_size=1), unique=True, max_size=30), st.integers(1, 30))
def test_limit_does_not_depend_on_the_order(ids: list[str], limit: int) -> None:
    chosen = limited([prompt(each) for each in ids], limit)
    other = limited([prompt(each) for each in reversed(ids)], limit)
    assert [each.id for each in chosen] == [each.id for each in reversed(other)]
    assert len(chosen) == min(limit, len(ids))


def test_splits_are_a_partition() -> None:
    prompts = [prompt(f"p{number}") for number in range(50)]
    parts = [apply(prompts, split) for split in ("train", "dev", "test")]
    assert sorted(each.id for part in parts for each in part) == sorted(each.id for each in prompts)


def test_shingles_by_hand() -> None:
    assert shingles("Add 12 and 7!") == {("add", "0", "and"), ("0", "and", "0")}
    assert shingles("Hello") == {("hello",)}


def test_similarity_by_hand() -> None:
    # {abc, bcd} and {abc, bce}: 1 shared of 3.
    pairs = near_duplicates([prompt("1", "a b c d"), prompt("2", "a b c e"), prompt("3", "q r s")], 0.3)
    assert pairs == [("1", "2", pytest.approx(1 / 3))]
    assert near_duplicates([prompt("1", "a b c d"), prompt("2", "a b c e")], 0.34) == []


def test_only_a_number_changed_is_a_duplicate() -> None:
    pairs = near_duplicates([prompt("1", "print the first 10 primes"), prompt("2", "Print the first 20 primes.")], 0.9)
    assert pairs == [("1", "2", 1.0)]


@settings(max_examples=60)
@given(st.lists(st.text("abc ", min_size=1, max_size=20), max_size=8), st.floats(0.05, 1.0))
def test_search_finds_what_comparing_all_pairs_finds(texts: list[str], threshold: float) -> None:
    prompts = [prompt(str(number), text) for number, text in enumerate(texts)]
    expected = set()
    for i, first in enumerate(prompts):
        for second in prompts[i + 1 :]:
            a, b = shingles(first.text), shingles(second.text)
            if len(a & b) / len(a | b) >= threshold:
                expected.add((first.id, second.id))
    assert {pair[:2] for pair in near_duplicates(prompts, threshold)} == expected


@pytest.mark.parametrize("threshold", [0.0, -1.0, 1.1, float("nan")])
def test_a_threshold_outside_is_an_error(threshold: float) -> None:
    with pytest.raises(ValueError, match="threshold is"):
        near_duplicates([], threshold)
