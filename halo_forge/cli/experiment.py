"""`halo-forge experiment`: plan an experiment, run it, show how far it is, and judge what it found."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from halo_forge.cli import experiment_plan, experiment_report
from halo_forge.cli.help import Command, Group
from halo_forge.cli.supervise import (
    LOADING_SECONDS,
    MAX_RESTARTS,
    STALL_SECONDS,
    SUPERVISED,
    check_unused,
    given_limits,
    this_program,
)

if TYPE_CHECKING:
    from halo_forge.experiments.execute import Outcome
    from halo_forge.experiments.progress import ExperimentProgress

app = typer.Typer(cls=Group, help="Compare arms over seeds: one file, one answer.", no_args_is_help=True)

FILE = typer.Argument(metavar="FILE", help="Experiment file (YAML).", show_default=False)
SET = typer.Option(
    None, "--set", metavar="KEY=VALUE", help="Override a key of the file, or a setting of all arms; repeatable."
)
JSON = typer.Option(False, "--json", help="Print the result as JSON.")

app.command(cls=Command)(experiment_plan.plan)
app.command(cls=Command)(experiment_report.report)


@app.command(cls=Command)
def run(
    file: Path = FILE,
    resume: bool = typer.Option(False, "--resume", help="Continue this experiment, or start it."),
    parallel: int = typer.Option(
        1, "--parallel", metavar="N", min=1, help="Runs at a time, each on a GPU of its own (or a share of the CPU)."
    ),
    overrides: list[str] | None = SET,
    supervised: bool = SUPERVISED,
    stall_seconds: float | None = STALL_SECONDS,
    loading_seconds: float | None = LOADING_SECONDS,
    max_restarts: int | None = MAX_RESTARTS,
    as_json: bool = JSON,
) -> None:
    """Run every arm with every seed; a run that fails does not stop the others."""
    from halo_forge.experiments.execute import execute
    from halo_forge.experiments.file import load_experiment
    from halo_forge.experiments.plan import doubts
    from halo_forge.experiments.progress import read_progress
    from halo_forge.runtime.notify import notify

    experiment = load_experiment(file, overrides if overrides is not None else ())
    if not supervised:
        check_unused(stall_seconds, loading_seconds, max_restarts)
    if not resume:
        for doubt in doubts(experiment):
            _say(f"warning: {doubt}")
    limits = given_limits(stall_seconds, loading_seconds, max_restarts)
    options = ["--supervised"] if supervised else []
    options += [word for name, value in limits.items() for word in (name, f"{value:g}")]
    outcome = execute(experiment, resume=resume, parallel=parallel, program=this_program(), say=_say, options=options)
    progress = read_progress(experiment)
    _print(progress, as_json)
    for failure in outcome.failures:
        where = f"\n  output: {failure.log}" if failure.log else ""
        print(f"error: {failure.arm}, seed {failure.seed}: {failure.error}{where}", file=sys.stderr)
    if command := experiment.config(experiment.arms[0], experiment.seeds[0]).config.notify_command:
        notify(command, experiment.root, _error_of(outcome), _warn, progress.to_row())
    if outcome.exit_code:
        raise typer.Exit(outcome.exit_code)


@app.command(cls=Command)
def status(file: Path = FILE, overrides: list[str] | None = SET, as_json: bool = JSON) -> None:
    """Show how far an experiment is, one row per run."""
    from halo_forge.experiments.execute import check_same
    from halo_forge.experiments.file import load_experiment
    from halo_forge.experiments.progress import check_runs, read_progress

    experiment = load_experiment(file, overrides if overrides is not None else ())
    if (experiment.root / "experiment.json").is_file():
        check_same(experiment)
    check_runs(experiment)
    _print(read_progress(experiment), as_json)


def _print(progress: ExperimentProgress, as_json: bool) -> None:
    if as_json:
        print(json.dumps(progress.to_row(), indent=2))
        return
    from halo_forge.cli.render import Column, print_paragraph, print_table, stdout
    from halo_forge.core.wording import duration

    console = stdout()
    print_paragraph(console, f"{progress.root}: {progress.question}")
    runs = progress.runs
    print_table(
        [
            Column("arm", [run.arm for run in runs], text=True),
            Column("seed", [str(run.seed) for run in runs]),
            Column("state", [run.state for run in runs], text=True),
            Column("cycles", [f"{run.cycles_done} of {run.num_cycles}" for run in runs]),
            Column("time", [duration(run.seconds) if run.seconds else "" for run in runs], 1),
            Column("samples shared", [str(run.saved.num_samples or "") for run in runs], 3),
            Column("process", ["" if run.process is None else str(run.process) for run in runs], 2),
        ],
        console=console,
    )
    for run in runs:
        if run.error is not None:
            for line in f"{run.arm}, seed {run.seed} failed: {run.error}".splitlines():
                print_paragraph(console, line, indent="    ")
    if progress.saved.num_samples:
        print_paragraph(console, f"shared between runs, so not done again: {progress.saved}", indent="    ")
    print_paragraph(console, progress.line())


def _error_of(outcome: Outcome) -> BaseException | None:
    """What `notify_command` is told about an experiment that is not finished."""
    from halo_forge.core.errors import HaloForgeError

    if outcome.was_interrupted:
        return KeyboardInterrupt()
    if not outcome.failures:
        return None
    failed = ", ".join(f"{each.arm} with seed {each.seed}" for each in outcome.failures)
    return HaloForgeError(f"failed: {failed}", "see the errors of the runs, then run the experiment with --resume")


def _warn(text: str) -> None:
    _say(f"warning: {text}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
