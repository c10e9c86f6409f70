"""The kept samples: whether they are new, and whether the model still has something to learn from them."""

from __future__ import annotations

import math

from halo_forge.core.metrics._facts import KeptFacts, MetricInfo

SCOPE = "kept"
CATALOGUE = {
    "kept/nll_before": MetricInfo(
        "nats/token",
        "none",
        "Mean negative log-likelihood of the tokens of (a sample of) the training rows, before training.",
    ),
    "kept/num_unique": MetricInfo("count", "up", "Distinct programs among the samples that this cycle kept."),
    "kept/duplicate_fraction": MetricInfo(
        "rate", "down", "1 - distinct programs / kept samples with a program, over all prompts."
    ),
    "kept/stale_fraction": MetricInfo(
        "rate", "down", "Kept samples whose program an earlier cycle also kept / kept samples with a program."
    ),
}


def measure(facts: KeptFacts) -> dict[str, float]:
    """The metrics of `CATALOGUE`; those without data are absent."""
    found: dict[str, float] = {}
    if num_tokens := sum(map(len, facts.negative_log_likelihood)):
        found["kept/nll_before"] = math.fsum(map(math.fsum, facts.negative_log_likelihood)) / num_tokens
    if not facts.digests:
        return found
    num, num_unique = len(facts.digests), len(set(facts.digests))
    return found | {
        "kept/num_unique": num_unique,
        "kept/duplicate_fraction": 1 - num_unique / num,
        "kept/stale_fraction": sum(digest in facts.earlier for digest in facts.digests) / num,
    }
