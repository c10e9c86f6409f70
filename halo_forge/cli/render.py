"""Tables and bars; the only module that imports rich."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from halo_forge.cli.watch import duration
from halo_forge.preview import CyclePlan, Preview
from halo_forge.records import Measurement, Selection, Trained, TrainingSettings
from halo_forge.store.status import Lap, Status, read_status

Item = TypeVar("Item")
PIPE_WIDTH = 240
"""Columns where standard output is no terminal: tables must not be cut there."""
COLUMNS = (
    "cycle", "model", "dev compile", "dev pass", "train compile", "train pass", "distinct@4", "kept",
    "learning rate", "steps", "mass", "loss", "grad norm", "clipped", "tok/s", "time",
)  # fmt: skip
DROPPED_FIRST = (
    "clipped", "mass", "grad norm", "distinct@4", "steps", "tok/s", "train pass", "train compile", "loss", "time",
)  # fmt: skip
"""What a narrow terminal leaves out; `raft status --json` has it all."""


def stdout() -> Console:
    """A console for results."""
    console = _Console(highlight=False)
    return console if console.is_terminal else _Console(highlight=False, width=PIPE_WIDTH)


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """The reader (head, less) has seen enough, which is no failure of ours; the library exits with 1."""
        try:
            super().on_broken_pipe()
        except SystemExit:
            raise SystemExit(0) from None


def print_table(columns: Mapping[str, str], rows: Iterable[Sequence[str]]) -> None:
    """A plain table: column name -> "left" or "right", and cells that are shown as they are."""
    table = Table(box=box.SIMPLE, pad_edge=False)
    for name, side in columns.items():
        table.add_column(name, justify="right" if side == "right" else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    stdout().print(table)


def print_status(status: Status) -> None:
    """The table of laps, then what was found."""
    console = stdout()
    console.print(f"{status.root}: {status.state}")
    if status.laps:
        console.print(fitting_table(console, status.laps))
    if status.result is not None:
        print_result(console, status)
    elif status.best_version is not None:
        where = status.best_adapter if status.best_adapter is not None else "the start model itself"
        console.print(f"best on dev so far: v{status.best_version} ({where})")


def print_result(console: Console, status: Status) -> None:
    """The chosen version against the start model, on dev and on test."""
    result = status.result
    assert result is not None
    if result["adapter"] is None:
        console.print("keep: the start model itself; no cycle was better on dev")
        return
    table = Table(box=box.SIMPLE, title=f"v{result['chosen_version']} against v0, paired by prompt")
    for name in ("set", "metric", "v0", f"v{result['chosen_version']}", "difference", "95 % interval", "detectable"):
        table.add_column(name, justify="left" if name in ("set", "metric") else "right")
    for set_name in ("dev", "test"):
        for metric, row in result[set_name].items():
            table.add_row(
                set_name,
                metric,
                f"{row['start']:.3f}",
                f"{row['chosen']:.3f}",
                f"{row['difference']:+.3f}",
                f"{row['low']:+.3f} to {row['high']:+.3f}",
                _number(row.get("minimum_detectable_effect"), ".3f"),
            )
    console.print(table)
    console.print("dev also chose the version, so its differences are biased upwards; test did not")
    console.print(f"keep: {Path(status.root) / result['adapter']}", soft_wrap=True)


def fitting_table(console: Console, laps: Sequence[Lap]) -> Table:
    """The table of laps without the columns, least important first, that this terminal has no room for."""
    for num_dropped in range(len(DROPPED_FIRST) + 1):
        table = laps_table(laps, without=DROPPED_FIRST[:num_dropped])
        if console.measure(table, options=console.options.update(width=PIPE_WIDTH)).maximum <= console.width:
            break
    return table


def laps_table(laps: Iterable[Lap], without: Collection[str] = ()) -> Table:
    """One row a lap: the model it measured on the left, what it then trained on the right."""
    table = Table(box=box.SIMPLE, pad_edge=False)
    shown = [number for number, name in enumerate(COLUMNS) if name not in without]
    for number in shown:
        table.add_column(COLUMNS[number], justify="right")
    for lap in laps:
        metrics = lap.metrics
        seconds = [value for name, value in metrics.items() if name.startswith("seconds/")]
        cells = (
            str(lap.cycle),
            f"v{lap.policy_version}",
            _rate(metrics, "dev/compile_rate"),
            _rate(metrics, "dev/pass_rate"),
            _rate(metrics, "train/compile_rate"),
            _rate(metrics, "train/pass_rate"),
            _number(metrics.get("diversity/distinct@4"), ".2f"),
            _number(lap.num_kept, "d"),
            _number(lap.settings.get("learning_rate"), ".3g"),
            _number(metrics.get("optimizer_steps"), ".0f"),
            _number(metrics.get("learning_rate_mass"), ".2g"),
            _number(metrics.get("loss_mean"), ".3f"),
            _number(metrics.get("gradient_norm_median"), ".2f"),
            _number(metrics.get("clip_fraction"), ".2f"),
            _number(metrics.get("tokens_per_second/generate"), ".0f"),
            duration(sum(seconds)) if seconds else "",
        )
        table.add_row(*(cells[number] for number in shown))
    return table


def print_preview(preview: Preview) -> None:
    """The schedule of every cycle, and the warnings."""
    console = stdout()
    table = Table(
        box=box.SIMPLE, pad_edge=False, title="what each cycle will do (upper bounds where it depends on results)"
    )
    columns = (
        "cycle", "samples from", "learning rate", "temperature", "top_p", "threshold", "prompts", "samples",
        "max kept", "max steps", "warm-up", "LR mass", "disk",
    )  # fmt: skip
    for name in columns:
        table.add_column(name, justify="right")
    for plan in preview.cycles:
        table.add_row(*_preview_row(plan))
    console.print(table)
    for warning in preview.warnings:
        console.print(f"warning: {warning}", soft_wrap=True)


def _preview_row(plan: CyclePlan) -> list[str]:
    rate = f"{plan.learning_rate_high:.2e}"
    if plan.learning_rate_low != plan.learning_rate_high:
        rate = f"{plan.learning_rate_low:.2e} to {rate}"
    return [
        str(plan.cycle),
        f"v{plan.policy_version}",
        rate,
        f"{plan.temperature:g}",
        f"{plan.top_p:g}",
        str(plan.reward_threshold),
        _number(plan.num_prompts, "d", "?"),
        _number(plan.samples, "d", "?"),
        _number(plan.max_kept, "d", "?"),
        _number(plan.max_optimizer_steps, "d", "?"),
        _number(plan.warmup_steps, "d", "?"),
        _number(plan.learning_rate_mass, ".3g", "?"),
        "?" if plan.disk_bytes is None else f"{plan.disk_bytes / 1e6:.0f} MB",
    ]


def _rate(metrics: Mapping[str, float], name: str) -> str:
    value, low, high = (metrics.get(f"{name}{end}") for end in ("", "_low", "_high"))
    if value is None:
        return ""
    return f"{value:.3f}" if low is None or high is None else f"{value:.3f} [{low:.2f}, {high:.2f}]"


def _number(value: Any, form: str, absent: str = "") -> str:
    return absent if value is None else format(value, form)


class LiveWatch:
    """A table that grows with the laps, with the bars of what is going on below it."""

    def __init__(self, live: Live, root: Path, num_cycles: int) -> None:
        self._live = live
        self._root = root
        self._num_cycles = num_cycles
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
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

    def measured(self, measurement: Measurement) -> None:
        """The new row."""
        self._refresh()

    def trained(self, settings: TrainingSettings, selection: Selection, trained: Trained) -> None:
        """The rest of the row."""
        if self._training is not None:
            self._progress.remove_task(self._training)
            self._training = None
        self._refresh()

    def _refresh(self) -> None:
        started = (self._root / "run.json").is_file()
        laps = read_status(self._root, self._num_cycles).laps if started else []
        self._live.update(
            Group(fitting_table(self._live.console, laps), self._progress) if laps else Group(self._progress)
        )


@contextmanager
def live_watch(root: Path, num_cycles: int) -> Iterator[LiveWatch]:
    """Draws on standard error until the block ends; what is left then is erased, the final table goes to stdout."""
    with Live(console=Console(stderr=True), transient=True, refresh_per_second=4) as live:
        yield LiveWatch(live, root, num_cycles)
