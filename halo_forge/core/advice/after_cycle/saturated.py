"""Most train prompts are always solved."""

from __future__ import annotations

from typing import ClassVar, Literal

from halo_forge.core.advice._facts import MIN_PROMPTS, Advice, RunFacts
from halo_forge.core.advice._rule import Rule
from halo_forge.core.wording import counted


class Spec(Rule):
    """Prompts that always pass teach little, and their samples fill the training rows."""

    about_training: ClassVar[bool] = False
    kind: Literal["saturated"] = "saturated"
    limit: float = 0.6
    """A larger share of always solved train prompts is worth advice."""

    def look(self, facts: RunFacts) -> Advice | None:
        """Advise if most train prompts are always solved."""
        share = facts.now.metrics.get("train/always")
        num_prompts = facts.num_prompts("train")
        if share is None or share <= self.limit or num_prompts < MIN_PROMPTS:
            return None
        return Advice(
            kind=self.kind,
            symptom="most train prompts are always solved",
            evidence=f"{share:.0%} of {counted(num_prompts, 'prompt')} (more than {self.limit:.0%})",
            cause="the prompts are too easy for this model",
            action="use harder prompts, raft.prompt_weights: learnable, or raft.sampling: budgeted",
            power="a prompt with a true rate of 0.8 passes 8 of 8 in 17% of cases",
        )
