"""Fewer prompts are solved at all, although the pass rate does not fall."""

from __future__ import annotations

from typing import Literal

from halo_forge.core.advice._facts import Advice, RunFacts, in_words, power
from halo_forge.core.advice._rule import Rule


class Spec(Rule):
    """Coverage is the share of prompts with a pass among their samples; it falls when rare solutions are lost."""

    kind: Literal["sharpening"] = "sharpening"

    def look(self, facts: RunFacts) -> Advice | None:
        """Advise if coverage on dev fell while the pass rate did not."""
        passes, covered = facts.change("passes", facts.start), facts.change("covered", facts.start)
        if passes is None or covered is None or passes.mean < 0.0 or covered.high >= 0.0:
            return None
        return Advice(
            kind=self.kind,
            symptom="fewer dev prompts are solved at all, although the pass rate has not fallen",
            evidence=f"{in_words(facts.pass_rate('dev'), passes)}; {in_words('dev coverage', covered)}",
            cause="sharpening: the model trades rare solutions for frequent ones",
            action="sample at temperature 1, set selection.per_prompt_cap, or use training.start_from: average (weight"
            " 0.5)",
            power=power(covered),
        )
