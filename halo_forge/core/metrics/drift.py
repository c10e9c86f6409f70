"""How far a version has moved from the start model and from the version it was trained from, and its entropy.

Divergences of the first kind are forward, KL(other || this), on completions of the start model: the same contexts in
every cycle, and the direction that predicts forgetting (Shenfeld et al. 2025, arXiv:2509.04259).  At every token the
sum runs over the whole vocabulary, so they are at least 0 and much less noisy than ratios of sampled tokens.  The
reverse ones, KL(this || start), are estimated from the sampled tokens only, as is common elsewhere: with
r = ln p_start - ln p_this of a sampled token, k1 = -r and k3 = exp(r) - 1 - r (Schulman 2020).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from halo_forge.core.metrics._facts import DriftFacts, MetricInfo, TokenValues

SCOPE = "drift"
RATIO_LIMIT = 20.0
"""Log-ratios are clamped to this before the exponential, as in verl, so that one token cannot dominate the mean."""
_FIXED = "on completions of dev prompts by the start model, mean over tokens, sum over the vocabulary"
_OWN = "on a sample of the version's own train completions, mean over tokens"
CATALOGUE = {
    "entropy": MetricInfo("nats/token", "none", f"Entropy of the next token at temperature 1 {_OWN}."),
    "probe/entropy": MetricInfo("nats/token", "none", f"Entropy of the next token at temperature 1 {_FIXED}."),
    "kl_to_start": MetricInfo("nats/token", "none", f"KL(start || this version) {_FIXED}."),
    "kl_to_previous": MetricInfo("nats/token", "none", f"KL(its parent version || this version) {_FIXED}."),
    "kl_to_start_sequence": MetricInfo(
        "nats", "none", "The same sum as kl_to_start over a whole completion, mean over completions of the start model."
    ),
    "reverse_kl_k1": MetricInfo(
        "nats/token", "none", f"Mean of ln p_this - ln p_start {_OWN}; only if sampling is untruncated."
    ),
    "reverse_kl_k3": MetricInfo(
        "nats/token", "none", f"Mean of exp(r) - 1 - r, r = ln p_start - ln p_this, {_OWN}; if k1 is measured."
    ),
    "reverse_kl_sequence": MetricInfo(
        "nats",
        "none",
        "The sum of ln p_this - ln p_start over a completion, mean over own completions; if k1 is measured.",
    ),
}


def measure(facts: DriftFacts) -> dict[str, float]:
    """The metrics of `CATALOGUE`; those without tokens are absent, and v0 has no kl_to_previous."""
    found: dict[str, float] = {}
    if _num_tokens(facts.fixed_entropy):
        found |= {"probe/entropy": _per_token(facts.fixed_entropy), "kl_to_start": _per_token(facts.kl_to_start)}
        found["kl_to_start_sequence"] = _per_answer(facts.kl_to_start)
        if facts.version > 0:
            found["kl_to_previous"] = _per_token(facts.kl_to_previous)
    if _num_tokens(facts.own_entropy):
        found["entropy"] = _per_token(facts.own_entropy)
        if facts.own_is_untruncated:
            found |= _reverse(facts)
    return found


def k1(log_ratio: float) -> float:
    """ln p_this - ln p_start of a sampled token: unbiased for KL(this || start), but noisy and possibly negative.

    Args:
        log_ratio: ln p_start - ln p_this.
    """
    return -log_ratio


def k3(log_ratio: float) -> float:
    """exp(r) - 1 - r: unbiased for KL(this || start), at least 0, and less noisy; r is clamped to +-20."""
    ratio = min(max(log_ratio, -RATIO_LIMIT), RATIO_LIMIT)
    return math.expm1(ratio) - ratio


def _reverse(facts: DriftFacts) -> dict[str, float]:
    ratios = [
        [start - mine for start, mine in zip(starts, mines, strict=True)]
        for starts, mines in zip(facts.start_log_probabilities, facts.own_log_probabilities, strict=True)
    ]
    return {
        "reverse_kl_k1": _per_token([[k1(ratio) for ratio in answer] for answer in ratios]),
        "reverse_kl_k3": _per_token([[k3(ratio) for ratio in answer] for answer in ratios]),
        "reverse_kl_sequence": _per_answer([[k1(ratio) for ratio in answer] for answer in ratios]),
    }


def _num_tokens(values: TokenValues) -> int:
    return sum(map(len, values))


def _per_token(values: TokenValues) -> float:
    return math.fsum(_sums(values)) / _num_tokens(values) + 0.0


def _per_answer(values: TokenValues) -> float:
    return math.fsum(_sums(values)) / len(values) + 0.0


def _sums(values: TokenValues) -> Sequence[float]:
    return [math.fsum(answer) for answer in values]
