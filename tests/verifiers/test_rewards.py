"""From a check result to a reward, by hand."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from halo_forge.core.records import STAGES, CheckResult, Stage, Status, Verdict
from halo_forge.verifiers.rewards import Rewards, rescored, reward

DEFAULTS = Rewards()


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (CheckResult("extract", "failed"), 0.0),
        (CheckResult("compile", "failed"), 0.0),
        (CheckResult("compile", "timeout"), 0.0),
        (CheckResult("compile", "out_of_memory"), 0.0),
        (CheckResult("compile", "failed", warnings=2), 0.0),
        (CheckResult("compile", "passed"), 0.5),
        (CheckResult("compile", "passed", warnings=1), 0.3),
        (CheckResult("run", "failed"), 0.5),
        (CheckResult("run", "timeout"), 0.5),
        (CheckResult("run", "out_of_memory", warnings=1), 0.3),
        (CheckResult("run", "timeout", tests_passed=9, tests_total=10), 0.5),
        (CheckResult("run", "passed"), 0.7),
        (CheckResult("run", "passed", warnings=3), 0.7),
        (CheckResult("tests", "failed", tests_passed=0, tests_total=4), 0.7),
        (CheckResult("tests", "failed", tests_passed=2, tests_total=4), 0.85),
        (CheckResult("tests", "failed", tests_passed=4, tests_total=4), 0.925),
        (CheckResult("tests", "failed", tests_passed=1, tests_total=1), 0.7),
        (CheckResult("tests", "passed", tests_passed=4, tests_total=4, warnings=1), 1.0),
        (CheckResult("extract", "error"), 0.0),
        (CheckResult("tests", "error", tests_passed=4, tests_total=4), 0.0),
    ],
)
def test_defaults(result: CheckResult, expected: float) -> None:
    assert reward(result, DEFAULTS) == pytest.approx(expected)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("status", ["passed", "failed", "timeout", "out_of_memory", "error"])
@pytest.mark.parametrize(("passed", "total", "warnings"), [(0, 0, 0), (0, 4, 1), (3, 4, 0), (4, 4, 2)])
def test_a_stored_verdict_is_scored_as_its_check_result_was(
    stage: Stage, status: Status, passed: int, total: int, warnings: int
) -> None:
    result = CheckResult(stage, status, passed, total, warnings)
    verdict = Verdict(
        prompt_id="task",
        index=0,
        stage=stage,
        status=status,
        reward=0.123,
        tests_passed=passed,
        tests_total=total,
        warnings=warnings,
    )
    stored = Verdict.from_row(json.loads(json.dumps(verdict.to_row())))
    for rewards in (DEFAULTS, Rewards(no_program=0.1, not_compiling=0.1, compiles_with_warnings=0.2, passes=0.8)):
        assert reward(stored, rewards) == reward(result, rewards)
        assert rescored(stored, rewards) == dataclasses.replace(verdict, reward=reward(result, rewards))


def test_a_timeout_pays_less_than_a_wrong_answer_and_full_marks_need_everything() -> None:
    wrong, late = CheckResult("tests", "failed", 0, 4), CheckResult("run", "timeout", 3, 4)
    assert reward(late, DEFAULTS) < reward(wrong, DEFAULTS) < 1.0
    crashed_at_the_end = CheckResult("run", "failed", 4, 4, signal=6)
    assert reward(crashed_at_the_end, DEFAULTS) == 0.5


def test_every_level_is_a_setting() -> None:
    rewards = Rewards(
        no_program=0.01, not_compiling=0.02, compiles_with_warnings=0.03, compiles=0.04, runs=0.05, passes=0.45
    )
    table = {
        CheckResult("extract", "failed"): 0.01,
        CheckResult("compile", "failed"): 0.02,
        CheckResult("compile", "passed", warnings=1): 0.03,
        CheckResult("compile", "passed"): 0.04,
        CheckResult("run", "passed"): 0.05,
        CheckResult("tests", "failed", tests_passed=1, tests_total=4): 0.15,
        CheckResult("tests", "passed", tests_passed=4, tests_total=4): 0.45,
    }
    assert {result: pytest.approx(reward(result, rewards)) for result in table} == table


@pytest.mark.parametrize(
    "levels",
    [{"compiles": 0.8}, {"passes": 1.5}, {"no_program": -0.1}, {"runs": "0.7"}, {"passed": 1.0}, {"runs": True}],
)
def test_levels_that_make_no_sense_are_refused(levels: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Rewards.model_validate(levels)


def test_equal_levels_and_zero_are_levels() -> None:
    rewards = Rewards(compiles_with_warnings=0.0, compiles=0.0, runs=0.0, passes=0.0)
    assert reward(CheckResult("tests", "passed", tests_passed=1, tests_total=1), rewards) == 0.0


@given(st.integers(1, 50), st.data())
def test_more_checks_never_pay_less_and_failure_never_pays_like_success(total: int, data: st.DataObject) -> None:
    passed = data.draw(st.integers(0, total))
    worth = [reward(CheckResult("tests", "failed", n, total), DEFAULTS) for n in range(total + 1)]
    assert worth == sorted(worth)
    assert 0.7 <= worth[passed] < 1.0
