"""`halo-forge verify`: files and answers by the configured verifier, and stored verdicts under other rewards."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from halo_forge.cli.config import SET

if TYPE_CHECKING:
    from halo_forge.checks.answers import Asked
    from halo_forge.checks.rescore import Rescored
    from halo_forge.core.records import Verdict

NOT_ALL = 1
"""Exit code: everything was checked, and not all of it passes."""


CONFIG = typer.Argument(None, help="Configuration file (YAML).", show_default=False)
FILES = typer.Argument(
    None, metavar="FILE...", help="Source files, or .jsonl files of completions.", show_default=False
)
RESCORE = typer.Option(
    None, "--rescore", metavar="RUN", help="Score the stored verdicts of a run again, with --set verifier.rewards.*"
)


def verify(
    config: Path | None = CONFIG,
    files: list[Path] | None = FILES,
    prompt: str | None = typer.Option(
        None, "--prompt", metavar="ID", help="Check source files against the tests of this prompt."
    ),
    rescore: Path | None = RESCORE,
    overrides: list[str] | None = SET,
    as_json: bool = typer.Option(False, "--json", help="Print the result as JSON on stdout."),
) -> None:
    """Check source files, or the completions of a JSONL file, and show the verdicts; or score a run again.

    Exit code 0 when all pass, 1 when some do not.
    """
    from halo_forge.core.errors import ConfigError

    changes = list(overrides) if overrides is not None else []
    if rescore is not None:
        if config is not None or prompt is not None:
            raise ConfigError("--rescore takes no configuration, file or --prompt", "give the run directory alone")
        _rescore(rescore, changes, as_json)
        return
    if config is None or not files:
        raise ConfigError(
            "a configuration and at least one file are needed",
            "halo-forge verify CONFIG FILE..., or halo-forge verify --rescore RUN --set verifier.rewards.compiles=0.4",
        )
    asked, verdicts = _check(config, files, prompt, changes)
    if as_json:
        print(json.dumps([verdict.to_row() for verdict in verdicts], indent=2))
    else:
        _show(asked, verdicts)
    _leave(verdicts)


def _check(
    config: Path, files: Sequence[Path], prompt_id: str | None, changes: Sequence[str]
) -> tuple[list[Asked], list[Verdict]]:
    from halo_forge.checks.answers import completions, one_prompt, source_files, verdicts_on, without_tests
    from halo_forge.cli.watch import PlainObserver
    from halo_forge.config import load_config
    from halo_forge.core.errors import ConfigError
    from halo_forge.runtime.assembly import load_prompt_sets

    settings = load_config(config, changes).config
    spec = settings.verifier
    tables = [path for path in files if path.suffix == ".jsonl"]
    if tables and (len(tables) < len(files) or prompt_id is not None):
        found = "--prompt" if prompt_id is not None else str(next(path for path in files if path not in tables))
        raise ConfigError(
            f"{tables[0]} holds completions that name their prompts, so {found} cannot be given with it",
            "check source files and .jsonl files in two calls",
        )
    if tables:
        asked = completions(files, load_prompt_sets(settings).by_id())
    elif prompt_id is not None:
        asked = source_files(files, spec, one_prompt(prompt_id, load_prompt_sets(settings).by_id()))
    else:
        spec = without_tests(spec)
        asked = source_files(files, spec, None)
    return asked, list(PlainObserver().track("verify", verdicts_on(spec, asked), len(asked)))


def _show(asked: Sequence[Asked], verdicts: Sequence[Verdict]) -> None:
    from halo_forge.checks.answers import telling_line
    from halo_forge.cli.render import print_table

    rows = [
        (
            each.name,
            verdict.stage,
            verdict.status,
            f"{verdict.reward:.3f}",
            f"{verdict.tests_passed} of {verdict.tests_total}" if verdict.tests_total else "",
            str(verdict.warnings) if verdict.warnings else "",
            " ".join(verdict.flags),
            telling_line(verdict),
        )
        for each, verdict in zip(asked, verdicts, strict=True)
    ]
    columns = {"answer": "left", "stage": "left", "status": "left", "reward": "right", "tests": "right"}
    print_table({**columns, "warnings": "right", "flags": "left", "what was said": "left"}, rows)


def _leave(verdicts: Sequence[Verdict]) -> None:
    num_passed = sum(verdict.passed for verdict in verdicts)
    num_errors = sum(verdict.status == "error" for verdict in verdicts)
    if num_errors:
        print(f"{num_errors} of {len(verdicts)} could not be checked: a failure of our own", file=sys.stderr)
    if num_passed < len(verdicts):
        print(f"{num_passed} of {len(verdicts)} pass", file=sys.stderr)
        raise typer.Exit(NOT_ALL)


def _rescore(run: Path, changes: Sequence[str], as_json: bool) -> None:
    from halo_forge.checks.rescore import changed_config, rescore
    from halo_forge.runtime.assembly import run_config

    old = run_config(run).config
    new = changed_config(run, old, changes)
    cycles = rescore(run, old, new)
    if as_json:
        rewards = {"old": old.verifier.rewards.model_dump(), "new": new.verifier.rewards.model_dump()}
        print(json.dumps({"run": str(run), "rewards": rewards, "cycles": [row.to_row() for row in cycles]}, indent=2))
    else:
        _show_cycles(cycles)


def _show_cycles(cycles: Sequence[Rescored]) -> None:
    from halo_forge.cli.render import print_table

    def mean(value: float | None) -> str:
        return "" if value is None else f"{value:.4f}"

    def text(value: object) -> str:
        return "" if value is None else str(value)

    rows = [
        (
            text(row.cycle),
            f"v{row.policy_version}",
            row.name,
            str(row.num_verdicts),
            str(row.num_errors) if row.num_errors else "",
            str(row.num_changed),
            mean(row.reward_mean_old),
            mean(row.reward_mean_new),
            text(row.threshold_old),
            text(row.threshold_new),
            text(row.num_above_old),
            text(row.num_above_new),
        )
        for row in cycles
    ]
    columns = (
        "cycle", "model", "set", "verdicts", "errors", "changed", "mean old", "mean new", "threshold old",
        "threshold new", "above old", "above new",
    )  # fmt: skip
    print_table({name: "left" if name in ("model", "set") else "right" for name in columns}, rows)
