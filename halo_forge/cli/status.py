"""What is shown of a run: one row per cycle, what was decided, what was found, and where the time went."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from halo_forge.cli.render import (
    LEARNING_RATE,
    Column,
    number,
    number_columns,
    print_paragraph,
    print_table,
    stdout,
)
from halo_forge.core.records import MASS
from halo_forge.core.wording import counted, duration, outcome_in_words
from halo_forge.store.status import EARLIER_WORDS, CycleRow, Status

ACTIONS = {
    "rollback": "back to v{train_from}",
    "from_base": "restart from v0",
    "continue_lower": "continue, lower rate",
}
PHASES = {
    "generate": "sampling", "verify": "remaining verification", "drift": "drift", "train": "training", "other": "other",
}  # fmt: skip


def print_status(status: Status) -> None:
    """The table of cycles, then what was found."""
    console = stdout()
    print_paragraph(console, f"{status.root}: {status.state}{_working(status)}")
    if status.num_overlong:
        left_out = f"left out as too long for the model: {counted(status.num_overlong, 'prompt')} (prompts.overlong)"
        print_paragraph(console, left_out, indent="    ")
    if status.cycles:
        print_table(cycle_columns(status.cycles, status.num_cycles), console=console)
        if spent := time_line(status.cycles):
            print_paragraph(console, spent, indent="    ")
    if status.saved.num_samples:
        print_paragraph(console, f"taken from other runs, not made again: {status.saved}", indent="    ")
    if decided := decision_columns(status.cycles, status.result):
        print_table(decided, console=console)
    for row in status.latest_advice:
        for line in advice_lines(row):
            print_paragraph(console, line, indent=" " * 8)
    if status.result is not None:
        _print_result(status)
    elif status.best_version is not None:
        where = status.best_adapter if status.best_adapter is not None else "the start model"
        print_paragraph(console, f"best on dev so far: v{status.best_version} ({where})")


def _working(status: Status) -> str:
    """Whether anybody works on a run that is not finished."""
    if status.process is not None:
        return f" (running, process {status.process})"
    return " (stopped)" if status.cycles and status.result is None else ""


def _print_result(status: Status) -> None:
    """The chosen and the last version against the start model, on dev and on test, and why the run ended."""
    result, console = status.result, stdout()
    assert result is not None
    print_paragraph(console, f"ended: {result['conclusion'].replace('_', ' ')}; {result['reason']}", indent="    ")
    if "improved" not in result:
        print_paragraph(console, EARLIER_WORDS, indent="    ")
    if columns := result_columns(result):
        print_table(columns, console=console)
        print_paragraph(
            console,
            "Differences are paired by prompt. Dev was also used to choose the version, so its differences are biased"
            " upwards; test was not.",
        )
    if result["adapter"] is None:
        print_paragraph(console, "keep: the start model; no version was ahead of it on dev")
    else:
        print_paragraph(console, f"keep: {Path(status.root) / result['adapter']}")


def cycle_columns(cycles: Sequence[CycleRow], num_cycles: int) -> list[Column]:
    """One row per cycle: the model it measured on the left, what it then trained on the right."""

    def metric(key: str) -> list[float | None]:
        return [row.metrics.get(key) for row in cycles]

    def rate(name: str, key: str, priority: int, detail_priority: int) -> Column:
        cells = [number(value, ".3f") for value in metric(key)]
        intervals = [_rate(row.metrics, key) for row in cycles]
        return Column(name, cells, priority, detailed=intervals, detail_priority=detail_priority)

    def passes(set_name: str, priority: int, detail_priority: int) -> list[Column]:
        """None where no prompt has tests: a pass is a compilation then, and that has a column."""
        key = f"{set_name}/pass_rate"
        untested = all(value is None for value in metric(key)) and any(
            value is not None for value in metric(f"{set_name}/compile_rate")
        )
        return [] if untested else [rate(f"{set_name} pass", key, priority, detail_priority)]

    return [
        Column("cycle", [cycle_name(row.cycle, num_cycles) for row in cycles]),
        Column("model", [f"v{row.policy_version}" for row in cycles]),
        rate("dev compile", "dev/compile_rate", 0, 6),
        *passes("dev", 0, 5),
        rate("train compile", "train/compile_rate", 8, 14),
        *passes("train", 7, 13),
        *number_columns(metric, [("distinct@4", "diversity/distinct@4", ".2f", 10)]),
        Column("kept", [number(row.num_kept, "d") for row in cycles], 1),
        Column("learning rate", [number(row.settings.get("learning_rate"), LEARNING_RATE) for row in cycles]),
        *number_columns(
            metric,
            [
                ("steps", "optimizer_steps", ".0f", 4),
                ("learning-rate mass", MASS, LEARNING_RATE, 9),
                ("loss", "loss_mean", ".3f", 3),
                ("grad norm", "gradient_norm_median", ".2f", 11),
                ("clipped", "clip_fraction", ".2f", 12),
                ("tok/s", "tokens_per_second/generate", ".0f", 11),
                ("watts", "gpu_power_watts_mean", ".0f", 15),
                ("GPU busy", "gpu_busy_mean", ".2f", 16),
                ("degrees C", "gpu_temperature_celsius_max", ".0f", 17),
            ],
        ),
        Column("time", [_time(row) for row in cycles], 2),
    ]


def cycle_name(cycle: int, num_cycles: int) -> str:
    """The number of a cycle; "final" for the evaluation after the last one."""
    return str(cycle) if cycle <= num_cycles else "final"


def decision_columns(cycles: Sequence[CycleRow], result: Mapping[str, Any] | None = None) -> list[Column]:
    """One row for each version that was compared with an incumbent, and one for the chosen version at the end.

    No columns where no version was compared.
    """
    rows = [row for row in cycles if row.decision.get("compared_with") is not None]
    if not rows:
        return []
    decided = [row.decision for row in rows]
    compared = [each.get("screen", {}) for each in decided]
    models = [f"v{row.policy_version}" for row in rows]
    against = [f"v{each['compared_with']}" for each in decided]
    resampled = [_resampled(each["confirmation"]) for each in decided]
    outcomes = [outcome_in_words(each["outcome"], each.get("opposed", {})) for each in decided]
    actions = [_action(each) for each in decided]
    if result is not None and result.get("improved") is not None:
        compared.append(result["confirmation"])
        models.append(f"v{result['chosen_version']}")
        against.append("v0 on test" if result["confirmed_on"] == "test" else "v0, dev again")
        resampled.append("")
        outcomes.append(
            outcome_in_words("improved" if result["improved"] else "not_confirmed", result["confirmation_opposed"])
        )
        actions.append("keep")
    return [
        Column("model", models),
        Column("against", against),
        *number_columns(
            lambda name: [each.get(name) for each in compared],
            [
                ("difference", "difference", "+.3f", 0),
                ("SE", "standard_error", ".3f", 3),
                ("z", "z", ".2f", 4),
                ("detectable", "minimum_detectable_effect", ".3f", 2),
                ("prompts", "num_prompts", ".0f", 5),
            ],
        ),
        Column("resampled", resampled, 1),
        Column("outcome", outcomes, text=True),
        Column("action", actions, text=True),
    ]


def _resampled(confirmation: Mapping[str, Any]) -> str:
    if not confirmation:
        return ""
    return (
        f"{number(confirmation.get('difference'), '+.3f', 'none')} (z {number(confirmation.get('z'), '.2f', 'none')})"
    )


def _action(decision: Mapping[str, Any]) -> str:
    action = ACTIONS.get(decision["action"], decision["action"]).format(**decision)
    ending = decision.get("ending")
    return action if ending is None else f"{action} ({ending.replace('_', ' ')})"


def result_columns(result: Mapping[str, Any]) -> list[Column]:
    """The chosen and the last version against the start model, on dev and test; nothing of the start model itself."""
    kinds = {"chosen": ("", result["chosen_version"]), "last": ("last_", result["last_version"])}
    if result["last_version"] == result["chosen_version"]:
        del kinds["last"]
    rows = [
        (set_name, metric, f"v{version} ({name})", row, row[name])
        for name, (prefix, version) in kinds.items()
        if version != 0
        for set_name in ("dev", "test")
        for metric, row in result[f"{prefix}{set_name}"].items()
    ]
    if not rows:
        return []

    def of(value: Callable[[Mapping[str, Any]], str]) -> list[str]:
        return [value(row) for _, _, _, row, _ in rows]

    return [
        Column("set", [row[0] for row in rows], align="left"),
        Column("metric", [row[1] for row in rows], align="left"),
        Column("model", [row[2] for row in rows], align="left"),
        Column("v0", of(lambda row: f"{row['start']:.3f}")),
        Column("tuned", [f"{row[4]:.3f}" for row in rows]),
        Column("difference", of(lambda row: f"{row['difference']:+.3f}")),
        Column("95% interval", of(lambda row: f"{row['low']:+.3f} to {row['high']:+.3f}"), 1),
        Column("detectable", of(lambda row: number(row.get("minimum_detectable_effect"), ".3f")), 2),
    ]


def time_line(cycles: Sequence[CycleRow]) -> str:
    """Where the time of all cycles went, such as "time: sampling 4 min 0 s (80%), drift 30 s (10%)"; empty before."""
    seconds = {word: sum(row.metrics.get(f"seconds/{phase}", 0.0) for row in cycles) for phase, word in PHASES.items()}
    total = sum(seconds.values())
    parts = [f"{word} {duration(spent)} ({spent / total:.0%})" for word, spent in seconds.items() if spent > 0.0]
    return "time: " + ", ".join(parts) if parts else ""


def advice_lines(row: Mapping[str, str]) -> Iterator[str]:
    """One advice: what was seen, the likely cause, what to do about it, and how much the numbers can tell."""
    yield f"advice: {row['symptom']} ({row['evidence']})"
    yield f"    likely cause: {row['cause']}"
    yield f"    suggestion: {row['action']}"
    yield f"    confidence: {row['power']}"


def _rate(metrics: Mapping[str, float], name: str) -> str:
    value, low, high = (metrics.get(f"{name}{end}") for end in ("", "_low", "_high"))
    if value is None:
        return ""
    return f"{value:.3f}" if low is None or high is None else f"{value:.3f} [{low:.2f}, {high:.2f}]"


def _time(row: CycleRow) -> str:
    """What is known so far: stages are timed when they end, so that the first one has no time yet."""
    seconds = [value for name, value in row.metrics.items() if name.startswith("seconds/")]
    if not seconds:
        return ""
    total = sum(seconds)
    return "-" if total == 0.0 else duration(total)
