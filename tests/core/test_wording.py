"""Counts in sentences."""

from __future__ import annotations

import pytest

from halo_forge.core.decisions import VersionComparison
from halo_forge.core.wording import counted


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 optimizer steps"), (1, "1 optimizer step"), (1.0, "1 optimizer step"), (16.0, "16 optimizer steps")],
)
def test_a_noun_agrees_with_its_number(number: float, text: str) -> None:
    assert counted(number, "optimizer step") == text


def test_a_comparison_says_how_many_prompts_it_rests_on() -> None:
    one, many = VersionComparison(0.1, 0.2, 0.5, 1), VersionComparison(0.1, 0.2, 0.5, 64)
    assert ", 1 prompt, " in one.in_words() and ", 64 prompts, " in many.in_words()
