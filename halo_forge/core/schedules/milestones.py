"""Step decay: multiplied by `decay` at each milestone, down to `min`."""

from __future__ import annotations

import itertools
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from halo_forge.core.schedules._schedule import (
    DecayFactor,
    History,
    NonNegative,
    NumberSchedule,
    require_floor_below_base,
)


class Milestones(NumberSchedule):
    """`max(min, base * decay^k)`, `k` the number of milestones reached.

    Attributes:
        every: A step after each `every` cycles, `k = floor((c-1) / every)`; 2 steps at cycles 3, 5, 7 ...
        milestones: The first cycle of each step, increasing and at least 2.  Exactly one of the two is given.
        decay: 0.1 by default (1e-3, 1e-4, 1e-5).
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"kind": "milestones", "base": 5e-5, "decay": 0.5, "every": 2},
                {"kind": "milestones", "base": 5e-5, "decay": 0.5, "milestones": [3, 5]},
            ]
        }
    )

    kind: Literal["milestones"] = "milestones"
    base: NonNegative
    decay: DecayFactor = 0.1
    min: NonNegative = 1e-6
    every: Annotated[int, Field(ge=1)] | None = None
    milestones: Annotated[tuple[Annotated[int, Field(ge=2)], ...], Field(strict=False, min_length=1)] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        require_floor_below_base(self.base, self.min)
        if (self.every is None) == (self.milestones is None):
            raise ValueError("give exactly one of `every` (a number of cycles) and `milestones` (a list of cycles)")
        if self.milestones is not None and any(a >= b for a, b in itertools.pairwise(self.milestones)):
            raise ValueError(f"milestones must increase, found {list(self.milestones)}")
        return self

    def value(self, cycle: int, num_cycles: int, history: History = ()) -> float:
        cycle = self.position(cycle, num_cycles)
        if self.every is not None:
            num_steps = (cycle - 1) // self.every
        else:
            num_steps = sum(milestone <= cycle for milestone in self.milestones or ())
        return max(self.min, self.base * self.decay**num_steps)
