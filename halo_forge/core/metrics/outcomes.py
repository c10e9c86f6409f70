"""How good the samples of a policy version are.

Verdicts of status "error" are failures of the verifier: they are left out of every rate and reported separately.  A
rate is the mean over prompts of each prompt's share, and its interval treats prompts as the independent units, because
samples of one prompt are correlated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from math import comb

from halo_forge.core.metrics._facts import MetricInfo, SetFacts
from halo_forge.core.metrics.compare import are_tested
from halo_forge.core.statistics import clustered_rate

SCOPE = "set"
_CLUSTERED = "95 % interval: Wilson at the effective sample size, clustered by prompt."
_BY_PROMPT = "95 % interval: Wilson over prompts."
CATALOGUE = {
    "compile_rate": MetricInfo(
        "rate", "up", f"Share of a prompt's samples that compile, mean over prompts. {_CLUSTERED}"
    ),
    "pass_rate": MetricInfo(
        "rate",
        "up",
        f"Share of a prompt's samples that pass, mean over prompts; absent where no prompt has tests. {_CLUSTERED}",
    ),
    "reward_mean": MetricInfo("1", "up", "Mean reward of a prompt's samples, mean over prompts; in [0, 1]."),
    "coverage": MetricInfo(
        "rate", "up", f"Prompts with at least one pass / prompts with a judged sample. {_BY_PROMPT}"
    ),
    "always": MetricInfo("rate", "none", f"Prompts whose judged samples all pass / prompts with one. {_BY_PROMPT}"),
    "never": MetricInfo("rate", "down", f"Prompts whose judged samples all fail / prompts with one. {_BY_PROMPT}"),
    "pass@k": MetricInfo(
        "rate",
        "up",
        "Probability that at least one of k samples passes: mean over prompts of 1 - C(n-c,k)/C(n,k), n judged samples "
        "of which c pass, for k = 1, 2, 4 ... and the number of samples drawn (Chen et al. 2021, arXiv:2107.03374). "
        f"{_CLUSTERED}",
    ),
    "flagged_fraction": MetricInfo(
        "rate", "down", "Judged samples with a hack flag (`halo-forge docs rewards#flags`) / judged samples."
    ),
    "truncated_fraction": MetricInfo(
        "rate", "down", "Completions cut off by the length limit / completions.", bare_on_train=True
    ),
    "completion_tokens_mean": MetricInfo("tokens", "none", "Mean number of sampled tokens.", bare_on_train=True),
    "verifier_error_fraction": MetricInfo(
        "rate",
        "down",
        "Verdicts of status error / verdicts: failures of the verifier, not of the model.",
        bare_on_train=True,
    ),
}


def measure(facts: SetFacts) -> dict[str, float]:
    """The metrics of `CATALOGUE`; those without data are absent."""
    return {**_sampling(facts), **_rates(facts)}


def _sampling(facts: SetFacts) -> dict[str, float]:
    found: dict[str, float] = {}
    if facts.completions:
        num = len(facts.completions)
        found["truncated_fraction"] = sum(each.finish == "length" for each in facts.completions) / num
        found["completion_tokens_mean"] = sum(len(each.token_ids) for each in facts.completions) / num
    if facts.verdicts:
        num_errors = sum(verdict.status == "error" for verdict in facts.verdicts)
        found["verifier_error_fraction"] = num_errors / len(facts.verdicts)
    return found


def _rates(facts: SetFacts) -> dict[str, float]:
    groups = list(facts.judged().values())
    if not groups:
        return {}
    passes = [sum(verdict.passed for verdict in group) for group in groups]
    sizes = [len(group) for group in groups]
    per_prompt = list(zip(passes, sizes, strict=True))
    rewards = [math.fsum(verdict.reward for verdict in group) / len(group) for group in groups]
    return {
        **_with_interval("compile_rate", [(sum(each.compiled for each in group), len(group)) for group in groups]),
        **(_passing(facts, per_prompt) if are_tested(facts.samples) else {}),
        "reward_mean": math.fsum(rewards) / len(rewards),
        **_with_interval("coverage", [(int(num_passed > 0), 1) for num_passed, _ in per_prompt]),
        **_with_interval("always", [(int(num_passed == total), 1) for num_passed, total in per_prompt]),
        **_with_interval("never", [(int(num_passed == 0), 1) for num_passed, _ in per_prompt]),
        "flagged_fraction": sum(bool(each.hacks) for group in groups for each in group) / sum(sizes),
    }


def _passing(facts: SetFacts, per_prompt: Sequence[tuple[int, int]]) -> dict[str, float]:
    return {**_with_interval("pass_rate", per_prompt), **_pass_at(per_prompt, facts.num_samples_expected)}


def _pass_at(per_prompt: Sequence[tuple[int, int]], num_samples: int) -> dict[str, float]:
    """pass@k over the prompts with at least k judged samples; only for k that some prompt reaches.

    As counts: of the C(n, k) ways to draw k samples, the number with at least one pass.
    """
    found: dict[str, float] = {}
    for k in _ks(num_samples):
        enough = [(num_passed, n) for num_passed, n in per_prompt if n >= k]
        draws = [(comb(n, k) - comb(n - num_passed, k), comb(n, k)) for num_passed, n in enough]
        if draws:
            found |= _with_interval(f"pass@{k}", draws, sum(n for _, n in enough))
    return found


def _with_interval(name: str, counts: Sequence[tuple[int, int]], num_samples: int | None = None) -> dict[str, float]:
    rate = clustered_rate(counts, num_samples=num_samples)
    return {name: rate.mean, f"{name}_low": rate.low, f"{name}_high": rate.high}


def _ks(num_samples: int) -> list[int]:
    """1, 2, 4 ... below `num_samples`, and `num_samples`."""
    powers = [2**power for power in range(num_samples.bit_length()) if 2**power < num_samples]
    return [*powers, num_samples] if num_samples > 0 else []
