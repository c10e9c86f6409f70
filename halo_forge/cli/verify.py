"""`halo-forge verify`: source files and completions by a verifier, and stored verdicts under other rewards."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from halo_forge.cli.config import SET

if TYPE_CHECKING:
    from halo_forge.checks.programs import NamedCompletion
    from halo_forge.checks.rescore import Rescored
    from halo_forge.core.records import Verdict

NOT_ALL = 1
"""Exit code: everything was checked, and not all of it passes."""


CONFIG = typer.Argument(None, metavar="CONFIG", help="Configuration file (YAML).", show_default=False)
FILES = typer.Argument(
    None, metavar="FILE...", help="Source files, or .jsonl files of completions.", show_default=False
)
RESCORE = typer.Option(
    None,
    "--rescore",
    metavar="RUN",
    help="Score a run's stored verdicts with other rewards (--set verifier.rewards.*).",
)


def verify(
    config: Path | None = CONFIG,
    files: list[Path] | None = FILES,
    prompt: str | None = typer.Option(
        None, "--prompt", metavar="ID", help="Check the source files with the tests of this prompt."
    ),
    rescore: Path | None = RESCORE,
    overrides: list[str] | None = SET,
    as_json: bool = typer.Option(False, "--json", help="Print the result as JSON."),
) -> None:
    """Verify source files or the completions of a JSONL file, or score a run's verdicts with other rewards.

    Exit code 0 if all pass, 1 otherwise.
    """
    from halo_forge.core.errors import ConfigError

    changes = list(overrides) if overrides is not None else []
    if rescore is not None:
        if config is not None or prompt is not None:
            raise ConfigError("--rescore takes no configuration, file or --prompt", "give only the run directory")
        _rescore(rescore, changes, as_json)
        return
    if config is None or not files:
        raise ConfigError(
            "a configuration and at least one file are needed",
            "halo-forge verify CONFIG FILE..., or halo-forge verify --rescore RUN --set verifier.rewards.compiles=0.4",
        )
    named, verdicts = _check(config, files, prompt, changes)
    if as_json:
        print(json.dumps([verdict.to_row() for verdict in verdicts], indent=2))
    else:
        print_verdicts(named, verdicts)
    _leave(verdicts)


def _check(
    config: Path, files: Sequence[Path], prompt_id: str | None, changes: Sequence[str]
) -> tuple[list[NamedCompletion], list[Verdict]]:
    from halo_forge.checks.opened import as_sampled
    from halo_forge.checks.programs import completions, one_prompt, source_files, verdicts_on, without_tests
    from halo_forge.cli.observer import PlainObserver
    from halo_forge.config import load_config
    from halo_forge.core.errors import ConfigError
    from halo_forge.runtime.prompt_sets import load_prompt_sets

    settings = load_config(config, changes).config
    spec = settings.verifier
    tables = [path for path in files if path.suffix == ".jsonl"]
    if tables and (len(tables) < len(files) or prompt_id is not None):
        found = "--prompt" if prompt_id is not None else str(next(path for path in files if path not in tables))
        raise ConfigError(
            f"{tables[0]} holds completions that name their prompts, so it cannot be combined with {found}",
            "check source files and .jsonl files separately",
        )
    if tables:
        named, notes = as_sampled(completions(files, load_prompt_sets(settings).by_id()), settings)
        for note in notes:
            print(f"note: {note}", file=sys.stderr)
    elif prompt_id is not None:
        named = source_files(files, spec, one_prompt(prompt_id, load_prompt_sets(settings).by_id()))
    else:
        spec = without_tests(spec)
        named = source_files(files, spec, None)
    return named, list(PlainObserver().track("verify", verdicts_on(spec, named), len(named)))


def print_verdicts(named: Sequence[NamedCompletion], verdicts: Sequence[Verdict]) -> None:
    """One row for each program."""
    from halo_forge.checks.programs import telling_line
    from halo_forge.cli.render import Column, print_table

    tests = [f"{each.tests_passed} of {each.tests_total}" if each.tests_total else "" for each in verdicts]
    print_table(
        [
            Column("program", [each.name for each in named], text=True),
            Column("stage", [each.stage for each in verdicts], align="left"),
            Column("status", [each.status for each in verdicts], align="left"),
            Column("reward", [f"{each.reward:.3f}" for each in verdicts]),
            Column("tests", tests, 2),
            Column("warnings", [str(each.warnings) if each.warnings else "" for each in verdicts], 3),
            Column("flags", [" ".join(each.flags) for each in verdicts], 1, text=True),
            Column("first diagnostic", [telling_line(each) for each in verdicts], text=True),
        ]
    )


def _leave(verdicts: Sequence[Verdict]) -> None:
    num_passed = sum(verdict.passed for verdict in verdicts)
    num_errors = sum(verdict.status == "error" for verdict in verdicts)
    if num_errors:
        print(f"{num_errors} of {len(verdicts)} could not be checked: the verifier itself failed", file=sys.stderr)
    if num_passed < len(verdicts):
        print(f"{num_passed} of {len(verdicts)} pass", file=sys.stderr)
        raise typer.Exit(NOT_ALL)


def _rescore(run: Path, changes: Sequence[str], as_json: bool) -> None:
    from halo_forge.checks.rescore import changed_config, rescore
    from halo_forge.runtime.assembly import run_config

    old = run_config(run).config
    new = changed_config(run, old, changes)
    scored = rescore(run, old, new)
    if as_json:
        rewards = {"old": old.verifier.rewards.model_dump(), "new": new.verifier.rewards.model_dump()}
        print(json.dumps({"run": str(run), "rewards": rewards, "cycles": [each.to_row() for each in scored]}, indent=2))
    else:
        print_rescored(scored, old.raft.num_cycles)


def print_rescored(scored: Sequence[Rescored], num_cycles: int) -> None:
    """One row for each file of verdicts, under the old and the new rewards."""
    from halo_forge.cli.render import Column, number, print_table
    from halo_forge.cli.status import cycle_name

    def of(name: str, form: str) -> list[str]:
        return [number(getattr(each, name), form) for each in scored]

    def thresholds(name: str) -> list[str]:
        values = [getattr(each, name) for each in scored]
        return ["" if value is None else str(value) for value in values]

    cycles = ["" if each.cycle is None else cycle_name(each.cycle, num_cycles) for each in scored]
    print_table(
        [
            Column("cycle", cycles),
            Column("model", [f"v{each.policy_version}" for each in scored]),
            Column("set", of("name", "")),
            Column("verdicts", of("num_verdicts", "d"), 4),
            Column("errors", [str(each.num_errors) if each.num_errors else "" for each in scored], 3),
            Column("changed", of("num_changed", "d")),
            Column("mean old", of("reward_mean_old", ".4f")),
            Column("mean new", of("reward_mean_new", ".4f")),
            Column("threshold old", thresholds("threshold_old"), 2),
            Column("threshold new", thresholds("threshold_new"), 2),
            Column("above old", of("num_above_old", "d"), 1),
            Column("above new", of("num_above_new", "d"), 1),
        ]
    )
