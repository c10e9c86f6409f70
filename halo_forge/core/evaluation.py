"""From verdicts to numbers, and from numbers to a assessment: pure, and blind to test prompts until the end."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from halo_forge.core.decisions import (
    MASS,
    OUTCOME_NUMBER,
    Assessment,
    Decision,
    DecisionsSection,
    Totals,
    compare_totals,
    confirm_totals,
    incumbent,
    screen_totals,
)
from halo_forge.core.metrics import KeptFacts, SetFacts, measure_set
from halo_forge.core.metrics.compare import What, prompt_totals
from halo_forge.core.records import Completion, CycleReport, Measurement, Record, Verdict
from halo_forge.core.selection import PastCycle
from halo_forge.core.statistics import paired_difference

Answers = tuple[Sequence[Completion], Sequence[Verdict]]
"""Completions and their verdicts."""


@dataclass(frozen=True, slots=True)
class Result(Record):
    """What a finished run found: which version to keep, and how it differs from the start model.

    Attributes:
        chosen_version: The last version that improved on dev; the start model where none did.
        adapter: Its folder relative to the run directory, None when the start model itself is best.
        dev, test: Metric -> `{"start", "chosen", "difference", "low", "high", "num_prompts",
            "minimum_detectable_effect"}` with the difference paired by prompt and its 95 % interval.  Dev also
            chose the version, so its difference is biased upwards; test did not.
        last_version: The version that was trained last.
        last_dev, last_test: The same for it, with "last" in the place of "chosen".
        conclusion: Why the run ended, see `halo_forge.core.decisions.Decision`; `reason` has the numbers.
    """

    chosen_version: int
    adapter: str | None
    dev: Mapping[str, Mapping[str, float]]
    test: Mapping[str, Mapping[str, float]]
    last_version: int
    last_dev: Mapping[str, Mapping[str, float]]
    last_test: Mapping[str, Mapping[str, float]]
    conclusion: str
    reason: str


HALF_WIDTH = 1.96
"""Standard errors from the middle to the ends of a 95 % interval."""

COMPARED: dict[str, What] = {"compile_rate": "compiled", "pass_rate": "passed", "reward_mean": "reward"}


def measure_version(cycle: int, train: Answers, dev: Answers, drift: Mapping[str, float]) -> Measurement:
    """Metrics of v_{cycle-1} on its train prompts (none in the final evaluation) and on dev, and its drift."""
    metrics = {**measure_set(facts(*train), "train"), **measure_set(facts(*dev), "dev"), **drift}
    return Measurement(cycle, cycle - 1, dict(sorted(metrics.items())))


def with_kept(measurement: Measurement, reports: Sequence[CycleReport]) -> Measurement:
    """The measurement as decisions see it: with what the version's own training was on (`kept/...`), and its mass."""
    last = reports[-1].trained if reports else {}
    kept = {name: value for name, value in last.items() if name.startswith("kept/") or name == MASS}
    return dataclasses.replace(measurement, metrics={**measurement.metrics, **kept})


def kept_facts(past: Sequence[PastCycle], decisions: Sequence[Decision]) -> KeptFacts:
    """The programs that the last cycle kept, and those of the cycles that made the version it sampled.

    Args:
        past: All cycles so far.
        decisions: As many, the last one that of the last cycle.
    """
    made, version = set(), decisions[-1].sample_from
    while version > 0:
        made.add(version)
        version = decisions[version - 1].train_from
    digests = {
        each.cycle: [kept.verdict.normal_digest for kept in each.kept if kept.verdict.normal_digest is not None]
        for each in past
    }
    earlier = {digest for cycle, found in digests.items() if cycle in made for digest in found}
    return KeptFacts(digests[past[-1].cycle], earlier)


def measure_test(version: int, test: Answers) -> Measurement:
    """Metrics of v_version on the test prompts; it belongs to no cycle, so `cycle` is 0."""
    return Measurement(0, version, dict(sorted(measure_set(facts(*test), "test").items())))


def facts(completions: Sequence[Completion], verdicts: Sequence[Verdict]) -> SetFacts:
    """Every prompt that was asked, and how often."""
    prompt_ids = list(dict.fromkeys(completion.prompt_id for completion in completions))
    num_samples = min(Counter(completion.prompt_id for completion in completions).values(), default=1)
    return SetFacts(completions, verdicts, prompt_ids, num_samples)


def judge(settings: DecisionsSection, decisions: Sequence[Decision], dev: Sequence[Sequence[Verdict]]) -> Assessment:
    """What the version measured last is against the incumbent, at first look.

    Args:
        decisions: Of all cycles before this one.
        dev: dev[v] are the dev verdicts of v_v.
    """
    if not decisions:
        return Assessment("baseline", None)
    best = incumbent(decisions)
    return screen_totals(settings, best, _totals(settings, dev[best]), _totals(settings, dev[-1]))


def judge_again(
    settings: DecisionsSection, assessment: Assessment, best: Sequence[Verdict], suspect: Sequence[Verdict]
) -> Assessment:
    """A suspect after samples of it and of the incumbent were drawn anew."""
    return confirm_totals(settings, assessment, _totals(settings, best), _totals(settings, suspect))


def with_outcome(measurement: Measurement, assessment: Assessment) -> Measurement:
    """The measurement as schedules see it: with `decision/outcome`, where the outcome says anything."""
    number = OUTCOME_NUMBER.get(assessment.outcome)
    if number is None:
        return measurement
    return dataclasses.replace(measurement, metrics={**measurement.metrics, "decision/outcome": number})


def _totals(settings: DecisionsSection, verdicts: Sequence[Verdict]) -> Totals:
    return prompt_totals(verdicts, COMPARED[settings.metric.removeprefix("dev/")])


def compare(decision: Decision, dev: Sequence[Sequence[Verdict]], tests: Mapping[int, Answers]) -> Result:
    """The chosen and the last version against the start model, paired by prompt, on dev and (where measured) on test.

    Args:
        decision: The last one.
        dev: dev[v] are the dev verdicts of v_v.
        tests: Policy version -> its answers to the test prompts.
    """
    chosen, last = decision.best_version, decision.policy_version
    assert decision.conclusion is not None
    return Result(
        chosen_version=chosen,
        adapter=None if chosen == 0 else f"cycles/{chosen:03d}/adapter",
        dev=_differences(dev[0], dev[chosen], "chosen"),
        test=_differences(tests[0][1], tests[chosen][1], "chosen") if tests else {},
        last_version=last,
        last_dev=_differences(dev[0], dev[last], "last"),
        last_test=_differences(tests[0][1], tests[last][1], "last") if tests else {},
        conclusion=decision.conclusion,
        reason=decision.reason,
    )


def _differences(start: Sequence[Verdict], other: Sequence[Verdict], name_of: str) -> dict[str, dict[str, float]]:
    found = {}
    for name, what in COMPARED.items():
        before, after = prompt_totals(start, what), prompt_totals(other, what)
        compared = compare_totals(before, after)
        if compared is None:
            continue  # one prompt has no spread to compare with
        rates = [{prompt: total / num for prompt, (total, num) in side.items()} for side in (before, after)]
        difference = dataclasses.asdict(paired_difference(rates[0], rates[1]))
        if compared.uniform:
            # Equal answers to equal seeds: what two independent sets of samples could have shown is the honest error.
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
