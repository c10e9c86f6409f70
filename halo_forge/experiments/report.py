"""What an experiment found: a verdict for each hypothesis, the arms side by side, and their order on dev."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from halo_forge.checks.arms import MeasuredArm, MeasuredRun, NotComparable, compare_arms, measured_run, remarks_on
from halo_forge.checks.series import ArmSeries, arm_series
from halo_forge.core.comparison import Estimate, Verdict, judge
from halo_forge.core.errors import RunDirError
from halo_forge.core.wording import counted
from halo_forge.experiments.execute import check_same
from halo_forge.experiments.file import Comparison, Experiment
from halo_forge.experiments.progress import check_runs, read_failures
from halo_forge.runtime.assembly import run_config


@dataclass(frozen=True)
class Hypothesis:
    """A primary comparison and what follows for it.

    Attributes:
        estimate: Of the finished runs; None while no pair of them is finished, or where they cannot be compared.
        p_adjusted: After Holm's correction for all primary comparisons.
        reason: The verdict in words, with its numbers and what would tell.
        is_complete: Every planned seed of both arms is in it; until then the verdict may change.
        seeds_to_tell, prompts_to_tell: See `halo_forge.core.comparison.Judgement`.
    """

    comparison: Comparison
    verdict: Verdict
    reason: str
    estimate: Estimate | None
    p_adjusted: float | None
    is_complete: bool
    seeds_to_tell: int | None
    prompts_to_tell: int | None


@dataclass(frozen=True)
class Rank:
    """An arm's place by the last version on dev; equal arms share it.

    Attributes:
        estimate: The arm less the first one, paired; None of the first one, and where they cannot be compared.
        is_clear: Whether it is worse than the first one beyond chance, by the rules of a verdict, after Holm's
            correction for all pairs of arms: which one is the best is only known afterwards.
    """

    place: int
    arm: str
    mean: float
    estimate: Estimate | None
    p_adjusted: float | None
    is_clear: bool


@dataclass(frozen=True)
class ExperimentReport:
    """An experiment as far as it has come.

    Attributes:
        metric: What the arms are ranked by, such as dev/pass_rate.
        num_runs, num_finished: Planned runs, and those with a result.
        overrides: Arm -> what it changes.
        arms: Their series over versions; arms without any measurement are left out.
        ranking: By the last version on dev, the best arm first.
    """

    question: str
    root: str
    metric: str
    num_runs: int
    num_finished: int
    overrides: Mapping[str, Mapping[str, Any]]
    arms: tuple[ArmSeries, ...]
    hypotheses: tuple[Hypothesis, ...]
    ranking: tuple[Rank, ...]
    remarks: tuple[str, ...]

    def to_row(self) -> dict[str, Any]:
        """As plain JSON data."""
        return dataclasses.asdict(self)


def report(experiment: Experiment) -> ExperimentReport:
    """Read all runs of an experiment, and judge its hypotheses by those that are finished.

    Raises:
        RunDirError: No run has measured anything yet, the experiment was started with other arms, seeds or comparisons
            than the file has now, an arm's folder holds another run, or a file cannot be read.
    """
    if (experiment.root / "experiment.json").is_file():
        check_same(experiment)  # a hypothesis that was changed after a look at the results is none
    check_runs(experiment)
    arms = measured_arms(experiment)
    if not arms:
        raise RunDirError(
            f"{experiment.root}: no run of this experiment has measured anything yet",
            f"start it: halo-forge experiment run {experiment.path}",
        )
    finished = [each for arm in arms.values() if (each := _finished(arm)) is not None]
    metric = f"dev/{next(iter(arms.values())).first.decided_by}"
    return ExperimentReport(
        question=experiment.question,
        root=str(experiment.root),
        metric=metric,
        num_runs=len(experiment.arms) * len(experiment.seeds),
        num_finished=sum(len(arm.runs) for arm in finished),
        overrides={arm.name: arm.overrides for arm in experiment.arms},
        arms=tuple(map(arm_series, arms.values())),
        hypotheses=tuple(_hypotheses(experiment, {arm.name: arm for arm in finished})),
        ranking=tuple(_ranking(finished, metric, one_seed_decides=experiment.fork is not None)),
        remarks=tuple(_remarks(experiment, list(arms.values()), finished)),
    )


def measured_arms(experiment: Experiment) -> dict[str, MeasuredArm]:
    """Name -> the runs of an arm that have measured a version, in the order of the file.

    Raises:
        RunDirError: A file cannot be read.
    """
    found = {}
    for arm in experiment.arms:
        runs: dict[int, MeasuredRun] = {}
        for seed in experiment.seeds:
            root = experiment.run_root(arm, seed)
            if (root / "run.json").is_file() and (run := measured_run(root, run_config(root).config)).versions:
                runs[seed] = run
        if runs:
            found[arm.name] = MeasuredArm(arm.name, runs)
    return found


def _finished(arm: MeasuredArm) -> MeasuredArm | None:
    runs = {seed: run for seed, run in arm.runs.items() if run.is_finished}
    return MeasuredArm(arm.name, runs) if runs else None


def _hypotheses(experiment: Experiment, arms: Mapping[str, MeasuredArm]) -> Iterator[Hypothesis]:
    """One for each primary comparison; all of them are judged as one family."""
    estimates = [_estimate(each, arms) for each in experiment.primary]
    known = [
        (found, each.expect)
        for each, found in zip(experiment.primary, estimates, strict=True)
        if isinstance(found, Estimate)
    ]
    judgements = iter(
        judge(
            known,
            num_unmeasured=len(estimates) - len(known),
            one_seed_decides=experiment.fork is not None,
        )
    )
    for each, found in zip(experiment.primary, estimates, strict=True):
        if isinstance(found, str):
            yield Hypothesis(each, "cannot_tell", found, None, None, False, None, None)
            continue
        judged = next(judgements)
        is_complete = len(found.seeds) == len(experiment.seeds)
        so_far = "" if is_complete else f"; so far {len(found.seeds)} of {counted(len(experiment.seeds), 'seed')}"
        yield Hypothesis(
            comparison=each,
            verdict=judged.verdict,
            reason=f"{judged.reason}{so_far}",
            estimate=found,
            p_adjusted=judged.p_adjusted,
            is_complete=is_complete,
            seeds_to_tell=judged.seeds_to_tell,
            prompts_to_tell=judged.prompts_to_tell,
        )


def _estimate(comparison: Comparison, arms: Mapping[str, MeasuredArm]) -> Estimate | str:
    """The estimate, or why there is none."""
    sides = [arms.get(name) for name in (comparison.treatment, comparison.control)]
    treatment, control = sides
    if treatment is None or control is None or not set(treatment.runs) & set(control.runs):
        return "both arms of a seed must be finished, and no seed is so far"
    try:
        return compare_arms(treatment, control, comparison.metric, comparison.at)
    except NotComparable as error:
        return str(error)


def _ranking(arms: Sequence[MeasuredArm], metric: str, *, one_seed_decides: bool) -> Iterator[Rank]:
    """The arms by their means, each compared with the best one."""
    means = {arm.name: _mean(arm, metric) for arm in arms}
    ordered = sorted((arm for arm in arms if means[arm.name] is not None), key=lambda arm: -(means[arm.name] or 0.0))
    estimates: list[Estimate | None] = []
    for arm in ordered[1:]:
        try:
            estimates.append(compare_arms(arm, ordered[0], metric, "final"))
        except NotComparable:
            estimates.append(None)
    known = [each for each in estimates if each is not None]
    # The best one is only known afterwards, so each of these is one of all pairs of arms.
    num_pairs = len(ordered) * (len(ordered) - 1) // 2
    judgements = iter(
        judge(
            [(each, "different") for each in known],
            num_unmeasured=num_pairs - len(known),
            one_seed_decides=one_seed_decides,
        )
    )
    for at, arm in enumerate(ordered):
        mean = means[arm.name]
        assert mean is not None  # or it would not be here
        place = 1 + sum(1 for other in ordered if (means[other.name] or 0.0) > mean)
        found = None if at == 0 else estimates[at - 1]
        judged = None if found is None else next(judgements)
        is_clear = judged is not None and judged.verdict == "supported"
        yield Rank(place, arm.name, mean, found, None if judged is None else judged.p_adjusted, is_clear)


def _mean(arm: MeasuredArm, metric: str) -> float | None:
    """Of the last versions, over seeds."""
    means = [run.versions[-1].mean(metric) for run in arm.runs.values()]
    known = [mean for mean in means if mean is not None]
    return sum(known) / len(known) if known else None


def _remarks(experiment: Experiment, arms: Sequence[MeasuredArm], finished: Sequence[MeasuredArm]) -> Iterator[str]:
    num_runs, num_finished = len(experiment.arms) * len(experiment.seeds), sum(len(arm.runs) for arm in finished)
    if num_finished < num_runs:
        yield (
            f"{num_finished} of {counted(num_runs, 'run')} finished: verdicts and ranking are of those, and may change."
            " Stopping an experiment because a verdict pleases makes wrong verdicts more likely"
        )
    missing = [arm.name for arm in experiment.arms if arm.name not in {each.name for each in arms}]
    if missing:
        yield f"nothing is measured yet of {', '.join(missing)}"
    if failures := read_failures(experiment):
        names = "; ".join(f"{each.arm}, seed {each.seed}" for each in failures)
        yield f"{counted(len(failures), 'run')} failed: {names} (halo-forge experiment status says why)"
    yield from remarks_on(arms)
    sizes = {len(arm.runs) for arm in finished}
    if len(sizes) > 1:
        yield "the arms have unlike numbers of finished seeds: comparisons are of the seeds that both arms have"
