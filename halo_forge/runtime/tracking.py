"""Trackers besides the run directory: `report_to` names them, none is needed.

Each tracker runs in a separate process (`runtime/tracker_process.py`) and is served by a thread, so that a package
which raises, hangs or ends its process costs the run nothing but a warning.  An attempt reports the whole run: what a
tracker has from earlier attempts, its process skips.  What it missed while it failed, it gets in the next attempt.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from halo_forge.config import RaftConfig, resolved
from halo_forge.config.sections import TrackingSection
from halo_forge.core.errors import ToolMissing
from halo_forge.core.records import Decision, Measurement, Selection, Trained, TrainingSettings
from halo_forge.runtime.effects import Observer
from halo_forge.runtime.tracker_process import CYCLES, STEPS, Opening
from halo_forge.store.files import read_json, read_jsonl
from halo_forge.store.run import Run, cycle_folder
from halo_forge.store.samples import StoredSample, stored_samples

CALL_SECONDS = 60
"""A tracker whose call takes longer is ended."""
CLOSE_SECONDS = 60.0
"""How long the end of a run waits for all trackers together."""
QUIET_CLOSE_SECONDS = 3.0
"""After this time of waiting it is said for what."""
TABLE_PROMPTS = 32
"""Dev prompts of a version whose first completion is in the table of samples."""
TABLE_CHARACTERS = 4000
"""What the table shows of a completion."""
_REASON_CHARACTERS = 300
_COLUMNS = ("policy_version", "prompt_id", "stage", "status", "reward", "finish", "text")

_MEASURED, _TABLE, _DECIDED, _STEP, _TRAINED, _RESULT = range(6)
"""The order of what is reported about policy version v: how it is, and how v + 1 is made of it."""


def check_trackers(names: Sequence[str]) -> None:
    """Find a missing package before anything is loaded.

    Raises:
        ToolMissing: A tracker's package is not installed.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise ToolMissing(f"report_to: {name} is not installed", f"pip install {name}, or take it out of report_to")


@contextmanager
def reporting(config: RaftConfig, run: Run, observer: Observer) -> Iterator[Observer]:
    """An observer that passes everything on to `observer`, and the metrics to the trackers that `report_to` names.

    What a tracker does wrong is a warning of `observer` and an event of `run`.
    """
    with reported_to(config, resolved(config), run, observer.warned) as trackers:
        if trackers is None:
            yield observer
            return
        found = _Reporting(observer, trackers, run)
        yield found
        found.finish()


class Reported(Protocol):
    """The configuration of a run, as far as its trackers go."""

    @property
    def report_to(self) -> Sequence[str]: ...
    @property
    def tracking(self) -> TrackingSection: ...


@contextmanager
def reported_to(
    config: Reported, settings: Mapping[str, Any], run: Run, warned: Callable[[str], None]
) -> Iterator[Trackers | None]:
    """The trackers that `report_to` names, closed with how the block ended; None where it names none.

    Args:
        settings: Every value of the configuration, which the trackers show.
        warned: Called with what a tracker does wrong, which is an event of `run` as well.
    """
    if not config.report_to:
        yield None
        return
    trackers = Trackers([_open(name, config, settings, run.root) for name in config.report_to], run, warned)
    ending = "failed"
    try:
        yield trackers
        ending = "finished"
    except KeyboardInterrupt:
        ending = "interrupted"
        raise
    finally:
        trackers.close(ending)


def _open(name: str, config: Reported, settings: Mapping[str, Any], root: Path) -> _Tracker:
    folder = root.absolute() / "trackers" / name
    folder.mkdir(parents=True, exist_ok=True)
    group = config.tracking.group
    opening = Opening(
        tracker=name,
        root=str(root.absolute()),
        folder=str(folder),
        limit_seconds=CALL_SECONDS,
        project=config.tracking.project,
        group=group,
        name=root.absolute().name if group is None else f"{group}/{root.absolute().name}",
        config={name: value for name, value in settings.items() if name != "notify_command"},
    )
    return _Tracker(opening)


