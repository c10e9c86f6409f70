"""The loss jumps while most steps are clipped."""

from __future__ import annotations

from typing import Literal

from halo_forge.core.advice._facts import Advice, RunFacts
from halo_forge.core.advice._rule import Rule


class Spec(Rule):
    """Clipping alone is harmless: Adam is invariant to the scale of the gradient (Kingma and Ba 2015, arXiv:1412.6980).

    The logged norm is the one before clipping, so the share of clipped steps is counted, not how often the norm equals
    max_grad_norm.
    """

    kind: Literal["instability"] = "instability"
    clipped: float = 0.5
    """Share of the cycle's steps that were clipped, above which a spike is reported."""
    spike: float = 2.0
    """Ratio of the largest to the median loss of the cycle's steps, above which it is a spike."""

    def look(self, facts: RunFacts) -> Advice | None:
        """Advise if most steps were clipped and the largest loss is far above the median."""
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
