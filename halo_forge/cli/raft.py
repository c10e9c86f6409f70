"""`halo-forge raft`: run, resume and look at RAFT runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from halo_forge.cli.config import CONFIG, SET

if TYPE_CHECKING:
    from halo_forge.config import LoadedConfig, RaftConfig

app = typer.Typer(help="Generate, verify, select, train, and again.", no_args_is_help=True)

RUN = typer.Argument(help="Run directory (the output_dir of a run).", show_default=False)
JSON = typer.Option(False, "--json", help="Print the result as JSON on stdout.")


@app.command()
def run(
    config: Path = CONFIG,
    dry_run: bool = typer.Option(False, "--dry-run", help="Show what each cycle will do, and load nothing."),
    resume: bool = typer.Option(False, "--resume", help="Continue an unfinished run of this configuration, or start."),
    output_dir: str | None = typer.Option(None, help="Run directory, in place of the configuration's output_dir."),
    overrides: list[str] | None = SET,
    as_json: bool = JSON,
) -> None:
    """Run all cycles of a configuration."""
    from halo_forge.config import load_config

    changes = list(overrides) if overrides is not None else []
    if output_dir is not None:
        changes.append(f"output_dir={json.dumps(output_dir)}")
    loaded = load_config(config, changes)
    if dry_run:
        _print_preview(loaded.config, as_json)
    else:
        _execute(loaded, resume=resume, as_json=as_json)


@app.command()
def resume(
    run: Path = RUN,
    from_cycle: int | None = typer.Option(
        None, "--from-cycle", min=1, help="Redo everything from this cycle on; the old files move to superseded/."
    ),
    as_json: bool = JSON,
) -> None:
    """Continue a run directory, or redo it from a cycle on."""
    from halo_forge.assembly import run_config
    from halo_forge.errors import ConfigError

    loaded = run_config(run)
    num_cycles = loaded.config.raft.num_cycles
    if from_cycle is not None:
        if from_cycle > num_cycles + 1:
            raise ConfigError(
                f"--from-cycle {from_cycle}: the run has {num_cycles} cycles",
                f"name a cycle from 1 to {num_cycles} ({num_cycles + 1} measures the last model again)",
            )
    _execute(loaded, resume=True, as_json=as_json, from_cycle=from_cycle)


@app.command()
def status(run: Path = RUN, as_json: bool = JSON) -> None:
    """Show where a run stands, with one row for each lap."""
    from halo_forge.assembly import run_config
    from halo_forge.store.status import read_status

    found = read_status(run, run_config(run).config.raft.num_cycles)
    if as_json:
        print(json.dumps(found.to_row(), indent=2))
        return
    from halo_forge.cli.render import print_status

    print_status(found)


def _print_preview(config: RaftConfig, as_json: bool) -> None:
    from halo_forge.assembly import planned

    found = planned(config)
    if as_json:
        print(json.dumps(found.to_row(), indent=2))
        return
    from halo_forge.cli.render import print_preview

    print_preview(found)


def _execute(loaded: LoadedConfig, *, resume: bool, as_json: bool, from_cycle: int | None = None) -> None:
    from halo_forge.assembly import is_finished, open_run
    from halo_forge.cli.watch import open_watch
    from halo_forge.loop import run_raft
    from halo_forge.store.status import read_status

    root = Path(loaded.config.output_dir)
    if from_cycle is not None or not (resume and is_finished(loaded)):
        with (
            open_watch(loaded.config) as watch,
            open_run(loaded, watch, resume=resume, from_cycle=from_cycle) as (plan, directory, tools),
        ):
            toolchain = tools.verifier.toolchain()
            print(f"verifier: {toolchain['version']}, isolation level {toolchain['isolation']}", file=sys.stderr)
            run_raft(plan, directory, tools)
            directory.event("run_finished")
    found = read_status(root, loaded.config.raft.num_cycles)
    if as_json:
        print(json.dumps(found.to_row(), indent=2))
        return
    from halo_forge.cli.render import print_status

    print_status(found)
