"""Phases: one value for the first cycles, another for the next, and so on."""

from __future__ import annotations

import itertools
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from halo_forge.core.registry import Spec
from halo_forge.core.schedules._schedule import History, NonNegativeOrPass, Schedule, Value


class Phase(Spec):
    """`value` up to and including cycle `until`; the last phase has no `until` and is open-ended."""

    until: Annotated[int, Field(ge=1)] | None = None
    value: NonNegativeOrPass


class Phases(Schedule):
    """The value of the first phase whose `until` has not passed yet."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "kind": "phases",
                    "phases": [{"until": 2, "value": 5e-5}, {"until": 4, "value": 3e-5}, {"value": 1.5e-5}],
                },
                {"kind": "phases", "phases": [{"until": 2, "value": 0.5}, {"value": "pass"}]},
            ]
        }
    )

    kind: Literal["phases"] = "phases"
    phases: Annotated[tuple[Phase, ...], Field(strict=False, min_length=1)]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        ends = [phase.until for phase in self.phases]
        if ends[-1] is not None:
            raise ValueError(f"the last phase is open-ended: remove its `until`, found {ends[-1]}")
        if None in ends[:-1]:
            raise ValueError(f"phase {ends.index(None) + 1} has no `until`: only the last phase is open-ended")
        closed = [end for end in ends if end is not None]
        if any(a >= b for a, b in itertools.pairwise(closed)):
            raise ValueError(f"the `until` of the phases must increase, found {closed}")
        return self

    @property
    def is_numeric(self) -> bool:
        return all(phase.value != "pass" for phase in self.phases)

    def value(self, cycle: int, num_cycles: int, history: History = ()) -> Value:
        cycle = self.position(cycle, num_cycles)
        return next(phase.value for phase in self.phases if phase.until is None or cycle <= phase.until)
