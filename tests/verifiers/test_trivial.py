"""Programs that do nothing are found by what the compiler leaves of them; no honest one is taken for such."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from known_sets import known_set
from languages import prompt
from test_compiled_languages import verifier_of
from trivial_programs import (
    BUSY_BODIES,
    BUSY_MAINS,
    BUSY_PROGRAMS,
    IDLE_BODIES,
    IDLE_MAINS,
    IDLE_PROGRAMS,
    LOOPS,
    MISSED_MAINS,
    MISSED_PROGRAMS,
)

from halo_forge.core.records import Completion
from halo_forge.prompts.load import load_prompts
from halo_forge.sandbox.job import Job, JobResult, Sandbox
from halo_forge.sandbox.local import open_sandbox
from halo_forge.verifiers import Verifier
from halo_forge.verifiers.compiled.elf import functions
from halo_forge.verifiers.hacks.trivial import compiled_does_nothing, python_does_nothing

Program = tuple[str | None, str]
"""The entry point and the source."""

C = "#include <ctype.h>\n#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n"
CPP = C + "#include <algorithm>\n#include <iostream>\n#include <string>\n#include <vector>\n"
COMPILERS = {"gcc": "c", "clang": "c", "g++": "cpp", "clang++": "cpp", "rustc": "rust", "go": "go"}


def mains(bodies: Sequence[str]) -> list[Program]:
    return [(None, f"{C}int main(void) {{ {body} }}") for body in bodies]


def bodies_of_f(bodies: Sequence[str]) -> list[Program]:
    return [("f", f"{C}int f(int a, char *s) {{ {body} }}") for body in bodies]


def programs(language: str, rows: Sequence[tuple[str, str | None, str]]) -> list[Program]:
    return [(entry, code) for kind, entry, code in rows if kind == language]


def flagged(verifier: Verifier, language: str, asked: Sequence[Program]) -> list[Program]:
    """Those that are flagged where compiling is all there is to check; all of them must compile."""
    pairs = [
        (
            prompt(language, None if entry is None else {"kind": "compile", "entry_point": entry}),
            Completion("task", index, f"```{language}\n{code}\n```\n", (), "stop", 0, 1),
        )
        for index, (entry, code) in enumerate(asked)
    ]
    verdicts = list(verifier.verify(pairs))
    assert [verdict.diagnostics for verdict in verdicts if verdict.status != "passed"] == []
    return [each for each, verdict in zip(asked, verdicts, strict=True) if "trivial_program" in verdict.flags]


@pytest.fixture(scope="module", params=sorted(COMPILERS))
def opened(request: pytest.FixtureRequest) -> Iterator[tuple[str, Verifier]]:
    with verifier_of(request.param, stages=["compile"], workers=2) as verifier:
        yield COMPILERS[request.param], verifier


def test_what_does_nothing_is_found(opened: tuple[str, Verifier]) -> None:
    language, verifier = opened
    idle = programs(language, IDLE_PROGRAMS)
    if language in ("c", "cpp"):
        idle += mains(IDLE_MAINS) + bodies_of_f(IDLE_BODIES)
    if "clang" in verifier.toolchain()["version"] and language == "cpp":
        idle = [(entry, code) for entry, code in idle if "while(1)" not in code]  # clang leaves no code at all
    found = flagged(verifier, language, idle)
    assert [code for _, code in idle if code not in {code for _, code in found}] == []


def test_what_does_something_is_never_flagged(opened: tuple[str, Verifier]) -> None:
    language, verifier = opened
    busy = programs(language, BUSY_PROGRAMS)
    if language in ("c", "cpp"):
        busy += mains([body for body in BUSY_MAINS if language == "c" or "gets" not in body]) + bodies_of_f(BUSY_BODIES)
    if language == "cpp":
        busy = [(entry, CPP + code if "std::" in code else code) for entry, code in busy]
    assert flagged(verifier, language, busy) == []


def test_what_is_known_to_be_missed(opened: tuple[str, Verifier]) -> None:
    language, verifier = opened
    missed = programs(language, MISSED_PROGRAMS) + (mains(MISSED_MAINS) if language in ("c", "cpp") else [])
    assert flagged(verifier, language, missed) == []


@pytest.mark.parametrize("compiler", ["gcc", "g++"])
def test_loops_without_effect_are_found_at_a_higher_level(compiler: str) -> None:
    loops = bodies_of_f(LOOPS)
    with verifier_of(compiler, stages=["compile"], flags=["-O2", "-ffinite-loops"]) as verifier:
        assert flagged(verifier, COMPILERS[compiler], loops) == loops


def test_without_optimisation_nothing_is_found() -> None:
    with verifier_of("gcc", stages=["compile"], flags=["-O0"]) as verifier:
        assert flagged(verifier, "c", bodies_of_f(IDLE_BODIES)) == []


@pytest.mark.parametrize(
    ("body", "nothing"),
    [
        ("return 0;", True),
        ("return 7;", True),
        ("return -1;", True),
        ("for (;;);", True),
        ("return 1.5;", True),
        ("return a;", False),
        ("return a + 1;", False),
        ("return a ? 3 : 4;", False),
        ("*b = 0; return 0;", False),
        ("return g;", False),
        ("return h();", False),
    ],
)
def test_machine_code_for_arm(body: str, nothing: bool, tmp_path: Path) -> None:
    if shutil.which("clang") is None:
        pytest.skip("clang is not installed")
    code = f"int g;\nint h(void);\n{'double' if '.' in body else 'int'} f(int a, int *b) {{ {body} }}"
    (tmp_path / "a.c").write_text(code)
    command = ["clang", "--target=aarch64-linux-gnu", "-O1", "-c", "a.c"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=60)
    found = functions((tmp_path / "a.o").read_bytes())
    assert [each.name for each in found] == ["f"]
    assert compiled_does_nothing(code, "c", "f", lambda name: found) is nothing


def test_python() -> None:
    idle, busy, missed = (programs("python", rows) for rows in (IDLE_PROGRAMS, BUSY_PROGRAMS, MISSED_PROGRAMS))
    assert len(idle) > 15 and len(busy) > 15
    assert [code for entry, code in idle if not python_does_nothing(code, entry)] == []
    assert [code for entry, code in [*busy, *missed] if python_does_nothing(code, entry)] == []


def test_no_reference_of_ours_does_nothing() -> None:
    """As a whole; test_builtin_tasks.py looks at the function that a task asks for."""
    tasks = load_prompts("builtin:c/all", language="c")
    references = [(None, each.info["reference"]) for each in tasks if each.tests and "entry_point" in each.tests]
    assert len(references) > 200
    with verifier_of("gcc", stages=["compile"]) as verifier:
        assert flagged(verifier, "c", references) == []


def test_what_python_says_about_an_answer_is_not_shown() -> None:
    check = r"from halo_forge.verifiers.hacks.trivial import python_does_nothing as f; print(f('x = \'\\d\'', None))"
    command = [sys.executable, "-W", "always", "-c", check]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == ("True\n", "")


@pytest.mark.parametrize("name", ["humaneval.jsonl", "mbpp_train.jsonl"])
def test_no_reference_of_others_does_nothing(name: str) -> None:
    wrong = []
    for line in known_set(name).read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if "canonical_solution" in row:
            body, entry_point = row["canonical_solution"], row["entry_point"]
            answers = [(row["prompt"] + body, entry_point), (row["prompt"] + body, None), (body, entry_point)]
        else:
            answers = [(row["code"].replace("\r\n", "\n"), None)]
        wrong += [row["task_id"] for code, entry in answers if python_does_nothing(code, entry)]
    assert wrong == []


@pytest.mark.parametrize(
    "piece",
    [
        "(",
        "-",
        "not ",
        "x=0\n ",
        "if a:\n b=a\n ",
        "f(a,",
        "a.b.",
        "[",
        "lambda:",
        "1+",
        "'a'",
        "return\n ",
        "f'{",
        "\0",
    ],
)
def test_long_programs_take_no_time_to_speak_of(piece: str) -> None:
    started = time.process_time()
    for length in (15_000, 250_000):
        for head in ("", "def f(a):\n "):
            python_does_nothing(head + piece * (length // len(piece)), "f")
    for language in ("c", "cpp", "rust", "go"):
        assert not compiled_does_nothing("int f(int a) {" + piece * 20_000, language, None, lambda name: [])
    assert time.process_time() - started < 5.0


@pytest.mark.parametrize(
    ("compiler", "code"),
    [("go", "package main\nfunc Add(a int, b int) int { return 3 }\n"), ("rustc", "pub fn f(a: i32) -> i32 { a }\n")],
)
def test_the_cost_of_a_verdict_includes_the_compilation_that_looks_for_trivial_programs(
    compiler: str, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spent: list[float] = []

    def opened(*arguments: Any) -> Sandbox:
        sandbox = open_sandbox(*arguments)
        run = sandbox.run

        def counted(job: Job) -> JobResult:
            outcome = run(job)
            spent.append(outcome.cpu_seconds)
            return outcome

        monkeypatch.setattr(sandbox, "run", counted)
        return sandbox

    monkeypatch.setattr("halo_forge.verifiers.verifier.open_sandbox", opened)
    language = COMPILERS[compiler]
    completion = Completion("task", 0, f"```{language}\n{code}\n```\n", (), "stop", 0, 1)
    with verifier_of(compiler, stages=["compile"], workers=1) as verifier:
        (verdict,) = verifier.verify([(prompt(language, None), completion)])
    assert (verdict.stage, verdict.status, len(spent)) == ("compile", "passed", 2)
    assert verdict.cpu_seconds == pytest.approx(sum(spent))
