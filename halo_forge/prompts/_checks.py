"""The shapes that the `tests` of a row may have.

The kinds `stdio`, `harness` and `compile` are checked here in full, and the form of `asserts`, so that a broken row is
found before any sampling.  Other kinds are left to the verifier that knows them; only misspellings of ours are errors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from halo_forge.core.output_rule import CheckerProgram, OutputRule
from halo_forge.prompts._json_text import from_json
from halo_forge.prompts._row import Row, did_you_mean, shown

_KEYS: dict[str, tuple[str, ...]] = {
    "stdio": ("kind", "cases"),
    "harness": ("kind", "entry_point", "source", "expected"),
    "asserts": ("kind", "tests"),
    "compile": ("kind",),
}
_OPTIONAL: dict[str, tuple[str, ...]] = {
    "stdio": ("compare",),
    "harness": ("compare",),
    "asserts": ("entry_point", "setup", "imports"),
    "compile": ("entry_point",),
}
_HINT = (
    'write {"kind": "stdio", "cases": [{"stdin": ..., "stdout": ...}]}, {"kind": "harness", "entry_point": ..., '
    '"source": ..., "expected": [line, ...]}, for Python also '
    '{"kind": "asserts", "tests": ["assert ...", ...]}; or leave out `tests` if compiling is the only check'
)


def checked_tests(row: Row) -> Mapping[str, Any] | None:
    """The `tests` of a row, or None if it has none.

    Raises:
        ConfigError: They are not an object, have no kind, lack a key, have an unknown one, or contain no check.
    """
    tests = row.data.get("tests")
    if isinstance(tests, str):
        tests = _parsed(row, tests)
        if tests is None:
            raise row.error("`tests` is the text 'null'", "write null without quotation marks, or leave `tests` out")
    if tests is None:
        return None
    if not isinstance(tests, dict):
        raise row.error(f"`tests` is {shown(tests)}; an object is needed", _HINT)
    # A table has the same columns in all rows, so the keys of the other kinds arrive as nulls.
    tests = {key: value for key, value in tests.items() if value is not None}
    kind = tests.get("kind")
    if not isinstance(kind, str) or not kind:
        raise row.error(f"`tests.kind` is {shown(kind)}; text is needed", _HINT)
    if kind not in _KEYS:
        if hint := did_you_mean(kind.lower(), _KEYS):
            raise row.error(f"`tests.kind` is {kind!r}{hint}", _HINT)
        return tests
    for key in _KEYS[kind]:
        if key not in tests:
            raise row.error(f"`tests` of kind {kind} lacks `{key}`", _HINT)
    known = (*_KEYS[kind], *_OPTIONAL.get(kind, ()))
    for key in tests:
        if key not in known:
            raise row.error(f"`tests` of kind {kind} has the unknown key `{key}`{did_you_mean(key, known)}", _HINT)
    if kind == "stdio":
        _check_cases(row, tests["cases"])
    elif kind == "harness":
        _check_harness(row, tests)
    elif kind == "asserts":
        _check_asserts(row, tests)
    if "compare" in tests:
        tests["compare"] = checked_rule(row, tests["compare"])
    return tests


def _parsed(row: Row, text: str) -> Any:
    """Tables often store nested data as JSON text."""
    try:
        return from_json(text)
    except ValueError as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else error
        raise row.error(f"`tests` is text, but not valid JSON: {reason}", _HINT) from error


def _check_cases(row: Row, cases: Any) -> None:
    if not isinstance(cases, list) or not cases:
        raise row.error(f"`tests.cases` is {shown(cases)}; a list of at least one case is needed", _HINT)
    for number, case in enumerate(cases, start=1):
        if not isinstance(case, dict) or set(case) != {"stdin", "stdout"}:
            found = f"has the keys {', '.join(case)}" if isinstance(case, dict) else f"is {shown(case)}"
            raise row.error(f"`tests.cases`: case {number} {found}; `stdin` and `stdout` are needed", _HINT)
        if not isinstance(case["stdin"], str):
            raise row.error(f"`tests.cases`: `stdin` of case {number} is {shown(case['stdin'])}; text is needed", _HINT)
        if not _is_text_or_texts(case["stdout"]):
            found = shown(case["stdout"])
            raise row.error(
                f"`tests.cases`: `stdout` of case {number} is {found}; text, or a list of right texts, is needed", _HINT
            )


def _check_harness(row: Row, tests: Mapping[str, Any]) -> None:
    for key in ("entry_point", "source"):
        if not isinstance(tests[key], str) or not tests[key].strip():
            raise row.error(f"`tests.{key}` is {shown(tests[key])}; text is needed", _HINT)
    expected = tests["expected"]
    if not isinstance(expected, list) or not expected:
        raise row.error(f"`tests.expected` is {shown(expected)}; a list of at least one line is needed", _HINT)
    for number, line in enumerate(expected, start=1):
        if not _is_text_or_texts(line) or any("\n" in text for text in ([line] if isinstance(line, str) else line)):
            raise row.error(
                f"`tests.expected`: item {number} is {shown(line)}; one line of text, or a list of such, is needed",
                _HINT,
            )


def _check_asserts(row: Row, tests: Mapping[str, Any]) -> None:
    found = tests["tests"]
    if not isinstance(found, list) or not found or not all(isinstance(each, str) and each.strip() for each in found):
        raise row.error(f"`tests.tests` is {shown(found)}; a list of at least one text is needed", _HINT)
    for key in ("entry_point", "setup", "imports"):
        if not isinstance(tests.get(key, ""), str):
            raise row.error(f"`tests.{key}` is {shown(tests[key])}; text is needed", _HINT)


def _is_text_or_texts(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(isinstance(each, str) for each in value)
    return isinstance(value, str)


def checked_rule(row: Row, found: Any) -> Any:
    """`tests.compare`, without the nulls that a table adds to it.

    Raises:
        ConfigError: It is no rule.
    """
    rule = {key: value for key, value in found.items() if value is not None} if isinstance(found, dict) else found
    try:
        OutputRule.model_validate(rule)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(["tests.compare", *(str(part) for part in first["loc"])])
        said = f"{first['msg'].removeprefix('Value error, ')}, found {shown(first['input'])}"
        if first["type"] == "extra_forbidden":
            known = CheckerProgram.model_fields if "checker" in first["loc"] else OutputRule.model_fields
            said = f"unknown key{did_you_mean(str(first['loc'][-1]), known)}"
        raise row.error(
            f"`{where}`: {said}",
            'write {"whitespace": "line_ends" | "exact" | "tokens", "absolute_tolerance": ...,'
            ' "relative_tolerance": ...}, or {"checker": {"language": "cpp" | "c" | "python", "source": ...}}',
        ) from error
    return rule
