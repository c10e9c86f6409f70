"""The prompts that are trained on get better, others do not."""

from __future__ import annotations

from typing import Literal

from halo_forge.core.advice._facts import Advice, RunFacts, in_words, power
from halo_forge.core.advice._rule import Rule


class Spec(Rule):
    """The gap between train and dev, in place of a validation loss: both are pass rates, paired by prompt."""

    kind: Literal["overfit"] = "overfit"
    gain: float = 0.05
    """On the train prompts; a smaller one is not worth the question."""

    def look(self, facts: RunFacts) -> Advice | None:
        """See the module."""
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
