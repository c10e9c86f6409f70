"""The best samples per prompt, as in RAFT (Dong et al. 2023, arXiv:2304.06767): hard prompts are not crowded out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from halo_forge.core.selection._rules import Candidate, Chosen, by_prompt, merged, quota, take
from halo_forge.core.selection._spec import SelectionSpec


class BestPerPrompt(SelectionSpec):
    """Ranks the candidates of each prompt by merit (reward first) and keeps the first of each prompt.

    `keep_fraction` counts from each prompt's candidates before the cap, rounded up: a prompt with a candidate keeps
    at least one.
    """

    kind: Literal["best_per_prompt"] = "best_per_prompt"

    def choose(self, candidates: Sequence[Candidate], keep_fraction: float, seed: int) -> Chosen:
        parts = []
        for group in by_prompt(candidates).values():
            ranked = sorted(group, key=lambda each: each.rank(seed))
            parts.append(take(ranked, quota=quota(len(group), keep_fraction), cap=self.per_prompt_cap))
        return merged(parts)
