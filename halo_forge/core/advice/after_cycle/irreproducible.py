"""Two measurements of one and the same model differ by more than chance allows."""

from __future__ import annotations

from typing import ClassVar, Literal

from halo_forge.core.advice._facts import Advice, RunFacts, in_words, power
from halo_forge.core.advice._rule import Rule
from halo_forge.core.records import MASS


class Spec(Rule):
    """Only a cycle at learning rate 0 measures the same model twice, with the same seeds."""

    about_training: ClassVar[bool] = False
    kind: Literal["irreproducible"] = "irreproducible"
    errors: float = 3.0
    """Standard errors of the paired difference that chance may explain."""

    def look(self, facts: RunFacts) -> Advice | None:
        """Advise if a cycle at learning rate 0 changed the dev pass rate by more than chance allows."""
        if facts.last is None or facts.trained(MASS) != 0.0:
            return None
        change = facts.change("passes", facts.versions[facts.last.settings.parent_version])
        if change is None or abs(change.mean) <= self.errors * change.standard_error:
            return None
        return Advice(
            kind=self.kind,
            symptom="two measurements of the same model differ",
            evidence=in_words(facts.pass_rate("dev"), change),
            cause="verdicts that depend on time or load, or samples that depend on more than their seed",
            action="find the cause before anything else: compare dev_completions.jsonl and dev_verdicts.jsonl of both"
            " cycles",
            power=power(change),
        )
