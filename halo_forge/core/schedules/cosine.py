"""Half a cosine wave from `base` in the first cycle to `final` in the last."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import ConfigDict

from halo_forge.core.schedules._schedule import History, NonNegative, NumberSchedule, mix


class Cosine(NumberSchedule):
    """`final + (base - final) * (1 + cos(pi * u)) / 2` with `u = (c-1) / (C-1)`; `final` may be above `base`.

    Attributes:
        final: The value of the last cycle; by default a tenth of `base`.  A run of one cycle uses `base`.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"kind": "cosine", "base": 5e-5}, {"kind": "cosine", "base": 5e-5, "final": 5e-6}],
        }
    )

    kind: Literal["cosine"] = "cosine"
    base: NonNegative
    final: NonNegative | None = None

    def value(self, cycle: int, num_cycles: int, history: History = ()) -> float:
        cycle = self.position(cycle, num_cycles)
        if num_cycles == 1:
            return self.base
        final = 0.1 * self.base if self.final is None else self.final
        return mix(self.base, final, (1.0 - math.cos(math.pi * (cycle - 1) / (num_cycles - 1))) / 2.0)
