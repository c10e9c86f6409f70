"""Limits that rows bring along are not applied: the difference to those of the verifier is said."""

from __future__ import annotations

from typing import Any

import pytest

from halo_forge.core.records import Prompt
from halo_forge.prompts.row_limits import limit_warnings

MEBIBYTE = 1 << 20


def said(*infos: dict[str, Any]) -> list[str]:
    prompts = [Prompt(str(at), ({"role": "user", "content": "a"},), info=info) for at, info in enumerate(infos)]
    return list(limit_warnings({"prompts.train": prompts}, 5.0, 256 * MEBIBYTE))


@pytest.mark.parametrize(
    ("info", "amount"),
    [
        ({"time_limit": {"seconds": 2, "nanos": 500_000_000}}, "2.5 s"),
        ({"time_limit": {"seconds": 2, "nanos": None}}, "2 s"),
        ({"time_limit": 2.0}, "2 s"),
        ({"time_limit": "2 seconds"}, "2 s"),
        ({"time_limit": "500 ms"}, "0.5 s"),
        ({"timeLimit": "1.5s"}, "1.5 s"),
        ({"time_limit": 2000}, "in an unknown unit"),
        ({"time_limit": "soon"}, "in an unknown unit"),
        ({"time_limit": [2]}, "in an unknown unit"),
        ({"time_limit_seconds": 10**400}, "in an unknown unit"),
        ({"time_limit": {"seconds": "2", "nanos": 0}}, "in an unknown unit"),
        ({"memory_limit": 64}, "64 MiB"),
        ({"memory_limit": "64 megabytes"}, "64 MiB"),
        ({"memory_limit_bytes": 64 * MEBIBYTE}, "64 MiB"),
        ({"memory_limit": 64 * MEBIBYTE}, "64 MiB"),
        ({"memory_limit": 65536}, "in an unknown unit"),
    ],
)
def test_every_way_to_write_a_limit(info: dict[str, Any], amount: str) -> None:
    (warning,) = said(info)
    what = "time" if "ime" in next(iter(info)) else "memory"
    assert f"1 prompt of prompts.train with a {what} limit of their own ({amount}), which is not applied" in warning
    assert "may fail" not in warning


def test_longer_limits_let_right_programs_fail() -> None:
    (warning,) = said({"time_limit": 1}, {"time_limit": 10}, {"time_limit": "8 s"}, {})
    assert "3 prompts of prompts.train with a time limit of their own (1 to 10 s), which is not applied" in warning
    assert "every program has 5 s (verifier.timeout_seconds), so right programs of 2 prompts may fail" in warning


@pytest.mark.parametrize(
    "info",
    [
        {},
        {"time_limit": None},
        {"time_limit": {"seconds": None, "nanos": None}},
        {"time_limit": 0},
        {"time_limit": 5},
        {"memory_limit": "256 MB"},
    ],
)
def test_no_limit_or_the_same_needs_no_word(info: dict[str, Any]) -> None:
    assert said(info) == []
