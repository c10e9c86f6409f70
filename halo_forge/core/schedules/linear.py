"""A straight line from `base` in the first cycle to `final` in the last."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict

from halo_forge.core.schedules._schedule import History, NonNegative, NumberSchedule, mix


class Linear(NumberSchedule):
    """`final + (base - final) * (1 - u)` with `u = (c-1) / (C-1)`; `final` may be above `base` for a rising value.

    Attributes:
        final: The value of the last cycle; by default a tenth of `base`.  A run of one cycle uses `base`.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"kind": "linear", "base": 5e-5}, {"kind": "linear", "base": 0.8, "final": 1.2}],
        }
    )

    kind: Literal["linear"] = "linear"
    base: NonNegative
    final: NonNegative | None = None

    def value(self, cycle: int, num_cycles: int, history: History = ()) -> float:
        cycle = self.position(cycle, num_cycles)
        final = 0.1 * self.base if self.final is None else self.final
        return self.base if num_cycles == 1 else mix(self.base, final, (cycle - 1) / (num_cycles - 1))
