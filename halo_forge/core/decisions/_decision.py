"""What is decided in a cycle, with everything that it rests on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from halo_forge.core.records import Record

Outcome = Literal["baseline", "improved", "held", "suspect_not_confirmed", "degraded", "underpowered"]
Action = Literal["continue", "rollback", "continue_lower", "from_base", "stop", "finish"]
Conclusion = Literal["converged", "declined", "collapsed", "exhausted", "still_improving", "improved", "inconclusive"]

OUTCOME_NUMBER: Mapping[str, float] = {"improved": 1.0, "held": 0.0, "suspect_not_confirmed": 0.0, "degraded": -1.0}
"""Outcome -> the number that schedules read in the history; the others say nothing about progress."""


@dataclass(frozen=True, slots=True)
class Decision(Record):
    """What follows from the dev verdicts so far; docs/decisions.md has the rules.

    Attributes:
        outcome: What v_{cycle-1} is against the incumbent.
        action: "continue" trains v_cycle from v_{cycle-1}; "rollback", "continue_lower" and "from_base" are the
            answers to a confirmed decline; "stop" and "finish" (all cycles done) end the run.
        best_version: The incumbent as of now: the version to keep.
        reason: Outcome and action in words, with their numbers.
        compared_with: The incumbent that v_{cycle-1} was compared with; None for the start model.
        screen: `difference`, `standard_error`, `z` (absent without a spread), `minimum_detectable_effect` and
            `num_prompts` of v_{cycle-1} minus the incumbent on the dev samples; empty where nothing was compared.
        confirmation: The same on fresh samples of both; empty where none were drawn.
        train_from: The version that v_cycle is trained from.
        sample_from: The version whose samples v_cycle is trained on.
        seed_tag: What the seeds of these samples are derived from, besides cycle, prompt and index.
        learning_rate_factor: What this cycle's scheduled learning rate is multiplied with: all declines together.
        temperature_add: What is added to the scheduled sampling temperature: all returns together.
        num_rollbacks: Times that training went back to an earlier version.
        conclusion: Of a run that ends here.
    """

    cycle: int
    outcome: Outcome
    action: Action
    best_version: int
    reason: str
    compared_with: int | None = None
    screen: Mapping[str, float] = field(default_factory=dict)
    confirmation: Mapping[str, float] = field(default_factory=dict)
    train_from: int = 0
    sample_from: int = 0
    seed_tag: str = "sample"
    learning_rate_factor: float = 1.0
    temperature_add: float = 0.0
    num_rollbacks: int = 0
    conclusion: Conclusion | None = None

    @property
    def policy_version(self) -> int:
        """The version that was judged."""
        return self.cycle - 1

    @property
    def ends(self) -> bool:
        """Nothing is trained after it."""
        return self.action in ("stop", "finish")

    @property
    def resamples(self) -> bool:
        """This cycle trains on samples of an earlier version than v_{cycle-1}."""
        return self.sample_from != self.policy_version
