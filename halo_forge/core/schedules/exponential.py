"""Exponential decay: each cycle has `decay` times the value of the previous one, down to `min`."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import ConfigDict, model_validator

from halo_forge.core.schedules._schedule import (
    DecayFactor,
    History,
    NonNegative,
    NumberSchedule,
    require_floor_below_base,
)


class Exponential(NumberSchedule):
    """`max(min, base * decay^(c-1))`: one of the untested strategies that the project started with, with a floor."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"kind": "exponential", "base": 5e-5, "decay": 0.85, "min": 1e-6}]}
    )

    kind: Literal["exponential"] = "exponential"
    base: NonNegative
    decay: DecayFactor = 0.85
    min: NonNegative = 1e-6

    @model_validator(mode="after")
    def _floor_below_base(self) -> Self:
        require_floor_below_base(self.base, self.min)
        return self

    def value(self, cycle: int, num_cycles: int, history: History = ()) -> float:
        cycle = self.position(cycle, num_cycles)
        return max(self.min, self.base * self.decay ** (cycle - 1))
