"""With few optimizer steps per cycle, the peak learning rate matters most."""

from __future__ import annotations

from typing import Literal

from halo_forge.core.advice._facts import Advice
from halo_forge.core.advice._plan import PlanFacts
from halo_forge.core.advice._rule import PlanRule
from halo_forge.core.wording import counted


class Spec(PlanRule):
    """With so few steps the decay within a cycle hardly matters, but warm-up does."""

    kind: Literal["effective_steps"] = "effective_steps"
    few: int = 16
    """Cycles of at most this many optimizer steps are short."""
    num_warmup: int = 2
    """Up to this many requested warm-up steps are not mentioned."""

    def look(self, facts: PlanFacts) -> Advice | None:
        """Advise if cycles are short and warm-up steps were requested."""
        known = [steps for steps in facts.optimizer_steps if steps is not None and steps > 0]
        if not known or max(known) > self.few or facts.requested_warmup_steps <= self.num_warmup:
            return None
        most = max(known)
        return Advice(
            kind=self.kind,
            symptom=f"{counted(facts.requested_warmup_steps, 'warm-up step')} in cycles of at most"
            f" {counted(most, 'optimizer step')}",
            evidence=f"warm-up is capped at a fifth of the steps: {most // 5} of {most}",
            cause="few kept samples relative to the batch size",
            action="set training.warmup_steps to 0 or 1; tune the peak learning rate instead",
            power="exact; if fewer samples are kept, there are fewer steps",
        )
