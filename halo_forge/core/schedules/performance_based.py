"""One of the strategies that the project started with, untested and unchanged; use `plateau` instead."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field

from halo_forge.core.schedules._schedule import DecayFactor, History, NonNegative, NumberSchedule


class PerformanceBased(NumberSchedule):
    """`base` in the first cycle; later `base * decay` if the newest version improved too little, else `base`.

    Included for comparison, with the faults of its formula: it ignores noise, does not distinguish a stall from a
    decline, does not compound, has no memory, and its relative threshold is tiny near 0 and unreachable near 1.

    The improvement is `(current - previous) / previous`, for the metrics of the newest version and the one before it.
    If the previous metric is 0 the formula divides by 0; here any rise from 0 is an infinite improvement, and 0 after 0
    is none.  If one of the two is missing or not finite, the value is `base`.

    Attributes:
        improvement_threshold: Relative: 0.02 requires 2 % more than the previous version.
        metric: A key of the measurements, a rate in [0, 1] or another number of at least 0 that should rise.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"kind": "performance_based", "base": 5e-5},
                {"kind": "performance_based", "base": 5e-5, "improvement_threshold": 0.0, "decay": 0.5},
            ]
        }
    )

    reads_history: ClassVar[bool] = True

    kind: Literal["performance_based"] = "performance_based"
    base: NonNegative
    improvement_threshold: NonNegative = 0.02
    decay: DecayFactor = 0.7
    metric: Annotated[str, Field(min_length=1)] = "dev/pass_rate"

    def value(self, cycle: int, num_cycles: int, history: History = ()) -> float:
        cycle = self.position(cycle, num_cycles)
        known = history[:cycle]
        if cycle == 1 or len(known) < 2:
            return self.base
        previous, current = (metrics.get(self.metric, math.nan) for metrics in known[-2:])
        if not (math.isfinite(previous) and math.isfinite(current)):
            return self.base
        if previous == 0.0:
            improvement = math.inf if current > 0.0 else 0.0
        else:
            improvement = (current - previous) / previous
        return self.base * self.decay if improvement < self.improvement_threshold else self.base

    def bounds(self, cycle: int, num_cycles: int) -> tuple[float, float]:
        """`base` in the first cycle; later `base` or `base * decay`."""
        return self.base if self.position(cycle, num_cycles) == 1 else self.base * self.decay, self.base
