"""alpha / r multiplies what the adapter adds, and so, at first order, the learning rate."""

from __future__ import annotations

from typing import Literal

from halo_forge.core.advice._facts import Advice
from halo_forge.core.advice._plan import PlanFacts
from halo_forge.core.advice._rule import PlanRule


class Spec(PlanRule):
    """Under Adam, doubling alpha is like doubling the rate on B at first, and not later: A starts fixed."""

    kind: Literal["adapter_scale"] = "adapter_scale"
    low: float = 0.25
    high: float = 4.0
    usual: float = 2.0

    def look(self, facts: PlanFacts) -> Advice | None:
        """See the module."""
        rate = facts.learning_rate
        if self.low <= facts.scale <= self.high or rate is None or rate == 0.0:
            return None
        return Advice(
            kind=self.kind,
            symptom="an unusual scale of the adapter",
            evidence=f"alpha {facts.alpha:g} at r {facts.rank} gives {facts.scale:g}; usual: {self.low:g}"
            f" to {self.high:g}",
            cause="the learning rate acts as if multiplied with the scale",
            action=f"compare with other runs at the product, {rate * facts.scale:.2g}: at scale {self.usual:g} that"
            f" is a rate of {rate * facts.scale / self.usual:.2g}",
            power="first order: it holds for the first steps",
        )
