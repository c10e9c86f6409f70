"""A confirmed decline after a large step: the learning rate, or the learning-rate mass, is too high."""

from __future__ import annotations

from typing import Literal

from halo_forge.core.advice._facts import Advice, RunFacts
from halo_forge.core.advice._rule import Rule


class Spec(Rule):
    """Only a decline that fresh samples confirmed counts (docs/decisions.md), never a single lower number."""

    kind: Literal["large_step"] = "large_step"
    times_first: float = 3.0
    """A step is large if KL(previous || now) is above this multiple of the first cycle's,"""
    large_kl: float = 0.05
    """or above this many nats per token; adaptive KL controllers aim at about 0.01 per update."""
    factor: float = 0.5
    """The learning rate is advised to be multiplied by this."""

    def look(self, facts: RunFacts) -> Advice | None:
        """Advise if a confirmed decline follows a large KL divergence from the previous version."""
        step, first = (version.metrics.get("kl_to_previous") for version in (facts.now, facts.versions[1]))
        if facts.now.metrics.get("decision/outcome") != -1.0 or step is None or first is None:
            return None
        if step <= self.times_first * first and step <= self.large_kl:
            return None
        return Advice(
            kind=self.kind,
            symptom="a large update followed by a confirmed decline",
            evidence=f"KL to the previous version {step:.3g} nats/token (the first cycle's was {first:.3g}); see"
            " the decision for the decline's numbers",
            cause="the learning rate or the learning-rate mass is too high",
            action=f"return to the previous version (as decisions.on_decline: rollback does), and use"
            f" {self.factor:g} times the learning rate",
            power="the decline was confirmed on fresh samples",
        )
