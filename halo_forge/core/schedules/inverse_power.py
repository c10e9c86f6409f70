"""Inverse power: falls fast at first and slower later, and never reaches 0."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from halo_forge.core.schedules._schedule import History, NonNegative, NumberSchedule


class InversePower(NumberSchedule):
    """`base * (c0 / (c0 + c - 1))^power`.

    Attributes:
        power: 0.5, with `c0` 1, halves the value by cycle 4; 1 by cycle 2; 0 is a constant.
        c0: A larger value delays the fall: with 10, cycle 11 has the value that cycle 2 has with 1.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"kind": "inverse_power", "base": 5e-5},
                {"kind": "inverse_power", "base": 5e-5, "power": 1.0, "c0": 3.0},
            ]
        }
    )

    kind: Literal["inverse_power"] = "inverse_power"
    base: NonNegative
    power: NonNegative = 0.5
    c0: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = 1.0

    def value(self, cycle: int, num_cycles: int, history: History = ()) -> float:
        cycle = self.position(cycle, num_cycles)
        share: float = (self.c0 / (self.c0 + cycle - 1)) ** self.power
        return self.base * share
