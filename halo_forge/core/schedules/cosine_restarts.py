"""The cosine repeated: back to `base` every `period` cycles."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from halo_forge.core.schedules._schedule import History, NonNegative, NumberSchedule, mix


class CosineRestarts(NumberSchedule):
    """`final + (base - final) * (1 + cos(pi * u)) / 2` with `u = ((c-1) mod period) / period`.

    `final` itself is not reached: the cycle that would have it is the next restart.

    Attributes:
        period: Cycles from one restart to the next.
        final: The value that each wave approaches; by default a tenth of `base`.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"kind": "cosine_restarts", "base": 5e-5, "period": 3},
                {"kind": "cosine_restarts", "base": 5e-5, "period": 2, "final": 0.0},
            ]
        }
    )

    kind: Literal["cosine_restarts"] = "cosine_restarts"
    base: NonNegative
    period: Annotated[int, Field(ge=2)]
    final: NonNegative | None = None

    def value(self, cycle: int, num_cycles: int, history: History = ()) -> float:
        cycle = self.position(cycle, num_cycles)
        final = 0.1 * self.base if self.final is None else self.final
        through = ((cycle - 1) % self.period) / self.period
        return mix(self.base, final, (1.0 - math.cos(math.pi * through)) / 2.0)
