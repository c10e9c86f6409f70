"""From the result of a check to a reward: a pure function, so that saved verdicts can be scored again."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from halo_forge.core.records import CheckResult, Verdict


class Rewards(BaseModel):
    """The reward of each level that a program can reach, in [0, 1] and never falling from level to level.

    Attributes:
        no_program: The answer holds no program.
        not_compiling: It holds one that does not compile (or link).
        compiles_with_warnings, compiles: It compiles; a run that crashes or does not end stays here.
        runs: It runs to a clean exit; also where no check passes.
        passes: It passes all checks; between `runs` and this, linear in the share of checks that pass.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    no_program: float = Field(default=0.0, ge=0.0, le=1.0)
    not_compiling: float = Field(default=0.0, ge=0.0, le=1.0)
    compiles_with_warnings: float = Field(default=0.3, ge=0.0, le=1.0)
    compiles: float = Field(default=0.5, ge=0.0, le=1.0)
    runs: float = Field(default=0.7, ge=0.0, le=1.0)
    passes: float = Field(default=1.0, ge=0.0, le=1.0)

    @model_validator(mode="after")
    def _never_falling(self) -> Self:
        levels = list(self.model_dump().items())
        for (lower, low), (higher, high) in itertools.pairwise(levels):
            if low > high:
                raise ValueError(f"{lower} ({low}) must not be above {higher} ({high})")
        return self


def reward(result: CheckResult, rewards: Rewards) -> float:
    """The reward of a program; 0.0 for a failure of the verifier itself, which no rate counts.

    A verdict is a check result, so a stored one is scored again without running anything.
    """
    if result.status == "error":
        return 0.0
    if result.stage == "extract":
        return rewards.no_program
    compiled = rewards.compiles_with_warnings if result.warnings > 0 else rewards.compiles
    if result.stage == "compile":
        return compiled if result.status == "passed" else rewards.not_compiling
    if result.stage == "run":
        return rewards.runs if result.status == "passed" else compiled
    if result.status == "passed":
        return rewards.passes
    if result.tests_total == 0:
        return rewards.runs
    # All lines right and then more of them is a failure too, and worth less than success.
    share = min(result.tests_passed, result.tests_total - 1) / result.tests_total
    return rewards.runs + (rewards.passes - rewards.runs) * share


def rescored(verdict: Verdict, rewards: Rewards) -> Verdict:
    """The same verdict with the reward that it gets under `rewards`."""
    return dataclasses.replace(verdict, reward=reward(verdict, rewards))
