"""Gradient norms differ from those of the first cycle: the data, the loss mask or the adapter scale changed."""

from __future__ import annotations

from typing import Literal

from halo_forge.core.advice._facts import Advice, RunFacts
from halo_forge.core.advice._rule import Rule


class Spec(Rule):
    """Norms are comparable only within a run: rank, alpha / r, batch size and lengths all change them."""

    kind: Literal["gradient_scale"] = "gradient_scale"
    low: float = 0.2
    """The lowest usual ratio of this cycle's 90th percentile to the first cycle's median."""
    high: float = 5.0
    """The highest one."""

    def look(self, facts: RunFacts) -> Advice | None:
        """Advise if the gradient norms of this cycle are far from those of the first."""
        first, now = facts.trainings[0].trained.metrics.get("gradient_norm_median"), facts.trained("gradient_norm_p90")
        if len(facts.trainings) < 2 or first is None or now is None or first == 0.0:
            return None
        if self.low <= now / first <= self.high:
            return None
        return Advice(
            kind=self.kind,
            symptom="gradient norms differ from those of the first cycle",
            evidence=f"90th percentile {now:.3g}, median of the first cycle {first:.3g}: ratio {now / first:.2g}",
            cause="different training rows (length or number), a wrong loss mask, or a different adapter scale; not the"
            " learning rate",
            action="inspect the training rows and their lengths, and compare alpha / r; keep the learning rate",
            power="one cycle's steps",
        )
