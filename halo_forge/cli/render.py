"""Tables and bars; the only module that imports rich."""

from __future__ import annotations

import json
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

from halo_forge.cli.decided import DECISION_COLUMNS, RESULT_COLUMNS, decision_rows, result_rows, time_line
from halo_forge.cli.watch import advice_lines, duration
from halo_forge.core.advice import Advised
from halo_forge.core.decisions import Decision
from halo_forge.core.records import Measurement, Selection, Trained, TrainingSettings
from halo_forge.runtime.preview import CyclePlan, Preview
from halo_forge.store.status import CycleRow, Status, read_status

Item = TypeVar("Item")
PIPE_WIDTH = 240
"""Columns where standard output is no terminal: tables must not be cut there."""
COLUMNS = (
    "cycle", "model", "dev compile", "dev pass", "train compile", "train pass", "distinct@4", "kept",
    "learning rate", "steps", "mass", "loss", "grad norm", "clipped", "tok/s", "watts", "busy", "degrees C", "time",
)  # fmt: skip
WHERE_MEASURED = {
    "watts": "gpu_power_watts_mean", "busy": "gpu_busy_mean", "degrees C": "gpu_temperature_celsius_max",
}  # fmt: skip
"""Column -> its metric; the column is there if some cycle has the metric."""
DROPPED_FIRST = (
    "degrees C", "busy", "watts",
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
    """The table of cycles, then what was found."""
    console = stdout()
    console.print(f"{status.root}: {status.state}")
    if status.cycles:
        console.print(fitting_table(console, status.cycles))
        if spent := time_line(status.cycles):
            console.print(spent, soft_wrap=True)
    if decided := list(decision_rows(status.cycles)):
        print_table(DECISION_COLUMNS, decided)
    for row in status.latest_advice:
        for line in advice_lines(row):
            console.print(Text(line), soft_wrap=True)
    if status.result is not None:
        print_result(console, status)
    elif status.best_version is not None:
        where = status.best_adapter if status.best_adapter is not None else "the start model itself"
        console.print(f"best on dev so far: v{status.best_version} ({where})")


def print_result(console: Console, status: Status) -> None:
    """The chosen and the last version against the start model, on dev and on test, and why the run ended."""
    result = status.result
    assert result is not None
    console.print(f"ended: {result['conclusion'].replace('_', ' ')}; {result['reason']}", soft_wrap=True)
    rows = list(result_rows(result))
    if rows:
        print_table(RESULT_COLUMNS, rows)
        console.print(
            "paired by prompt; dev also chose the version, so its differences are biased upwards; test did not"
        )
    if result["adapter"] is None:
        console.print("keep: the start model itself; no version improved on it on dev")
        return
    console.print(f"keep: {Path(status.root) / result['adapter']}", soft_wrap=True)


def fitting_table(console: Console, cycles: Sequence[CycleRow]) -> Table:
    """The table of cycles without the columns, least important first, that this terminal has no room for."""
    for num_dropped in range(len(DROPPED_FIRST) + 1):
        table = cycles_table(cycles, without=DROPPED_FIRST[:num_dropped])
        if console.measure(table, options=console.options.update(width=PIPE_WIDTH)).maximum <= console.width:
            break
    return table


def cycles_table(cycles: Iterable[CycleRow], without: Collection[str] = ()) -> Table:
    """One row per cycle: the model it measured on the left, what it then trained on the right."""
    table = Table(box=box.SIMPLE, pad_edge=False)
    cycles = list(cycles)
    absent = {column for column, name in WHERE_MEASURED.items() if not any(name in row.metrics for row in cycles)}
    shown = [number for number, name in enumerate(COLUMNS) if name not in absent | set(without)]
    for number in shown:
        table.add_column(COLUMNS[number], justify="right")
    for row in cycles:
        metrics = row.metrics
        seconds = [value for name, value in metrics.items() if name.startswith("seconds/")]
        cells = (
            str(row.cycle),
            f"v{row.policy_version}",
            _rate(metrics, "dev/compile_rate"),
            _rate(metrics, "dev/pass_rate"),
            _rate(metrics, "train/compile_rate"),
            _rate(metrics, "train/pass_rate"),
            _number(metrics.get("diversity/distinct@4"), ".2f"),
            _number(row.num_kept, "d"),
            _number(row.settings.get("learning_rate"), ".3g"),
            _number(metrics.get("optimizer_steps"), ".0f"),
            _number(metrics.get("learning_rate_mass"), ".2g"),
            _number(metrics.get("loss_mean"), ".3f"),
            _number(metrics.get("gradient_norm_median"), ".2f"),
            _number(metrics.get("clip_fraction"), ".2f"),
            _number(metrics.get("tokens_per_second/generate"), ".0f"),
            _number(metrics.get("gpu_power_watts_mean"), ".0f"),
            _number(metrics.get("gpu_busy_mean"), ".2f"),
            _number(metrics.get("gpu_temperature_celsius_max"), ".0f"),
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
    moving = [key for key in preview.moving() if key not in _IN_PREVIEW]
    if moving:
        table = Table(box=box.SIMPLE, pad_edge=False, title="what else moves (from lowest to highest)")
        for name in ("cycle", *moving):
            table.add_column(name, justify="right")
        for plan in preview.cycles:
            table.add_row(str(plan.cycle), *(_range(*plan.scheduled[key]) for key in moving))
        console.print(table)
    console.print("\n".join(_hardware_lines(preview.hardware)), soft_wrap=True)
    for warning in preview.warnings:
        console.print(f"warning: {warning}", soft_wrap=True)
    for advice in preview.advice:
        for line in advice_lines(advice.to_row()):
            console.print(Text(line), soft_wrap=True)


def _hardware_lines(hardware: Mapping[str, Any]) -> Iterator[str]:
    """The profile, then every value that follows it."""
    budget = hardware["memory_budget_bytes"]
    memory = "known once torch is loaded" if budget is None else f"{budget / 1e9:.1f} GB"
    yield f"hardware: {hardware['profile']} ({hardware['why']}), memory budget {memory}"
    values = {key: value for key, value in hardware.items() if "." in key} | dict(hardware.get("environment", {}))
    for key, value in values.items():
        yield f"  {key}: {'depends on the size of the model' if value is None else json.dumps(value).strip(chr(34))}"


def _preview_row(plan: CyclePlan) -> list[str]:
    return [
        str(plan.cycle),
        f"v{plan.policy_version}",
        _range(plan.learning_rate_low, plan.learning_rate_high, ".2e"),
        _range(*plan.scheduled["engine.temperature"]),
        _range(*plan.scheduled["engine.top_p"]),
        _range(*plan.scheduled["selection.reward_threshold"]),
        _number(plan.num_prompts, "d", "?"),
        _number(plan.samples, "d", "?"),
        _number(plan.max_kept, "d", "?"),
        _number(plan.max_optimizer_steps, "d", "?"),
        _number(plan.warmup_steps, "d", "?"),
        _number(plan.learning_rate_mass, ".3g", "?"),
        "?" if plan.disk_bytes is None else f"{plan.disk_bytes / 1e6:.0f} MB",
    ]


_IN_PREVIEW = ("engine.temperature", "engine.top_p", "selection.reward_threshold", "training.learning_rate")
"""Scheduled settings that have a column in the first table."""


def _range(low: Any, high: Any, form: str = ".3g") -> str:
    if low is None:
        return "?"
    ends = [value if isinstance(value, str) else format(value, form) for value in (low, high)]
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)


def _rate(metrics: Mapping[str, float], name: str) -> str:
    value, low, high = (metrics.get(f"{name}{end}") for end in ("", "_low", "_high"))
    if value is None:
        return ""
    return f"{value:.3f}" if low is None or high is None else f"{value:.3f} [{low:.2f}, {high:.2f}]"


def _number(value: Any, form: str, absent: str = "") -> str:
    return absent if value is None else format(value, form)


class LiveObserver:
    """A table that grows with the cycles, with the bars of what is going on below it."""

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

    def advised(self, advised: Advised) -> None:
        """Above the table, where it stays."""
        for row in advised.advice:
            for line in advice_lines(row):
                self._live.console.print(Text(line))

    def decided(self, decision: Decision) -> None:
        """Above the table too."""
        self._live.console.print(Text(f"decision: {decision.reason}"))

    def trained(self, settings: TrainingSettings, selection: Selection, trained: Trained) -> None:
        """The rest of the row."""
        if self._training is not None:
            self._progress.remove_task(self._training)
            self._training = None
        self._refresh()

    def _refresh(self) -> None:
        started = (self._root / "run.json").is_file()
        cycles = read_status(self._root, self._num_cycles).cycles if started else []
        self._live.update(
            Group(fitting_table(self._live.console, cycles), self._progress) if cycles else Group(self._progress)
        )


@contextmanager
def live_observer(root: Path, num_cycles: int) -> Iterator[LiveObserver]:
    """Draws on standard error until the block ends; what is left then is erased, the final table goes to stdout."""
    with Live(console=Console(stderr=True), transient=True, refresh_per_second=4) as live:
        yield LiveObserver(live, root, num_cycles)
