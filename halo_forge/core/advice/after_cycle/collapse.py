"""The samples become alike."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from halo_forge.core.advice._facts import MIN_PROMPTS, Advice, RunFacts
from halo_forge.core.advice._rule import Rule


class Spec(Rule):
    """Compares with the start model: diversity on dev, which is always sampled at the same temperature, and the entropy
    of the probe, which is always measured on the same contexts.
    """

    kind: Literal["collapse"] = "collapse"
    share: float = 0.5
    """Distinct programs among 4 samples, or entropy on the probe, below this share of v0's are a sign."""
    times: float = 2.0
    """So is a probability that two programs are equal of more than this multiple of v0's,"""
    rise: float = 0.1
    """if it also rose by more than this: twice a small probability is only a handful of programs."""

    def look(self, facts: RunFacts) -> Advice | None:
        """Advise if a measure of diversity on dev or on the probe fell far below v0's."""
        signs = list(self._signs(facts))
        if not signs or facts.num_prompts("dev") < MIN_PROMPTS:
            return None
        return Advice(
            kind=self.kind,
            symptom="diversity is collapsing to few distinct programs",
            evidence="; ".join(signs),
            cause="each cycle trains on what the previous one already preferred (mode collapse)",
            action="raise engine.temperature to 1 or above, enable replay, set training.start_from: base, or halve the"
            " learning rate; whether a decaying rate alone helps is unknown",
            power="no interval: means over the dev prompts of one run; where nearly every sample passes, low diversity"
            " is also a sign of success",
        )

    def _signs(self, facts: RunFacts) -> Iterator[str]:
        for name in ("dev/diversity/distinct@4", "probe/entropy"):
            ratio = facts.ratio(name)
            if ratio is not None and ratio < self.share:
                yield self._shown(facts, name)
        name = "dev/diversity/duplicate_probability"
        before, after = facts.start.metrics.get(name), facts.now.metrics.get(name)
        if before is not None and after is not None and after > self.times * before and after - before > self.rise:
            yield self._shown(facts, name)

    def _shown(self, facts: RunFacts, name: str) -> str:
        return f"{name} {facts.now.metrics[name]:.3g}, v0 had {facts.start.metrics[name]:.3g}"
