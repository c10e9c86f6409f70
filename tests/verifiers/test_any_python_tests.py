"""Any small Python tests and programs: a direct run by the interpreter, outside of our code, says the same.

More examples: HALO_FORGE_TEST_EXAMPLES=10000 (docs/testing.md).
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from python_answers import prompt, spec, verdicts

from halo_forge.core.errors import ConfigError
from halo_forge.verifiers.checks import parse_tests
from halo_forge.verifiers.verifier import ThreadedVerifier

# One run of a program is 30 ms: what the examples share is opened once.
NUMBERS = st.integers(-2, 3)
RESULTS = st.sampled_from(
    ["n", "n + 1", "0", "None", "[]", "[n]", "[1, 2]", "n > 0", "1 / n", "'a'", "float(n)", "True", "(n, n)"]
)
PROGRAMS = st.builds(
    lambda first, second, branch: f"def f(n):\n    if n == {branch}:\n        return {first}\n    return {second}\n",
    RESULTS, RESULTS, NUMBERS,
)  # fmt: skip
VALUES = st.sampled_from(["0", "1", "2", "[]", "[1]", "True", "None", "'a'", "1.0", "(1, 1)"])
CONDITIONS = st.one_of(
    st.builds(lambda n, value: f"f({n}) == {value}", NUMBERS, VALUES),
    st.builds(lambda n: f"f({n})", NUMBERS),
    st.builds(lambda n, value: f"f({n}) != {value}", NUMBERS, VALUES),
    st.builds(lambda n: f"isinstance(f({n}), (int, list))", NUMBERS),
)


def indented(text: str) -> str:
    return "".join(f"    {line}\n" for line in text.splitlines())


# Statements of which some assert something, some cannot fail, and some never get as far.
SIMPLE = st.one_of(
    CONDITIONS.map(lambda condition: f"assert {condition}\n"),
    CONDITIONS.map(lambda condition: f"if {condition}:\n    raise AssertionError('no')\n"),
    NUMBERS.map(lambda n: f"x = f({n})\n"),
    st.just("pass\n"),
)


def compound(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.builds(lambda body, count: f"for i in range({count}):\n{indented(body)}", inner, st.integers(0, 2)),
        st.builds(lambda body, condition: f"if {condition}:\n{indented(body)}", inner, CONDITIONS),
        st.builds(lambda body: f"try:\n{indented(body)}except ZeroDivisionError:\n    pass\n", inner),
        st.builds(lambda body, n: f"try:\n    f({n})\nexcept ZeroDivisionError:\n{indented(body)}", inner, NUMBERS),
        st.builds(lambda first, second: first + second, inner, inner),
    )


BODIES = st.recursive(SIMPLE, compound, max_leaves=4)
TEXTS = st.one_of(
    BODIES,
    st.builds(lambda body: f"def test_a():\n{indented(body)}", BODIES),
    st.builds(lambda one, two: f"def test_a():\n{indented(one)}def test_b():\n{indented(two)}", BODIES, BODIES),
    st.builds(lambda body: f"def helper():\n{indented(body)}def test_a():\n    helper()\n", BODIES),
    st.builds(lambda body: f"def never():\n{indented(body)}", BODIES),
    st.builds(lambda body: f"class TestA:\n    def test_a(self):\n{indented(indented(body))}", BODIES),
    st.builds(
        lambda body: f"import unittest\nclass A(unittest.TestCase):\n    def test_a(self):\n{indented(indented(body))}",
        BODIES,
    ),
    st.builds(lambda body: f"def main():\n{indented(body)}if __name__ == '__main__':\n    main()\n", BODIES),
)


def passes(program: str, tests: str) -> bool:
    """Whether tests pass in one process, and each of them has come to an assertion.

    The latter is told by tracing lines, in no way like the code under test does it.
    """
    lines = tests.splitlines()
    asserts = {number for number, line in enumerate(lines, 1) if line.lstrip().startswith("assert ")}
    asserts |= {number for number, line in enumerate(lines[1:], 1) if "AssertionError" in line}  # the `if` before it
    reached: set[int] = set()

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        if frame.f_code.co_filename != "tests":
            return None
        reached.update([frame.f_lineno] if event == "line" else [])
        return trace

    def run(call: Callable[[], object]) -> bool:
        reached.clear()
        before = sys.gettrace()
        sys.settrace(trace)
        try:
            call()
        except Exception:  # noqa: BLE001 -- whatever goes wrong, they do not pass
            return False
        finally:
            sys.settrace(before)
        return bool(reached & asserts)

    space: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(program, "program", "exec"), space)
    code = compile(tests, "tests", "exec")
    top = run(lambda: exec(code, space))
    found = [run(value) for name, value in list(space.items()) if name.startswith("test_")]
    found += [run(space["TestA"]().test_a)] if "TestA" in space else []
    found += [run(space["A"]("test_a").test_a)] if "A" in space else []
    return all(found) if found else top


@pytest.fixture(scope="module")
def verifier() -> Iterator[ThreadedVerifier]:
    with ThreadedVerifier(spec(workers=1)) as opened:
        yield opened


@given(program=PROGRAMS, text=TEXTS)
@examples(40)
def test_a_verdict_is_that_of_a_direct_run(verifier: ThreadedVerifier, program: str, text: str) -> None:
    tests = {"kind": "asserts", "entry_point": "f", "tests": [text]}
    with contextlib.suppress(ConfigError):
        parsed, _ = parse_tests(prompt(tests))
        (found,) = verdicts(verifier, tests, program)
        assert found.status != "error" and found.tests_total == parsed.num_checks, found
        assert found.passed is passes(program, text), (found.diagnostics, text)


@given(text=TEXTS)
@examples(200)
def test_any_tests_are_read_or_refused_with_what_to_do(text: str) -> None:
    try:
        parsed, _ = parse_tests(prompt({"kind": "asserts", "entry_point": "f", "tests": [text]}))
    except ConfigError as error:
        assert "'task': tests.asserts: " in error.message and error.hint
        assert (
            "assert" not in text.replace("asserts", "")
            or "nothing" in error.message
            or "never" in text
            or ("cannot hold" in error.message)
        ), text
    else:
        assert parsed.num_checks >= 1


@given(text=st.text(alphabet="abcdef()[]:=\n \t'\"@,.0123\\#{}x", max_size=60) | st.text(max_size=30))
@examples(200)
def test_text_that_is_no_program_is_refused(text: str) -> None:
    for tests in (
        {"kind": "asserts", "tests": [text]},
        {"kind": "asserts", "setup": text, "tests": ["assert f(1)"]},
        {"kind": "mbpp", "test_list": ["assert f(1)"], "test": text},
        {"kind": "humaneval", "entry_point": "f", "prompt": "def f(x):\n", "test": text},
    ):
        with contextlib.suppress(ConfigError):
            parse_tests(prompt(tests))
