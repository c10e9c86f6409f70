"""How far an experiment is: read from its run directories, in the same way while it runs and afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from statistics import fmean
from typing import Any

from halo_forge.config.load import differing_keys, influential
from halo_forge.core.errors import RunDirError
from halo_forge.core.wording import counted, roughly
from halo_forge.experiments.file import Experiment
from halo_forge.runtime.assembly import run_config
from halo_forge.store.files import as_written, explained, read_json, read_jsonl, write_json
from halo_forge.store.lock import writing_process
from halo_forge.store.run import cycle_folders
from halo_forge.store.shared import Saved, saved_by
from halo_forge.store.status import read_status


@dataclass(frozen=True)
class Failure:
    """A run that failed.

    Attributes:
        exit_code: What it ended with.
        error: What it said, at least one line.
        log: The file with its whole output; empty for a run that was not started.
    """

    arm: str
    seed: int
    exit_code: int
    error: str
    log: str


@dataclass(frozen=True)
class RunProgress:
    """How far one run is.

    Attributes:
        state: "not started", "finished", "failed", or as `halo-forge raft status` says it.
        process: The process that is working on it.
        cycles_done: Cycles that are trained.
        seconds: How long it was worked on, all attempts together.
        saved: What it took from other runs.
        error: What a failed run said.
    """

    arm: str
    seed: int
    root: str
    state: str
    process: int | None
    cycles_done: int
    num_cycles: int
    seconds: float
    saved: Saved
    error: str | None

    @property
    def is_finished(self) -> bool:
        """Whether its result is there."""
        return self.state == "finished"


@dataclass(frozen=True)
class ExperimentProgress:
    """How far an experiment is.

    Attributes:
        runs: In the order in which they are run.
        working_seconds: What is still to be done, one run after the other, judged by the finished runs; None while
            none is finished.
    """

    question: str
    root: str
    runs: tuple[RunProgress, ...]
    working_seconds: float | None

    @property
    def num_finished(self) -> int:
        """Runs with a result."""
        return sum(run.is_finished for run in self.runs)

    def of(self, arm: str, seed: int) -> RunProgress:
        """One of the runs."""
        return next(run for run in self.runs if (run.arm, run.seed) == (arm, seed))

    @property
    def saved(self) -> Saved:
        """What all runs together took from each other."""
        return sum((run.saved for run in self.runs), Saved())

    def line(self, at_a_time: int = 1) -> str:
        """How far it is and what remains, in one line."""
        num = len(self.runs)
        done = f"{self.num_finished} of {counted(num, 'run')} finished"
        if self.num_finished == num:
            return done
        if self.working_seconds is None:
            return f"{done}; the remaining time is unknown until a run is finished"
        return f"{done}; {roughly(self.working_seconds / at_a_time)} left"

    def to_row(self) -> dict[str, Any]:
        """As plain JSON data."""
        return {**asdict(self), "saved": asdict(self.saved)}


def check_runs(experiment: Experiment) -> None:
    """Whether the runs in the folders of the arms are those of the arms, and not others that were put there.

    Raises:
        RunDirError: One is not, with each key that differs; or a file cannot be read.
    """
    for arm, seed in experiment.runs():
        root = experiment.run_root(arm, seed)
        if not (root / "run.json").is_file():
            continue
        wanted, found = influential(experiment.config(arm, seed).config), influential(run_config(root).config)
        if rows := "\n".join(f"  {key}: {was!r}, not {is_!r}" for key, was, is_ in differing_keys(found, wanted)):
            raise RunDirError(
                f"{root}: not the run of arm {arm.name} with seed {seed}:\n{rows}",
                "move it away, and run the experiment with --resume",
            )


def read_progress(experiment: Experiment) -> ExperimentProgress:
    """Where an experiment stands; nothing of it needs to be there.

    Raises:
        RunDirError: A file cannot be read.
    """
    failures = {(each.arm, each.seed): each.error for each in read_failures(experiment)}
    num_cycles = {
        arm.name: experiment.config(arm, experiment.seeds[0]).config.raft.num_cycles for arm in experiment.arms
    }
    runs = tuple(
        _run_progress(
            arm.name, seed, experiment.run_root(arm, seed), num_cycles[arm.name], failures.get((arm.name, seed))
        )
        for arm, seed in experiment.runs()
    )
    return ExperimentProgress(experiment.question, str(experiment.root), runs, _left(runs))


def _run_progress(arm: str, seed: int, root: Path, num_cycles: int, error: str | None) -> RunProgress:
    process, state, done, seconds, saved = writing_process(root), "not started", 0, 0.0, Saved()
    if (root / "run.json").is_file():
        found = read_status(root, num_cycles)
        state, process = found.state, found.process
        done, path = cycles_done(root), root / "events.jsonl"
        with as_written(path):
            events = read_jsonl(path) if path.is_file() else []
            seconds, saved = _worked(events), saved_by(events)
    elif process is not None:
        state = "loading"
    if error is not None and process is None and state != "finished":
        state = "failed"
    return RunProgress(arm, seed, str(root), state, process, done, num_cycles, seconds, saved, error)


def cycles_done(root: Path) -> int:
    """How many cycles of a run are trained."""
    return sum((folder / "report.json").is_file() for folder in cycle_folders(root))


def _worked(events: Iterable[Mapping[str, Any]]) -> float:
    """How long a run was worked on, in seconds: from the first to the last event of each attempt."""
    seconds, begun, last = 0.0, None, None
    for event in events:
        now = datetime.fromisoformat(event["time"])
        if event["event"] == "attempt_started":
            seconds += 0.0 if begun is None or last is None else (last - begun).total_seconds()
            begun = now
        last = now
    return seconds + (0.0 if begun is None or last is None else (last - begun).total_seconds())


def _left(runs: Sequence[RunProgress]) -> float | None:
    finished = [run.seconds for run in runs if run.is_finished]
    if not finished:
        return None
    return sum(max(0.0, fmean(finished) - run.seconds) for run in runs if not run.is_finished)


def read_failures(experiment: Experiment) -> list[Failure]:
    """The runs that failed when they were last tried."""
    path = _failures(experiment)
    if not path.is_file():
        return []
    with as_written(path):
        return [Failure(**row) for row in read_json(path)["failures"]]


def write_failures(experiment: Experiment, failures: Sequence[Failure]) -> None:
    """Remember them."""
    path = _failures(experiment)
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"failures": [asdict(each) for each in failures]})


def _failures(experiment: Experiment) -> Path:
    return experiment.root / "state" / "failures.json"
