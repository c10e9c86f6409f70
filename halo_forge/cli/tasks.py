"""`halo-forge tasks`: prove a task file and say what is weak in it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import typer

from halo_forge.cli.config import SET

app = typer.Typer(help="Check files of prompts and tests.", no_args_is_help=True)

WRONG = 1
"""Exit code: the files were checked, and something in them is wrong."""


FILES = typer.Argument(metavar="FILE...", help="JSONL prompts, or builtin:c.", show_default=False)
CONFIG = typer.Option(None, "--config", help="Take the verifier of this configuration.")


# A callback keeps `check` a verb of its own while it is the only one.
@app.callback()
def _group() -> None:
    pass


@app.command()
def check(
    files: list[str] = FILES,
    config: Path | None = CONFIG,
    language: str | None = typer.Option(None, "--language", help="The language of rows that name none."),
    overrides: list[str] | None = SET,
    as_json: bool = typer.Option(False, "--json", help="Print the result as JSON on stdout."),
) -> None:
    """Prove that references pass and wrong solutions fail, and find what is weak: few checks, leaks across splits ...

    One file is split by the hash of its ids, as FILE:train is; several files are splits of their own.
    Exit code 0 when nothing is wrong (weaknesses may be there), 1 otherwise.
    """
    from halo_forge.checks.tasks import check_tasks, default_spec, load_groups
    from halo_forge.cli.watch import PlainObserver
    from halo_forge.config import load_config
    from halo_forge.core.errors import ConfigError
    from halo_forge.core.source import canonical

    if config is not None and language is not None:
        raise ConfigError("--language and --config say the same thing twice", "leave out --language")
    if config is None and overrides:
        raise ConfigError("--set changes a configuration, and none is given", "give --config CONFIG too")
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
        from halo_forge.cli.render import print_table

        if report.findings:
            columns = {"severity": "left", "prompt": "left", "finding": "left", "what": "left"}
            print_table(columns, [(each.severity, each.prompt_id, each.code, each.message) for each in report.findings])
        print(
            f"{report.num_prompts} prompts: {report.num_references_passed} of {report.num_references} references pass,"
            f" {report.num_wrong_failed} of {report.num_wrong} wrong solutions fail"
        )
    if report.has_errors:
        num = sum(finding.severity == "error" for finding in report.findings)
        print(f"{num} {'error' if num == 1 else 'errors'} in {', '.join(files)}", file=sys.stderr)
        raise typer.Exit(WRONG)
