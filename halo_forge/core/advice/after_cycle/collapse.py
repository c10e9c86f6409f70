"""Samples become alike."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from halo_forge.core.advice._facts import MIN_PROMPTS, Advice, RunFacts
from halo_forge.core.advice._rule import Rule


class Spec(Rule):
    """On the dev prompts, whose temperature never changes; the probe's entropy is on the same contexts every time."""

    kind: Literal["collapse"] = "collapse"
    share: float = 0.5
    """Of v0's distinct programs among 4, and of its entropy on the probe."""
    times: float = 2.0
    """v0's probability that two programs are equal ..."""
    rise: float = 0.1
    """... which must also have risen by this: twice a small probability is a handful of programs."""

    def look(self, facts: RunFacts) -> Advice | None:
        """See the module."""
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
