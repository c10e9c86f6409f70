"""The learning rate and the rank of the adapter."""

from __future__ import annotations

from typing import Literal

from halo_forge.core.advice._facts import Advice
from halo_forge.core.advice._plan import PlanFacts
from halo_forge.core.advice._rule import PlanRule


class Spec(PlanRule):
    """With alpha fixed the best rate hardly depends on the rank; with alpha / r fixed it falls about with 1 / r."""

    kind: Literal["rank"] = "rank"
    usual_rank: int = 16
    usual_scale: float = 2.0
    large: int = 32

    def look(self, facts: PlanFacts) -> Advice | None:
        """See the module."""
        rate = facts.learning_rate
        if facts.rank <= self.large or facts.scale < self.usual_scale or rate is None or rate == 0.0:
            return None
        return Advice(
            kind=self.kind,
            symptom="alpha was scaled up with the rank",
            evidence=f"r {facts.rank}, alpha {facts.alpha:g}, scale {facts.scale:g}",
            cause="with alpha / r fixed, a larger rank makes larger updates",
            action=f"keep alpha at 32 with the same rate, or use {rate * self.usual_rank / facts.rank:.2g} instead of"
            f" {rate:.2g} (r {self.usual_rank} / r {facts.rank}); ranks up to {self.large} are enough here",
            power="known to depend on initialization and scaling; not studied for repeated cycles",
        )
