"""From verdicts to numbers, and from numbers to a decision: pure, and blind to test prompts until the end."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from halo_forge.metrics import SetFacts, measure_set
from halo_forge.metrics.compare import What, prompt_rates
from halo_forge.records import Completion, Decision, Measurement, Result, Verdict
from halo_forge.statistics import paired_difference

Answers = tuple[Sequence[Completion], Sequence[Verdict]]
"""Completions and their verdicts."""

COMPARED: dict[str, What] = {"compile_rate": "compiled", "pass_rate": "passed", "reward_mean": "reward"}


def measure_lap(cycle: int, train: Answers, dev: Answers) -> Measurement:
    """Metrics of v_{cycle-1} on the train prompts it was sampled on (none in the last lap) and on dev."""
    metrics = measure_set(facts(*train), "train") | measure_set(facts(*dev), "dev")
    return Measurement(cycle, cycle - 1, dict(sorted(metrics.items())))


def measure_test(version: int, test: Answers) -> Measurement:
    """Metrics of v_version on the test prompts; it belongs to no cycle, so `cycle` is 0."""
    return Measurement(0, version, dict(sorted(measure_set(facts(*test), "test").items())))


def facts(completions: Sequence[Completion], verdicts: Sequence[Verdict]) -> SetFacts:
    """Every prompt that was asked, and how often."""
    prompt_ids = list(dict.fromkeys(completion.prompt_id for completion in completions))
    num_samples = 1 + max((completion.index for completion in completions), default=0)
    return SetFacts(completions, verdicts, prompt_ids, num_samples)


def choose(history: Sequence[Measurement], metric: str, num_cycles: int) -> Decision:
    """Go on until all cycles are done; keep the version that is best on dev so far, the earlier one of equals."""
    values = {measurement.policy_version: measurement.metrics.get(metric) for measurement in history}
    known = {version: value for version, value in values.items() if value is not None}
    best = max(known, key=lambda version: (known[version], -version), default=0)
    cycle = history[-1].cycle
    reason = f"{metric} of v{best} is {known[best]:.4f}, the highest so far" if known else f"{metric} was not measured"
    return Decision(cycle, "finish" if cycle > num_cycles else "continue", best, reason)


def compare(chosen: int, dev: Sequence[Sequence[Verdict]], tests: Mapping[int, Answers]) -> Result:
    """The chosen version against the start model, paired by prompt, on dev and (where measured) on test.

    Args:
        dev: dev[v] are the dev verdicts of v_v.
        tests: Policy version -> its answers to the test prompts.
    """
    return Result(
        chosen_version=chosen,
        adapter=None if chosen == 0 else f"cycles/{chosen:03d}/adapter",
        dev=_differences(dev[0], dev[chosen]),
        test=_differences(tests[0][1], tests[chosen][1]) if tests else {},
    )


def _differences(start: Sequence[Verdict], chosen: Sequence[Verdict]) -> dict[str, dict[str, float]]:
    found = {}
    for name, what in COMPARED.items():
        before, after = prompt_rates(start, what), prompt_rates(chosen, what)
        shared = before.keys() & after.keys()
        if len(shared) < 2:
            continue  # one prompt has no spread to compare with
        difference = paired_difference(before, after)
        found[name] = {
            "start": sum(before[prompt] for prompt in sorted(shared)) / len(shared),
            "chosen": sum(after[prompt] for prompt in sorted(shared)) / len(shared),
            **_named(dataclasses.asdict(difference)),
        }
    return found


def _named(difference: Mapping[str, float]) -> dict[str, float]:
    names = {"mean": "difference"}
    return {names.get(name, name): value for name, value in difference.items()}
