"""Comparing what a program printed with what it should have printed, by hand."""

from __future__ import annotations

import pytest
from c_answers import COMPILE, HARNESS, STDIO, prompt

from halo_forge.core.errors import ConfigError
from halo_forge.verifiers.checks import parse_tests
from halo_forge.verifiers.comparison import compare_lines, compare_output
from halo_forge.verifiers.diagnostics import clip, num_warnings, readable


@pytest.mark.parametrize(
    ("output", "expected", "complete", "num_equal", "right"),
    [
        (b"1\n2\n", ("1", "2"), True, 2, True),
        (b"1\n2", ("1", "2"), True, 2, True),
        (b"1\n2", ("1", "2"), False, 1, False),
        (b"1 \t\n2\r\n", ("1", "2"), True, 2, True),
        (b" 1\n2\n", ("1", "2"), True, 1, False),
        (b"1\n2\n", ("1 ", "2"), True, 2, True),
        (b"1\n", ("1", "2"), True, 1, False),
        (b"", ("1",), True, 0, False),
        (b"", ("",), True, 0, False),
        (b"\n", ("",), True, 1, True),
        (b"1\n\n", ("1", ""), True, 2, True),
        (b"1\n2\n3\n", ("1", "2"), True, 2, False),
        (b"1\n2\n\n", ("1", "2"), True, 2, False),
        (b"1\n2\n3", ("1", "2"), True, 2, False),
        (b"0\n1\n2\n", ("1", "2"), True, 0, False),
        (b"x\n2\n", ("1", "2"), True, 1, False),
        (b"\xff\xfe\n", ("\\xff\\xfe",), True, 0, False),
        ("é\n".encode(), ("é",), True, 1, True),
        (b"1\n" * 100_000, ("1", "1"), True, 2, False),
    ],
)
def test_compare_lines(output: bytes, expected: tuple[str, ...], complete: bool, num_equal: int, right: bool) -> None:
    found = compare_lines(output, expected, complete)
    assert (found.num_equal, found.right) == (num_equal, right)
    assert bool(found.differences) == (not right)


def test_differences_are_few_and_short() -> None:
    found = compare_lines(b"y" * 1000 + b"\n" + b"z\n" * 98, tuple("x" for _ in range(100)), True)
    assert len(found.differences) == 6 and all(len(line) < 250 for line in found.differences)
    assert found.differences[0].startswith("check 1: expected 'x', found 'yyy")
    assert found.differences[-1] == "check 100: expected 'x', found the end of the output"


@pytest.mark.parametrize(
    ("output", "expected", "difference"),
    [
        (b"3\n", "3", None),
        (b"3", "3\n\n", None),
        (b"a  \nb\t\n\n", "a\nb", None),
        (b"", "", None),
        (b"\n", "", None),
        (b"a\n\nb\n", "a\nb\n", "line 2: expected 'b', found ''"),
        (b"3\n4\n", "3\n", "line 2: expected nothing, found '4'"),
        (b"3\n", "3\n4\n", "line 2: expected '4', found nothing"),
        (b" 3\n", "3\n", "line 1: expected '3', found ' 3'"),
        (b"\xff\n", "3\n", "line 1: expected '3', found '\\xff'"),
        (b"x 3\n", "3\n", "line 1: expected '3', found 'x 3'"),
    ],
)
def test_compare_output(output: bytes, expected: str, difference: str | None) -> None:
    assert compare_output(output, expected) == difference


def test_kinds_of_tests() -> None:
    harness, first = parse_tests(prompt(HARNESS))
    stdio, second = parse_tests(prompt(STDIO))
    compiled, third = parse_tests(prompt(COMPILE))
    nothing, fourth = parse_tests(prompt(None))
    assert [tests.kind for tests in (harness, stdio, compiled, nothing)] == ["harness", "stdio", "compile", "compile"]
    assert [tests.num_checks for tests in (harness, stdio, compiled, nothing)] == [4, 3, 0, 0]
    assert [tests.entry_point for tests in (harness, stdio, compiled, nothing)] == ["add", None, "add", None]
    assert len({first, second, third, fourth}) == 4
    frozen = {**HARNESS, "expected": tuple(HARNESS["expected"])}
    assert parse_tests(prompt(frozen))[1] == first
    assert parse_tests(prompt({**HARNESS, "expected": ["3"]}))[1] != first


@pytest.mark.parametrize(
    ("tests", "where"),
    [
        ({"kind": "haness"}, "tests"),
        ({}, "tests"),
        ({**HARNESS, "expected": []}, "expected"),
        ({**HARNESS, "expected": [3]}, "expected"),
        ({"kind": "stdio", "cases": []}, "cases"),
        ({"kind": "stdio", "cases": [{"stdin": "1"}]}, "stdout"),
        ({**COMPILE, "entrypoint": "add"}, "entrypoint"),
    ],
)
def test_malformed_tests_name_the_prompt_and_the_place(tests: dict[str, object], where: str) -> None:
    with pytest.raises(ConfigError, match=rf"'broken'.*{where}"):
        parse_tests(prompt(tests, "broken"))


def test_diagnostics_are_bounded_and_keep_both_ends() -> None:
    short = clip("a" * 10_000)
    assert short == "a" * 10_000
    long = clip("a" + "é" * 50_000 + "z")
    assert len(long.encode()) <= 10 * 1024 and long.startswith("aé") and long.endswith("éz") and "[...]" in long
    assert clip("\ud800") == "\\ud800"


def test_diagnostics_hold_nothing_that_changes_from_run_to_run() -> None:
    text = b"/some/where/halo-forge-a1_b2c3d/work/job/answer.c:1: ==123==ERROR at 0x7ffd12345678 \xff 0x1F"
    assert readable(text) == "answer.c:1: ==pid==ERROR at 0x... \\xff 0x1F"


def test_warnings_are_counted_where_they_are_reported() -> None:
    text = "a.c:1:2: warning: one\n  3 | x: warning: no\na.c: In function 'f':\na.c:4:5: warning: two\na.c:5:1: error\n"
    assert num_warnings(text) == 2
