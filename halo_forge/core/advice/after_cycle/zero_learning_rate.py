"""The learning rate was 0: reported in each such cycle, because it explains why nothing changes."""

from __future__ import annotations

from typing import ClassVar, Literal

from halo_forge.core.advice._facts import Advice, RunFacts, in_words, power
from halo_forge.core.advice._rule import Rule
from halo_forge.core.records import MASS


class Spec(Rule):
    """The model did not change, so a difference on dev shows only what chance does."""

    about_training: ClassVar[bool] = False
    kind: Literal["zero_learning_rate"] = "zero_learning_rate"

    def look(self, facts: RunFacts) -> Advice | None:
        """Advise that no change is to be expected if the learning rate was 0."""
        if facts.last is None or facts.trained(MASS) != 0.0:
            return None
        change = facts.change("passes", facts.versions[facts.last.settings.parent_version])
        return Advice(
            kind=self.kind,
            symptom="the learning rate is 0",
            evidence=in_words(facts.pass_rate("dev"), change) if change is not None else "the learning-rate mass is 0",
            cause="configured that way: a control run, or a schedule that ends at 0",
            action="none: no difference is expected",
            power=power(change) if change is not None else "exact",
        )
