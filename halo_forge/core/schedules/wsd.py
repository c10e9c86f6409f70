"""Warm-up, stable, decay: rise over the first cycles, hold, fall over the last ones."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from halo_forge.core.schedules._schedule import History, NonNegative, NumberSchedule, mix, require_floor_below_base
from halo_forge.core.wording import counted


class WarmupStableDecay(NumberSchedule):
    """`base * c / W` over the first `W` cycles, `base`, then over the last `D` cycles a straight line to `min`.

    The last cycle of the run has `min`.  No value is below `min`, not even during the warm-up.  A run of one cycle uses
    `base`.

    Attributes:
        warmup_cycles: `W`; 0 by default.
        decay_cycles: `D`; by default `ceil(0.3 * C)`.  `W + D` must not exceed `num_cycles`.
        min: By default a tenth of `base`.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"kind": "wsd", "base": 5e-5},
                {"kind": "wsd", "base": 5e-5, "warmup_cycles": 1, "decay_cycles": 0, "min": 0.0},
            ]
        }
    )

    kind: Literal["wsd"] = "wsd"
    base: NonNegative
    warmup_cycles: Annotated[int, Field(ge=0)] = 0
    decay_cycles: Annotated[int, Field(ge=0)] | None = None
    min: NonNegative | None = None

    @model_validator(mode="after")
    def _floor_below_base(self) -> Self:
        require_floor_below_base(self.base, self._floor)
        return self

    @property
    def _floor(self) -> float:
        return 0.1 * self.base if self.min is None else self.min

    def value(self, cycle: int, num_cycles: int, history: History = ()) -> float:
        cycle = self.position(cycle, num_cycles)
        if num_cycles == 1:
            return self.base
        # ceil(3 C / 10) in integers, because 0.3 has no exact float.
        num_decay = (3 * num_cycles + 9) // 10 if self.decay_cycles is None else self.decay_cycles
        if self.warmup_cycles + num_decay > num_cycles:
            raise ValueError(
                f"{self.warmup_cycles} warm-up cycles and {num_decay} decay cycles do not fit into "
                f"{counted(num_cycles, 'cycle')}: lower warmup_cycles or decay_cycles"
            )
        if cycle <= self.warmup_cycles:
            return max(self._floor, self.base * cycle / self.warmup_cycles)
        num_decayed = cycle - (num_cycles - num_decay)
        return self.base if num_decayed <= 0 else mix(self.base, self._floor, num_decayed / num_decay)
