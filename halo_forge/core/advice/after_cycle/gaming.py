"""More programs compile, but they do less: the reward is being gamed."""

from __future__ import annotations

from typing import Literal

from halo_forge.core.advice._facts import Advice, RunFacts, in_words, power
from halo_forge.core.advice._rule import Rule


class Spec(Rule):
    """Stub code compiles: if compiling alone earns a reward, the model learns to write it."""

    kind: Literal["gaming"] = "gaming"
    shorter: float = 0.7
    """Completions are suspiciously short if their mean length on dev, in tokens, is below this share of v0's."""

    def look(self, facts: RunFacts) -> Advice | None:
        """Advise if the dev compile rate rose and the pass rate fell, or completions became much shorter."""
        compiles, passes = facts.change("compiles", facts.start), facts.change("passes", facts.start)
        if compiles is None or passes is None or compiles.low <= 0.0:
            return None
        length = facts.ratio("dev/completion_tokens_mean")
        short = length is not None and length < self.shorter and passes.low <= 0.0
        if passes.high >= 0.0 and not short:
            return None
        shown = f"; completions are {length:.0%} as long as v0's" if length is not None else ""
        return Advice(
            kind=self.kind,
            symptom="more programs compile, but fewer pass"
            if passes.high < 0.0
            else "more programs compile and they are shorter, but the pass rate is not significantly higher",
            evidence=f"{in_words('dev compile rate', compiles)}; {in_words(facts.pass_rate('dev'), passes)}{shown}",
            cause="the reward can be earned without solving the task (stub code)",
            action="use prompts with tests, or a higher selection.reward_threshold; inspect the kept samples and their"
            " flags",
            power=power(passes),
        )
