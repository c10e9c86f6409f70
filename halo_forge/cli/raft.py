"""`halo-forge raft`: run, resume and inspect RAFT runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from halo_forge.cli import samples
from halo_forge.cli.config import CONFIG, SET
from halo_forge.cli.help import Command, Group
from halo_forge.cli.supervise import (
    LOADING_SECONDS,
    MAX_RESTARTS,
    STALL_SECONDS,
    SUPERVISED,
    check_unused,
    supervise_run,
)

if TYPE_CHECKING:
    from halo_forge.config import LoadedConfig
    from halo_forge.runtime.effects import Runtime
    from halo_forge.runtime.fork import ForkPoint

app = typer.Typer(cls=Group, help="Run RAFT, resume a run, or show its progress.", no_args_is_help=True)

RUN = typer.Argument(metavar="RUN", help="Run directory (the output_dir of a run).", show_default=False)
SHARE_FROM = typer.Option(
    None,
    "--share-from",
    metavar="RUN",
    help="Take over what this run has in common with another one, instead of making it again; repeatable.",
)
JSON = typer.Option(False, "--json", help="Print the result as JSON.")


@app.command(cls=Command)
def run(
    config: Path = CONFIG,
    dry_run: bool = typer.Option(False, "--dry-run", help="Preview each cycle; loads no model and writes nothing."),
    resume: bool = typer.Option(
        False, "--resume", help="Continue an unfinished run of this configuration, or start it."
    ),
    output_dir: str | None = typer.Option(None, metavar="DIR", help="Run directory; overrides output_dir."),
    overrides: list[str] | None = SET,
    share_from: list[Path] | None = SHARE_FROM,
    supervised: bool = SUPERVISED,
    stall_seconds: float | None = STALL_SECONDS,
    loading_seconds: float | None = LOADING_SECONDS,
    max_restarts: int | None = MAX_RESTARTS,
    as_json: bool = JSON,
) -> None:
    """Run all cycles of a configuration, or preview them."""
    from halo_forge.config import load_config

    changes = list(overrides) if overrides is not None else []
    if output_dir is not None:
        changes.append(f"output_dir={json.dumps(output_dir)}")
    loaded = load_config(config, changes)
    others = share_from if share_from is not None else []
    if not supervised:
        check_unused(stall_seconds, loading_seconds, max_restarts)
    if dry_run:
        _print_preview(loaded, as_json)
    elif supervised:
        settings = [word for change in changes for word in ("--set", change)]
        shared = [word for root in others for word in ("--share-from", str(root))]
        first = ["raft", "run", str(config), *settings, *shared, *(["--json"] if as_json else [])]
        again = [*first, "--resume"]
        root = Path(loaded.config.output_dir)
        limits = (stall_seconds, loading_seconds, max_restarts)
        notify = loaded.config.notify_command
        raise supervise_run(again if resume else first, lambda: again, root, notify, *limits)
    else:
        _execute(loaded, resume=resume, as_json=as_json, share_from=others)


@app.command(cls=Command)
def resume(
    run: Path = RUN,
    from_cycle: int | None = typer.Option(
        None, "--from-cycle", metavar="N", min=1, help="Redo the run from cycle N on; old files move to superseded/."
    ),
    supervised: bool = SUPERVISED,
    stall_seconds: float | None = STALL_SECONDS,
    loading_seconds: float | None = LOADING_SECONDS,
    max_restarts: int | None = MAX_RESTARTS,
    as_json: bool = JSON,
) -> None:
    """Continue the run in a run directory, or redo it from a cycle on."""
    from halo_forge.api import resumable

    loaded = resumable(run, from_cycle)
    if supervised:
        limits = (stall_seconds, loading_seconds, max_restarts)
        raise _supervised_resume(run, from_cycle, loaded.config.notify_command, limits, as_json)
    check_unused(stall_seconds, loading_seconds, max_restarts)
    _execute(loaded, resume=True, as_json=as_json, from_cycle=from_cycle)


@app.command(cls=Command)
def fork(
    run: Path = RUN,
    from_cycle: int = typer.Option(
        ..., "--from-cycle", metavar="N", min=1, help="The first cycle under the new settings.", show_default=False
    ),
    output_dir: str = typer.Option(..., metavar="DIR", help="The new run directory.", show_default=False),
    overrides: list[str] | None = SET,
    resume: bool = typer.Option(False, "--resume", help="Continue this fork if it was started, or start it."),
    share_from: list[Path] | None = SHARE_FROM,
    supervised: bool = SUPERVISED,
    stall_seconds: float | None = STALL_SECONDS,
    loading_seconds: float | None = LOADING_SECONDS,
    max_restarts: int | None = MAX_RESTARTS,
    as_json: bool = JSON,
) -> None:
    """Continue a run under other settings from a cycle on, sharing all before; the run itself does not change."""
    from halo_forge.api import forked

    changes = list(overrides) if overrides is not None else []
    others = share_from if share_from is not None else []
    point, loaded = forked(run, from_cycle, output_dir, changes)
    if not supervised:
        check_unused(stall_seconds, loading_seconds, max_restarts)
        _execute(loaded, resume=resume, as_json=as_json, share_from=[run, *others], fork=point)
        return
    words = [word for change in changes for word in ("--set", change)]
    words += [word for root in others for word in ("--share-from", str(root))]
    first = ["raft", "fork", str(run), "--from-cycle", str(from_cycle), "--output-dir", output_dir, *words]
    first += ["--json"] if as_json else []
    again = [*first, "--resume"]
    limits = (stall_seconds, loading_seconds, max_restarts)
    notify = loaded.config.notify_command
    raise supervise_run(again if resume else first, lambda: again, Path(output_dir), notify, *limits)


@app.command(cls=Command)
def status(run: Path = RUN, as_json: bool = JSON) -> None:
    """Show the progress and the results of a run, one row per cycle."""
    from halo_forge.api import RunDirectory

    found = RunDirectory(run).status()
    if as_json:
        print(json.dumps(found.to_row(), indent=2))
        return
    from halo_forge.cli.status import print_status
    from halo_forge.core.errors import RunDirError
    from halo_forge.store.files import EDITED

    try:
        print_status(found)
    except KeyError as error:
        raise RunDirError(f"{run}: not what halo-forge wrote there: a file lacks {error}", EDITED) from error


app.command(cls=Command)(samples.samples)


def _supervised_resume(
    run: Path,
    from_cycle: int | None,
    notify_command: Sequence[str],
    limits: tuple[float | None, float | None, int | None],
    as_json: bool,
) -> typer.Exit:
    from halo_forge.store.attempts import Attempts

    plain = ["raft", "resume", str(run), *(["--json"] if as_json else [])]
    first = plain if from_cycle is None else [*plain, "--from-cycle", str(from_cycle)]
    attempts = Attempts(run)
    before = attempts.num_started()
    # Once an attempt has begun, the old files are out of the way, and what is there since then must stay.
    return supervise_run(
        first, lambda: plain if attempts.num_started() > before else first, run, notify_command, *limits
    )


def _print_preview(loaded: LoadedConfig, as_json: bool) -> None:
    from halo_forge.api import preview

    found = preview(loaded)
    if as_json:
        print(json.dumps(found.to_row(), indent=2))
        return
    from halo_forge.cli.preview import print_preview

    print_preview(found)


def _execute(
    loaded: LoadedConfig,
    *,
    resume: bool,
    as_json: bool,
    from_cycle: int | None = None,
    share_from: Sequence[Path] = (),
    fork: ForkPoint | None = None,
) -> None:
    from halo_forge import api
    from halo_forge.cli.observer import open_observer
    from halo_forge.runtime.assembly import is_finished

    if from_cycle is not None or not (resume and is_finished(loaded, fork)):
        with open_observer(loaded.config) as observer:
            api.run(
                loaded,
                fork=fork,
                resume=resume,
                from_cycle=from_cycle,
                share_from=share_from,
                observer=observer,
                opened=_say_where,
            )
    found = api.RunDirectory(loaded.config.output_dir).status()
    if as_json:
        print(json.dumps(found.to_row(), indent=2))
        return
    from halo_forge.cli.status import print_status
    from halo_forge.core.errors import RunDirError
    from halo_forge.store.files import EDITED

    try:
        print_status(found)
    except KeyError as error:
        raise RunDirError(f"{run}: not what halo-forge wrote there: a file lacks {error}", EDITED) from error


def _say_where(runtime: Runtime) -> None:
    toolchain = runtime.verifier.toolchain()
    print(f"hardware: {runtime.hardware}", file=sys.stderr)
    print(f"verifier: {toolchain['version']}, isolation level {toolchain['isolation']}", file=sys.stderr)
    for line in runtime.checked_by:
        print(line, file=sys.stderr)
    for warning in runtime.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    for note in runtime.notes:
        print(f"note: {note}", file=sys.stderr)
