"""Selection policies: which verified completions become training data.

One policy is one file.  To add `longest`, write `longest.py` in this folder with one class:

    class Longest(SelectionSpec):
        kind: Literal["longest"] = "longest"

        def choose(self, candidates: Sequence[Candidate], keep_fraction: float, seed: int) -> Chosen:
            ranked = sorted(candidates, key=lambda each: (-len(each.completion.token_ids), each.tie_break(seed)))
            return take(ranked, quota=quota(len(ranked), keep_fraction), cap=self.per_prompt_cap)

Nothing has to be registered.  `choose` sees only candidates that passed the rules of all policies (see `_rules.py`),
sorted by prompt id and sample index; its result must not depend on their order, so every ranking ends with `rank` (by
merit, then random) or `tie_break` (random).  A policy that does not choose per prompt also overrides `max_kept`, which
the dry run shows.
"""

from __future__ import annotations

from halo_forge.core.registry import discover
from halo_forge.core.selection._enough import refuse_too_few
from halo_forge.core.selection._replay import kept_before, kept_samples, most_replayed, replay
from halo_forge.core.selection._rules import REASONS, Candidate, Chosen, quota, solved, take, without_flaky
from halo_forge.core.selection._spec import SelectionSpec

__all__ = [
    "REASONS",
    "Candidate",
    "Chosen",
    "SelectionSpec",
    "kept_before",
    "kept_samples",
    "kinds",
    "most_replayed",
    "quota",
    "refuse_too_few",
    "replay",
    "solved",
    "take",
    "without_flaky",
]


def kinds() -> tuple[str, ...]:
    """The names of all policies, sorted."""
    return tuple(discover(__name__))
