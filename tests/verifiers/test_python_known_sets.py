"""HumanEval and MBPP as they are: every reference solution that is right passes, and an empty answer nowhere."""

from __future__ import annotations

import pytest
from known_sets import known_set
from python_answers import spec

from halo_forge.core.records import Completion, Prompt, Verdict
from halo_forge.prompts import load_prompts
from halo_forge.verifiers import open_verifier

# The tests of this one use trees that nothing defines.
WRONG_IN_MBPP = ["mbpp/927"]


def prompts(name: str) -> list[Prompt]:
    return list(load_prompts(str(known_set(name)), language="python"))


def check(rows: list[Prompt], codes: list[str]) -> list[Verdict]:
    pairs = [
        (row, Completion(row.id, 0, f"```python\n{code}\n```", (), "stop", 0, 1))
        for row, code in zip(rows, codes, strict=True)
    ]
    with open_verifier(spec(timeout_seconds=5.0)) as verifier:
        verifier.check_prompts(rows)
        return list(verifier.verify(pairs))


@pytest.mark.parametrize(("name", "wrong"), [("humaneval.jsonl", []), ("mbpp_train.jsonl", WRONG_IN_MBPP)])
def test_reference_solutions_pass(name: str, wrong: list[str]) -> None:
    rows = prompts(name)
    found = check(rows, [row.info["reference"] for row in rows])
    assert [verdict.prompt_id for verdict in found if not verdict.passed] == wrong
    assert all(verdict.tests_passed == verdict.tests_total > 0 for verdict in found if verdict.passed)


def test_answers_that_only_go_on_pass_too() -> None:
    rows = prompts("humaneval.jsonl")[:20]
    heads = [str(row.tests["prompt"]) for row in rows if row.tests is not None]
    bodies = [str(row.info["reference"]).removeprefix(head) for row, head in zip(rows, heads, strict=True)]
    assert all(verdict.passed for verdict in check(rows, bodies))


@pytest.mark.parametrize("name", ["humaneval.jsonl", "mbpp_train.jsonl"])
def test_empty_answers_pass_nowhere(name: str) -> None:
    rows = prompts(name)
    for code in ("", "# nothing"):
        assert not any(verdict.passed or verdict.tests_passed for verdict in check(rows[:40], [code] * 40))