class Trackers:
    """The trackers of one attempt of a run."""

    def __init__(self, trackers: Sequence[_Tracker], run: Run, warned: Callable[[str], None]) -> None:
        self._trackers = trackers
        self._run = run
        self._warned = warned

    def report(self, position: Sequence[int], axis: str, step: int, values: Mapping[str, float]) -> None:
        """Values at one step of an axis.

        Args:
            position: Where they stand in the order of all that is reported; what was reported before is skipped.
        """
        self.send(position, axis=axis, step=step, values=dict(values))

    def send(self, position: Sequence[int], **request: Any) -> None:
        """Any request of `runtime/tracker_process.py`."""
        for tracker in self._trackers:
            tracker.send({"position": list(position), **request})
        self._say_failures()

    def close(self, ending: str) -> None:
        """Wait until everything is reported, but not for long."""
        deadline = time.monotonic() + CLOSE_SECONDS
        for tracker in self._trackers:
            tracker.end(ending)
        for tracker in self._trackers:
            if not tracker.is_done(QUIET_CLOSE_SECONDS):
                self._warned(f"the end of the run waits for {tracker.name}, at most {CLOSE_SECONDS:g} s")
            tracker.close(deadline)
        self._say_failures()

    def _say_failures(self) -> None:
        for tracker in self._trackers:
            if tracker.failure is not None and not tracker.is_said:
                tracker.is_said = True
                self._run.event("tracker_failed", tracker=tracker.name, reason=tracker.failure)
                self._warned(
                    f"report_to: {tracker.name}: {tracker.failure}; the run goes on without it, a resumed run reports"
                    f" what is missing (output: {tracker.log_file})"
                )


