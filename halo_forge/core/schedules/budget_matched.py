"""The control arm of a comparison: a constant that spends as much learning rate as another schedule."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, Self

from pydantic import ConfigDict, model_validator

from halo_forge.core.schedules._schedule import History, NumberSchedule

if TYPE_CHECKING:
    from halo_forge.core.schedules import ScheduledNumber


class BudgetMatched(NumberSchedule):
    """The mean of `reference` over the cycles of the run, in every cycle.

    Attributes:
        reference: Any schedule of numbers that does not depend on results, so that its total is known beforehand.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"kind": "budget_matched", "reference": {"kind": "exponential", "base": 5e-5, "decay": 0.85}},
                {"kind": "budget_matched", "reference": [4e-5, 2e-5]},
            ]
        }
    )

    kind: Literal["budget_matched"] = "budget_matched"
    reference: ScheduledNumber

    @model_validator(mode="after")
    def _known_beforehand(self) -> Self:
        if self.reference.reads_history:
            raise ValueError(
                f"found a reference of kind {self.reference.kind}, which depends on results: its total is not known"
                " before the run; give the values that it had as a list"
            )
        return self

    def value(self, cycle: int, num_cycles: int, history: History = ()) -> float:
        self.position(cycle, num_cycles)
        return math.fsum(self.reference.value(each, num_cycles) for each in range(1, num_cycles + 1)) / num_cycles
