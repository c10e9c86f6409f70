"""What the page of an experiment says: the values of `experiments.report`, drawn; nothing is computed here."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence

from halo_forge.checks.series import METRICS, ArmSeries, Band, RunSeries
from halo_forge.checks.series import Point as Measured
from halo_forge.core.comparison import Estimate
from halo_forge.core.wording import counted
from halo_forge.experiments.file import Experiment
from halo_forge.experiments.progress import read_failures
from halo_forge.experiments.report import ExperimentReport, report
from halo_forge.pages.charts import COLOURS, Chart, Point, Table, lines, text_of
from halo_forge.pages.run_page import Facts, Section

_AXES: dict[str, tuple[str, Callable[[Measured], str | float]]] = {
    "version": ("by version", lambda point: f"v{point.version}"),
    "learning-rate mass": ("by learning-rate mass", lambda point: point.learning_rate_mass),
    "sampled tokens": ("by sampled tokens", lambda point: point.sampled_tokens),
}


def experiment_sections(experiment: Experiment) -> tuple[Facts, list[Section]]:
    """The page of an experiment as far as it has come.

    Raises:
        RunDirError: No run has measured anything yet, or a file cannot be read.
    """
    found = report(experiment)
    sections = [
        Section("verdicts", "Verdicts", tuple(_reasons(found)), (), tuple(_verdicts(found))),
        _arms(found),
        Section("runs", "Runs", (), (), (_runs(found, experiment),)),
        Section("setup", "Setup", (), (), (_overrides(found),), (("Experiment file", experiment.text),)),
    ]
    facts = [("runs", f"{found.num_finished} of {found.num_runs} finished"), ("arms", str(len(found.overrides)))]
    facts += [(str(each.comparison), each.verdict.replace("_", " ")) for each in found.hypotheses]
    state = "finished" if found.num_finished == found.num_runs else "not finished: verdicts may change"
    name = experiment.root.resolve().name
    return Facts(found.question, f"experiment {name}: {state}", "", tuple(facts)), [
        each for each in sections if not each.is_empty
    ]


def _reasons(found: ExperimentReport) -> Iterator[str]:
    for each in found.hypotheses:
        yield f"{each.comparison}: {each.verdict.replace('_', ' ')}: {each.reason}"
    yield from found.remarks


def _verdicts(found: ExperimentReport) -> Iterator[Table]:
    headers = ("comparison", "expected", "treatment", "control", "difference [95 % interval]", "p (Holm)", "seeds",
               "prompts", "verdict")  # fmt: skip
    rows = tuple(
        (
            str(each.comparison), each.comparison.expect,
            *(("", "") if each.estimate is None else map(text_of, (each.estimate.treatment, each.estimate.control))),
            _difference(each.estimate), _p_value(each.p_adjusted),
            *(("", "") if each.estimate is None else (str(len(each.estimate.seeds)), str(each.estimate.num_prompts))),
            each.verdict.replace("_", " "),
        )
        for each in found.hypotheses
    )  # fmt: skip
    if rows:
        yield Table("Primary comparisons, judged together", headers, rows)
    if len(found.ranking) > 1:
        ranked = tuple(
            (
                str(each.place), each.arm, text_of(each.mean), _difference(each.estimate), _p_value(each.p_adjusted),
                "clearly worse" if each.is_clear else "",
            )
            for each in found.ranking
        )  # fmt: skip
        caption = f"Arms by {found.metric} of the last version, each compared with the best one (whose lead is biased)"
        names = ("place", "arm", "mean", "difference [95 % interval]", "p (Holm)", "against the best")
        yield Table(caption, names, ranked)


def _difference(estimate: Estimate | None) -> str:
    return "" if estimate is None else f"{estimate.difference:+.3f} [{estimate.low:+.3f}, {estimate.high:+.3f}]"


def _p_value(value: float | None) -> str:
    return "" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _arms(found: ExperimentReport) -> Section:
    order = {each.arm: each.place for each in found.ranking}
    best = sorted(found.arms, key=lambda arm: order.get(arm.name, len(found.arms) + 1))[: len(COLOURS)]
    shown = [arm for arm in found.arms if arm in best]
    notes = ["Bands are 95 % intervals over seeds and prompts; of one seed, over prompts alone."]
    if len(shown) < len(found.arms):
        left = counted(len(found.arms) - len(shown), "arm")
        notes.append(f"The charts show the {len(shown)} arms that are best on dev; {left} are in the tables alone.")
    names = [found.metric, *(each for each in METRICS if each.startswith("dev/") and each != found.metric)]
    charts = [*_charts(found.metric, shown, tuple(_AXES))]
    charts += [chart for name in names[1:] for chart in _charts(name, shown, ("version",))]
    return Section("arms", "Arms", tuple(notes), tuple(charts), (_means(found),))


def _charts(metric: str, arms: Sequence[ArmSeries], axes: Sequence[str]) -> Iterator[Chart]:
    for axis in axes:
        title, place = _AXES[axis]
        points = [
            Point(arm.name, place(point), band.mean, band.low, band.high, counted(band.num_seeds, "seed"))
            for arm in arms
            for point in arm.points
            if (band := point.metrics.get(metric)) is not None
        ]
        if points:
            words = metric.replace("_", " ")
            yield lines(f"{words}, {title}", "mean of each arm", points, axis=axis, rate=True, bands=True)


def _means(found: ExperimentReport) -> Table:
    """Every arm and version, with all that is measured of it on dev."""
    names = [name for name in METRICS if name.startswith("dev/")]
    rows = tuple(
        (
            arm.name, f"v{point.version}", f"{point.learning_rate_mass:.2e}", f"{point.sampled_tokens:.0f}",
            *(_band(point.metrics.get(name)) for name in names),
        )
        for arm in found.arms
        for point in arm.points
    )  # fmt: skip
    headers = ("arm", "version", "learning-rate mass", "sampled tokens", *(name.replace("_", " ") for name in names))
    return Table("Arms, version by version [95 % interval]", headers, rows)


def _band(band: Band | None) -> str:
    return "" if band is None else f"{text_of(band.mean)} [{text_of(band.low)}, {text_of(band.high)}]"


def _runs(found: ExperimentReport, experiment: Experiment) -> Table:
    names = [name for name in METRICS if name.startswith("test/")]

    def version(number: int | None) -> str:
        return "" if number is None else f"v{number}"

    def of_chosen(run: RunSeries, name: str) -> str:
        point = next((each for each in run.points if each.version == run.chosen), None)
        return "" if point is None else _band(point.metrics.get(name))

    failed = {(each.arm, each.seed) for each in read_failures(experiment)}
    rows = tuple(
        (
            arm.name, str(run.seed), "failed" if (arm.name, run.seed) in failed else run.state,
            version(run.chosen), version(run.peak), version(run.final),
            "" if run.fall is None else text_of(run.fall), *(of_chosen(run, name) for name in names),
            os.path.relpath(run.root, experiment.root),
        )
        for arm in found.arms
        for run in arm.runs
    )  # fmt: skip
    tests = (name.replace("_", " ") for name in names)
    headers = ("arm", "seed", "state", "chosen", "peak", "last", "fall after the peak", *tests, "run directory")
    caption = (
        "Runs that have measured a version; test is of the chosen one, directories are in that of the experiment."
        " halo-forge report RUN makes the page of one, with its samples."
    )
    return Table(caption, headers, rows)


def _overrides(found: ExperimentReport) -> Table:
    rows = tuple(
        (
            arm,
            "; ".join(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in changes.items())
            or "nothing: the base as it is",
        )
        for arm, changes in found.overrides.items()
    )
    return Table("What each arm changes", ("arm", "settings"), rows)
