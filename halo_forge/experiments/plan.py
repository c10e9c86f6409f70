"""What an experiment will do, what it costs, and whether it can answer its question: before anything is spent."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

from halo_forge.api import preview
from halo_forge.checks.arms import decides
from halo_forge.config import RaftConfig
from halo_forge.config.load import differing_keys, influential, resolved
from halo_forge.config.rules import bounds
from halo_forge.core.comparison import MIN_PROMPTS
from halo_forge.core.power import (
    ERROR,
    POWER,
    Design,
    Variation,
    detectable,
    prompts_for,
    samples_for,
    seeds_for,
)
from halo_forge.core.statistics import DETECTABLE, prompts_needed
from halo_forge.core.wording import counted
from halo_forge.experiments.evidence import Known, Speed, earlier_runs, speed_of, variation_of
from halo_forge.experiments.file import Arm, Comparison, Experiment
from halo_forge.runtime.assembly import run_config
from halo_forge.runtime.preview import CyclePlan, Preview
from halo_forge.runtime.prompt_sets import load_local_sets

EFFECT = 0.05
"""The difference that a plan is to detect if nothing else is asked for."""
_SIDES = {"fall": 4}
"""Version -> sets of samples in a difference of two arms, if it is not 2: a fall is a difference itself."""
_TESTED_VERSIONS = 3
"""The chosen one, v_0 and the last one."""
_MOST_SEEDS_TOGETHER = 20


@dataclass(frozen=True)
class ArmPlan:
    """One run of an arm; upper bounds where results decide, None where something cannot be known yet.

    Attributes:
        cycles: The dry run's rows; of a fork those that the arm does itself.
        learning_rate_mass: Of all these cycles.
        train_samples, evaluation_samples: Completions of train prompts, and of dev and test prompts.
        most_tokens: If every completion used all of engine.max_new_tokens.
        hours: At the speed of an earlier run.
    """

    name: str
    overrides: Mapping[str, Any]
    cycles: tuple[CyclePlan, ...]
    learning_rate_mass: float | None
    train_samples: int | None
    evaluation_samples: int | None
    most_tokens: int | None
    disk_bytes: int | None
    hours: float | None

    @property
    def samples(self) -> int | None:
        """All completions."""
        found: int | None = _sum([self.train_samples, self.evaluation_samples])
        return found


@dataclass(frozen=True)
class ComparisonPlan:
    """What one primary comparison can see.

    Attributes:
        num_prompts, num_samples: Of the set that it looks at; None where the set is on a hub.
        variation: What results vary by, each with its source.
        detectable: The difference that 4 of 5 such experiments find; None with one seed, and where the number of
            prompts is unknown.
        seeds, prompts, samples: How many would detect the wanted effect, all else as planned; None where no number
            does, and where what is planned is enough.
        together: (seeds, prompts) that detect it with the fewest completions; None likewise.
        answers: Whether the wanted effect is detectable; None where it cannot be said.
        reason: The same in words.
    """

    comparison: Comparison
    num_seeds: int
    num_prompts: int | None
    num_samples: int
    variation: Mapping[str, Known]
    detectable: float | None
    seeds: int | None
    prompts: int | None
    samples: int | None
    together: tuple[int, int] | None
    answers: bool | None
    reason: str


@dataclass(frozen=True)
class ExperimentPlan:
    """The whole experiment.

    Attributes:
        effect: The difference that is to be detected.
        num_runs: Arms x seeds.
        shared_samples: What the runs of one seed have in common at least, and is sampled once: v_0's dev and test
            completions, and the first cycle's where it is sampled alike; None where it cannot be known yet.
        samples, most_tokens, disk_bytes, hours: Of all runs, without what is shared.
        speed: The earlier run that the hours follow from; None if there is none.
        warnings: Of the dry runs.
    """

    question: str
    root: str
    effect: float
    arms: tuple[ArmPlan, ...]
    seeds: tuple[int, ...]
    num_runs: int
    shared_samples: int | None
    samples: int | None
    most_tokens: int | None
    disk_bytes: int | None
    hours: float | None
    speed: Speed | None
    comparisons: tuple[ComparisonPlan, ...]
    warnings: tuple[str, ...]

    @property
    def answers(self) -> bool | None:
        """Whether every primary comparison can find the wanted effect; None without one, and where it is unknown."""
        found = [each.answers for each in self.comparisons]
        return None if not found or None in found else all(found)

    def to_row(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {**dataclasses.asdict(self), "answers": self.answers}


def plan(experiment: Experiment, *, effect: float = EFFECT, like: Sequence[Path] = ()) -> ExperimentPlan:
    """Plan an experiment; loads no model and writes nothing.

    Args:
        effect: The difference that is to be detected, above 0 and at most 1.
        like: Earlier runs, from which rates, correlation and speed are taken where they fit.

    Raises:
        ConfigError: An arm has a wrong setting, or its prompts cannot be read.
        RunDirError: A directory of `like` is not a run, or cannot be read.
    """
    runs = earlier_runs(experiment, like)
    previews = {arm.name: preview(experiment.config(arm, experiment.seeds[0])) for arm in experiment.arms}
    configs = {arm.name: experiment.config(arm, experiment.seeds[0]).config for arm in experiment.arms}
    first = experiment.arms[0].name
    model, profile = resolved(configs[first])["model"], str(previews[first].hardware["profile"])
    speed = speed_of(runs, model, profile)
    arms = tuple(_arm_plan(experiment, arm, configs[arm.name], previews[arm.name], speed) for arm in experiment.arms)
    comparisons = tuple(
        _comparison_plan(
            experiment, each, configs[each.treatment], configs[each.control], previews[each.control], effect, runs
        )
        for each in experiment.primary
    )
    num_seeds = len(experiment.seeds)
    shared = _shared_samples(experiment, configs, arms, previews) if experiment.share else 0
    samples = _times(num_seeds, _sum([arm.samples for arm in arms]))
    samples = _sum([samples, _times(-num_seeds, shared)])
    most_tokens = max(config.engine.max_new_tokens for config in configs.values())
    return ExperimentPlan(
        question=experiment.question,
        root=str(experiment.root),
        effect=effect,
        arms=arms,
        seeds=experiment.seeds,
        num_runs=len(arms) * num_seeds,
        shared_samples=_times(num_seeds, shared),
        samples=samples,
        most_tokens=_times(most_tokens, samples),
        disk_bytes=_times(num_seeds, _sum([arm.disk_bytes for arm in arms])),
        hours=_hours(speed, samples),
        speed=speed,
        comparisons=comparisons,
        warnings=tuple(_warnings(experiment, previews, comparisons)),
    )


def doubts(experiment: Experiment, *, effect: float = EFFECT) -> list[str]:
    """Why the experiment cannot answer its question, one sentence for each comparison that cannot; what `plan` says.

    Raises:
        ConfigError: An arm has a wrong setting, or its prompts cannot be read.
        RunDirError: A run of the experiment, or the one that is forked, cannot be read.
    """
    runs = earlier_runs(experiment, ())
    found = []
    for each in experiment.primary:
        treatment = experiment.config(experiment.arm(each.treatment), experiment.seeds[0]).config
        control = experiment.config(experiment.arm(each.control), experiment.seeds[0])
        planned = _comparison_plan(experiment, each, treatment, control.config, preview(control), effect, runs)
        if planned.answers is False:
            found.append(f"{each}: {planned.reason}")
    return found


def _arm_plan(experiment: Experiment, arm: Arm, config: RaftConfig, found: Preview, speed: Speed | None) -> ArmPlan:
    first_cycle = 1 if experiment.fork is None else experiment.fork.from_cycle
    cycles = tuple(each for each in found.cycles if each.cycle >= first_cycle)
    # A fork does not measure again the version that its first cycle starts from.
    num_measured = len(cycles) + (experiment.fork is None)
    sizes = {name: found.prompts[name].num_prompts if name in found.prompts else None for name in ("dev", "test")}
    evaluated = [_times(num_measured, sizes["dev"])]
    if config.evaluation.test_at_end:
        evaluated.append(_times(_TESTED_VERSIONS, sizes["test"]))
    train, evaluation = _sum([each.samples for each in cycles]), _sum(evaluated)
    evaluation = _times(config.evaluation.samples_per_prompt, evaluation)
    samples = _sum([train, evaluation])
    return ArmPlan(
        name=arm.name,
        overrides=arm.overrides,
        cycles=cycles,
        learning_rate_mass=_sum([each.learning_rate_mass for each in cycles]),
        train_samples=train,
        evaluation_samples=evaluation,
        most_tokens=_times(config.engine.max_new_tokens, samples),
        disk_bytes=_sum([each.disk_bytes for each in cycles]),
        hours=_hours(speed, samples),
    )


def _shared_samples(
    experiment: Experiment,
    configs: Mapping[str, RaftConfig],
    arms: Sequence[ArmPlan],
    previews: Mapping[str, Preview],
) -> int | None:
    """Completions of one seed that are sampled for one arm and taken by the others; by a fork from its run.

    Every arm of a seed asks the same dev and test prompts of the same v_0 with the same seeds, and in its first cycle
    the same train prompts, if its settings of sampling are the same.
    """
    taken: list[int | None] = []
    seen: set[str] = set()
    if experiment.fork is not None and experiment.forked is not None:
        seen.add(_sampling(run_config(experiment.forked).config, experiment.fork.from_cycle))
    for arm in arms:
        config, cycle = configs[arm.name], arm.cycles[0].cycle
        dev, train = _dev_sampling(config), _sampling(config, cycle)
        if dev in seen:
            names = ["dev"] * (experiment.fork is None) + ["test"] * config.evaluation.test_at_end
            sets = previews[arm.name].prompts
            sizes = _sum([sets[name].num_prompts if name in sets else None for name in names])
            taken.append(_times(config.evaluation.samples_per_prompt, sizes))
        if train in seen:
            taken.append(arm.cycles[0].samples)
        seen |= {dev, train}
    found: int | None = _sum(taken)
    return found


def _dev_sampling(config: RaftConfig) -> str:
    """What decides how v_0 answers the dev prompts, as text."""
    plain = resolved(config)
    for key in ("temperature", "top_p", "min_p", "batch_size"):
        plain["engine"].pop(key)
    names = ("model", "prompts", "engine", "evaluation")
    return json.dumps({name: plain[name] for name in names}, sort_keys=True)


def _sampling(config: RaftConfig, cycle: int) -> str:
    """What decides which train prompts a cycle samples, and how."""
    keys = ("engine.temperature", "engine.top_p", "engine.min_p", "raft.samples_per_prompt", "raft.curriculum_fraction")
    scheduled = [bounds(config, tuple(key.split(".")), cycle) for key in keys]
    names = ("prompts_per_cycle", "prompt_weights", "anchor_fraction", "curriculum_by", "sampling")
    chosen = [getattr(config.raft, name) for name in names]
    return json.dumps([_dev_sampling(config), scheduled, chosen])


def _comparison_plan(
    experiment: Experiment,
    comparison: Comparison,
    treatment: RaftConfig,
    config: RaftConfig,
    found: Preview,
    effect: float,
    runs: Sequence[Any],
) -> ComparisonPlan:
    """Of two arms, by the settings and prompts of the control."""
    set_name, name = comparison.metric.split("/")
    num_prompts = found.prompts[set_name].num_prompts if set_name in found.prompts else None
    num_samples, num_seeds = config.evaluation.samples_per_prompt, len(experiment.seeds)
    known = variation_of(experiment, name, runs)
    if experiment.fork is not None:
        del known["seed_sd"]  # the question is not about seeds
    sees = _Sees(
        Variation(**{key: each.value for key, each in known.items()}),
        ERROR / len(experiment.primary),
        _SIDES.get(comparison.at, 2),
        one_run=experiment.fork is not None,
    )
    smallest = None if num_prompts is None else sees.detectable(num_seeds, num_prompts, num_samples)
    answers: bool | None = None
    if num_prompts is not None:
        answers = num_prompts >= MIN_PROMPTS and smallest is not None and smallest <= effect
    enough = _Enough()
    if never := _never_judged(comparison, treatment, config, found):
        smallest, answers = None, False
    elif answers is False and num_prompts is not None:
        enough = sees.enough(effect, num_seeds, num_prompts, num_samples)
    return ComparisonPlan(
        comparison=comparison,
        num_seeds=num_seeds,
        num_prompts=num_prompts,
        num_samples=num_samples,
        variation=known,
        detectable=smallest,
        answers=answers,
        reason=never or _reason(effect, smallest, answers, num_seeds, num_prompts, enough),
        **dataclasses.asdict(enough),
    )


def _never_judged(comparison: Comparison, treatment: RaftConfig, control: RaftConfig, found: Preview) -> str | None:
    """Why the report will have no verdict for a comparison, whatever its runs find; None if it will have one.

    Args:
        found: The preview of the control.
    """
    metric = comparison.metric
    set_name, name = metric.split("/")
    if set_name == "test" and not (treatment.evaluation.test_at_end and control.evaluation.test_at_end):
        return "cannot answer: the test prompts are not measured (evaluation.test_at_end is false)"
    of_set = found.prompts.get(set_name)
    is_untested = control.verifier.stages == ["compile"] or (of_set is not None and of_set.num_tested == 0)
    if name == "pass_rate" and control.verifier.runs_programs and is_untested:
        return f"cannot answer: no {set_name} prompt is tested, so there is only a compile rate"
    keys = [key for key, _, _ in differing_keys(influential(control), influential(treatment))]
    unlike = [key for key in keys if decides(key, metric)]
    of_prompts = {f"prompts.{set_name}", f"prompts.{set_name}_limit"}
    if any(key in of_prompts or key.startswith("prompts.where") for key in keys):
        sides = [load_local_sets(config).get(set_name) for config in (treatment, control)]
        unlike += [f"the {set_name} prompts"] if sides[0] != sides[1] or sides[0] is None else []
    if unlike:
        return f"cannot answer: {metric} does not mean the same in both arms, which differ in {', '.join(unlike)}"
    return None


@dataclass(frozen=True)
class _Enough:
    """The fields of `ComparisonPlan` that say what would detect the wanted effect."""

    seeds: int | None = None
    prompts: int | None = None
    samples: int | None = None
    together: tuple[int, int] | None = None

    def in_words(self, effect: float) -> str:
        """Such as "0.05 needs 9 seeds, or 5 seeds and 180 prompts, all else as planned"."""
        ways = [
            counted(num, noun)
            for num, noun in ((self.seeds, "seed"), (self.prompts, "prompt"), (self.samples, "sample per prompt"))
            if num is not None
        ]
        ways = [way.replace("sample per prompts", "samples per prompt") for way in ways]
        if self.together is not None:
            ways.append(f"{counted(self.together[0], 'seed')} and {counted(self.together[1], 'prompt')}")
        if not ways:
            return f"no number of seeds and prompts is known to detect {effect:g}"
        return f"{effect:g} needs {', or '.join(ways)}, all else as planned"


@dataclass(frozen=True)
class _Sees:
    """What comparisons of two arms can see, at this error and with a difference of so many sets of samples.

    Attributes:
        one_run: The arms are versions of one run, so that the question is not about other seeds.
    """

    variation: Variation
    error: float
    sides: int
    one_run: bool

    def detectable(self, num_seeds: int, num_prompts: int, num_samples: int) -> float | None:
        parts = self.variation.parts(num_samples, self.sides)
        if self.one_run:
            return DETECTABLE * self._stricter * math.sqrt((parts.prompt + parts.rest) / num_prompts)
        return detectable(Design(num_seeds, num_prompts), parts, self.error)

    def enough(self, effect: float, num_seeds: int, num_prompts: int, num_samples: int) -> _Enough:
        """What detects `effect`: each number with the others as they are, and seeds and prompts together."""
        parts = self.variation.parts(num_samples, self.sides)
        if self.one_run:
            needed = prompts_needed(effect / self._stricter, parts.prompt + parts.rest)
            return _Enough(prompts=max(needed, MIN_PROMPTS))
        design = Design(num_seeds, num_prompts)

        def prompts(num: int) -> int | None:
            found = prompts_for(effect, Design(num, num_prompts), parts, self.error)
            return None if found is None else max(found, MIN_PROMPTS)

        pairs = [(num, found) for num in range(2, _MOST_SEEDS_TOGETHER + 1) if (found := prompts(num)) is not None]
        return _Enough(
            seeds=seeds_for(effect, design, parts, self.error) if num_prompts >= MIN_PROMPTS else None,
            prompts=prompts(num_seeds),
            samples=samples_for(effect, design, lambda num: self.variation.parts(num, self.sides), self.error)
            if num_prompts >= MIN_PROMPTS
            else None,
            together=min(pairs, key=lambda pair: (pair[0] * pair[1], pair), default=None),
        )

    @property
    def _stricter(self) -> float:
        """How much larger an effect must be at this error than at 5 %."""
        quantile = NormalDist().inv_cdf
        return (quantile(1.0 - self.error / 2.0) + quantile(POWER)) / (quantile(1.0 - ERROR / 2.0) + quantile(POWER))


def _reason(
    effect: float,
    smallest: float | None,
    answers: bool | None,
    num_seeds: int,
    num_prompts: int | None,
    enough: _Enough,
) -> str:
    if num_prompts is None:
        return "the prompts are on the Hub, which a plan does not read: what it can detect is unknown"
    if answers:
        return f"can detect {effect:g}: a difference of {smallest:.3f} is found 4 times in 5"
    needed = enough.in_words(effect)
    if smallest is None:
        return f"cannot answer: {counted(num_seeds, 'seed')}, which says nothing about other seeds; {needed}"
    if num_prompts < MIN_PROMPTS:
        few = counted(num_prompts, "prompt")
        return f"cannot answer: {few}, at least {MIN_PROMPTS} are needed to conclude; {needed}"
    found = f"only differences of {smallest:.3f} and more are" if smallest <= 1.0 else "not even a difference of 1 is"
    return f"cannot answer: {found} found 4 times in 5; {needed}"


def _warnings(
    experiment: Experiment, previews: Mapping[str, Preview], comparisons: Sequence[ComparisonPlan]
) -> Iterator[str]:
    if not comparisons:
        yield "there is no primary comparison: the report ranks the arms and concludes nothing"
    said: dict[str, list[str]] = {}
    for name, found in previews.items():
        for warning in found.warnings:
            said.setdefault(warning, []).append(name)
    for warning, names in said.items():
        who = "all arms" if len(names) == len(previews) else ", ".join(names)
        yield f"{who}: {warning}"


def _hours(speed: Speed | None, samples: int | None) -> float | None:
    return None if speed is None or samples is None else samples * speed.seconds_per_completion / 3600.0


def _sum(values: Sequence[Any]) -> Any:
    return None if any(value is None for value in values) else sum(values)


def _times(factor: int, value: Any) -> Any:
    return None if value is None else factor * value
