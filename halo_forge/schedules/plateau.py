"""Decay when a metric stops improving: the learning-rate document's performance-based strategy C, made sound."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from halo_forge.schedules._schedule import DecayFactor, History, NonNegative, NumberSchedule, require_floor_below_base

# 0.42 - 0.40 is 0.01999... in floats: a difference this close to the threshold reaches it.
_ROUNDING = 1e-9


class Plateau(NumberSchedule):
    """`max(min, base * decay^k)`, `k` the number of stalls in the measurements so far.

    The measurements of versions 0 .. c-1 are replayed for cycle c, so the value needs no stored state.  Version 0
    is the first reference.  Each later version either **improves** on the reference by at least `min_improvement`
    (an absolute difference; larger is better) and becomes the reference, or it is a miss.  After `patience` misses
    since the last improvement, decay or cooldown the value decays, and the next `cooldown` versions cannot be a miss.
    A version without the metric, or where it is not finite, changes nothing.

    Differs from the document's formula: decays compound, there is no division (and none by zero), a threshold that
    does not shrink near 0, a floor, and slow gains add up because the reference moves only on an improvement.
    It does not know how noisy the metric is: with few prompts, noise alone is a stall or an improvement.

    Attributes:
        patience: Misses before a decay; 1 decays at once.
        cooldown: Versions after a decay that are not counted, so that a decay can show its effect.
        metric: A key of the measurements, a rate in [0, 1] or another number that should rise.
        min_improvement: In units of the metric; 0.02 is two percentage points of a rate.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"kind": "plateau", "base": 5e-5},
                {"kind": "plateau", "base": 5e-5, "patience": 1, "cooldown": 0, "metric": "dev/compile_rate"},
            ]
        }
    )

    kind: Literal["plateau"] = "plateau"
    base: NonNegative
    decay: DecayFactor = 0.7
    min: NonNegative = 1e-6
    patience: Annotated[int, Field(ge=1)] = 2
    cooldown: Annotated[int, Field(ge=0)] = 1
    metric: Annotated[str, Field(min_length=1)] = "dev/pass_rate"
    min_improvement: NonNegative = 0.02

    @model_validator(mode="after")
    def _floor_below_base(self) -> Self:
        require_floor_below_base(self.base, self.min)
        return self

    def value(self, cycle: int, num_cycles: int, history: History = ()) -> float:
        cycle = self.position(cycle, num_cycles)
        return self._after(self._count_decays(history[:cycle]))

    def bounds(self, cycle: int, num_cycles: int) -> tuple[float, float]:
        """`base` where every version improves or is not measured; the floor of the range where none improves."""
        num_misses = self.position(cycle, num_cycles) - 1
        num_decays = 0 if num_misses < self.patience else 1 + (num_misses - self.patience) // self._period
        return self._after(num_decays), self.base

    @property
    def _period(self) -> int:
        """Versions from one decay to the next where none improves."""
        return self.patience + self.cooldown

    def _after(self, num_decays: int) -> float:
        return max(self.min, self.base * self.decay**num_decays)

    def _count_decays(self, history: History) -> int:
        reference: float | None = None
        num_decays = num_misses = cooling = 0
        for metrics in history:
            measured = metrics.get(self.metric)
            if measured is None or not math.isfinite(measured):
                continue
            improved = reference is None or measured - reference >= self.min_improvement - _ROUNDING
            if improved:
                reference, num_misses = measured, 0
            if cooling > 0:
                cooling -= 1
            elif not improved:
                num_misses += 1
            if num_misses >= self.patience:
                num_decays, num_misses, cooling = num_decays + 1, 0, self.cooldown
        return num_decays
