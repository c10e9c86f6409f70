"""What a section of the doctor's report is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from halo_forge.core.records import Record

State = Literal["ok", "missing", "failed", "note", "unknown", "skipped"]
"""unknown: what would tell is not there; skipped: there is nothing to try it on."""


@dataclass(frozen=True, slots=True)
class Line(Record):
    """One thing that was looked at.

    Attributes:
        found: What is there, or what happened.
        fix: What would fix it, a command where there is one; empty where nothing is to be done.
    """

    name: str
    state: State
    found: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Section(Record):
    """One part of the report.

    Attributes:
        can_run: A run can start, as far as this section knows.
        facts: The same in plain values, for programs.
    """

    name: str
    can_run: bool
    lines: tuple[Line, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_row(self) -> dict[str, Any]:
        """As plain JSON data."""
        lines = [line.to_row() for line in self.lines]
        return {"name": self.name, "can_run": self.can_run, "facts": dict(self.facts), "lines": lines}
