"""The kinds of tests that a prompt can have, and the comparison of output with what is expected."""

from __future__ import annotations

import abc
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from halo_forge.core.errors import ConfigError
from halo_forge.core.records import Prompt
from halo_forge.core.source import digest
from halo_forge.verifiers.python.tests import PreparedTests, prepare_asserts, prepare_humaneval

_MAX_MISMATCHES = 5
_SHOWN = 160


class _Tests(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    @property
    def entry_point(self) -> str | None:
        """The function that the answer must define."""
        return None

    @property
    def num_checks(self) -> int:
        return 0


class Harness(_Tests):
    """Source with a `main` that calls the answer's function and prints one line for each check."""

    kind: Literal["harness"] = "harness"
    entry: str = Field(alias="entry_point", min_length=1)
    source: str = Field(min_length=1)
    expected: tuple[str, ...] = Field(min_length=1)

    @property
    def entry_point(self) -> str | None:
        return self.entry

    @property
    def num_checks(self) -> int:
        return len(self.expected)


class StdioCase(BaseModel):
    """What a program reads, and what it must print in response."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stdin: str
    stdout: str


class Stdio(_Tests):
    """A whole program, run once for each case."""

    kind: Literal["stdio"] = "stdio"
    cases: tuple[StdioCase, ...] = Field(min_length=1)

    @property
    def num_checks(self) -> int:
        return len(self.cases)


class CompileOnly(_Tests):
    """Only compilation is checked: to an object, which must define the entry point if one is named.

    A prompt without tests is of this kind, because it may ask for a function or for a program.
    """

    kind: Literal["compile"] = "compile"
    entry: str | None = Field(default=None, alias="entry_point")

    @property
    def entry_point(self) -> str | None:
        return self.entry


class PythonTests(_Tests, abc.ABC):
    """Tests in Python, for a function in Python: they run in one process, the program in another."""

    kind: str

    @property
    @abc.abstractmethod
    def prepared(self) -> PreparedTests:
        """What the driver does with a program.

        Raises:
            ValueError: They cannot be prepared; those that `parse_tests` returned can.
        """

    @property
    def entry_point(self) -> str | None:
        return self.prepared.entry_point

    @property
    def num_checks(self) -> int:
        return self.prepared.num_checks

    @model_validator(mode="after")
    def _can_be_prepared(self) -> Self:
        _ = self.prepared
        return self


class Asserts(PythonTests):
    """Statements that assert something about the program; each one is a check."""

    kind: Literal["asserts"] = "asserts"
    entry: str | None = Field(default=None, alias="entry_point", min_length=1)
    setup: str = ""
    tests: tuple[str, ...] = Field(min_length=1)

    @property
    def prepared(self) -> PreparedTests:
        return prepare_asserts(self.entry, self.setup, self.tests)


class Mbpp(PythonTests):
    """The asserts of an MBPP row."""

    kind: Literal["mbpp"] = "mbpp"
    test_list: tuple[str, ...] = Field(min_length=1)
    test_setup_code: str = ""

    @property
    def prepared(self) -> PreparedTests:
        return prepare_asserts(None, self.test_setup_code, self.test_list)


class Humaneval(PythonTests):
    """The function `check` of a HumanEval row, and the head that the completion continues."""

    kind: Literal["humaneval"] = "humaneval"
    entry: str = Field(alias="entry_point", min_length=1)
    test: str = Field(min_length=1)
    prompt: str = Field(min_length=1)

    @property
    def prepared(self) -> PreparedTests:
        return prepare_humaneval(self.entry, self.test, self.prompt)


Tests = Harness | Stdio | CompileOnly | Asserts | Mbpp | Humaneval
_ADAPTER: TypeAdapter[Tests] = TypeAdapter(Annotated[Tests, Field(discriminator="kind")])


def parse_tests(prompt: Prompt) -> tuple[Tests, str]:
    """The prompt's tests, and a digest that equal tests share.

    Raises:
        ConfigError: They are malformed, or of an unknown kind.
    """
    if prompt.tests is None:
        return CompileOnly(), "none"
    plain = _plain(prompt.tests)
    try:
        tests = _ADAPTER.validate_python(plain)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(["tests", *(str(part) for part in first["loc"])])
        raise ConfigError(
            f"prompt {prompt.id!r}: {where}: {first['msg']}, found {str(first['input'])[:200]!r}",
            "tests are {kind: harness, entry_point, source, expected: [line ...]},"
            " {kind: stdio, cases: [{stdin, stdout} ...]} or {kind: compile, entry_point}; for Python also"
            " {kind: asserts, entry_point, setup, tests: [assert ...]} and HumanEval's and MBPP's own;"
            " leave them out to check compilation only",
        ) from error
    return tests, digest(json.dumps(plain, sort_keys=True))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


@dataclass(frozen=True, slots=True)
class Comparison:
    """The number of correct lines, whether the whole output is correct, and the first differences as text."""

    num_equal: int
    right: bool
    differences: tuple[str, ...]


def compare_lines(output: bytes, expected: tuple[str, ...], complete: bool) -> Comparison:
    """Compare line by line, ignoring white space at the end of a line.

    Args:
        output: What the program wrote.
        complete: The program ran to its end; if it did not, an unfinished last line is ignored.
    """
    lines = output.split(b"\n", len(expected) + 1)
    if len(lines) <= len(expected) + 1 and (lines[-1] == b"" or not complete):
        lines.pop()
    num_equal = 0
    differences: list[str] = []
    for number, (wanted, found) in enumerate(zip(expected, lines, strict=False), start=1):
        if found.rstrip() == _encoded(wanted).rstrip():
            num_equal += 1
        elif len(differences) < _MAX_MISMATCHES:
            differences.append(f"check {number}: expected {_show(_encoded(wanted))}, found {_show(found)}")
    if len(lines) < len(expected):
        wanted = _show(_encoded(expected[len(lines)]))
        differences.append(f"check {len(lines) + 1}: expected {wanted}, found the end of the output")
    if len(lines) > len(expected):
        differences.append(f"more than the {len(expected)} expected lines: {_show(lines[len(expected)])}")
    return Comparison(num_equal, not differences, tuple(differences))


def compare_output(output: bytes, expected: str) -> str | None:
    """None when both are the same but for white space at the ends of lines and empty lines at the end; else where not.

    The comparison is on bytes: output that is not UTF-8 is as good as any other wrong output.
    """
    wanted = [line.rstrip() for line in _encoded(expected).rstrip().split(b"\n")]
    found = [line.rstrip() for line in output.rstrip().split(b"\n")]
    if found == wanted:
        return None
    pairs = enumerate(zip(wanted, found, strict=False))
    number = next((i for i, (a, b) in pairs if a != b), min(len(wanted), len(found)))
    first = wanted[number] if number < len(wanted) else None
    return f"line {number + 1}: expected {_show(first)}, found {_show(found[number] if number < len(found) else None)}"


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", errors="backslashreplace")


def _show(line: bytes | None) -> str:
    if line is None:
        return "nothing"
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        return repr(line[:_SHOWN])[1:] + ("..." if len(line) > _SHOWN else "")
    return repr(text[:_SHOWN]) + ("..." if len(text) > _SHOWN else "")
