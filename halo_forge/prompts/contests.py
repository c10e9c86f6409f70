"""Rows of public data sets of programming tasks: a statement, and inputs with outputs in one or more columns.

docs/prompts.md lists them with the columns that are read.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from halo_forge.core.records import Prompt
from halo_forge.prompts import native
from halo_forge.prompts._cases import cases_of, from_cases, parsed, tests_of
from halo_forge.prompts._checks import checked_rule
from halo_forge.prompts._row import Row
from halo_forge.prompts._unread import kept_as_info

_STDIO = "Write a whole program that reads from standard input and writes to standard output."


@dataclass(frozen=True, slots=True)
class ContestShape:
    """One shape: see `halo_forge.prompts._shapes.Shape`.

    Attributes:
        statement: The column with the statement; "prompt" may also hold messages.
        tests: The columns with tests; all of them are used.
        id_column: The column with the id; rows without one get it by hashing.
        wanting: Columns with which a row has another shape.
    """

    NAME: str
    COLUMNS: tuple[str, ...]
    statement: str
    tests: tuple[str, ...]
    id_column: str = "id"
    wanting: tuple[str, ...] = ()

    def recognises(self, columns: Collection[str]) -> bool:
        """See `Shape`."""
        return set(self.COLUMNS) <= set(columns) and set(self.wanting).isdisjoint(columns)

    def to_prompt(self, row: Row) -> Prompt:
        """See `Shape`."""
        starter = row.text("starter_code") if row.data.get("starter_code") not in (None, "") else ""
        tests = _with_checker(row, self._tests(row, starter))
        language = "python" if tests["kind"] == "asserts" else None
        if self.statement == "prompt":
            messages = native.messages_of(row)
        else:
            content = row.text(self.statement).strip()
            if starter.strip():
                content += f"\n\nUse this starter code:\n\n```\n{starter.strip()}\n```"
            elif tests["kind"] == "stdio":
                content += f"\n\n{_STDIO}"
            messages = ({"role": "user", "content": content},)
        read = (
            self.statement,
            self.id_column,
            "starter_code",
            *self.tests,
            *(("checker",) if "compare" in tests else ()),
        )
        info = kept_as_info(row, read, notes=_NOTES)
        if language == "python" and isinstance(reference := _reference(row), str):
            info["reference"] = reference
        return Prompt(native.id_of(row, self.id_column, messages, tests), messages, language, tests, info)

    def _tests(self, row: Row, starter: str) -> Mapping[str, Any]:
        function = _function(row)
        if len(self.tests) == 1:
            column = self.tests[0]
            return tests_of(row, *_inner(row, column), function=function, starter=starter)
        cases = [
            case
            for column in self.tests
            if row.data.get(column) is not None
            for case in cases_of(row, column, row.data[column], function)
        ]
        if not cases:
            raise row.error(f"{' and '.join(f'`{each}`' for each in self.tests)} have no test", "remove the row")
        return from_cases(row, self.tests[0], cases, starter)


def _with_checker(row: Row, tests: Mapping[str, Any]) -> Mapping[str, Any]:
    """The tests with a checker in our form that stands beside them; of another form it is refused as unused."""
    found = row.data.get("checker")
    is_ours = isinstance(found, Mapping) and set(found) == {"language", "source"} and any(found.values())
    if tests["kind"] != "stdio" or not is_ours:
        return tests
    return {**tests, "compare": checked_rule(row, {"checker": found})}


_BESIDE = ("test_cases", "functional", "pytest", "assert_case", "inputs", "input", "checker")


def _inner(row: Row, column: str) -> tuple[str, Any]:
    """Where in a column the tests are: some tools put them below other keys."""
    value = row.data.get(column)
    if value is None:
        raise row.error(f"`{column}` is missing", "add tests, or remove the row")
    value = parsed(row, column, value)
    for key in ("ground_truth", "test_cases", "functional", "pytest", "assert_case"):
        if isinstance(value, Mapping) and value.get(key) is not None:
            for other in _BESIDE:
                if other != key and value.get(other):
                    raise row.error(
                        f"`{column}` has `{key}` and `{other}`; only one of them would be used",
                        "keep the tests that decide, or write all as `prompt` and `tests` (`halo-forge docs prompts`)",
                    )
            column, value = f"{column}.{key}", parsed(row, f"{column}.{key}", value[key])
    if isinstance(value, str):
        # KodCode's tests import the program as a module; here what they import is defined already.
        value = re.sub(r"^(?:from solution import .*|import solution)$", "", value, flags=re.MULTILINE)
    return column, value


def _function(row: Row) -> str | None:
    metadata = parsed(row, "metadata", row.data.get("metadata"))
    found = metadata.get("func_name") if isinstance(metadata, Mapping) else None
    return found if isinstance(found, str) and found else None


def _reference(row: Row) -> Any:
    found = parsed(row, "solutions", row.data.get("solutions", row.data.get("solution")))
    return found[0] if isinstance(found, list) and found else found


_NOTES = ("solution", "solutions", "incorrect_solutions", "test_info", "extra_info")
SHAPES = (
    ContestShape("verl rows", ("prompt", "reward_model"), "prompt", ("reward_model",), wanting=("tests",)),
    ContestShape(
        "rows with verification_info", ("prompt", "verification_info"), "prompt", ("verification_info",), "problem_id"
    ),
    ContestShape("APPS or TACO rows", ("question", "input_output"), "question", ("input_output",), "problem_id"),
    ContestShape(
        "CodeContests rows",
        ("description", "public_tests", "private_tests", "generated_tests"),
        "description",
        ("public_tests", "private_tests", "generated_tests"),
        "name",
    ),
    ContestShape(
        "LiveCodeBench rows",
        ("question_content", "public_test_cases", "private_test_cases"),
        "question_content",
        ("public_test_cases", "private_test_cases"),
        "question_id",
    ),
    ContestShape("DeepCoder rows", ("problem", "tests"), "problem", ("tests",), wanting=("prompt",)),
    ContestShape("KodCode rows", ("question", "solution", "test"), "question", ("test",), "question_id"),
)
