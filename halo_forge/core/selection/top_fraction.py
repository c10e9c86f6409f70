"""The best share of all samples together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from halo_forge.core.selection._rules import Candidate, Chosen, quota, take
from halo_forge.core.selection._spec import SelectionSpec


class TopFraction(SelectionSpec):
    """Ranks all candidates by merit (reward first) and keeps the first `keep_fraction`, rounded up.

    The fraction is of the candidates before the cap; the next in rank replaces a capped one.  Easy prompts get more of
    the places than hard ones, unlike with `best_per_prompt`.
    """

    kind: Literal["top_fraction"] = "top_fraction"

    def choose(self, candidates: Sequence[Candidate], keep_fraction: float, seed: int) -> Chosen:
        ranked = sorted(candidates, key=lambda each: each.rank(seed))
        return take(ranked, quota=quota(len(ranked), keep_fraction), cap=self.per_prompt_cap)

    def max_kept(self, num_prompts: int, samples_per_prompt: int, keep_fraction: float) -> int:
        """The most samples that `select` can keep."""
        most = quota(num_prompts * samples_per_prompt, keep_fraction)
        if self.per_prompt_cap is None:
            return most
        return min(most, num_prompts * min(samples_per_prompt, self.per_prompt_cap))
