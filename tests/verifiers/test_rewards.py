"""From facts to a reward, by hand."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from halo_forge.core.records import STAGES, Stage, Status, Verdict
from halo_forge.verifiers.result import Facts
from halo_forge.verifiers.rewards import Rewards, rescored, reward

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


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("status", ["passed", "failed", "timeout", "out_of_memory", "error"])
@pytest.mark.parametrize(("passed", "total", "warnings"), [(0, 0, 0), (0, 4, 1), (3, 4, 0), (4, 4, 2)])
def test_a_stored_verdict_is_scored_as_its_facts_were(
    stage: Stage, status: Status, passed: int, total: int, warnings: int
) -> None:
    facts = Facts(stage, status, passed, total, warnings)
    verdict = Verdict("task", 0, stage, status, 0.123, passed, total, warnings)
    stored = Verdict.from_row(json.loads(json.dumps(verdict.to_row())))
    for rewards in (DEFAULTS, Rewards(no_program=0.1, not_compiling=0.1, compiles_with_warnings=0.2, passes=0.8)):
        assert reward(stored, rewards) == reward(facts, rewards)
        assert rescored(stored, rewards) == dataclasses.replace(verdict, reward=reward(facts, rewards))


def test_a_timeout_pays_less_than_a_wrong_answer_and_full_marks_need_everything() -> None:
    wrong, late = Facts("tests", "failed", 0, 4), Facts("run", "timeout", 3, 4)
    assert reward(late, DEFAULTS) < reward(wrong, DEFAULTS) < 1.0
    crashed_at_the_end = Facts("run", "failed", 4, 4, signal=6)
    assert reward(crashed_at_the_end, DEFAULTS) == 0.5


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
