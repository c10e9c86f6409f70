"""Runs side by side: what each came to, how far they differ, and what they were told to do differently."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from halo_forge.checks.arms import (
    At,
    MeasuredArm,
    MeasuredRun,
    NotComparable,
    arms_of,
    compare_arms,
    differing_settings,
    remarks_on,
    shared_budget,
    version_at,
)
from halo_forge.checks.series import ArmSeries, arm_series
from halo_forge.core.comparison import Estimate
from halo_forge.core.errors import ConfigError
from halo_forge.core.evaluation import COMPARED
from halo_forge.core.statistics import holm
from halo_forge.core.wording import counted

_LOOKS: tuple[tuple[str, At], ...] = (
    ("test", "chosen"),
    ("test", "final"),
    ("dev", "chosen"),
    ("dev", "final"),
    ("dev", "peak"),
    ("dev", "fall"),
    ("dev", "equal_mass"),
    ("dev", "equal_tokens"),
)


@dataclass(frozen=True)
class Difference:
    """One arm less the first one, by one metric at one version of each run.

    Attributes:
        treatment_versions, control_versions: The version of each run, by seed.
        p_adjusted: After Holm's correction for the other arms in this row of the table.
        budget: What both had spent, of `equal_mass` and `equal_tokens`; else None.
    """

    treatment: str
    control: str
    metric: str
    at: At
    estimate: Estimate
    p_adjusted: float
    treatment_versions: tuple[int, ...]
    control_versions: tuple[int, ...]
    budget: float | None


@dataclass(frozen=True)
class Setting:
    """A key in which the arms differ.

    Attributes:
        values: Of each arm, in their order; None where it has no such key.
    """

    key: str
    values: tuple[Any, ...]


@dataclass(frozen=True)
class RunComparison:
    """Two or more runs.

    Attributes:
        metric: What they are compared by: pass_rate, compile_rate or reward_mean.
        arms: Runs that differ only in their seed are one arm; if all of them do, each is an arm of its own.
        only_seeds_differ: So that the differences are what another seed gives.
        settings: The keys in which the arms differ.
        differences: Of every other arm to the first one.
        remarks: What to know of the runs, and what could not be compared.
    """

    metric: str
    arms: tuple[ArmSeries, ...]
    only_seeds_differ: bool
    settings: tuple[Setting, ...]
    differences: tuple[Difference, ...]
    remarks: tuple[str, ...]

    def to_row(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return dataclasses.asdict(self)


def compare_measured(runs: Sequence[MeasuredRun], metric: str | None = None) -> RunComparison:
    """Compare runs with the first one, or the arms that they make up.

    Args:
        metric: pass_rate, compile_rate or reward_mean; None is what the first run decided by.

    Raises:
        ConfigError: Fewer than two runs, no such metric, or nothing that they have measured alike.
    """
    if len(runs) < 2:
        raise ConfigError(f"{counted(len(runs), 'run')} given, allowed: 2 or more", "name the runs to compare")
    if metric is not None and metric not in COMPARED:
        raise ConfigError(f"metric is {metric!r}, allowed: {', '.join(COMPARED)}", "name one of them")
    name = runs[0].decided_by if metric is None else metric
    arms = arms_of(runs)
    only_seeds = len(arms) == 1
    if only_seeds:
        arms = [each for run in runs for each in arms_of([run])]
        arms = [MeasuredArm(f"seed {run.seed}", arm.runs) for run, arm in zip(runs, arms, strict=True)]
    differences, failures = _all_differences(arms, name)
    if not differences:
        raise ConfigError(
            f"these runs cannot be compared by {name}:\n" + "\n".join(f"  {each}" for each in failures),
            "compare runs that are measured in the same way, on the same prompts",
        )
    return RunComparison(
        metric=name,
        arms=tuple(map(arm_series, arms)),
        only_seeds_differ=only_seeds,
        settings=tuple(Setting(key, tuple(values)) for key, values in differing_settings([arm.first for arm in arms])),
        differences=tuple(differences),
        remarks=(*remarks_on(arms), *failures, *_remarks_on_pairs(differences, only_seeds)),
    )


def _all_differences(arms: Sequence[MeasuredArm], name: str) -> tuple[list[Difference], list[str]]:
    """Every other arm less the first one, at every version that is looked at; and why some are missing."""
    found: list[Difference] = []
    failures: dict[str, None] = {}
    for set_name, at in _LOOKS:
        row = []
        for arm in arms[1:]:
            try:
                row.append(_difference(arm, arms[0], f"{set_name}/{name}", at))
            except NotComparable as error:
                failures[str(error)] = None
        adjusted = holm([each.estimate.p_value for each in row])
        found += [dataclasses.replace(each, p_adjusted=p) for each, p in zip(row, adjusted, strict=True)]
    return found, list(failures)


def _difference(treatment: MeasuredArm, control: MeasuredArm, metric: str, at: At) -> Difference:
    estimate = compare_arms(treatment, control, metric, at)
    budget = shared_budget([treatment, control], at)

    def versions(arm: MeasuredArm) -> tuple[int, ...]:
        return tuple(version_at(arm.runs[seed], metric, at, budget).version for seed in sorted(arm.runs))

    return Difference(
        treatment=treatment.name,
        control=control.name,
        metric=metric,
        at=at,
        estimate=estimate,
        p_adjusted=estimate.p_value,
        treatment_versions=versions(treatment),
        control_versions=versions(control),
        budget=budget,
    )


def _remarks_on_pairs(differences: Sequence[Difference], only_seeds: bool) -> Iterator[str]:
    """One seed, runs of unlike seeds that were paired, runs without a partner, prompts that not all runs measured."""
    seen: dict[str, None] = {}
    for each in differences:
        pair = f"{each.treatment} and {each.control}"
        seeds = each.estimate.seeds
        if len(seeds) == 1 and not only_seeds:
            seen[f"{pair}: one seed: intervals and p are about these two runs, not about runs with other seeds"] = None
        if any(one != other for one, other in seeds):
            seen[f"{pair}: no seed is in both; runs are paired in the order of their seeds"] = None
        unused = len(each.treatment_versions) + len(each.control_versions) - 2 * len(seeds)
        if unused:
            seen[f"{pair}: {counted(unused, 'run')} without a partner of the same seed left out"] = None
        if each.estimate.num_left_out:
            left_out = counted(each.estimate.num_left_out, "prompt")
            seen[f"{pair}: {left_out} of {each.metric} without a verdict in every run left out"] = None
    yield from seen
