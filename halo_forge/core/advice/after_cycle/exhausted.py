"""The kept samples have nothing left to teach."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from halo_forge.core.advice._facts import Advice, RunFacts
from halo_forge.core.advice._rule import Rule


class Spec(Rule):
    """The model already gave the kept samples nearly all probability, or earlier cycles trained on them already."""

    about_training: ClassVar[bool] = False
    kind: Literal["exhausted"] = "exhausted"
    low_loss: float = 0.1
    """Nats per token: a lower loss of the kept samples before the cycle trained on them is a sign."""
    stale: float = 0.5
    """A larger share of kept programs that an earlier cycle kept as well is a sign."""

    def look(self, facts: RunFacts) -> Advice | None:
        """Advise if the kept samples had a low loss before training, or were mostly kept before."""
        signs = list(self._signs(facts))
        if not signs:
            return None
        return Advice(
            kind=self.kind,
            symptom="the kept samples have little left to teach",
            evidence="; ".join(signs),
            cause="this model has little left to learn from these prompts",
            action="use harder or different prompts, or stop here",
            power="exact for the samples of this cycle",
        )

    def _signs(self, facts: RunFacts) -> Iterator[str]:
        loss, stale = facts.trained("kept/nll_before"), facts.trained("kept/stale_fraction")
        if loss is not None and loss < self.low_loss:
            yield f"loss of the kept samples before training {loss:.3f} nats/token (below {self.low_loss:g})"
        if stale is not None and stale > self.stale:
            yield f"{stale:.0%} of the kept programs were kept in an earlier cycle (more than {self.stale:.0%})"