class _Tracker:
    """The process of one tracker, and the thread that talks to it; only `is_done` and `close` wait for either.

    Attributes:
        failure: Why nothing more is reported; None while it works.
    """

    def __init__(self, opening: Opening) -> None:
        self.name = opening.tracker
        self.log_file = Path(opening.folder) / "output.log"
        self.failure: str | None = None
        self.is_said = False
        self._requests: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "halo_forge.runtime.tracker_process"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # the Ctrl-C of a terminal is not for it, and its own processes end with it
            )
        self._thread = threading.Thread(target=self._serve, name=f"report to {self.name}", daemon=True)
        self.send(asdict(opening))
        self._thread.start()

    def send(self, request: dict[str, Any]) -> None:
        """Report something, some time."""
        if self.failure is None:
            self._requests.put(request)

    def end(self, ending: str) -> None:
        """Report nothing more but how the attempt ended."""
        self.send({"ending": ending})
        self._requests.put(None)

    def close(self, deadline: float) -> None:
        """Let it report what is left, until `deadline` of the monotonic clock."""
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive():
            self.failure = f"did not finish within {CLOSE_SECONDS:g} s"
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it ends just now
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._thread.join()

    def is_done(self, seconds: float) -> bool:
        """Whether everything has been reported, after waiting this long for it."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _serve(self) -> None:
        requests, replies = self._process.stdin, self._process.stdout
        assert requests is not None and replies is not None, "both are pipes"
        for request in iter(self._requests.get, None):
            try:
                requests.write(json.dumps(request).encode() + b"\n")
                requests.flush()
            except BrokenPipeError:
                pass  # it has ended; if it has said why, that can still be read
            reply = json.loads(replies.readline() or b"null")
            if reply is None or "error" in reply:
                self._fail(None if reply is None else reply["error"])
                return
        with contextlib.suppress(BrokenPipeError):
            requests.close()
        self._process.wait()

    def _fail(self, error: str | None) -> None:
        if error is None:
            code = self._process.wait()
            if code == -signal.SIGALRM:
                error = f"no reply within {CALL_SECONDS} s"
            else:
                error = f"its process ended with {signal.Signals(-code).name if code < 0 else f'exit code {code}'}"
        if self.failure is None:
            self.failure = "".join(each if each.isprintable() else " " for each in error)[:_REASON_CHARACTERS]


class _Reporting:
    """Passes everything on, and the metrics to the trackers."""

    def __init__(self, observer: Observer, trackers: Trackers, run: Run) -> None:
        self._observer = observer
        self._trackers = trackers
        self._run = run
        self._version = 0
        self._num_steps = 0
        """Optimizer steps of the cycles before this one."""
        self.opened, self.track = observer.opened, observer.track
        self.advised, self.warned = observer.advised, observer.warned

    def measured(self, measurement: Measurement) -> None:
        self._observer.measured(measurement)
        self._version = measurement.policy_version
        self._report(_MEASURED, CYCLES, self._version, measurement.metrics)
        rows = list(_table(stored_samples(self._run.root, version=self._version, sets=["dev"])))
        self._trackers.send([self._version, _TABLE, 0], step=self._version, columns=_COLUMNS, rows=rows)

    def decided(self, decision: Decision) -> None:
        self._observer.decided(decision)
        self._report(_DECIDED, CYCLES, self._version, {"best_version": decision.best_version})

    def step(self, row: Mapping[str, float], num_steps: int) -> None:
        self._observer.step(row, num_steps)
        self._report_step(row)

    def trained(self, settings: TrainingSettings, selection: Selection, trained: Trained) -> None:
        self._observer.trained(settings, selection, trained)
        # The steps of a cycle that an earlier attempt trained; those of this attempt are skipped.
        for row in read_jsonl(cycle_folder(self._run.root, settings.cycle) / "training_log.jsonl"):
            self._report_step(row)
        scheduled = {
            f"settings/{name}": value
            for name, value in settings.to_row().items()
            if isinstance(value, int | float) and name not in ("cycle", "parent_version")
        }
        values = {"num_kept": len(selection.kept), **scheduled, **trained.metrics}
        self._report(_TRAINED, CYCLES, trained.policy_version, values)
        self._num_steps += int(trained.metrics["optimizer_steps"])

    def finish(self) -> None:
        """Report the result of a finished run."""
        result = self._run.root / "result.json"
        if result.is_file():
            self._report(_RESULT, CYCLES, self._version, dict(_result_values(read_json(result))))

    def _report_step(self, row: Mapping[str, float]) -> None:
        step = int(row["step"])
        values = {f"step/{name}": value for name, value in row.items() if name != "step"}
        self._report(_STEP, STEPS, self._num_steps + step, values, place=step)

    def _report(self, kind: int, axis: str, step: int, values: Mapping[str, float], place: int = 0) -> None:
        self._trackers.report([self._version, kind, place], axis, step, values)


def _table(samples: Iterable[StoredSample]) -> Iterator[list[Any]]:
    """The first completion of each prompt, one row of `_COLUMNS` each."""
    for sample in itertools.islice((sample for sample in samples if sample.completion.index == 0), TABLE_PROMPTS):
        completion, verdict = sample.completion, sample.verdict
        assert verdict is not None, "a version that is measured has verdicts"
        text = completion.text
        if len(text) > TABLE_CHARACTERS:
            text = f"{text[:TABLE_CHARACTERS]}\n[cut: {len(text)} characters]"
        verdicts = [verdict.stage, verdict.status, verdict.reward]
        yield [completion.policy_version, completion.prompt_id, *verdicts, completion.finish, text]


def _result_values(result: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    yield "result/chosen_version", result["chosen_version"]
    if result["improved"] is not None:
        yield "result/improved", int(result["improved"])
    for name in ("dev", "test"):
        for metric, facts in result[name].items():
            for fact, value in facts.items():
                yield f"result/{name}/{metric}/{fact}", value
