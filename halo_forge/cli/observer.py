"""Progress of a run on standard error: bars and a table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from halo_forge.cli.render import LEARNING_RATE, fitted, print_paragraph
from halo_forge.cli.status import advice_lines, cycle_columns
from halo_forge.config import RaftConfig
from halo_forge.core.advice import Advised
from halo_forge.core.records import MASS, Decision, Measurement, Selection, Trained, TrainingSettings
from halo_forge.core.wording import counted, duration
from halo_forge.runtime.effects import Observer
from halo_forge.store.status import read_status

Item = TypeVar("Item")
QUIET_SECONDS = 30.0
"""Time between two plain progress lines."""
_BAR_WIDTH = 16


@contextmanager
def open_observer(config: RaftConfig) -> Iterator[Observer]:
    """The observer that fits where standard error goes."""
    if sys.stderr.isatty():
        with live_observer(Path(config.output_dir), config.raft.num_cycles) as observer:
            yield observer
    else:
        yield PlainObserver()


class PlainObserver:
    """Plain lines on standard error."""

    def track(self, label: str, items: Iterable[Item], total: int) -> Iterator[Item]:
        """A line every half minute with the progress, and one at the end with the time it took."""
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
        """One line per optimizer step."""
        loss = f", loss {row['loss']:.4f}, gradient norm {row['gradient_norm']:.3f}" if "loss" in row else ""
        _say(f"train: step {row['step']} of {num_steps}, learning rate {row['learning_rate']:{LEARNING_RATE}}{loss}")

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
        _say(
            f"cycle {settings.cycle}: trained v{trained.policy_version} on {counted(trained.num_rows, 'sample')},"
            f" {counted(steps, 'step')}, learning rate {settings.learning_rate:{LEARNING_RATE}}, learning-rate mass"
            f" {mass:{LEARNING_RATE}}"
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
        )
        self._training: Any = None
        self._refresh()

    def track(self, label: str, items: Iterable[Item], total: int) -> Iterator[Item]:
        """A bar while the items pass."""
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
        started = (self._root / "run.json").is_file()
        cycles = read_status(self._root, self._num_cycles).cycles if started else []
        if not cycles:
            self._live.update(Group(self._progress))
            return
        table, note = fitted(cycle_columns(cycles, self._num_cycles), self._live.console.width)
        self._live.update(Group(table, *([Text(note)] if note else []), self._progress))


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
