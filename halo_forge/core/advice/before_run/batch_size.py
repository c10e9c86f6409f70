"""The learning rate depends on the batch size."""

from __future__ import annotations

from typing import Literal

from halo_forge.core.advice._facts import Advice
from halo_forge.core.advice._plan import PlanFacts
from halo_forge.core.advice._rule import PlanRule
from halo_forge.core.wording import counted


class Spec(PlanRule):
    """The learning rate scales with the square root of the batch size under Adam (Malladi et al. 2022,
    arXiv:2205.10287), and linearly under SGD (Goyal et al. 2017, arXiv:1706.02677).  LoRA does worse with large batches
    (TRL, lora_without_regret).
    """

    kind: Literal["batch_size"] = "batch_size"
    large: int = 32
    """The most rows per optimizer step that are recommended."""

    def look(self, facts: PlanFacts) -> Advice | None:
        """Advise if the batch is large for LoRA."""
        batch, rate = facts.effective_batch_size, facts.learning_rate
        if batch <= self.large or rate is None or rate == 0.0:
            return None
        root, linear = rate * (self.large / batch) ** 0.5, rate * self.large / batch
        return Advice(
            kind=self.kind,
            symptom="large batch size for LoRA",
            evidence=f"{counted(batch, 'row')} per step; at most {self.large} is recommended",
            cause="LoRA suffers more from large batches than full fine-tuning does",
            action=f"use batch size {self.large} and a learning rate of {root:.2g} (square-root scaling, for Adam) or"
            f" {linear:.2g} (linear scaling)",
            power="published for supervised fine-tuning below the critical batch size",
        )
