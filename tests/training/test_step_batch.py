"""The cut of a step's rows into forward passes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from halo_forge.training._step_batch import micro_batches


def test_rows_of_similar_lengths_go_together() -> None:
    assert micro_batches([100, 900, 120, 800], 2000) == [[1, 3], [2, 0]]
    assert micro_batches([100, 900, 120, 800], 1000) == [[1], [3], [2, 0]]


def test_a_row_that_is_too_long_goes_alone() -> None:
    assert micro_batches([5000, 10], 1000) == [[0], [1]]


def test_equal_lengths_keep_their_order() -> None:
    assert micro_batches([4, 4, 4, 4, 4], 8) == [[0, 1], [2, 3], [4]]
    assert micro_batches([], 8) == []


@given(st.lists(st.integers(1, 300), max_size=40), st.integers(1, 1000))
def test_every_row_once_within_the_budget(lengths: list[int], max_tokens: int) -> None:
    batches = micro_batches(lengths, max_tokens)
    assert sorted(position for batch in batches for position in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[position] for position in batch) <= max_tokens
