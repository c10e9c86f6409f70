"""Progress of a run on standard error: bars and a table on a terminal, plain lines elsewhere; and the time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from halo_forge.cli.render import LEARNING_RATE, fitted, print_paragraph
from halo_forge.cli.status import advice_lines, cycle_columns
from halo_forge.config import RaftConfig
from halo_forge.core.advice import Advised
from halo_forge.core.plan import Plan
from halo_forge.core.records import MASS, Decision, Measurement, Selection, Trained, TrainingSettings
from halo_forge.core.wording import counted, duration, roughly
from halo_forge.runtime.effects import Observer
from halo_forge.runtime.forecast import Forecast
from halo_forge.store.status import read_status

Item = TypeVar("Item")
QUIET_SECONDS = 30.0
"""Time between two plain progress lines."""
_BAR_WIDTH = 10


@contextmanager
def open_observer(config: RaftConfig) -> Iterator[Observer]:
    """The observer that fits where standard error goes."""
    root, num_cycles = Path(config.output_dir), config.raft.num_cycles
    if sys.stderr.isatty():
        with live_observer(root, num_cycles) as observer:
            yield observer
    else:
        yield PlainObserver(Forecast(root, num_cycles))


class PlainObserver:
    """Plain lines on standard error: one for each stage, and one every half minute.

    Args:
        forecast: Of the whole run; without it only the stage's own time is said.
    """

    def __init__(self, forecast: Forecast | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._forecast = forecast
        self._clock = clock
        self._training_since: float | None = None
        """When the first step of this cycle was taken; None where no step was, as in a cycle of an earlier attempt."""
        self._said_step = 0.0

    def opened(self, plan: Plan) -> None:
        """Says nothing."""
        if self._forecast is not None:
            self._forecast.opened(plan)

    def track(self, label: str, items: Iterable[Item], total: int) -> Iterator[Item]:
        """A line every half minute with the progress, and one at the end with the time it took."""
        self._look()
        start = said = self._clock()
        count = 0
        for count, item in enumerate(items, start=1):
            yield item
            now = self._clock()
            if now - said >= QUIET_SECONDS and count < total:
                said = now
                left = (now - start) / count * (total - count)
                rate = _rate(count, now - start)
                _say(f"{label}: {count} of {total}{rate}, {roughly(left)} left{self._whole(left)}")
        if total:
            seconds = self._clock() - start
            _say(f"{label}: {count} of {total} in {duration(seconds)}{_rate(count, seconds)}{self._whole(0.0)}")

    def step(self, row: Mapping[str, float], num_steps: int) -> None:
        """A line for the first optimizer step, and one every half minute."""
        now, step = self._clock(), row["step"]
        if self._training_since is None:
            self._look()
            self._training_since = now
        elif now - self._said_step < QUIET_SECONDS:
            return
        self._said_step = now
        loss = f", loss {row['loss']:.4f}, gradient norm {row['gradient_norm']:.3f}" if "loss" in row else ""
        taken = step - 1  # since the time of the first one
        left = (now - self._training_since) / taken * (num_steps - step) if taken else 0.0
        own = f"; {roughly(left)} left{self._whole(left)}" if taken else ""
        _say(f"train: step {step} of {num_steps}, learning rate {row['learning_rate']:{LEARNING_RATE}}{loss}{own}")

    def _look(self) -> None:
        if self._forecast is not None:
            self._forecast.look()

    def _whole(self, stage_seconds: float) -> str:
        return "" if self._forecast is None else f"; {whole_run(self._forecast, stage_seconds)}"

    def warned(self, text: str) -> None:
        """One line."""
        _say(f"warning: {text}")

    def measured(self, measurement: Measurement) -> None:
        """One line per policy version."""
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
        """One line per cycle."""
        steps, mass = trained.metrics["optimizer_steps"], trained.metrics[MASS]
        whole = ""
        if self._training_since is not None:  # it was trained now, not in an earlier attempt
            self._look()
            whole = self._whole(0.0)
            self._training_since = None
        _say(
            f"cycle {settings.cycle}: trained v{trained.policy_version} on {counted(trained.num_rows, 'sample')},"
            f" {counted(steps, 'step')}, learning rate {settings.learning_rate:{LEARNING_RATE}}, learning-rate mass"
            f" {mass:{LEARNING_RATE}}{whole}"
        )


class LiveObserver:
    """A table that grows with the cycles, with the bars of what is going on below it."""

    def __init__(self, live: Live, root: Path, num_cycles: int) -> None:
        self._live = live
        self._root = root
        self._num_cycles = num_cycles
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=_BAR_WIDTH),
            MofNCompleteColumn(),
            TextColumn("elapsed"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            _RateColumn(),
        )
        self._forecast = Forecast(root, num_cycles)
        self._training: Any = None
        self._refresh()

    def opened(self, plan: Plan) -> None:
        """Nothing to draw yet."""
        self._forecast.opened(plan)

    def track(self, label: str, items: Iterable[Item], total: int) -> Iterator[Item]:
        """A bar while the items pass."""
        self._forecast.look()
        task = self._progress.add_task(label, total=total, visible=total > 0)
        try:
            for item in items:
                yield item
                self._progress.advance(task)
        finally:
            self._progress.remove_task(task)

    def step(self, row: Mapping[str, float], num_steps: int) -> None:
        """A bar of the optimizer steps."""
        if self._training is None:
            self._forecast.look()
            self._training = self._progress.add_task("train", total=num_steps)
        self._progress.update(self._training, completed=row["step"])

    def warned(self, text: str) -> None:
        """Above the table, where it stays."""
        print_paragraph(self._live.console, f"warning: {text}", indent="    ")

    def measured(self, measurement: Measurement) -> None:
        """The new row."""
        self._refresh()

    def advised(self, advised: Advised) -> None:
        """Above the table, where it stays."""
        for row in advised.advice:
            for line in advice_lines(row):
                print_paragraph(self._live.console, line, indent=" " * 8)

    def decided(self, decision: Decision) -> None:
        """Above the table too."""
        print_paragraph(self._live.console, f"decision: {decision.reason}", indent="    ")

    def trained(self, settings: TrainingSettings, selection: Selection, trained: Trained) -> None:
        """The rest of the row."""
        if self._training is not None:
            self._progress.remove_task(self._training)
            self._training = None
        self._refresh()

    def _refresh(self) -> None:
        self._forecast.look()
        started = (self._root / "run.json").is_file()
        cycles = read_status(self._root, self._num_cycles).cycles if started else []
        below: list[RenderableType] = [_WholeRun(self._forecast, self._progress), self._progress]
        if not cycles:
            self._live.update(Group(*below))
            return
        table, note = fitted(cycle_columns(cycles, self._num_cycles), self._live.console.width)
        self._live.update(Group(table, *([Text(note)] if note else []), *below))


class _RateColumn(ProgressColumn):
    """How many items pass in a second, or how long one takes."""

    def render(self, task: Task) -> Text:
        speed = task.speed
        if not speed:
            return Text("")
        return Text(f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each")


class _WholeRun:
    """The line about the whole run, as it is when it is drawn."""

    def __init__(self, forecast: Forecast, progress: Progress) -> None:
        self._forecast = forecast
        self._progress = progress

    def __rich__(self) -> Text:
        left = [task.time_remaining for task in self._progress.tasks]
        return Text(whole_run(self._forecast, max((each for each in left if each is not None), default=0.0)))


def whole_run(forecast: Forecast, stage_seconds: float) -> str:
    """What is left of the whole run, or why that is not known."""
    left = forecast.seconds_left(stage_seconds)
    return "whole run: not known before cycle 1 is done" if left is None else f"whole run: {roughly(left)} left"


def _rate(count: int, seconds: float) -> str:
    """Such as ", 2.1 per second" or ", 3.4 s each"; empty where it was too fast to tell."""
    if seconds < 1.0 or not count:
        return ""
    return f", {count / seconds:.1f} per second" if count >= seconds else f", {seconds / count:.1f} s each"


@contextmanager
def live_observer(root: Path, num_cycles: int) -> Iterator[LiveObserver]:
    """Draws on standard error until the block ends; what is left then is erased, the final table goes to stdout."""
    with Live(console=Console(stderr=True), transient=True, refresh_per_second=4) as live:
        yield LiveObserver(live, root, num_cycles)


def _interval(metrics: Mapping[str, float], name: str) -> str:
    low, high = metrics.get(f"{name}_low"), metrics.get(f"{name}_high")
    return "" if low is None or high is None else f" [{low:.3f}, {high:.3f}]"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
