"""Explicit values for each cycle, with gaps that are held or interpolated."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from halo_forge.core.schedules._schedule import History, NonNegativeOrPass, Schedule, Value, mix


def _as_list(raw: Any) -> Any:
    """`{cycle_1: a, cycle_3: b}` (or plain cycle numbers as keys) as the list `[a, None, b]`."""
    if not isinstance(raw, Mapping):
        return raw
    by_cycle: dict[int, Any] = {}
    for key, value in raw.items():
        match = re.fullmatch(r"(?:cycle_)?([1-9][0-9]{0,5})", str(key))
        if match is None or isinstance(key, float):
            raise ValueError(f"found the key {key!r}; the keys are cycle_1, cycle_2 ... (or 1, 2 ...)")
        cycle = int(match[1])
        if cycle in by_cycle:
            raise ValueError(f"cycle {cycle} is given twice")
        if value is None:
            raise ValueError(f"cycle_{cycle} has no value; remove the key to hold the previous value")
        by_cycle[cycle] = value
    if by_cycle and 1 not in by_cycle:
        raise ValueError(f"cycle_1 is missing; the first value is for cycle {min(by_cycle)}")
    return [by_cycle.get(cycle) for cycle in range(1, max(by_cycle, default=0) + 1)]


_Values = Annotated[
    tuple[NonNegativeOrPass | None, ...],
    Field(strict=False, min_length=1),
    BeforeValidator(_as_list, json_schema_input_type=list[float | str | None] | dict[str, float | str]),
]


class Manual(Schedule):
    """Explicit values, as a list or by cycle.

    Attributes:
        values: `[v1, v2, ...]` or `{cycle_1: v1, cycle_3: v3, ...}`; None in the list is a gap.  Each is a number of
            at least 0, or "pass".
        interpolation: How a gap is filled: with the value before it ("step"), or with a point on the straight line
            between its neighbours ("linear") or between their logarithms ("log").  The last value is held, unless
            `beyond` is "error".
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"kind": "manual", "values": {"cycle_1": 5e-5, "cycle_2": 4e-5, "cycle_5": 2e-5}},
                {"kind": "manual", "values": [8e-5, None, 2e-5], "interpolation": "log"},
                {"kind": "manual", "values": [0.5, 0.5, "pass"]},
            ]
        }
    )

    kind: Literal["manual"] = "manual"
    values: _Values
    interpolation: Literal["step", "linear", "log"] = "step"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.values[0] is None:
            raise ValueError("cycle_1 is missing; the first value cannot be a gap")
        if self.interpolation != "step" and not self.is_numeric:
            raise ValueError(f'"pass" cannot be interpolated: interpolation must be step, found {self.interpolation}')
        if self.interpolation == "log" and 0.0 in self.values:
            raise ValueError("0 has no logarithm: interpolation must be step or linear, found log")
        return self

    @property
    def is_numeric(self) -> bool:
        return "pass" not in self.values

    def value(self, cycle: int, num_cycles: int, history: History = ()) -> Value:
        cycle = self.position(cycle, num_cycles)
        if self.beyond == "error" and cycle > len(self.values):
            raise ValueError(f"cycle {cycle} has no value: values end at cycle {len(self.values)}, beyond is 'error'")
        given = [(number, value) for number, value in enumerate(self.values, start=1) if value is not None]
        start, before = [pair for pair in given if pair[0] <= cycle][-1]
        end, after = next((pair for pair in given if pair[0] > cycle), (start, before))
        if self.interpolation == "step" or start == end or before == "pass" or after == "pass":
            return before
        share = (cycle - start) / (end - start)
        if self.interpolation == "linear" or share == 0.0:
            return mix(before, after, share)
        return math.exp(mix(math.log(before), math.log(after), share))
