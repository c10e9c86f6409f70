"""The settings that all policies share, and the order in which rules and policy apply."""

from __future__ import annotations

import abc
from collections.abc import Collection, Hashable, Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from halo_forge.core.records import Sample, Selection, Threshold, pass_counts
from halo_forge.core.registry import Spec
from halo_forge.core.schedules import Scheduled, ScheduledNumber
from halo_forge.core.selection._rules import (
    Candidate,
    Chosen,
    candidates_of,
    quota,
    reason_to_drop,
    solved,
    to_selection,
    without_duplicates,
)

Cap = Annotated[int, Field(ge=1)]


class SelectionSpec(Spec, abc.ABC):
    """A policy that chooses training data.

    Attributes:
        kind: The name of the policy in the configuration; the name of its module.
        reward_threshold: "pass" keeps full successes only; a number keeps samples with at least this reward.
        per_prompt_cap: Keep at most this many samples per prompt; None sets no limit.
        keep_fraction: The share in (0, 1] to keep of the samples that passed the rules before the cap; rounded up.
        deduplicate: Keep only one of several equal programs.
        drop_flagged: Drop samples with a hack flag (`records.HACK_FLAGS`).
        drop_prompts: Keep nothing from prompts whose samples never pass, or always pass.
        is_control: Verdicts play no part: a control arm, not a way to train.
    """

    is_control: ClassVar[bool] = False

    kind: str
    reward_threshold: Scheduled = Field(default="pass", validate_default=True)
    per_prompt_cap: Cap | None = 4
    keep_fraction: ScheduledNumber = Field(default=1.0, validate_default=True)
    deduplicate: bool = True
    drop_flagged: bool = True
    drop_prompts: list[Literal["never", "always"]] = Field([])

    @abc.abstractmethod
    def choose(self, candidates: Sequence[Candidate], keep_fraction: float, seed: int) -> Chosen:
        """The policy itself: which of the candidates, which passed all rules before the cap, are kept."""

    def select(
        self,
        samples: Sequence[Sample],
        *,
        threshold: Threshold,
        keep_fraction: float,
        seed: int,
        kept_before: Collection[Hashable] = (),
    ) -> Selection:
        """The samples to train on, and for every other sample the first rule that dropped it.

        Args:
            threshold: The value of `reward_threshold` in this cycle.
            keep_fraction: The value of `keep_fraction` in this cycle.
            seed: Breaks ties that reward and rules leave; the order of the samples never does.
            kept_before: Identities of the programs that earlier cycles kept; other programs win ties.

        Raises:
            ValueError: A sample occurs twice, or `keep_fraction` is not in (0, 1].
        """
        quota(0, keep_fraction)
        dropped: dict[str, list[Candidate]] = {}
        left: list[Candidate] = []
        unwanted = self._unwanted(samples)
        for candidate in candidates_of(samples, kept_before):
            reason = self.reason_to_drop(candidate, threshold)
            if reason is None:
                reason = unwanted.get(candidate.sample.prompt_id)
            (left if reason is None else dropped.setdefault(reason, [])).append(candidate)
        if self.deduplicate:
            left, dropped["duplicate"] = without_duplicates(left, seed)
        chosen = self.choose(sorted(left, key=lambda each: each.key), keep_fraction, seed)
        choice = {"over_cap": chosen.over_cap, "below_keep_fraction": chosen.below_keep_fraction}
        return to_selection(chosen.kept, {**dropped, **choice}, threshold, seed)

    def reason_to_drop(self, candidate: Candidate, threshold: Threshold) -> str | None:
        """The first rule that drops this sample regardless of the others, None if none does."""
        return reason_to_drop(candidate, threshold, self.drop_flagged)

    def _unwanted(self, samples: Sequence[Sample]) -> dict[str, str]:
        wanted = {f"{name}_solved" for name in self.drop_prompts}
        found = {prompt_id: solved(*counts) for prompt_id, counts in pass_counts(samples).items()}
        return {prompt_id: reason for prompt_id, reason in found.items() if reason in wanted}

    def max_kept(self, num_prompts: int, samples_per_prompt: int, keep_fraction: float) -> int:
        """The most samples that `select` can keep, for the dry run; by default for policies that choose per prompt."""
        per_prompt = quota(samples_per_prompt, keep_fraction)
        return num_prompts * (per_prompt if self.per_prompt_cap is None else min(per_prompt, self.per_prompt_cap))
