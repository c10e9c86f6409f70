"""`halo-forge tasks`: check a task file, and report what is weak in it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from halo_forge.cli.config import SET
from halo_forge.cli.help import Command, Group
from halo_forge.core.wording import counted

if TYPE_CHECKING:
    from halo_forge.checks.tasks import TaskReport

app = typer.Typer(cls=Group, help="Check files of prompts and their tests.", no_args_is_help=True)

WRONG = 1
"""Exit code: the files were checked, and something in them is wrong."""


FILES = typer.Argument(metavar="FILE...", help="JSONL files of prompts, or builtin:c.", show_default=False)
CONFIG = typer.Option(None, "--config", metavar="CONFIG", help="Use the verifier of this configuration.")


# A callback keeps `check` a verb of its own while it is the only one.
@app.callback()
def _group() -> None:
    pass


@app.command(cls=Command)
def check(
    files: list[str] = FILES,
    config: Path | None = CONFIG,
    language: str | None = typer.Option(
        None, "--language", metavar="NAME", help="Language of rows that do not name one."
    ),
    overrides: list[str] | None = SET,
    as_json: bool = typer.Option(False, "--json", help="Print the result as JSON."),
) -> None:
    """Verify that references pass and wrong solutions fail; report weak tests and leaks across splits.

    One file is split by a hash of its ids, as FILE:train is; several files count as one split each.
    Exit code 0 if there are no errors (there may be warnings), 1 otherwise.
    """
    from halo_forge.checks.tasks import check_tasks, default_spec, load_groups
    from halo_forge.cli.observer import PlainObserver
    from halo_forge.config import load_config
    from halo_forge.core.errors import ConfigError
    from halo_forge.core.source import canonical

    if config is not None and language is not None:
        raise ConfigError("--language and --config cannot be combined", "drop --language")
    if config is None and overrides:
        raise ConfigError("--set needs a configuration to change", "add --config CONFIG")
    broken: list[ConfigError] = []
    if config is not None:
        spec = load_config(config, overrides if overrides is not None else ()).config.verifier
        groups = load_groups(files, spec.language, broken)
    else:
        spec = None
        groups = load_groups(files, None, broken)
    wanted = None if language is None else (canonical(language) or language)
    report = check_tasks(
        files,
        groups,
        lambda found: spec if spec is not None else default_spec(wanted if found is None else found),
        lambda proofs, total: PlainObserver().track("verify", proofs, total),
        broken,
    )
    if as_json:
        print(json.dumps(report.to_row(), indent=2))
    else:
        print_report(report)
    if report.has_errors:
        num = sum(finding.severity == "error" for finding in report.findings)
        print(f"{counted(num, 'error')} in {', '.join(files)}", file=sys.stderr)
        raise typer.Exit(WRONG)


def print_report(report: TaskReport) -> None:
    """One row for each finding, and how many solutions did what they must."""
    from halo_forge.cli.render import Column, print_paragraph, print_table, stdout
    from halo_forge.prompts.summary import lines_of

    if report.findings:
        print_table(
            [
                Column("severity", [each.severity for each in report.findings], align="left"),
                Column("prompt", [each.prompt_id for each in report.findings], text=True),
                Column("finding", [each.code for each in report.findings], align="left"),
                Column("details", [each.message for each in report.findings], text=True),
            ]
        )
    console = stdout()
    for line in (*lines_of(report.sets), *(f"warning: {warning}" for warning in report.warnings)):
        print_paragraph(console, line, indent="    ")
    print_paragraph(
        console,
        f"{counted(report.num_prompts, 'prompt')}: {report.num_references_passed} of"
        f" {report.num_references} references pass,"
        f" {report.num_wrong_failed} of {report.num_wrong} wrong solutions fail",
    )
