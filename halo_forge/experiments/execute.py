"""Running an experiment: every arm and seed is a run of its own, in a child process of its own.

A child ends with this process, however this process ends, so no orphan keeps a run directory locked.  Everything that
is finished is on disk, in the run directories; beside them lies only what cannot be read from those.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

from halo_forge.config import resolved
from halo_forge.config.load import differing_keys
from halo_forge.config.yaml_io import dump
from halo_forge.core.errors import RunDirError
from halo_forge.core.wording import counted
from halo_forge.experiments.devices import slots_of
from halo_forge.experiments.file import Arm, Experiment
from halo_forge.experiments.progress import (
    Failure,
    check_runs,
    cycles_done,
    read_failures,
    read_progress,
    write_failures,
)
from halo_forge.runtime.assembly import run_config
from halo_forge.store.files import EDITED, explained, read_json, write_json, write_text
from halo_forge.store.lock import RunLock, writing_process
from halo_forge.store.run import check_root, cycle_folder
from halo_forge.supervisor.child import END_SECONDS, INTERRUPTED, held_back_signals, kill, received, start

SCHEMA_VERSION = 1
TICK_SECONDS = 0.25
"""Longest time until Ctrl-C or the progress of a run is noticed."""
_ERROR = "error: "
_LONGEST_ERROR = 2000


@dataclass(frozen=True)
class Outcome:
    """How an attempt at an experiment ended.

    Attributes:
        failures: The runs that failed in it.
        was_interrupted: It was told to stop.
    """

    failures: tuple[Failure, ...]
    was_interrupted: bool

    @property
    def exit_code(self) -> int:
        """0, or what the first failed run ended with."""
        if self.was_interrupted:
            return INTERRUPTED
        return self.failures[0].exit_code if self.failures else 0


@dataclass
class _Running:
    """A run that is being worked on."""

    arm: Arm
    seed: int
    root: Path
    slot: int
    process: subprocess.Popen[bytes]
    signs: FileIO
    pidfd: int
    log: Path
    log_start: int
    cycles_done: int

    @property
    def name(self) -> str:
        return f"{self.arm.name}, seed {self.seed}"

    def close(self) -> None:
        self.signs.close()
        os.close(self.pidfd)


def execute(
    experiment: Experiment,
    *,
    resume: bool,
    parallel: int,
    program: Sequence[str],
    say: Callable[[str], None],
    options: Sequence[str] = (),
) -> Outcome:
    """Run what is left of an experiment; a run that fails does not stop the others.

    Args:
        resume: Continue an experiment that was started; without it one is refused.
        parallel: Runs at a time, each on a device of its own.
        program: The command line of halo-forge, without arguments.
        say: Is told what happens, one line at a time.
        options: Further ones of `halo-forge raft run`, such as `--supervised`.

    Raises:
        ConfigError: Fewer devices than `parallel`.
        RunDirError: The folder is in use, holds something else, an experiment whose file was another one, or in an
            arm's folder the run of another arm.
    """
    slots = slots_of(experiment, parallel)
    with _opened(experiment, resume=resume):
        check_runs(experiment)
        return _Execution(experiment, slots, program, options, say).run()


@contextlib.contextmanager
def _opened(experiment: Experiment, *, resume: bool) -> Iterator[None]:
    """The locked folder of the experiment, with experiment.json."""
    root = experiment.root
    check_root(root)
    with explained(root):
        root.mkdir(parents=True, exist_ok=True)
    path = root / "experiment.json"
    foreign = sorted(item.name for item in root.iterdir() if item.name not in ("lock", ".experiment.json.tmp"))
    if foreign and not path.exists():
        raise RunDirError(
            f"{root}: not empty, and not the folder of an experiment (holds {', '.join(foreign[:3])})",
            "choose another output_dir, or empty this one",
        )
    lock = RunLock(root, "experiment")
    try:
        if path.exists():
            check_same(experiment, resume=resume)
        else:
            own = {"schema_version": SCHEMA_VERSION, "digest": experiment.digest, "question": experiment.question}
            more = {"file": experiment.text, "set": list(experiment.given), "identity": experiment.identity()}
            write_json(path, {**own, **more})
        _keep_fork(experiment)
        yield
    finally:
        lock.release()


def _keep_fork(experiment: Experiment) -> None:
    """Copy what a status and a report need of the run of `fork`, which may be removed once all arms have started."""
    if experiment.fork is None or experiment.fork_is_gone:
        return
    kept = experiment.kept_fork
    with explained(kept):
        kept.mkdir(parents=True, exist_ok=True)
        for name in ("config.resolved.yaml", "run.json"):  # the second says that both are there
            write_text(kept / name, (experiment.fork.run / name).read_text(encoding="utf-8"))


def check_same(experiment: Experiment, *, resume: bool = True) -> None:
    """Whether the experiment that was started in this folder is this one.

    Raises:
        RunDirError: It is not, with each key that changed; or it is not to be resumed.
    """
    root = experiment.root
    if not resume:
        raise RunDirError(
            f"{root}: this experiment was already started",
            f"continue it with --resume, look at it with `halo-forge experiment status {experiment.path}`, or choose"
            " another output_dir",
        )
    stored = read_json(root / "experiment.json")
    if stored.get("schema_version") != SCHEMA_VERSION or not isinstance(stored.get("identity"), dict):
        raise RunDirError(f"{root / 'experiment.json'}: not what this halo-forge wrote here", EDITED)
    if stored.get("digest") != experiment.digest:
        rows = "\n".join(f"  {line}" for line in _changes(stored["identity"], experiment.identity()))
        raise RunDirError(
            f"{root}: started with another experiment file:\n{rows}",
            "put the values back, or choose another output_dir for the changed experiment",
        )


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs, one line each; what changed in all arms alike is one line, and so is an arm that came or went."""
    arms = [name for name in old["arms"] if name in new["arms"]]
    lines = [f"arms.{name}: is no longer there" for name in old["arms"] if name not in new["arms"]]
    lines += [f"arms.{name}: was not there" for name in new["arms"] if name not in old["arms"]]
    changed = {name: differing_keys(old["arms"][name], new["arms"][name]) for name in arms}
    shared = [each for each in changed[arms[0]] if all(each in rows for rows in changed.values())] if arms else []
    lines += [f"{key} of every arm: was {was!r}, is {now!r}" for key, was, now in shared]
    for name, rows in changed.items():
        lines += [
            f"arms.{name}: {key}: was {was!r}, is {now!r}" for key, was, now in rows if (key, was, now) not in shared
        ]
    others = ("seeds", "primary", "fork")
    return lines + [f"{key}: was {old.get(key)!r}, is {new[key]!r}" for key in others if old.get(key) != new[key]]


