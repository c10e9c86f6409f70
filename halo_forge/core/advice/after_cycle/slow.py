"""The model moves from cycle to cycle, but nothing is gained."""

from __future__ import annotations

from typing import Literal

from halo_forge.core.advice._facts import Advice, RunFacts, in_words, power
from halo_forge.core.advice._rule import Rule
from halo_forge.core.wording import counted


class Spec(Rule):
    """Speaks only if a worthwhile gain can be ruled out; otherwise the run is too small to tell."""

    kind: Literal["slow"] = "slow"
    num_cycles: int = 3
    """The number of cycles that are looked back."""
    worth: float = 0.02
    """The smallest gain of the dev pass rate that would make these cycles worthwhile."""
    small_kl: float = 0.001
    """KL(previous || now) in nats per token, below which too small updates are the likely cause."""

    def look(self, facts: RunFacts) -> Advice | None:
        """Advise if the interval of the dev pass rate rules out a worthwhile gain over the last cycles."""
        if len(facts.trainings) < self.num_cycles:
            return None
        if any(version.metrics.get("decision/outcome") == 1.0 for version in facts.versions[-self.num_cycles :]):
            return None  # a gain on decisions.metric, whichever that is
        change = facts.change("passes", facts.versions[-1 - self.num_cycles])
        if change is None or change.standard_error == 0.0 or not 0.0 <= change.high < self.worth:
            return None
        step = facts.now.metrics.get("kl_to_previous")
        small = step is not None and step < self.small_kl
        moved = "unknown" if step is None else f"{step:.2g} nats/token"
        return Advice(
            kind=self.kind,
            symptom=f"{counted(self.num_cycles, 'cycle')} without a gain",
            evidence=f"{in_words(facts.pass_rate('dev'), change)} over {counted(self.num_cycles, 'cycle')}: a gain of"
            f" {self.worth:g} is ruled out; KL to the previous version {moved}",
            cause="updates that are too small" if small else "the kept samples teach nothing new",
            action="try 3 times the learning rate"
            if small
            else "use harder or more prompts, raise samples_per_prompt, or stop",
            power=power(change),
        )
