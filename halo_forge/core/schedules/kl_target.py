"""A controller with a target for the KL divergence: raised if the model moved less, lowered if it moved more."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from halo_forge.core.schedules._schedule import History, NonNegative, NumberSchedule, require_floor_below_base


class KlTarget(NumberSchedule):
    """`next = clip(value * clip((target / D)^exponent, 1/max_factor, max_factor), min, max)`.

    D is the divergence of a version from the one it was trained from.  The versions 1 .. c-1 are replayed for cycle c,
    so the value needs no stored state.  A version without D, or with a D that is 0 or not finite, changes nothing.

    Attributes:
        target: The target divergence, in units of the metric; by default the first that is measured, which is what
            `base` caused.
        exponent: 0.5, because the KL divergence grows with the square of a small step.
        max_factor: The largest factor by which one version raises or lowers the value.
        metric: A key of the measurements: a divergence per version, at least 0.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"kind": "kl_target", "base": 5e-5},
                {"kind": "kl_target", "base": 5e-5, "target": 0.01, "max": 1e-4},
            ]
        }
    )

    reads_history: ClassVar[bool] = True

    kind: Literal["kl_target"] = "kl_target"
    base: NonNegative
    target: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] | None = None
    exponent: Annotated[float, Field(gt=0.0, le=2.0)] = 0.5
    max_factor: Annotated[float, Field(gt=1.0, allow_inf_nan=False)] = 1.5
    min: NonNegative = 1e-6
    max: NonNegative = 1e-2
    metric: Annotated[str, Field(min_length=1)] = "kl_to_previous"

    @model_validator(mode="after")
    def _base_between_the_ends(self) -> Self:
        require_floor_below_base(self.base, self.min)
        if self.base > self.max:
            raise ValueError(f"base {self.base:g} is above max {self.max:g}: raise max, or lower base")
        return self

    def value(self, cycle: int, num_cycles: int, history: History = ()) -> float:
        cycle = self.position(cycle, num_cycles)
        value, target = self.base, self.target
        for distance in self._distances(history[1:cycle]):
            target = distance if target is None else target
            # In logarithms, so that a divergence near the smallest float does not overflow.
            wanted = self.exponent * (math.log(target) - math.log(distance))
            limit = math.log(self.max_factor)
            value = self._moved(value, math.exp(min(max(wanted, -limit), limit)))
        return value

    def bounds(self, cycle: int, num_cycles: int) -> tuple[float, float]:
        """Every version far enough above the target for the full factor, and every version far enough below it."""
        # Without a target the first divergence is the target, and changes nothing.
        num_moves = max(0, self.position(cycle, num_cycles) - (1 if self.target is not None else 2))
        low = high = self.base
        for _ in range(num_moves):
            low = self._moved(low, math.exp(-math.log(self.max_factor)))
            high = self._moved(high, math.exp(math.log(self.max_factor)))
        return low, high

    def _moved(self, value: float, factor: float) -> float:
        return min(max(value * factor, self.min), self.max)

    def _distances(self, history: History) -> Iterator[float]:
        for metrics in history:
            distance = metrics.get(self.metric)
            if distance is not None and math.isfinite(distance) and distance > 0.0:
                yield distance
