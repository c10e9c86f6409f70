"""A control arm: the model's own samples, unverified.

Unverified samples can raise pass rates too (SSD, arXiv:2604.01193), so only a comparison with this arm shows what the
verifier adds.  For an equal amount of data, set `keep_fraction` to the share that the arm with the verifier keeps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from halo_forge.core.records import Threshold
from halo_forge.core.schedules import Scheduled
from halo_forge.core.selection._rules import Candidate, Chosen, by_prompt, merged, quota, take
from halo_forge.core.selection._spec import Cap, SelectionSpec


class Unfiltered(SelectionSpec):
    """Keeps a random `keep_fraction` of each prompt's samples, whatever their verdicts, but never truncated ones.

    Threshold, flags, duplicates and second runs play no part.
    """

    is_control: ClassVar[bool] = True

    kind: Literal["unfiltered"] = "unfiltered"
    reward_threshold: Scheduled = Field(default=0.0, validate_default=True)
    per_prompt_cap: Cap | None = None
    deduplicate: bool = False
    drop_flagged: bool = False

    @model_validator(mode="after")
    def _without_filters(self) -> Unfiltered:
        found = [name for name in ("deduplicate", "drop_flagged", "drop_prompts") if getattr(self, name)]
        if self.reward_threshold.kind != "constant" or self.reward_threshold.value(1, 1) != 0.0:
            found.insert(0, "reward_threshold")
        if found:
            raise ValueError(f"kind unfiltered is a control arm without a filter: remove {', '.join(found)}")
        return self

    def reason_to_drop(self, candidate: Candidate, threshold: Threshold) -> str | None:
        return "truncated" if candidate.completion.finish == "length" else None

    def choose(self, candidates: Sequence[Candidate], keep_fraction: float, seed: int) -> Chosen:
        parts = []
        for group in by_prompt(candidates).values():
            ranked = sorted(group, key=lambda each: each.tie_break(seed))
            parts.append(take(ranked, quota=quota(len(group), keep_fraction), cap=self.per_prompt_cap))
        return merged(parts)
