"""Looking on while a run goes: bars and a table on a terminal, plain lines elsewhere, and the trackers."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from halo_forge.config import RaftConfig, resolved
from halo_forge.core.advice import Advised
from halo_forge.core.decisions import Decision
from halo_forge.core.records import Measurement, Selection, Trained, TrainingSettings
from halo_forge.runtime.effects import Observer
from halo_forge.runtime.tracking import Tracker, check_trackers, open_trackers

Item = TypeVar("Item")
QUIET_SECONDS = 30.0
"""Time between two plain progress lines."""


@contextmanager
def open_observer(config: RaftConfig) -> Iterator[Observer]:
    """The observer that fits where standard error goes, with the configured trackers behind it.

    Raises:
        ToolMissing: A tracker's package is not installed.
    """
    check_trackers(config.report_to)
    trackers = _Trackers(config)
    try:
        if sys.stderr.isatty():
            from halo_forge.cli.render import live_observer

            with live_observer(Path(config.output_dir), config.raft.num_cycles) as observer:
                yield _Reporting(observer, trackers)
        else:
            yield _Reporting(PlainObserver(), trackers)
    finally:
        trackers.close()


class PlainObserver:
    """Plain lines on standard error."""

    def track(self, label: str, items: Iterable[Item], total: int) -> Iterator[Item]:
        """Says every half minute how far it is, and at the end how long it took."""
        start = said = time.monotonic()
        count = 0
        for count, item in enumerate(items, start=1):
            yield item
            now = time.monotonic()
            if now - said >= QUIET_SECONDS and count < total:
                said = now
                left = (now - start) / count * (total - count)
                _say(f"{label}: {count} of {total}, about {duration(left)} left")
        if total:
            _say(f"{label}: {count} of {total} in {duration(time.monotonic() - start)}")

    def step(self, row: Mapping[str, float], num_steps: int) -> None:
        """One line an optimizer step."""
        loss = f", loss {row['loss']:.4f}, gradient norm {row['gradient_norm']:.3f}" if "loss" in row else ""
        _say(f"train: step {row['step']} of {num_steps}, learning rate {row['learning_rate']:.3g}{loss}")

    def measured(self, measurement: Measurement) -> None:
        """One line a policy version."""
        parts = [
            f"{name} {measurement.metrics[name]:.3f}{_interval(measurement.metrics, name)}"
            for name in ("dev/compile_rate", "dev/pass_rate", "train/compile_rate", "train/pass_rate")
            if name in measurement.metrics
        ]
        _say(f"v{measurement.policy_version}: " + ", ".join(parts))

    def advised(self, advised: Advised) -> None:
        """A few lines for each advice; none where there is nothing to say."""
        for row in advised.advice:
            for line in advice_lines(row):
                _say(line)

    def decided(self, decision: Decision) -> None:
        """The reason, with its numbers."""
        _say(f"decision: {decision.reason}")

    def trained(self, settings: TrainingSettings, selection: Selection, trained: Trained) -> None:
        """One line a cycle."""
        steps, mass = trained.metrics["optimizer_steps"], trained.metrics["learning_rate_mass"]
        _say(
            f"cycle {settings.cycle}: trained v{trained.policy_version} on {trained.num_rows} samples,"
            f" {steps:.0f} steps, learning rate {settings.learning_rate:.3g}, mass {mass:.3g}"
        )


class _Reporting:
    """Passes everything on, and the metrics to the trackers."""

    def __init__(self, observer: Observer, trackers: _Trackers) -> None:
        self._observer = observer
        self._trackers = trackers
        self.track, self.step = observer.track, observer.step
        self.advised, self.decided = observer.advised, observer.decided

    def measured(self, measurement: Measurement) -> None:
        self._observer.measured(measurement)
        self._trackers.log(measurement.metrics, measurement.policy_version)

    def trained(self, settings: TrainingSettings, selection: Selection, trained: Trained) -> None:
        self._observer.trained(settings, selection, trained)
        self._trackers.log({"num_kept": len(selection.kept), **trained.metrics}, trained.policy_version)


class _Trackers:
    """Opened at the first metric: a run that is refused leaves no empty record in a tracker."""

    def __init__(self, config: RaftConfig) -> None:
        self._config = config
        self._open: list[Tracker] | None = None

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        if self._open is None:
            config = self._config
            self._open = open_trackers(config.report_to, Path(config.output_dir), resolved(config))
        for tracker in self._open:
            tracker.log(metrics, step)

    def close(self) -> None:
        for tracker in self._open if self._open is not None else ():
            tracker.close()


def advice_lines(row: Mapping[str, str]) -> list[str]:
    """One advice in words: what is to be seen and what to do about it, each with what it rests on."""
    return [
        f"advice: {row['symptom']} ({row['evidence']})",
        f"    likely: {row['cause']}",
        f"    to do: {row['action']}",
        f"    how sure: {row['power']}",
    ]


def duration(seconds: float) -> str:
    """Such as "42 s", "3 min 5 s" or "2 h 10 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _interval(metrics: Mapping[str, float], name: str) -> str:
    low, high = metrics.get(f"{name}_low"), metrics.get(f"{name}_high")
    return "" if low is None or high is None else f" [{low:.3f}, {high:.3f}]"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
