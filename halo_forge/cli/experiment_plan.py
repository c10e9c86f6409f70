"""`halo-forge experiment plan`: the arms with their schedules, what they cost, and what they can find out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console

from halo_forge.cli.config import SET
from halo_forge.cli.render import LEARNING_RATE, Column, number, plot, print_paragraph, print_table, span, stdout
from halo_forge.core.wording import counted

if TYPE_CHECKING:
    from halo_forge.experiments.plan import ArmPlan, ComparisonPlan, ExperimentPlan

FILE = typer.Argument(metavar="FILE", help="Experiment file (YAML).", show_default=False)
LIKE = typer.Option(
    None,
    "--like",
    metavar="RUN",
    help="An earlier run with the same model: rates, correlation and speed are taken from it; repeatable.",
)
_PLOT_ROOM = 24
_NAMES = {
    "rate": "rate",
    "intraclass_correlation": "intraclass correlation",
    "effect_sd": "standard deviation of the true difference over prompts",
    "seed_sd": "standard deviation of the true difference over seeds",
}


def plan(
    file: Path = FILE,
    effect: float = typer.Option(
        0.05, "--effect", metavar="D", min=0.0001, max=1.0, help="The difference that is to be detected."
    ),
    like: list[Path] | None = LIKE,
    overrides: list[str] | None = SET,
    as_json: bool = typer.Option(False, "--json", help="Print the result as JSON."),
) -> None:
    """Show what an experiment will do and cost, and whether it can answer its question; runs nothing."""
    from halo_forge.experiments.file import load_experiment
    from halo_forge.experiments.plan import plan as plan_of

    experiment = load_experiment(file, overrides if overrides is not None else ())
    found = plan_of(experiment, effect=effect, like=like if like is not None else ())
    if as_json:
        print(json.dumps(found.to_row(), indent=2))
        return
    print_plan(found)


def print_plan(found: ExperimentPlan) -> None:
    """The arms, their cost, and the power of each comparison."""
    console = stdout()
    print_paragraph(console, found.question)
    print_table(list(_arm_columns(found.arms, console)), title="arms (one run of each; upper bounds)", console=console)
    _print_plots(console, found.arms)
    for line in _cost_lines(found):
        print_paragraph(console, line, indent="    ")
    if found.comparisons:
        effect = f"{found.effect:g}"
        print_table(
            list(_power_columns(found.comparisons, effect)),
            title=f"what each comparison can detect, 4 times in 5; and what alone would detect {effect}",
            console=console,
        )
        for line in _source_lines(found.comparisons):
            print_paragraph(console, line, indent="    ")
        for each in found.comparisons:
            start = "warning: " if each.answers is False else ""
            print_paragraph(console, f"{start}{each.comparison}: {each.reason}", indent="    ")
    for warning in found.warnings:
        print_paragraph(console, f"warning: {warning}", indent="    ")


def _arm_columns(arms: Sequence[ArmPlan], console: Console) -> Iterator[Column]:
    rates = [[cycle.learning_rate for cycle in arm.cycles] for arm in arms]
    yield Column("arm", [arm.name for arm in arms], text=True)
    yield Column("cycles", [str(len(arm.cycles)) for arm in arms], 4)
    yield Column("learning rate", [plot(each, _PLOT_ROOM, console) if each else "-" for each in rates], 1, align="left")
    yield Column("lowest", [_extreme(arm, 0) for arm in arms], 2)
    yield Column("highest", [_extreme(arm, 1) for arm in arms])
    yield Column("learning-rate mass", [number(arm.learning_rate_mass, LEARNING_RATE, "?") for arm in arms])
    yield Column("train samples", [number(arm.train_samples, ",d", "?") for arm in arms], 3)
    yield Column("dev and test samples", [number(arm.evaluation_samples, ",d", "?") for arm in arms], 6)
    yield Column("tokens", [number(arm.most_tokens, ",d", "?") for arm in arms], 5)
    yield Column("disk", [_size(arm.disk_bytes) for arm in arms], 7)
    yield Column("time", [_hours(arm.hours) for arm in arms], 2)


def _print_plots(console: Console, arms: Sequence[ArmPlan]) -> None:
    """Every other setting that moves, in the arms in which it does."""
    rows = []
    for arm in arms:
        first = arm.cycles[0].scheduled if arm.cycles else {}
        for key in first:
            values = [cycle.scheduled[key] for cycle in arm.cycles]
            if key != "training.learning_rate" and len(set(values)) > 1:
                rows.append((arm.name, key, values))
    if not rows:
        return
    heights = [[None if isinstance(high, str) else high for _, high in values] for _, _, values in rows]
    print_table(
        [
            Column("arm", [name for name, _, _ in rows], text=True),
            Column("setting", [key for _, key, _ in rows], text=True),
            Column("first", [span(*values[0]) for _, _, values in rows]),
            Column("over the cycles", [plot(each, _PLOT_ROOM, console) for each in heights], align="left"),
            Column("last", [span(*values[-1]) for _, _, values in rows], align="left"),
        ],
        title="other settings that change",
        console=console,
    )


def _extreme(arm: ArmPlan, end: int) -> str:
    """The lowest or the highest learning rate of all cycles."""
    low = [cycle.learning_rate_low for cycle in arm.cycles]
    high = [cycle.learning_rate_high for cycle in arm.cycles]
    known = [value for value in (high if end else low) if value is not None]
    if len(known) < len(arm.cycles) or not known:
        return "?"
    return format((max if end else min)(known), LEARNING_RATE)


def _cost_lines(found: ExperimentPlan) -> Iterator[str]:
    size = f"{counted(len(found.arms), 'arm')} x {counted(len(found.seeds), 'seed')}"
    runs = f"{counted(found.num_runs, 'run')} ({size})"
    tokens = number(found.most_tokens, ",d", "an unknown number of")
    shared = (
        ""
        if found.shared_samples is None or found.shared_samples == 0
        else (f"; at least {found.shared_samples:,d} more are shared and not sampled again")
    )
    yield (
        f"all {runs}: {number(found.samples, ',d', '?')} samples, at most {tokens} tokens, {_size(found.disk_bytes)} of"
        f" disk{shared}"
    )
    if found.speed is None:
        yield ("time: unknown, no earlier run with this model on this hardware profile is known (--like RUN names one)")
    else:
        speed = found.speed
        yield (
            f"time: {_hours(found.hours)} or so at {speed.seconds_per_completion:.2g} s and"
            f" {speed.tokens_per_completion:.0f} tokens a completion, as in {speed.source} ({speed.profile})"
        )


def _power_columns(comparisons: Sequence[ComparisonPlan], effect: str) -> Iterator[Column]:
    def needed(name: str) -> list[str]:
        return [_needed(each, getattr(each, name)) for each in comparisons]

    yield Column(
        "comparison", [f"{each.comparison.treatment} - {each.comparison.control}" for each in comparisons], text=True
    )
    yield Column("metric", [each.comparison.metric for each in comparisons], 2, text=True)
    yield Column("at", [each.comparison.at for each in comparisons], 3, text=True)
    yield Column("seeds", [str(each.num_seeds) for each in comparisons], 1)
    yield Column("prompts", [number(each.num_prompts, "d", "?") for each in comparisons], 1)
    yield Column("samples", [str(each.num_samples) for each in comparisons], 4)
    yield Column("detectable", [_detectable(each.detectable) for each in comparisons])
    yield Column(f"seeds for {effect}", needed("seeds"))
    yield Column(f"prompts for {effect}", needed("prompts"))
    yield Column(f"samples for {effect}", needed("samples"), 5)
    yield Column(f"together for {effect}", [_together(each) for each in comparisons], 6)


def _detectable(effect: float | None) -> str:
    if effect is None:
        return "nothing"
    return f"{effect:.3f}" if effect <= 1.0 else "over 1"


def _needed(each: ComparisonPlan, num: int | None) -> str:
    if each.answers is None:
        return "?"
    if each.answers:
        return "enough"
    return "no number" if num is None else str(num)


def _together(each: ComparisonPlan) -> str:
    """Such as "5 seeds x 180 prompts"."""
    return "" if each.together is None else f"{each.together[0]} seeds x {each.together[1]} prompts"


def _source_lines(comparisons: Sequence[ComparisonPlan]) -> Iterator[str]:
    """What the power rests on, each number with where it comes from; once for comparisons that rest on the same."""
    seen: dict[str, None] = {}
    for each in comparisons:
        parts = [f"{_NAMES[key]} {known.value:.3g} ({known.source})" for key, known in each.variation.items()]
        seen[f"{each.comparison.metric.partition('/')[2]} varies by: {'; '.join(parts)}"] = None
    yield from seen


def _size(num_bytes: int | None) -> str:
    return "?" if num_bytes is None else f"{num_bytes / 1e6:,.0f} MB"


def _hours(hours: float | None) -> str:
    if hours is None:
        return "?"
    if hours * 60.0 < 1.0:
        return "<1 min"
    return f"{hours * 60.0:.0f} min" if hours < 1.5 else f"{hours:.1f} h"
