"""The pass rate rises on the prompts that are trained on, and not on others."""

from __future__ import annotations

from typing import Literal

from halo_forge.core.advice._facts import Advice, RunFacts, in_words, power
from halo_forge.core.advice._rule import Rule


class Spec(Rule):
    """Uses the gap between train and dev pass rates, both paired by prompt, instead of a validation loss."""

    kind: Literal["overfit"] = "overfit"
    gain: float = 0.05
    """A smaller gain of the pass rate on train is ignored."""

    def look(self, facts: RunFacts) -> Advice | None:
        """Advise if train improved and its interval lies above that of dev."""
        train, dev = facts.change("passes", facts.start, "train"), facts.change("passes", facts.start)
        if train is None or dev is None or train.mean <= self.gain or train.low <= dev.high:
            return None
        return Advice(
            kind=self.kind,
            symptom="train prompts improve but dev prompts do not",
            evidence=f"{in_words(facts.pass_rate('train'), train)}; {in_words(facts.pass_rate('dev'), dev)};"
            " the intervals do not overlap",
            cause="the model learns the prompts, not the task",
            action="add more and different train prompts, use training.start_from: base with replay, or stop here",
            power=power(dev),
        )
