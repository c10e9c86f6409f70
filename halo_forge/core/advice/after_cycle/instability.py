"""The loss jumps while most steps are clipped."""

from __future__ import annotations

from typing import Literal

from halo_forge.core.advice._facts import Advice, RunFacts
from halo_forge.core.advice._rule import Rule


class Spec(Rule):
    """Clipping alone says nothing: Adam divides the gradient's scale out, so a norm above the limit costs no step.

    It stands in for "the norm often equals max_grad_norm", which cannot be seen: logs hold the norm before clipping.
    """

    kind: Literal["instability"] = "instability"
    clipped: float = 0.5
    spike: float = 2.0
    """Largest over median loss of the cycle's steps."""

    def look(self, facts: RunFacts) -> Advice | None:
        """See the module."""
        clipped, spike = facts.trained("clip_fraction"), facts.trained("loss_spike")
        if clipped is None or spike is None or clipped <= self.clipped or spike <= self.spike:
            return None
        return Advice(
            kind=self.kind,
            symptom="the loss spikes while most steps are clipped",
            evidence=f"{clipped:.0%} of the steps clipped, largest loss {spike:.2g} times the median",
            cause="steps too large for the batch size, or individual bad batches",
            action="halve the learning rate, lengthen the warm-up, or use larger batches; inspect the rows of the worst"
            " step",
            power="one cycle's steps; small batches also spike by chance",
        )
