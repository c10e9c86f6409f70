"""Raised by one step for each version whose samples are less diverse than a share of the start model's."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from halo_forge.core.schedules._schedule import History, NonNegative, NumberSchedule


class TemperatureFloor(NumberSchedule):
    """`min(max, base + step * k)`, `k` the number of versions whose diversity is below `share` of version 0's.

    Meant for a sampling temperature.  It only rises: samples at a higher temperature are more diverse by themselves, so
    a recovery does not mean that the higher temperature is no longer needed.  The versions before cycle c are replayed,
    so the value needs no stored state.  A version without the metric, or with one that is not finite, changes nothing;
    without that of version 0 nothing ever changes.

    Attributes:
        step: How much one such version adds.
        max: The upper limit of the value.
        share: Of version 0's diversity, in (0, 1].
        metric: A key of the measurements that falls when samples become similar.  The default is measured on the dev
            prompts, whose temperature is fixed.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"kind": "temperature_floor", "base": 1.0},
                {"kind": "temperature_floor", "base": 0.7, "step": 0.1, "metric": "dev/diversity/distinct@4"},
            ]
        }
    )

    reads_history: ClassVar[bool] = True

    kind: Literal["temperature_floor"] = "temperature_floor"
    base: NonNegative
    step: NonNegative = 0.05
    max: NonNegative = 1.3
    share: Annotated[float, Field(gt=0.0, le=1.0)] = 0.8
    metric: Annotated[str, Field(min_length=1)] = "dev/diversity/effective_number"

    @model_validator(mode="after")
    def _base_below_the_end(self) -> Self:
        if self.base > self.max:
            raise ValueError(f"base {self.base:g} is above max {self.max:g}: raise max, or lower base")
        return self

    def value(self, cycle: int, num_cycles: int, history: History = ()) -> float:
        cycle = self.position(cycle, num_cycles)
        measured = [metrics.get(self.metric, math.nan) for metrics in history[:cycle]]
        # Comparisons with nan are False, so a version that was not measured is not below.
        num_low = sum(value < self.share * measured[0] for value in measured[1:] if math.isfinite(value))
        return self._after(num_low)

    def bounds(self, cycle: int, num_cycles: int) -> tuple[float, float]:
        """No version is below the share, and all versions but version 0 are."""
        return self.base, self._after(self.position(cycle, num_cycles) - 1)

    def _after(self, num_steps: int) -> float:
        return min(self.max, self.base + self.step * num_steps)
