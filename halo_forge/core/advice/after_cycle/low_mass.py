"""The cycle hardly trained: few steps, or steps that hardly use the learning rate."""

from __future__ import annotations

from typing import Literal

from halo_forge.core.advice._facts import Advice, RunFacts
from halo_forge.core.advice._rule import Rule
from halo_forge.core.records import MASS
from halo_forge.core.wording import counted


class Spec(Rule):
    """The peak learning rate says little if warm-up and decay take most of it, or if there are hardly any steps."""

    kind: Literal["low_mass"] = "low_mass"
    share: float = 0.25
    """A mass below this share of peak x steps is low; linear decay without warm-up spends a little more than half."""
    few_steps: int = 5
    """With fewer optimizer steps than this, no warm-up fits and decay has hardly any effect."""
    moved_kl: float = 0.01
    """KL(previous || now) in nats per token; from this value on the cycle did train, however few its steps were."""

    def look(self, facts: RunFacts) -> Advice | None:
        """Advise if the cycle had few steps or little learning-rate mass, and the model hardly moved."""
        assert facts.last is not None
        num_steps, mass = facts.trained("optimizer_steps"), facts.trained(MASS)
        rate = facts.last.settings.learning_rate
        if num_steps is None or mass is None:
            return None
        if num_steps >= self.few_steps and mass >= self.share * rate * num_steps:
            return None
        step = facts.now.metrics.get("kl_to_previous")
        if step is not None and step >= self.moved_kl:
            return None
        return Advice(
            kind=self.kind,
            symptom="the cycle barely trained",
            evidence=f"{counted(num_steps, 'optimizer step')}, learning-rate mass {mass:.3g} of {rate * num_steps:.3g}"
            f" (peak x steps), {counted(len(facts.last.kept), 'sample')} kept",
            cause="too few kept samples for the batch size, or warm-up and decay remove most of the learning rate",
            action="reduce training.per_device_train_batch_size or gradient_accumulation_steps, raise"
            " samples_per_prompt, or drop the warm-up",
            power="exact: both numbers are what the optimizer applied",
        )
