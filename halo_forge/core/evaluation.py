"""Measurements from samples, and assessments from measurements: pure, and blind to test prompts until the end."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from halo_forge.core.decisions import (
    Assessment,
    Confirmation,
    DecisionsSection,
    Totals,
    VersionComparison,
    compare_totals,
    conclude,
    confirm_totals,
    opposed,
    screen_totals,
)
from halo_forge.core.metrics import KeptFacts, SetFacts, measure_set
from halo_forge.core.metrics.compare import What, are_tested, prompt_totals
from halo_forge.core.records import Conclusion, Decision, Measurement, PolicyVersion, Record, Sample
from halo_forge.core.statistics import HALF_WIDTH, paired_difference


@dataclass(frozen=True, slots=True)
class Result(Record):
    """The result of a finished run: the version to keep, and how it differs from the start model.

    Attributes:
        chosen_version: The last version that was ahead on dev; the start model if none was.
        adapter: Its folder relative to the run directory, None if the start model itself is best.
        dev, test: Metric -> `{"start", "chosen", "difference", "low", "high", "num_prompts",
            "minimum_detectable_effect"}` with the difference paired by prompt and its 95 % interval.  Dev also
            chose the version, so its difference is biased upwards; test did not.
        last_version: The version that was trained last.
        last_dev, last_test: The same for it, with "last" instead of "chosen".
        conclusion: What the run allows to conclude, see docs/decisions.md; `reason` has the numbers.
        improved: Whether the chosen version is confirmed to improve on the start model in `decisions.metric`, by
            samples that nothing was chosen by; None where the start model is the one to keep.
        confirmed_on: Their prompts: "test", or "dev" with other seeds; None where there are none.
        confirmation: The comparison by them, as in a decision; empty where they cannot be compared.
        confirmation_opposed: The same of the other metrics that moved the other way.
    """

    chosen_version: int
    adapter: str | None
    dev: Mapping[str, Mapping[str, float]]
    test: Mapping[str, Mapping[str, float]]
    last_version: int
    last_dev: Mapping[str, Mapping[str, float]]
    last_test: Mapping[str, Mapping[str, float]]
    conclusion: Conclusion
    reason: str
    improved: bool | None
    confirmed_on: Literal["test", "dev"] | None
    confirmation: Mapping[str, float]
    confirmation_opposed: Mapping[str, Mapping[str, float]]


COMPARED: dict[str, What] = {"compile_rate": "compiled", "pass_rate": "passed", "reward_mean": "reward"}


def measure_version(
    version: int, train: Sequence[Sample], dev: Sequence[Sample], drift: Mapping[str, float]
) -> Measurement:
    """Metrics of v_version on its train prompts (none in the final evaluation) and on dev, and its drift."""
    metrics = {**measure_set(set_facts(train), "train"), **measure_set(set_facts(dev), "dev"), **drift}
    return Measurement(version + 1, version, dict(sorted(metrics.items())))


def measure_test(version: int, test: Sequence[Sample]) -> Measurement:
    """Metrics of v_version on the test prompts; it belongs to no cycle, so `cycle` is 0."""
    return Measurement(0, version, dict(sorted(measure_set(set_facts(test), "test").items())))


def set_facts(samples: Sequence[Sample]) -> SetFacts:
    """Every prompt that was sampled, and how often."""
    counts = Counter(sample.prompt_id for sample in samples)
    return SetFacts(samples, list(counts), min(counts.values(), default=1))


def kept_facts(kept: Sequence[Sample], versions: Sequence[PolicyVersion]) -> KeptFacts:
    """The programs that this cycle kept, and those of the cycles that made the version it sampled.

    Args:
        versions: v_0 .. v_{cycle-1}.
    """
    earlier: set[str] = set()
    sampled = versions[versions[-1].decision.sample_from]
    while sampled.training is not None:
        earlier.update(_digests(sampled.training.kept))
        sampled = versions[sampled.training.settings.parent_version]
    return KeptFacts(_digests(kept), earlier)


def _digests(samples: Sequence[Sample]) -> list[str]:
    return [sample.verdict.normal_digest for sample in samples if sample.verdict.normal_digest is not None]


def screen(settings: DecisionsSection, earlier: Sequence[PolicyVersion], dev: Sequence[Sample]) -> Assessment:
    """The assessment of a version against the incumbent, by its dev samples.

    Args:
        earlier: All versions before it.
    """
    if not earlier:
        return Assessment("baseline", None)
    incumbent = earlier[-1].decision.best_version
    before = earlier[incumbent].dev
    found = screen_totals(settings, incumbent, _totals(settings, before), _totals(settings, dev))
    return dataclasses.replace(found, opposed=_opposed(settings, found.screen, before, dev))


def confirm(
    settings: DecisionsSection, assessment: Assessment, incumbent: Sequence[Sample], suspect: Sequence[Sample]
) -> Assessment:
    """The assessment of a suspect, by fresh samples of it and of the incumbent."""
    return confirm_totals(settings, assessment, _totals(settings, incumbent), _totals(settings, suspect))


def _totals(settings: DecisionsSection, samples: Sequence[Sample]) -> Totals:
    return prompt_totals(samples, COMPARED[settings.metric.removeprefix("dev/")])


def _opposed(
    settings: DecisionsSection, found: VersionComparison | None, before: Sequence[Sample], after: Sequence[Sample]
) -> dict[str, VersionComparison]:
    """The other metrics of the same samples that moved the other way."""
    names = [name for name in _compared(before, after) if name != settings.metric.removeprefix("dev/")]
    others = {
        name: compare_totals(prompt_totals(before, COMPARED[name]), prompt_totals(after, COMPARED[name]))
        for name in names
    }
    return opposed(settings, found, others)


def _compared(*sides: Sequence[Sample]) -> list[str]:
    """The metrics to compare; without tests, a pass is a compilation, and called so."""
    return [name for name in COMPARED if name != "pass_rate" or any(map(are_tested, sides))]


def _confirmation(
    settings: DecisionsSection,
    decision: Decision,
    set_name: Literal["test", "dev"],
    fresh: Mapping[int, Sequence[Sample]],
) -> Confirmation | None:
    """The comparisons by samples that were drawn after all decisions; None where the start model is to be kept."""
    if decision.best_version == 0:
        return None

    def difference(before: int) -> VersionComparison | None:
        totals = {version: _totals(settings, fresh[version]) for version in (before, decision.best_version)}
        return compare_totals(totals[before], totals[decision.best_version], settings.scale)

    lead = difference(0)
    previous = decision.compared_with if decision.outcome == "ahead" else None
    return Confirmation(
        set_name,
        lead,
        None if previous is None or previous not in fresh else difference(previous),
        _opposed(settings, lead, fresh[0], fresh[decision.best_version]),
    )


def compare(
    settings: DecisionsSection,
    versions: Sequence[PolicyVersion],
    tests: Mapping[int, Sequence[Sample]],
    set_name: Literal["test", "dev"],
    fresh: Mapping[int, Sequence[Sample]],
) -> Result:
    """The chosen and the last version against the start model, paired by prompt, on dev and (if measured) on test.

    Args:
        versions: All of the run.
        tests: Policy version -> its samples of the test prompts.
        set_name, fresh: Prompts, and policy version -> the samples of them that confirm or do not confirm the lead of
            the chosen version.
    """
    decision = versions[-1].decision
    chosen, last = decision.best_version, decision.policy_version
    confirmation = _confirmation(settings, decision, set_name, fresh)
    finding = conclude(settings, decision, confirmation)
    lead = None if confirmation is None else confirmation.lead
    return Result(
        chosen_version=chosen,
        adapter=None if chosen == 0 else f"cycles/{chosen:03d}/adapter",
        dev=differences(versions[0].dev, versions[chosen].dev, "chosen"),
        test=differences(tests[0], tests[chosen], "chosen") if tests else {},
        last_version=last,
        last_dev=differences(versions[0].dev, versions[last].dev, "last"),
        last_test=differences(tests[0], tests[last], "last") if tests else {},
        conclusion=finding.conclusion,
        reason="; ".join(part for part in (decision.reason, finding.reason) if part),
        improved=finding.improved,
        confirmed_on=None if confirmation is None else confirmation.set_name,
        confirmation={} if lead is None else lead.to_row(),
        confirmation_opposed={}
        if confirmation is None
        else {name: other.to_row() for name, other in confirmation.opposed.items()},
    )


def differences(start: Sequence[Sample], other: Sequence[Sample], name_of: str) -> dict[str, dict[str, float]]:
    """`other` minus `start`, paired by prompt: metric -> "start", `name_of`, "difference", its 95 % interval and so on.

    See `Result.dev`.  Metrics of which fewer than two prompts were judged in both are left out.
    """
    found = {}
    for name in _compared(start, other):
        what = COMPARED[name]
        before, after = prompt_totals(start, what), prompt_totals(other, what)
        compared = compare_totals(before, after)
        if compared is None:
            continue  # one prompt has no spread to compare with
        rates = [{prompt: total / num for prompt, (total, num) in side.items()} for side in (before, after)]
        difference = dataclasses.asdict(paired_difference(rates[0], rates[1]))
        if compared.uniform:
            # Equal completions for equal seeds: the error of two independent sets of samples is the honest one.
            half = HALF_WIDTH * compared.standard_error
            difference |= {
                "standard_error": compared.standard_error,
                "minimum_detectable_effect": compared.minimum_detectable_effect,
                "low": max(-1.0, compared.difference - half),
                "high": min(1.0, compared.difference + half),
            }
        shared = sorted(before.keys() & after.keys())
        means = [sum(side[prompt] for prompt in shared) / len(shared) for side in rates]
        found[name] = {"start": means[0], name_of: means[1], **_named(difference)}
    return found


def _named(difference: Mapping[str, float]) -> dict[str, float]:
    names = {"mean": "difference"}
    return {names.get(name, name): value for name, value in difference.items()}
