"""`halo-forge compare`: two or more runs side by side."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

from halo_forge.cli.render import LEARNING_RATE, Column, number, plot, print_paragraph, print_table, stdout

if TYPE_CHECKING:
    from halo_forge.checks.compared import Difference, RunComparison
    from halo_forge.checks.series import ArmSeries, Band, Point, RunSeries

RUNS = typer.Argument(
    metavar="RUN...", help="Run directories; the others are compared with the first.", show_default=False
)
METRIC = typer.Option(
    None,
    "--metric",
    metavar="NAME",
    help="pass_rate, compile_rate or reward_mean; by default what the first run decided by.",
)
JSON = typer.Option(False, "--json", help="Print the result as JSON.")

AT_IN_WORDS = {
    "final": "last version",
    "chosen": "chosen version",
    "peak": "peak",
    "fall": "fall after the peak",
    "equal_mass": "equal learning-rate mass",
    "equal_tokens": "equal sampled tokens",
}
_PLOT_ROOM = 24
_SMALLEST_P = 0.0001


def compare(runs: list[Path] = RUNS, metric: str | None = METRIC, as_json: bool = JSON) -> None:
    """Compare runs: final and chosen version, peak and fall, paired by prompt and by seed."""
    from halo_forge.api import compare_runs

    found = compare_runs(runs, metric=metric)
    if as_json:
        print(json.dumps(found.to_row(), indent=2))
        return
    print_comparison(found)


def print_comparison(found: RunComparison) -> None:
    """The runs, how they differ, how they went version by version, their settings, and what to know of them."""
    console = stdout()
    print_table(
        list(run_columns(found.arms, found.metric)), title=f"runs, by {found.metric} (95% intervals)", console=console
    )
    control = found.arms[0].name
    print_table(list(difference_columns(found.differences)), title=f"differences to {control}", console=console)
    print_curves(console, found.arms, f"dev/{found.metric}")
    if found.settings:
        print_table(list(_setting_columns(found)), title="settings that differ", console=console)
    elif found.only_seeds_differ:
        print_paragraph(console, "only the seeds differ: the differences are what another seed gives", indent="    ")
    for remark in found.remarks:
        print_paragraph(console, f"note: {remark}", indent="    ")


def run_columns(arms: Sequence[ArmSeries], metric: str) -> Iterator[Column]:
    """One row for each run: what it came to."""
    rows = [(arm, run) for arm in arms for run in arm.runs]

    def version(name: str) -> list[str]:
        return ["" if (at := getattr(run, name)) is None else f"v{at}" for _, run in rows]

    def bands(name: str, set_name: str) -> list[Band | None]:
        return [_band(run, getattr(run, name), f"{set_name}/{metric}") for _, run in rows]

    def of(name: str, set_name: str, priority: int, detail_priority: int) -> Column:
        found = bands(name, set_name)
        return Column(
            f"{set_name} {name}",
            [number(None if band is None else band.mean, ".3f") for band in found],
            priority,
            detailed=[band_text(band) for band in found],
            detail_priority=detail_priority,
        )

    def last(value: Callable[[Point], str]) -> list[str]:
        return [value(run.points[-1]) if run.points else "" for _, run in rows]

    yield Column("arm", [arm.name for arm, _ in rows], text=True)
    yield Column("seed", [str(run.seed) for _, run in rows])
    yield Column("state", [run.state for _, run in rows], 12, text=True)
    yield Column("chosen", version("chosen"), 1)
    yield of("chosen", "test", 0, 8)
    yield of("chosen", "dev", 2, 9)
    yield Column("last", version("final"), 3)
    yield of("final", "test", 4, 10)
    yield of("final", "dev", 5, 11)
    yield Column("peak", version("peak"), 6)
    yield Column("fall after it", [number(run.fall, ".3f") for _, run in rows], 7)
    yield Column("learning-rate mass", last(lambda point: format(point.learning_rate_mass, LEARNING_RATE)), 13)
    yield Column("sampled tokens", last(lambda point: f"{point.sampled_tokens:,.0f}"), 14)


def difference_columns(differences: Sequence[Difference]) -> Iterator[Column]:
    """One row for each difference of an arm to the first one."""

    def cells(value: Callable[[Difference], str]) -> list[str]:
        return [value(each) for each in differences]

    several = len({each.treatment for each in differences}) > 1
    yield Column("set", cells(lambda each: each.metric.partition("/")[0]), align="left")
    yield Column("at", cells(_at), text=True)
    yield Column("arm", cells(lambda each: each.treatment), text=True)
    yield Column("versions", cells(_versions), 5, text=True)
    yield Column("first arm", cells(lambda each: f"{each.estimate.control:.3f}"), 3)
    yield Column("this arm", cells(lambda each: f"{each.estimate.treatment:.3f}"), 2)
    yield Column("difference", cells(lambda each: f"{each.estimate.difference:+.3f}"))
    yield Column("95% interval", cells(lambda each: f"{each.estimate.low:+.3f} to {each.estimate.high:+.3f}"))
    yield Column("p", cells(lambda each: p_text(each.estimate.p_value)), 1)
    if several:
        yield Column("p (Holm)", cells(lambda each: p_text(each.p_adjusted)), 1)
    yield Column("seeds", cells(lambda each: str(len(each.estimate.seeds))), 6)
    yield Column("prompts", cells(lambda each: str(each.estimate.num_prompts)), 4)


def print_curves(console: Console, arms: Sequence[ArmSeries], metric: str) -> None:
    """Every arm version by version, against learning-rate mass and sampled tokens, and as a plot."""
    rows = [(arm, point) for arm in arms for point in arm.points if metric in point.metrics]
    if not rows:
        return
    bands = [point.metrics[metric] for _, point in rows]
    print_table(
        [
            Column("arm", [arm.name for arm, _ in rows], text=True),
            Column("model", [f"v{point.version}" for _, point in rows]),
            Column("learning-rate mass", [format(point.learning_rate_mass, LEARNING_RATE) for _, point in rows], 2),
            Column("sampled tokens", [f"{point.sampled_tokens:,.0f}" for _, point in rows], 1),
            Column(
                metric,
                [f"{band.mean:.3f}" for band in bands],
                detailed=[band_text(band) for band in bands],
                detail_priority=3,
            ),
            Column("lowest and highest seed", [_seeds_text(band) for band in bands], 4),
        ],
        title=f"{metric} by version (means over seeds; masses and tokens are sums up to it)",
        console=console,
    )
    curves = [[point.metrics[metric].mean if metric in point.metrics else None for point in arm.points] for arm in arms]
    print_table(
        [
            Column("arm", [arm.name for arm in arms], text=True),
            Column("first", [number(curve[0] if curve else None, ".3f") for curve in curves]),
            Column(
                "over the versions",
                [plot(curve, _PLOT_ROOM, console) if curve else "-" for curve in curves],
                align="left",
            ),
            Column("last", [number(curve[-1] if curve else None, ".3f") for curve in curves]),
            Column("lowest", [_extreme(curve, min) for curve in curves], 1),
            Column("highest", [_extreme(curve, max) for curve in curves], 1),
        ],
        title=f"{metric}, each plot from its lowest to its highest value",
        console=console,
    )


def band_text(band: Band | None) -> str:
    """Such as "0.417 [0.31, 0.53]"."""
    return "" if band is None else f"{band.mean:.3f} [{band.low:.2f}, {band.high:.2f}]"


def p_text(value: float) -> str:
    """Two digits, such as "0.013"; "<0.0001" below what anybody needs to know."""
    return f"<{_SMALLEST_P}" if value < _SMALLEST_P else f"{value:.2g}"


def _band(run: RunSeries, version: int | None, metric: str) -> Band | None:
    return None if version is None or version >= len(run.points) else run.points[version].metrics.get(metric)


def _at(each: Difference) -> str:
    words = AT_IN_WORDS[each.at]
    if each.budget is None:
        return words
    return f"{words} ({each.budget:{LEARNING_RATE}})" if each.at == "equal_mass" else f"{words} ({each.budget:,.0f})"


def _versions(each: Difference) -> str:
    """Such as "v3, v2 (v4, v4)": those of this arm by seed, and in brackets those of the first arm."""
    sides = [", ".join(f"v{version}" for version in side) for side in (each.treatment_versions, each.control_versions)]
    return f"{sides[0]} ({sides[1]})"


def _seeds_text(band: Band) -> str:
    return "" if band.num_seeds < 2 else f"{band.lowest:.3f} to {band.highest:.3f}"


def _extreme(curve: Sequence[float | None], choose: Callable[[list[float]], float]) -> str:
    known = [value for value in curve if value is not None]
    return f"{choose(known):.3f}" if known else ""


def _setting_columns(found: RunComparison) -> Iterator[Column]:
    yield Column("key", [setting.key for setting in found.settings], text=True)
    for at, arm in enumerate(found.arms):
        yield Column(arm.name, [_value(setting.values[at]) for setting in found.settings], at, text=True)


def _value(value: Any) -> str:
    return "-" if value is None else json.dumps(value, ensure_ascii=False).strip('"')
