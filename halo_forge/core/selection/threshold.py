"""Everything that reaches the threshold: plain rejection sampling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from halo_forge.core.selection._rules import Candidate, Chosen, by_prompt, merged, quota, take
from halo_forge.core.selection._spec import Cap, SelectionSpec


class KeepThreshold(SelectionSpec):
    """Keeps all candidates; a `keep_fraction` below 1 or a cap keeps a random subset of each prompt's candidates.

    Above the threshold the reward does not matter; use `best_per_prompt` or `top_fraction` to rank by it.
    """

    kind: Literal["threshold"] = "threshold"
    per_prompt_cap: Cap | None = None

    def choose(self, candidates: Sequence[Candidate], keep_fraction: float, seed: int) -> Chosen:
        parts = []
        for group in by_prompt(candidates).values():
            ranked = sorted(group, key=lambda each: each.tie_break(seed))
            parts.append(take(ranked, quota=quota(len(group), keep_fraction), cap=self.per_prompt_cap))
        return merged(parts)
