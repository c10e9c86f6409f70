"""The kinds of tests that a prompt can have."""

from __future__ import annotations

import abc
import json
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator, model_validator

from halo_forge.core.errors import ConfigError
from halo_forge.core.output_rule import OutputRule
from halo_forge.core.records import Prompt, plain
from halo_forge.core.source import digest
from halo_forge.verifiers.python.collect import UnusableTests
from halo_forge.verifiers.python.tests import PreparedTests, prepare_asserts, prepare_humaneval

Texts = Annotated[tuple[str, ...], Field(min_length=1)]


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
    """Source with a `main` that calls the answer's function and prints one line for each check.

    Attributes:
        expected: The lines; where several texts are right, a line is a list of them.
        compare: The rule for each line; None takes the verifier's.
    """

    kind: Literal["harness"] = "harness"
    entry: str = Field(alias="entry_point", min_length=1)
    source: str = Field(min_length=1)
    expected: tuple[str | Texts, ...] = Field(min_length=1)
    compare: OutputRule | None = None

    @field_validator("compare")
    @classmethod
    def _lines_have_no_checker(cls, compare: OutputRule | None) -> OutputRule | None:
        if compare is not None and compare.checker is not None:
            raise ValueError("a checker judges whole programs, which tests of the kind stdio have")
        return compare

    @property
    def entry_point(self) -> str | None:
        return self.entry

    @property
    def num_checks(self) -> int:
        return len(self.expected)


class StdioCase(BaseModel):
    """What a program reads, and what it must print in response: a text, or one of several."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stdin: str
    stdout: str | Texts


class Stdio(_Tests):
    """A whole program, run once for each case; `compare` is the rule for its output, None takes the verifier's."""

    kind: Literal["stdio"] = "stdio"
    cases: tuple[StdioCase, ...] = Field(min_length=1)
    compare: OutputRule | None = None

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
    imports: str = ""
    tests: tuple[str, ...] = Field(min_length=1)

    @property
    def prepared(self) -> PreparedTests:
        return prepare_asserts(self.entry, self.setup, self.tests, imports=self.imports)


class Mbpp(PythonTests):
    """The asserts of an MBPP row, and the code `test` of an MBPP+ row, which counts as one more check."""

    kind: Literal["mbpp"] = "mbpp"
    test_list: tuple[str, ...] = Field(min_length=1)
    test_setup_code: str = ""
    test: str = ""

    @property
    def prepared(self) -> PreparedTests:
        if not self.test.strip():
            return prepare_asserts(None, self.test_setup_code, self.test_list)
        labels = (*(f"test_list[{number}]" for number in range(len(self.test_list))), "test")
        return prepare_asserts(None, self.test_setup_code, (*self.test_list, self.test), labels)


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
    found = plain(prompt.tests)
    try:
        tests = _ADAPTER.validate_python(found)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(["tests", *(str(part) for part in first["loc"])])
        cause = first.get("ctx", {}).get("error")
        if isinstance(cause, UnusableTests):
            raise ConfigError(f"prompt {prompt.id!r}: {where}: {cause}", cause.hint) from error
        raise ConfigError(
            f"prompt {prompt.id!r}: {where}: {first['msg']}, found {str(first['input'])[:200]!r}",
            "tests are {kind: harness, entry_point, source, expected: [line ...]},"
            " {kind: stdio, cases: [{stdin, stdout} ...]} or {kind: compile, entry_point}; for Python also"
            " {kind: asserts, entry_point, setup, tests: [assert ...]} and HumanEval's and MBPP's own;"
            " leave them out to check compilation only",
        ) from error
    return tests, digest(json.dumps(found, sort_keys=True))
