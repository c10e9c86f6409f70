"""After some cycles the model has hardly moved from the start model: the updates are too small."""

from __future__ import annotations

from typing import Literal

from halo_forge.core.advice._facts import Advice, RunFacts, in_words, power
from halo_forge.core.advice._rule import Rule
from halo_forge.core.wording import counted


class Spec(Rule):
    """Neither the verdicts on dev nor the model's probabilities have changed since the start."""

    kind: Literal["no_movement"] = "no_movement"
    num_cycles: int = 2
    """Trained cycles before anything is said."""
    small_kl: float = 0.001
    """KL(start || now) in nats per token, below which the model has hardly moved."""
    factor: float = 3.0
    """The learning rate is advised to be multiplied by this."""

    def look(self, facts: RunFacts) -> Advice | None:
        """Advise if neither the KL divergence nor any rate on dev differs from the start model's."""
        divergence = facts.now.metrics.get("kl_to_start")
        if len(facts.trainings) < self.num_cycles or divergence is None or divergence >= self.small_kl:
            return None
        passes = facts.change("passes", facts.start)
        changes = (passes, facts.change("compiles", facts.start), facts.change("covered", facts.start))
        if any(change is None or abs(change.mean) > change.standard_error for change in changes):
            return None
        assert passes is not None
        return Advice(
            kind=self.kind,
            symptom=f"after {counted(len(facts.trainings), 'cycle')} the model has hardly moved from the start model",
            evidence=f"KL to the start model {divergence:.2g} nats/token (below {self.small_kl:g});"
            f" {in_words(facts.pass_rate('dev'), passes)}; compile rate and coverage are within one standard error too",
            cause="the learning rate or the learning-rate mass is too low",
            action=f"try {self.factor:g} times the learning rate",
            power=f"the divergence is nearly exact; {power(passes)}",
        )
