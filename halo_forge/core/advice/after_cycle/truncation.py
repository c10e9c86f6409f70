"""Completions are truncated by the length limit."""

from __future__ import annotations

from typing import ClassVar, Literal

from halo_forge.core.advice._facts import Advice, RunFacts
from halo_forge.core.advice._rule import Rule


class Spec(Rule):
    """Truncated completions are never kept, so long solutions are selected against."""

    about_training: ClassVar[bool] = False
    kind: Literal["truncation"] = "truncation"
    limit: float = 0.1
    """A larger share of truncated completions, on train or on dev, is worth advice."""

    def look(self, facts: RunFacts) -> Advice | None:
        """Advise if many completions on train or dev reached the length limit."""
        names = ("truncated_fraction", "dev/truncated_fraction")
        found = {name: facts.now.metrics[name] for name in names if name in facts.now.metrics}
        if not any(share > self.limit for share in found.values()):
            return None
        return Advice(
            kind=self.kind,
            symptom="completions are truncated",
            evidence=", ".join(f"{name} {share:.0%}" for name, share in found.items()) + f" (above {self.limit:.0%})",
            cause="engine.max_new_tokens is too small, or completions do not end",
            action="raise engine.max_new_tokens, or add an engine.stop string that ends a completion",
            power="exact for these samples",
        )
