"""Compares the learning rate with published ones for a model of this size."""

from __future__ import annotations

import math
from typing import Literal

from halo_forge.core.advice._facts import Advice
from halo_forge.core.advice._plan import PlanFacts
from halo_forge.core.advice._rule import PlanRule


class Spec(PlanRule):
    """Scales a published LoRA learning rate by 1 / sqrt(parameters), and by both rules of `batch_size`.

    The reference: 1e-3 for Llama-3.2-1B at batch 128 (tinker-cookbook, hyperparam_utils.py; 3e-4 to 1e-3 for models up
    to 8B).  TRL's examples use 2e-4 for SFT and 5e-5 for GRPO with LoRA.
    """

    kind: Literal["published_rate"] = "published_rate"
    rate: float = 1e-3
    """The published peak learning rate,"""
    num_parameters: float = 1.24e9
    """the parameters of the model that it was found for,"""
    batch_size: int = 128
    """and the rows per optimizer step."""
    far: float = 3.0
    """A learning rate outside the range by more than this factor is worth advice."""

    def look(self, facts: PlanFacts) -> Advice | None:
        """Advise if the learning rate is far outside the published range for this size and batch."""
        rate = facts.learning_rate
        if facts.num_parameters is None or rate is None or rate == 0.0:
            return None
        here = self.rate * math.sqrt(self.num_parameters / facts.num_parameters)
        share = facts.effective_batch_size / self.batch_size
        scaled = sorted((here, here * math.sqrt(share), here * share))
        if scaled[0] / self.far <= rate <= scaled[-1] * self.far:
            return None
        low = rate < scaled[0]
        return Advice(
            kind=self.kind,
            symptom=f"the learning rate is far {'below' if low else 'above'} published values for this model size",
            evidence=f"{rate:.2g}; published for LoRA at {facts.num_parameters / 1e6:.0f}M parameters: about {here:.1g}"
            f" at batch {self.batch_size}, scaled to batch {facts.effective_batch_size}: {here * math.sqrt(share):.1g}"
            f" (square root) or {here * share:.1g} (linear)",
            cause="a value for full fine-tuning or for a larger model" if low else "a value for a smaller model",
            action="try values in between in one-cycle runs; nothing is changed automatically",
            power="scaling across model sizes is a rule of thumb from supervised runs of hundreds of steps",
        )
