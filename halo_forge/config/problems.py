"""One problem of a configuration, and how it is reported."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic_core import PydanticCustomError

from halo_forge.config.yaml_io import KeyPath

PROBLEMS = "halo_forge_problems"
"""The pydantic error type that carries problems found by rules between keys."""


@dataclass(frozen=True)
class Problem:
    """What is wrong with the value at `path`.

    Attributes:
        text: What was found and what is allowed; for a contradiction, why it is one and what to do.
        value: The value at `path`, reported only for a contradiction.
        others: The other keys of a contradiction with their values.
    """

    path: KeyPath
    text: str
    value: Any = None
    others: tuple[tuple[KeyPath, Any], ...] = ()

    def line(self, where: Callable[[KeyPath], str]) -> str:
        """`file:line: key: ...`; `where` gives the place of a path, "default" for a value that was not written."""
        place = f"{where(self.path)}: {dotted(self.path)}".removeprefix("default: ")
        if not self.others:
            return f"{place}: {self.text}"
        others = " and ".join(f"{dotted(path)} is {show(value)} ({where(path)})" for path, value in self.others)
        return f"{place} is {show(self.value)}, but {others}: {self.text}"


def raise_all(problems: Sequence[Problem]) -> None:
    """Raise inside a pydantic validator, if there is anything to raise."""
    if problems:
        text = "; ".join(problem.line(lambda path: "here") for problem in problems)
        raise PydanticCustomError(PROBLEMS, "{text}", {"text": text, "problems": list(problems)})


def dotted(path: KeyPath) -> str:
    """`training.learning_rate`; list items as `stages[1]`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def show(value: Any) -> str:
    """A value as it would be written in the file, shortened."""
    if isinstance(value, float):
        return f"{value:.12g}"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else text[:77] + "..."
