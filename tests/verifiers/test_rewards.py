"""From facts to a reward, by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from halo_forge.verifiers._facts import Facts
from halo_forge.verifiers._rewards import Rewards, reward

DEFAULTS = Rewards()


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (Facts("extract", "failed"), 0.0),
        (Facts("compile", "failed"), 0.0),
        (Facts("compile", "timeout"), 0.0),
        (Facts("compile", "out_of_memory"), 0.0),
        (Facts("compile", "failed", warnings=2), 0.0),
        (Facts("compile", "passed"), 0.5),
        (Facts("compile", "passed", warnings=1), 0.3),
        (Facts("run", "failed"), 0.5),
        (Facts("run", "timeout"), 0.5),
        (Facts("run", "out_of_memory", warnings=1), 0.3),
        (Facts("run", "timeout", tests_passed=9, tests_total=10), 0.5),
        (Facts("run", "passed"), 0.7),
        (Facts("run", "passed", warnings=3), 0.7),
        (Facts("tests", "failed", tests_passed=0, tests_total=4), 0.7),
        (Facts("tests", "failed", tests_passed=2, tests_total=4), 0.85),
        (Facts("tests", "failed", tests_passed=4, tests_total=4), 0.925),
        (Facts("tests", "failed", tests_passed=1, tests_total=1), 0.7),
        (Facts("tests", "passed", tests_passed=4, tests_total=4, warnings=1), 1.0),
        (Facts("extract", "error"), 0.0),
        (Facts("tests", "error", tests_passed=4, tests_total=4), 0.0),
    ],
)
def test_defaults(facts: Facts, expected: float) -> None:
    assert reward(facts, DEFAULTS) == pytest.approx(expected)


def test_every_level_is_a_setting() -> None:
    rewards = Rewards(
        no_program=0.01, not_compiling=0.02, compiles_with_warnings=0.03, compiles=0.04, runs=0.05, passes=0.45
    )
    table = {
        Facts("extract", "failed"): 0.01,
        Facts("compile", "failed"): 0.02,
        Facts("compile", "passed", warnings=1): 0.03,
        Facts("compile", "passed"): 0.04,
        Facts("run", "passed"): 0.05,
        Facts("tests", "failed", tests_passed=1, tests_total=4): 0.15,
        Facts("tests", "passed", tests_passed=4, tests_total=4): 0.45,
    }
    assert {facts: pytest.approx(reward(facts, rewards)) for facts in table} == table


@pytest.mark.parametrize(
    "levels",
    [{"compiles": 0.8}, {"passes": 1.5}, {"no_program": -0.1}, {"runs": "0.7"}, {"passed": 1.0}, {"runs": True}],
)
def test_levels_that_make_no_sense_are_refused(levels: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Rewards.model_validate(levels)


def test_equal_levels_and_zero_are_levels() -> None:
    rewards = Rewards(compiles_with_warnings=0.0, compiles=0.0, runs=0.0, passes=0.0)
    assert reward(Facts("tests", "passed", tests_passed=1, tests_total=1), rewards) == 0.0


@given(st.integers(1, 50), st.data())
def test_more_checks_never_pay_less_and_failure_never_pays_like_success(total: int, data: st.DataObject) -> None:
    passed = data.draw(st.integers(0, total))
    worth = [reward(Facts("tests", "failed", n, total), DEFAULTS) for n in range(total + 1)]
    assert worth == sorted(worth)
    assert 0.7 <= worth[passed] < 1.0
