"""`halo-forge doctor`: what works here, what does not, and the command that would fix it."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from halo_forge.checks.doctor import Line


def doctor(as_json: bool = typer.Option(False, "--json", help="Print the result as JSON on stdout.")) -> None:
    """Try what a run needs on this machine, and say what happened.

    Exit code 0 when a run can start, 4 otherwise.
    """
    from halo_forge.checks.doctor import examine
    from halo_forge.core.errors import ToolMissing

    sections = examine()
    can_run = all(section.can_run for section in sections)
    if as_json:
        print(json.dumps({"can_run": can_run, "sections": [section.to_row() for section in sections]}, indent=2))
    else:
        from halo_forge.cli.render import print_table

        for section in sections:
            print(f"{section.name}: {'fine' if section.can_run else 'a run cannot start'}")
            rows = [row for line in section.lines for row in _rows(line)]
            print_table({"what": "left", "state": "left", "found": "left"}, rows)
    if not can_run:
        names = ", ".join(section.name for section in sections if not section.can_run)
        print(f"a run cannot start here: see {names}", file=sys.stderr)
        raise typer.Exit(ToolMissing.exit_code)


def _rows(line: Line) -> list[tuple[str, str, str]]:
    first = (line.name, line.state, line.found)
    return [first, ("", "", f"fix: {line.do}")] if line.do else [first]
