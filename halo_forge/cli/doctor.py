"""`halo-forge doctor`: what works on this machine, what does not, and how to fix it."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from halo_forge.checks.doctor import Line, Section


def doctor(as_json: bool = typer.Option(False, "--json", help="Print the result as JSON.")) -> None:
    """Check this machine: isolation, compilers, verifiers, hardware.

    Exit code 0 when a run can start, 4 otherwise.
    """
    from halo_forge.checks.doctor import examine
    from halo_forge.core.errors import ToolMissing

    sections = examine()
    can_run = all(section.can_run for section in sections)
    if as_json:
        print(json.dumps({"can_run": can_run, "sections": [section.to_row() for section in sections]}, indent=2))
    else:
        print_sections(sections)
    if not can_run:
        names = ", ".join(section.name for section in sections if not section.can_run)
        print(f"a run cannot start on this machine; failed: {names}", file=sys.stderr)
        raise typer.Exit(ToolMissing.exit_code)


def print_sections(sections: Sequence[Section]) -> None:
    """A table for each section, with what would fix a check below it."""
    from halo_forge.cli.render import Column, print_table

    for section in sections:
        print(f"{section.name}: {'ok' if section.can_run else 'a run cannot start'}")
        names, states, found = zip(*(row for line in section.lines for row in _rows(line)), strict=True)
        print_table(
            [
                Column("check", names, align="left"),
                Column("state", states, align="left"),
                Column("found", found, text=True),
            ]
        )


def _rows(line: Line) -> list[tuple[str, str, str]]:
    first = (line.name, line.state, line.found)
    return [first, ("", "", f"fix: {line.fix}")] if line.fix else [first]
