"""Every packaged C task by the real verifier: the reference passes without a warning, the wrong solution fails."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from halo_forge.core.records import Completion, Prompt, Verdict
from halo_forge.prompts import load_prompts
from halo_forge.verifiers import Verifier, open_verifier
from halo_forge.verifiers.languages.c import Spec

# 10 s each on 2 cores; a verifier that becomes much slower than that fails here.
pytestmark = [
    pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed"),
    pytest.mark.timeout(120),
]


@pytest.fixture(scope="module")
def tasks() -> list[Prompt]:
    return load_prompts("builtin:c/all", language="c")


@pytest.fixture(scope="module")
def verifier() -> Iterator[Verifier]:
    with open_verifier(Spec()) as opened:
        yield opened


def verdicts(verifier: Verifier, tasks: list[Prompt], solution: str, index: int) -> list[tuple[Prompt, Verdict]]:
    """The verdict on `info[solution]` of each task, as if a model had answered with it."""
    pairs = [
        (task, Completion(task.id, index, f"```c\n{task.info[solution]}```\n", (), "stop", 0, 0)) for task in tasks
    ]
    return [(task, verdict) for (task, _), verdict in zip(pairs, verifier.verify(pairs), strict=True)]


def shown(task: Prompt, verdict: Verdict) -> str:
    found = f"{verdict.stage} {verdict.status}, {verdict.tests_passed} of {verdict.tests_total}"
    return f"{task.id}: {found}, {verdict.warnings} warnings\n{verdict.diagnostics}"


def test_every_reference_passes_without_a_warning(verifier: Verifier, tasks: list[Prompt]) -> None:
    found = verdicts(verifier, tasks, "reference", 0)
    bad = [
        shown(task, verdict)
        for task, verdict in found
        if not (verdict.passed and verdict.reward == 1.0 and verdict.warnings == 0 and verdict.tests_total >= 5)
        or verdict.hacks
    ]
    assert not bad, "\n".join(bad)


def test_every_wrong_solution_compiles_and_fails(verifier: Verifier, tasks: list[Prompt]) -> None:
    found = verdicts(verifier, tasks, "wrong", 1)
    bad = [
        shown(task, verdict)
        for task, verdict in found
        if not verdict.compiled or verdict.passed or verdict.status == "error" or verdict.reward >= 1.0
    ]
    assert not bad, "\n".join(bad)
