"""Programs that do nothing of a task, and the tests that let them pass."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from python_answers import prompt

from halo_forge.checks.tasks import check_tasks, default_spec, load_groups
from halo_forge.verifiers.checks import parse_tests
from halo_forge.verifiers.constant_programs import constant_programs, with_body


def sources(tests: dict[str, Any], language: str, reference: str = "") -> list[str]:
    return [source for _, source in constant_programs(parse_tests(prompt(tests))[0], reference, language)]


def test_constants_of_python_include_what_the_first_check_expects() -> None:
    tests = {"kind": "asserts", "tests": ["assert add(1, 2) == [3, 4]", "assert plus(2) == 7"]}
    found = sources(tests, "python")
    assert "def add(*args, **kwargs):\n    return None\ndef plus(*args, **kwargs):\n    return None\n" in found
    assert any("return [3, 4]" in source for source in found) and not any("return 7" in source for source in found)


def test_what_gets_nothing_may_return_a_constant() -> None:
    assert sources({"kind": "asserts", "tests": ["assert answer() == 42"]}, "python") == []
    assert sources({"kind": "stdio", "cases": [{"stdin": "", "stdout": "hello"}]}, "c") == []
    assert sources({"kind": "compile", "entry_point": "add"}, "python") == []


@pytest.mark.parametrize(
    ("source", "name", "expected"),
    [
        ("int add(int a);\nint add(int a) { if (a) { a++; } return a; }\n", "add", "int add(int a) { X }\n"),
        ("int f(int a) { return add(a); }\nint add(int a) {\n}\n", "add", "return add(a); }\nint add(int a) { X }\n"),
        ("int Till::sum(int a) { return a; }", "shop::Till::sum", "int Till::sum(int a) { X }"),
        ("fn add<T: Copy>(a: T) -> T { a }", "add", "fn add<T: Copy>(a: T) -> T { X }"),
        ("func add(a int) (int, error) { return a, nil }", "add", "func add(a int) (int, error) { X }"),
        ("int add(void) { return 1; }", "add", None),
        ("fn add ( ) { }", "add", None),
        ("int plus(int a) { return a; }", "add", None),
        ("int add(int a) {", "add", None),
    ],
)
def test_a_function_gets_another_body(source: str, name: str, expected: str | None) -> None:
    found = with_body(source, name, "X")
    assert found is None if expected is None else found is not None and found.endswith(expected)


def codes(tmp_path: Path, row: dict[str, Any]) -> list[tuple[str, str]]:
    file = tmp_path / "tasks.jsonl"
    file.write_text(json.dumps({"id": "t", "prompt": "Write `add(a, b)`.", **row}) + "\n")
    groups = load_groups([str(file)], None)
    report = check_tasks([str(file)], groups, default_spec, lambda proofs, total: proofs)
    return [(each.code, each.message) for each in report.findings if each.severity == "error"]


HARNESS = {
    "kind": "harness",
    "entry_point": "add",
    "source": "#include <stdio.h>\nint add(int a, int b);\nint main(void) {{\n{}    return 0;\n}}\n",
}
LINE = '    printf("%d %d\\n", {0}, add({0}, {1}) {2});\n'


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (
            {"language": "python", "reference": "def add(a, b): return a + b\n", "tests": {
                "kind": "asserts", "tests": ["assert add(1, 2)", "def test_a():\n    assert add(2, 3) >= 1"]}},
            "a program that returns True whatever it gets passes: tests passed, 2 of 2",
        ),
        (
            {"language": "python", "reference": "print(sum(map(int, input().split())))\n", "tests": {
                "kind": "stdio", "cases": [{"stdin": "1 2", "stdout": "3"}, {"stdin": "2 1\n", "stdout": "3\n\n"}]}},
            None,  # the text says it: every expected output is the same
        ),
        (
            {"language": "c", "reference": "int add(int a, int b) { return a + b; }\n", "tests": {**HARNESS,
                "source": HARNESS["source"].format("".join(LINE.format(n, 1, ">= 0") for n in range(5))),
                "expected": [f"{n} 1" for n in range(5)]}},
            "a program that does nothing but `return 0;` passes",
        ),
        (
            {"language": "c", "reference": "int add(int a, int b) { return a + b; }\n", "tests": {**HARNESS,
                "source": HARNESS["source"].format("".join(LINE.format(n, 1, "") for n in range(5))),
                "expected": [f"{n} {n + 1}" for n in range(5)]}},
            "",
        ),
        (
            {"language": "python", "reference": "def add(a, b): return a + b\n", "tests": {
                "kind": "asserts", "tests": ["assert add(1, 2) == 3", "assert add(2, 3) == 5"]}},
            "",
        ),
    ],
)  # fmt: skip
def test_tests_that_a_constant_program_passes_are_an_error(
    tmp_path: Path, row: dict[str, Any], says: str | None
) -> None:
    found = codes(tmp_path, row)
    if says is None:
        assert [code for code, _ in found] == ["constant_passes"]
    elif says:
        assert [code for code, _ in found] == ["constant_program_passes"] and says in found[0][1]
    else:
        assert found == []
