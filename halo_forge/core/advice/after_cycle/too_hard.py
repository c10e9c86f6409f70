"""Most train prompts are never solved, and hardly anything is left to train on."""

from __future__ import annotations

from typing import ClassVar, Literal

from halo_forge.core.advice._facts import MIN_PROMPTS, Advice, RunFacts
from halo_forge.core.advice._rule import Rule
from halo_forge.core.wording import counted


class Spec(Rule):
    """A prompt that is never solved gives no samples to train on."""

    about_training: ClassVar[bool] = False
    kind: Literal["too_hard"] = "too_hard"
    limit: float = 0.6
    """A larger share of never solved train prompts is worth advice,"""
    few: int = 32
    """if the previous cycle kept fewer samples than this; in the first cycle the share alone decides."""

    def look(self, facts: RunFacts) -> Advice | None:
        """Advise if most train prompts are never solved and few samples were kept."""
        share = facts.now.metrics.get("train/never")
        if share is None or share <= self.limit or facts.num_prompts("train") < MIN_PROMPTS:
            return None
        if facts.last is not None and len(facts.last.kept) >= self.few:
            return None
        kept = "" if facts.last is None else f"; {counted(len(facts.last.kept), 'sample')} kept in the previous cycle"
        return Advice(
            kind=self.kind,
            symptom="most train prompts are never solved",
            evidence=f"{share:.0%} of {counted(facts.num_prompts('train'), 'prompt')} (more than {self.limit:.0%})"
            + kept,
            cause="the prompts are too hard for this model",
            action="lower selection.reward_threshold in the first cycles, raise samples_per_prompt, start with easier"
            " prompts (raft.curriculum_fraction), or fine-tune on solved examples first",
            power="more samples would solve some of them: coverage grows with samples_per_prompt",
        )
