"""The learning rate and the batch size move together."""

from __future__ import annotations

from typing import Literal

from halo_forge.core.advice._facts import Advice
from halo_forge.core.advice._plan import PlanFacts
from halo_forge.core.advice._rule import PlanRule
from halo_forge.core.wording import counted


class Spec(PlanRule):
    """For Adam the rate goes with the square root of the batch (Malladi et al. 2022, arXiv:2205.10287), for SGD with
    the batch itself (Goyal et al. 2017); LoRA does worse with large batches (TRL, lora_without_regret)."""

    kind: Literal["batch_size"] = "batch_size"
    large: int = 32

    def look(self, facts: PlanFacts) -> Advice | None:
        """See the module."""
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
