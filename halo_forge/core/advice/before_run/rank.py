"""The learning rate depends on the rank of the adapter."""

from __future__ import annotations

from typing import Literal

from halo_forge.core.advice._facts import Advice
from halo_forge.core.advice._plan import PlanFacts
from halo_forge.core.advice._rule import PlanRule


class Spec(PlanRule):
    """With a fixed alpha the best learning rate hardly depends on the rank; with a fixed alpha / r it is about
    proportional to 1 / r.
    """

    kind: Literal["rank"] = "rank"
    usual_rank: int = 16
    """The rank that the advice converts the learning rate from."""
    usual_scale: float = 2.0
    """A lower scale alpha / r means that alpha was not raised with the rank."""
    large: int = 32
    """Ranks up to this get no advice."""

    def look(self, facts: PlanFacts) -> Advice | None:
        """Advise if alpha was raised with a large rank."""
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
