"""For safe C programs, the verdict is what compiling and running them by hand shows."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from c_answers import answer, prompt
from examples import examples
from hypothesis import given
from hypothesis import strategies as st

from halo_forge.verifiers import Verifier, open_verifier
from halo_forge.verifiers.languages import c

NAMES = ("a", "b", "n")
HEAD = (
    "#include <math.h>\n#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n"
    "static unsigned f(unsigned a, unsigned b) { return a * 31u + b; }\n"
)


@dataclass(frozen=True)
class Program:
    """A program, and how its expected outputs are made of what it prints."""

    code: str
    inputs: tuple[str, ...]
    wrong: tuple[bool, ...]
    spaces: str


@st.composite
def expressions(draw: st.DrawFn, depth: int = 3) -> str:
    """Of unsigned numbers: nothing in it is undefined."""
    if depth == 0 or draw(st.integers(0, 3)) == 0:
        return draw(st.sampled_from(NAMES) | st.integers(0, 99).map("{}u".format))
    left, right = draw(expressions(depth - 1)), draw(expressions(depth - 1))
    kind = draw(st.sampled_from(["+", "-", "*", "/", "%", "<", "==", "?", "&", "^", "f"]))
    if kind in "/%":
        return f"({left} {kind} ({right} | 1u))"
    if kind == "?":
        return f"({left} ? {right} : {draw(expressions(depth - 1))})"
    return f"f({left}, {right})" if kind == "f" else f"({left} {kind} {right})"


@st.composite
def statements(draw: st.DrawFn, depth: int = 2) -> str:
    kind = draw(st.sampled_from(["set", "print", "print", "if", "loop", "float", "text"]))
    value = draw(expressions())
    if kind == "set":
        return f"{draw(st.sampled_from(NAMES))} = {value};"
    if kind == "float":
        return f'printf("%.{draw(st.integers(0, 6))}f\\n", sqrt((double)({value}) + M_PI));'
    if kind == "text":
        return '{ char *s = strdup("text"); puts(s); free(s); }'
    if depth > 0 and kind == "if":
        return f"if ({value}) {{ {draw(statements(depth - 1))} }} else {{ {draw(statements(depth - 1))} }}"
    if depth > 0 and kind == "loop":
        return f"for (int i = 0; i < {draw(st.integers(0, 5))}; i++) {{ {draw(statements(depth - 1))} }}"
    return f'printf("%u{draw(st.sampled_from([" ", "|", "", chr(92) + "n"]))}", {value});'


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """Most compile, print and end with 0; some do not compile, exit with another code, or abort."""
    body = "\n    ".join(draw(st.lists(statements(), min_size=1, max_size=5)))
    end = draw(st.sampled_from(["return a == 1u;", "return missing;", "abort();", "return 3;"] + ["return 0;"] * 4))
    num = draw(st.integers(1, 3))
    small = st.integers(0, 20)
    return Program(
        HEAD + f'int main(void) {{\n    unsigned a, b, n = 5u;\n    if (scanf("%u %u", &a, &b) != 2) return 9;\n'
        f"    {body}\n    {end}\n}}\n",
        tuple(f"{draw(small)} {draw(small)}\n" for _ in range(num)),
        tuple(draw(st.sampled_from([False, False, False, True])) for _ in range(num)),
        draw(st.sampled_from(["", "\n", " \n\n"])),
    )


def directly(program: Program, folder: Path) -> tuple[tuple[str, str, int], list[str]]:
    """(stage, status, checks passed) by gcc and the shell's rules, and the expected output of each case."""
    (folder / "p.c").write_text(program.code)
    command = ["gcc", "-std=gnu17", "-O1", "-w", "p.c", "-o", "p", "-lm"]
    if subprocess.run(command, cwd=folder, capture_output=True, timeout=60, check=False).returncode != 0:
        return ("compile", "failed", 0), ["1"] * len(program.inputs)
    expected, clean, passed = [], True, 0
    for given_input, wrong in zip(program.inputs, program.wrong, strict=True):
        done = subprocess.run(
            ["./p"], cwd=folder, input=given_input, capture_output=True, text=True, timeout=20, check=False
        )
        expected.append("!" + done.stdout if wrong else done.stdout + program.spaces)
        clean &= done.returncode == 0
        passed += done.returncode == 0 and not wrong
    if not clean:
        return ("run", "failed", passed), expected
    return ("tests", "passed" if passed == len(expected) else "failed", passed), expected


@pytest.fixture(scope="module")
def verifier() -> Iterator[Verifier]:
    with open_verifier(c.Spec(workers=1)) as opened:
        yield opened


@given(programs())
@examples(50)
def test_the_verdict_of_a_safe_program_is_what_a_direct_run_shows(verifier: Verifier, program: Program) -> None:
    with tempfile.TemporaryDirectory() as folder:
        wanted, expected = directly(program, Path(folder))
    cases = [{"stdin": a, "stdout": b} for a, b in zip(program.inputs, expected, strict=True)]
    (verdict,) = verifier.verify([(prompt({"kind": "stdio", "cases": cases}), answer(program.code))])
    assert (verdict.stage, verdict.status, verdict.tests_passed) == wanted, verdict.diagnostics
