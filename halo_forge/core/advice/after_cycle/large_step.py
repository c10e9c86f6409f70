"""A confirmed decline after a large step: the learning rate, or its sum, is too high."""

from __future__ import annotations

from typing import Literal

from halo_forge.core.advice._facts import Advice, RunFacts
from halo_forge.core.advice._rule import Rule


class Spec(Rule):
    """The decline is the one that fresh samples confirmed (docs/decisions.md), never a single lower number."""

    kind: Literal["large_step"] = "large_step"
    times_first: float = 3.0
    """KL(previous || now) over that of the first cycle."""
    large_kl: float = 0.05
    """Nats per token in one cycle, whatever the first one's was; adaptive controllers aim at about 0.01 an update."""
    factor: float = 0.5

    def look(self, facts: RunFacts) -> Advice | None:
        """See the module."""
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
