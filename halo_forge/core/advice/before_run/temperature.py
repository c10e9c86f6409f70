"""Sampling below temperature 1 sharpens the model further in every cycle."""

from __future__ import annotations

import math
from typing import Literal

from halo_forge.core.advice._facts import Advice
from halo_forge.core.advice._plan import PlanFacts
from halo_forge.core.advice._rule import PlanRule
from halo_forge.core.wording import counted


class Spec(PlanRule):
    """A model that fits samples drawn at temperature T has its logits multiplied by 1 / T; over cycles the factors
    multiply.
    """

    kind: Literal["temperature"] = "temperature"
    limit: float = 2.0
    """The largest factor on the logits, if every cycle fitted its samples fully, that gets no advice."""

    def look(self, facts: PlanFacts) -> Advice | None:
        """Advise if the temperatures of all cycles together could sharpen the model too much."""
        if any(temperature <= 0.0 for temperature in facts.temperatures):
            return None  # one greedy completion per prompt is another kind of run
        factor = math.prod(1.0 / temperature for temperature in facts.temperatures)
        if factor <= self.limit or facts.learning_rate == 0.0:
            return None
        falls = facts.temperatures[-1] < facts.temperatures[0]
        return Advice(
            kind=self.kind,
            symptom="sampling temperatures below 1 compound over cycles",
            evidence=f"{facts.temperatures[0]:g} to {facts.temperatures[-1]:g} over"
            f" {counted(len(facts.temperatures), 'cycle')}: logits scaled by up to {factor:.2g}"
            + (", more in each cycle as the temperature falls" if falls else ""),
            cause="each cycle trains the model to be as sharp as its samples; high learning rates fit them more"
            " closely",
            action="use engine.temperature 1 for training samples and low temperatures only for evaluation; if you vary"
            " both, vary learning rate and temperature independently",
            power="an upper bound: one cycle fits its samples only partly",
        )
