"""When a program's output counts as right: the settings that a prompt (`tests.compare`) and a set of prompts
(`verifier.compare`) have in common."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Tolerance = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]


class CheckerProgram(BaseModel):
    """A program of the author of the tests that judges outputs; it is called as testlib's checkers are.

    Attributes:
        language: What `source` is written in.
        source: A whole program.  Its arguments are the names of three files: the input, the output to judge, and the
            expected output.  Exit code 0 means right; 1, 2, 4 or 8 wrong.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    language: Literal["c", "cpp", "python"]
    source: str = Field(min_length=1)


class OutputRule(BaseModel):
    """How an output is compared with what is expected.

    Attributes:
        whitespace: `exact`: it counts like everything else; `line_ends`: at the ends of lines, and empty lines at the
            end, it does not; `tokens`: it only separates what is compared.
        absolute_tolerance, relative_tolerance: Two numbers are equal if they differ by no more than this, or than this
            times the expected one; None where they are compared as text.
        checker: Decides in place of a comparison; None where there is none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    whitespace: Literal["exact", "line_ends", "tokens"] = "line_ends"
    absolute_tolerance: Tolerance | None = None
    relative_tolerance: Tolerance | None = None
    checker: CheckerProgram | None = None

    @model_validator(mode="after")
    def _checker_decides_alone(self) -> Self:
        others = sorted(self.model_fields_set - {"checker"})
        if self.checker is not None and others:
            raise ValueError(f"a checker decides alone: leave {' and '.join(others)} out")
        return self

    @property
    def has_tolerance(self) -> bool:
        """Whether numbers are compared by value."""
        return self.absolute_tolerance is not None or self.relative_tolerance is not None
