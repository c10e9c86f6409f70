"""What `raft run --dry-run` shows: one row a cycle, a plot of each schedule, this machine, warnings and advice."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console

from halo_forge.cli.render import (
    LEARNING_RATE,
    Column,
    number_columns,
    plot,
    print_paragraph,
    print_table,
    span,
    stdout,
)
from halo_forge.cli.status import advice_lines
from halo_forge.prompts.summary import lines_of
from halo_forge.runtime.preview import CyclePlan, Preview
from halo_forge.runtime.sensitivity import lines_of_sensitivity

_IN_FIRST_TABLE = ("engine.temperature", "engine.top_p", "selection.reward_threshold", "training.learning_rate")
_PLOT_SIZES = (12, 60)
_BY_RESULTS = "by results"
_DISK = (
    "disk ?: the size of an adapter is known of a local model with lora.target_modules all-linear, and the number of"
    " completions where no prompts are on the Hub"
)
_BOUNDS = "upper bounds where results decide"
_FORMS = {"training.learning_rate": LEARNING_RATE, "training.learning_rate_mass": LEARNING_RATE}


def print_preview(preview: Preview) -> None:
    """The schedule of every cycle, and the warnings."""
    console = stdout()
    print_table(_cycles(preview.cycles), title=f"what each cycle will do ({_BOUNDS})", console=console)
    if any(plan.disk_bytes is None for plan in preview.cycles):
        print_paragraph(console, _DISK, indent="    ")
    moving = preview.moving()
    if others := [key for key in moving if key not in _IN_FIRST_TABLE]:
        columns = [Column("cycle", [str(plan.cycle) for plan in preview.cycles])]
        columns += [
            Column(key, [_value(plan, key) for plan in preview.cycles], priority=1 + at)
            for at, key in enumerate(others)
        ]
        print_table(columns, title="other scheduled settings (lowest to highest)", console=console)
    if moving:
        _print_plots(console, preview.cycles, moving)
    else:
        print_paragraph(console, "schedules: every setting has the same value in all cycles")
    for line in (*lines_of(preview.prompts), *lines_of_sensitivity(preview.metric, preview.sensitivity)):
        print_paragraph(console, line, indent="    ")
    for at, line in enumerate(_hardware_lines(preview.hardware)):
        print_paragraph(console, line if at == 0 else f"  {line}", indent="    ")
    for note in preview.notes:
        print_paragraph(console, f"note: {note}", indent="    ")
    for warning in preview.warnings:
        print_paragraph(console, f"warning: {warning}", indent="    ")
    for advice in preview.advice:
        for line in advice_lines(advice.to_row()):
            print_paragraph(console, line, indent=" " * 8)


def _cycles(plans: Sequence[CyclePlan]) -> list[Column]:
    def scheduled(key: str) -> list[str]:
        return [_value(plan, key) for plan in plans]

    rates = [span(plan.learning_rate_low, plan.learning_rate_high, LEARNING_RATE) for plan in plans]
    sizes = ["?" if plan.disk_bytes is None else f"{plan.disk_bytes / 1e6:.0f} MB" for plan in plans]
    return [
        Column("cycle", [str(plan.cycle) for plan in plans]),
        Column("samples from", [f"v{plan.policy_version}" for plan in plans], 6),
        Column("learning rate", rates),
        Column("temperature", scheduled("engine.temperature"), 2),
        Column("top_p", scheduled("engine.top_p"), 8),
        Column("threshold", scheduled("selection.reward_threshold"), 3),
        *number_columns(
            lambda name: [getattr(plan, name) for plan in plans],
            [
                ("prompts", "num_prompts", "d", 7),
                ("samples", "samples", "d", 4),
                ("max kept", "max_kept", "d", 3),
                ("max steps", "max_optimizer_steps", "d", 1),
                ("warm-up", "warmup_steps", "d", 9),
                ("learning-rate mass", "learning_rate_mass", LEARNING_RATE, 5),
            ],
            absent="?",
        ),
        Column("disk", sizes, 10),
    ]


def _print_plots(console: Console, plans: Sequence[CyclePlan], keys: Sequence[str]) -> None:
    """One line for each setting that changes, from its first to its last value; no plot where results decide."""
    ends = [[_value(plan, key) for plan in (plans[0], plans[-1])] for key in keys]
    firsts, lasts = ([pair[at] for pair in ends] for at in (0, 1))
    taken = sum(max(map(len, cells)) + 2 for cells in (keys, ["first", *firsts], ["last", *lasts]))
    room = max(_PLOT_SIZES[0], min(_PLOT_SIZES[1], console.width - taken))
    undecided = {key for key in keys if any(low != high for low, high in (plan.scheduled[key] for plan in plans))}
    plots = [_BY_RESULTS if key in undecided else plot(_heights(plans, key), room, console) for key in keys]
    remark = f" ({_BY_RESULTS}: measurements decide within this range)" if undecided else ""
    columns = [
        Column("setting", keys, text=True),
        Column("first", firsts),
        Column(f"cycles 1 to {len(plans)}" if len(plans) > 1 else "cycle 1", plots, align="left"),
        Column("last", lasts, align="left"),
    ]
    print_table(columns, title=f"schedules over the cycles{remark}", console=console)


def _value(plan: CyclePlan, key: str) -> str:
    return span(*plan.scheduled[key], _FORMS.get(key, ".3g"))


def _heights(plans: Sequence[CyclePlan], key: str) -> list[float | None]:
    """The highest value in each cycle; a threshold of "pass" is the highest reward."""
    values = [plan.scheduled[key][1] for plan in plans]
    return [1.0 if value == "pass" else None if value is None else float(value) for value in values]


def _hardware_lines(hardware: Mapping[str, Any]) -> Iterator[str]:
    """The profile, then every value that follows it."""
    budget = hardware["memory_budget_bytes"]
    memory = "known once torch is loaded" if budget is None else f"{budget / 1e9:.1f} GB"
    yield f"hardware: {hardware['profile']} ({hardware['why']}), memory budget {memory}"
    values = {key: value for key, value in hardware.items() if "." in key} | dict(hardware.get("environment", {}))
    for key, value in values.items():
        yield f"{key}: {'depends on the size of the model' if value is None else json.dumps(value).strip(chr(34))}"
