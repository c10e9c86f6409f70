"""The adapter scale alpha / r multiplies the adapter's output and thus, to first order, the learning rate."""

from __future__ import annotations

from typing import Literal

from halo_forge.core.advice._facts import Advice
from halo_forge.core.advice._plan import PlanFacts
from halo_forge.core.advice._rule import PlanRule


class Spec(PlanRule):
    """Under Adam, doubling alpha acts like doubling the learning rate of B, but only until A moves."""

    kind: Literal["adapter_scale"] = "adapter_scale"
    low: float = 0.25
    """The lowest usual scale: alpha / r, or alpha / sqrt(r) with rsLoRA."""
    high: float = 4.0
    """The highest one."""
    usual: float = 2.0
    """The scale that the advice converts the learning rate to; common LoRA recipes set alpha to twice the rank."""

    def look(self, facts: PlanFacts) -> Advice | None:
        """Advise if the adapter scale is unusual."""
        rate = facts.learning_rate
        if self.low <= facts.scale <= self.high or rate is None or rate == 0.0:
            return None
        return Advice(
            kind=self.kind,
            symptom="unusual adapter scale",
            evidence=f"alpha {facts.alpha:g} at r {facts.rank} gives {facts.scale:g}; typical: {self.low:g}"
            f" to {self.high:g}",
            cause="the scale acts as a multiplier on the learning rate",
            action=f"compare runs by learning rate x scale ({rate * facts.scale:.2g}); at scale {self.usual:g} that is"
            f" a learning rate of {rate * facts.scale / self.usual:.2g}",
            power="a first-order estimate, valid for the first steps",
        )