class _Execution:
    """One attempt at an experiment, whose folder is open."""

    def __init__(
        self,
        experiment: Experiment,
        slots: Sequence[Mapping[str, str]],
        program: Sequence[str],
        options: Sequence[str],
        say: Callable[[str], None],
    ) -> None:
        self.experiment, self.slots, self.say = experiment, slots, say
        self._program, self._options = program, options
        self._running: list[_Running] = []
        self._failed: list[Failure] = []
        self._waiting = [
            (arm, seed)
            for arm, seed in experiment.runs()
            if not (experiment.run_root(arm, seed) / "result.json").is_file()
        ]

    def run(self) -> Outcome:
        """Work until nothing is left, or until told to stop."""
        num_runs = len(self.experiment.arms) * len(self.experiment.seeds)
        self.say(f"{counted(num_runs, 'run')}, {num_runs - len(self._waiting)} of them finished")
        with held_back_signals() as signals:
            try:
                while self._waiting or self._running:
                    self._start_what_can_be()
                    self._wait()
                    if (number := received(signals)) is not None:
                        self._stop(number, signals)
                        return Outcome(tuple(self._failed), was_interrupted=True)
                    self._look()
            except BaseException:
                for each in self._running:
                    each.process.kill()
                raise
        return Outcome(tuple(self._failed), was_interrupted=False)

    def _start_what_can_be(self) -> None:
        for arm, seed in list(self._waiting):
            free = set(range(len(self.slots))) - {each.slot for each in self._running}
            if not free:
                return
            if not self._would_repeat(seed):
                self._waiting.remove((arm, seed))
                try:
                    self._start(arm, seed, min(free))
                except RunDirError as error:
                    self._note_failure(Failure(arm.name, seed, error.exit_code, str(error), ""))

    def _would_repeat(self, seed: int) -> bool:
        """Whether a run of the same seed is still making what this one would take over from it."""
        if not self.experiment.share:
            return False
        first = 1 if self.experiment.fork is None else self.experiment.fork.from_cycle
        return any(
            each.seed == seed and not (cycle_folder(each.root, first) / "measurement.json").is_file()
            for each in self._running
        )

    def _start(self, arm: Arm, seed: int, slot: int) -> None:
        experiment, root = self.experiment, self.experiment.run_root(arm, seed)
        _wait_for_lock(root)
        state = experiment.root / "state"
        log = state / "logs" / arm.folder / f"seed-{seed}.log"
        with explained(log):
            log.parent.mkdir(parents=True, exist_ok=True)
        write_failures(experiment, self._failures_without(arm.name, seed))
        environment = {**os.environ, **self.slots[slot]}
        with explained(log), log.open("ab") as output:
            log_start = output.tell()
            process, signs = start([*self._program, *self._arguments(arm, seed)], environment, output)
        running = _Running(
            arm, seed, root, slot, process, signs, os.pidfd_open(process.pid), log, log_start, cycles_done(root)
        )
        self._running.append(running)
        device = "".join(f", {name}={value}" for name, value in self.slots[slot].items())
        self.say(f"{running.name}: started (process {process.pid}{device}), output in {log}")

    def _arguments(self, arm: Arm, seed: int) -> list[str]:
        experiment, settings = self.experiment, resolved(self.experiment.config(arm, seed).config)
        settings["notify_command"] = []  # it is for the end of the experiment
        more = ["--resume", *self._shared(arm, seed), *self._options]
        if experiment.fork is not None and experiment.forked is not None:
            stored = resolved(run_config(experiment.forked).config)
            changed = [key for key in settings if settings[key] != stored[key] and key != "output_dir"]
            words = [word for key in changed for word in ("--set", f"{key}={json.dumps(settings[key])}")]
            place = ["--from-cycle", str(experiment.fork.from_cycle), "--output-dir", settings["output_dir"]]
            return ["raft", "fork", str(experiment.fork.run), *place, *words, *more]
        config = experiment.root / "state" / "configs" / arm.folder / f"seed-{seed}.yaml"
        with explained(config):
            config.parent.mkdir(parents=True, exist_ok=True)
        write_text(config, dump(settings))
        return ["raft", "run", str(config), *more]

    def _shared(self, arm: Arm, seed: int) -> list[str]:
        """The runs with the same seed that were started: what they have in common with this one is taken over."""
        others = [self.experiment.run_root(each, seed) for each in self.experiment.arms if each != arm]
        there = [root for root in others if (root / "run.json").is_file()] if self.experiment.share else []
        return [word for root in there for word in ("--share-from", str(root))]

    def _wait(self) -> None:
        """Until a run ends, or a tick is over."""
        select.select([each.pidfd for each in self._running], [], [], TICK_SECONDS)

    def _look(self) -> None:
        for each in list(self._running):
            while each.signs.read(65536):
                pass
            code = each.process.poll()
            if code is None:
                self._say_progress(each)
                continue
            each.close()
            self._running.remove(each)
            self._ended(each, code)

    def _say_progress(self, running: _Running) -> None:
        done = cycles_done(running.root)
        if done > running.cycles_done:
            running.cycles_done = done
            num_cycles = self.experiment.config(running.arm, running.seed).config.raft.num_cycles
            self.say(f"{running.name}: cycle {done} of {num_cycles} is trained")

    def _ended(self, running: _Running, code: int) -> None:
        if code == 0:
            self.say(f"{running.name}: finished")
        else:
            name, seed = running.arm.name, running.seed
            self._note_failure(Failure(name, seed, code if code > 0 else 1, _error(running, code), str(running.log)))
        try:
            progress = read_progress(self.experiment)
        except RunDirError as error:  # a file of a run is damaged, which is no reason to stop the others
            self.say(f"warning: {error.message}")
            return
        saved = progress.of(running.arm.name, running.seed).saved
        if saved.num_samples:
            self.say(f"{running.name}: taken from other runs, not made again: {saved}")
        self.say(progress.line(len(self.slots)))

    def _note_failure(self, failure: Failure) -> None:
        self._failed.append(failure)
        write_failures(self.experiment, [*self._failures_without(failure.arm, failure.seed), failure])
        first_line = failure.error.splitlines()[0]
        self.say(f"{failure.arm}, seed {failure.seed}: FAILED ({first_line}); the other runs go on")

    def _failures_without(self, arm: str, seed: int) -> list[Failure]:
        return [each for each in read_failures(self.experiment) if (each.arm, each.seed) != (arm, seed)]

    def _stop(self, number: signal.Signals, signals: set[signal.Signals]) -> None:
        """Pass the signal on and wait for the runs to end, not for long; a second signal kills them at once."""
        for each in self._running:
            each.process.send_signal(signal.SIGTERM if number == signal.SIGHUP else number)
        deadline = time.monotonic() + END_SECONDS
        for each in self._running:
            while each.process.poll() is None:
                time.sleep(0.05)
                if time.monotonic() >= deadline or received(signals) is not None:
                    kill(each.process)
            each.close()


def _wait_for_lock(root: Path) -> None:
    """A child of an attempt that was killed ends with it, but not in the same instant.

    Raises:
        RunDirError: The run is still being worked on.
    """
    deadline = time.monotonic() + END_SECONDS
    while (process := writing_process(root)) is not None:
        if time.monotonic() >= deadline:
            raise RunDirError(
                f"{root}: another process is writing to this run (process {process})",
                "wait for it, or stop it with Ctrl-C or `kill`; then rerun with --resume",
            )
        time.sleep(0.1)


def _error(running: _Running, code: int) -> str:
    """What a failed run said: its error message, else its last line."""
    with explained(running.log), running.log.open("rb") as log:
        log.seek(running.log_start)
        said = log.read().decode(errors="replace").strip()
    if code < 0:
        return f"ended by {signal.Signals(-code).name}"
    last = f"\n{said}".rfind(f"\n{_ERROR}")
    message = said[last:].removeprefix(_ERROR) if last >= 0 else said.rpartition("\n")[2]
    return message[:_LONGEST_ERROR] or f"exit code {code}, and nothing was said"
