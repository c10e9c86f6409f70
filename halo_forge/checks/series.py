"""Arms as series over their versions: what was measured, against cycles, learning-rate mass and sampled tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from halo_forge.checks.arms import MeasuredArm, MeasuredRun, NotComparable, version_at
from halo_forge.core.evaluation import COMPARED
from halo_forge.core.statistics import interval_without_spread, mean_and_standard_error, two_level_mean
from halo_forge.store.versions import StoredVersion

METRICS = tuple(f"{set_name}/{name}" for set_name in ("dev", "test") for name in COMPARED)
"""What versions, runs and arms are compared by."""


@dataclass(frozen=True)
class Band:
    """A mean with its 95 % interval.

    Attributes:
        low, high: Of one version over its prompts; of an arm of several seeds over seeds and prompts.
        lowest, highest: The means of single runs.
        num_seeds: Runs in it.
    """

    mean: float
    low: float
    high: float
    lowest: float
    highest: float
    num_seeds: int


@dataclass(frozen=True)
class Point:
    """One version.

    Attributes:
        learning_rate_mass: Of all trainings that lead to it; of an arm the mean of its runs.
        sampled_tokens: From train prompts, in all cycles before; of an arm the mean of its runs.
        metrics: "dev/pass_rate", "test/pass_rate" ... -> its band; absent where nothing was measured.
    """

    version: int
    cycle: int
    learning_rate_mass: float
    sampled_tokens: float
    metrics: Mapping[str, Band]


@dataclass(frozen=True)
class RunSeries:
    """One run.

    Attributes:
        state: As `raft status` says it.
        chosen, peak, final: The version to keep, the one with the best dev value, the last one; None before any.
        fall: The peak's dev value less the last one's, in units of the metric that decides; None without a version.
    """

    root: str
    seed: int
    state: str
    is_finished: bool
    chosen: int | None
    peak: int | None
    final: int | None
    fall: float | None
    points: tuple[Point, ...]


@dataclass(frozen=True)
class ArmSeries:
    """An arm: its runs, and the mean of them version by version, as far as all of them have come."""

    name: str
    runs: tuple[RunSeries, ...]
    points: tuple[Point, ...]


def arm_series(arm: MeasuredArm) -> ArmSeries:
    """The series of an arm and of each of its runs, by seed."""
    runs = [arm.runs[seed] for seed in sorted(arm.runs)]
    reached = min(len(run.versions) for run in runs)
    points = [_point([run.versions[at] for run in runs]) for at in range(reached)]
    return ArmSeries(arm.name, tuple(map(_run_series, runs)), tuple(points))


def _run_series(run: MeasuredRun) -> RunSeries:
    metric = f"dev/{run.decided_by}"
    try:
        peak = version_at(run, metric, "peak")
    except NotComparable:
        peak = None
    last = run.versions[-1] if run.versions else None
    means = [None if each is None else each.mean(metric) for each in (peak, last)]
    return RunSeries(
        root=str(run.root),
        seed=run.seed,
        state=run.state,
        is_finished=run.is_finished,
        chosen=run.chosen,
        peak=None if peak is None else peak.version,
        final=None if last is None else last.version,
        fall=None if means[0] is None or means[1] is None else means[0] - means[1],
        points=tuple(_point([version]) for version in run.versions),
    )


def _point(versions: Sequence[StoredVersion]) -> Point:
    bands = {metric: _band(metric, versions) for metric in METRICS}
    return Point(
        version=versions[0].version,
        cycle=versions[0].cycle,
        learning_rate_mass=fmean(each.learning_rate_mass for each in versions),
        sampled_tokens=fmean(each.sampled_tokens for each in versions),
        metrics={metric: band for metric, band in bands.items() if band is not None},
    )


def _band(metric: str, versions: Sequence[StoredVersion]) -> Band | None:
    """Of the versions that are measured on this metric: test only measures some of a run."""
    measured = [each for each in versions if each.mean(metric) is not None]
    if not measured:
        return None
    means = [fmean(each.rates(metric).values()) for each in measured]
    low, high = _interval(metric, measured)
    return Band(fmean(means), max(0.0, low), min(1.0, high), min(means), max(means), len(measured))


def _interval(metric: str, versions: Sequence[StoredVersion]) -> tuple[float, float]:
    """Of one version what its measurement says, where it says it; nothing is known of fewer than 2 prompts."""
    first = versions[0]
    if len(versions) == 1 and f"{metric}_low" in first.metrics:
        return first.metrics[f"{metric}_low"], first.metrics[f"{metric}_high"]
    rows = [each.rates(metric) for each in versions]
    shared = sorted(set.intersection(*map(set, rows)))
    if len(shared) < 2:
        return 0.0, 1.0
    values = [[row[prompt] for prompt in shared] for row in rows]
    if len({value for row in values for value in row}) == 1:
        return interval_without_spread(values[0][0], len(shared), 0.0, 1.0)
    if len(values) > 1:
        return two_level_mean(values).interval()
    from scipy.special import stdtrit  # type: ignore[import-untyped]

    mean, error = mean_and_standard_error(values[0])
    half = float(stdtrit(len(shared) - 1, 0.975)) * error
    return mean - half, mean + half
