"""Schedules: how a setting changes from cycle to cycle.  A plain number is a constant schedule.

One kind is one file.  To add `sawtooth`, write `sawtooth.py` in this folder with one class:

    class Sawtooth(NumberSchedule):
        model_config = ConfigDict(json_schema_extra={"examples": [{"kind": "sawtooth", "base": 5e-5}]})

        kind: Literal["sawtooth"] = "sawtooth"
        base: NonNegative
        period: Annotated[int, Field(ge=1)] = 2

        def value(self, cycle: int, num_cycles: int, history: History = ()) -> float:
            cycle = self.position(cycle, num_cycles)
            return self.base / (1 + (cycle - 1) % self.period)

Nothing has to be registered; another package adds a kind with an entry point (docs/extending.md).

`position` rejects cycle 0 and applies `beyond`; pydantic checks the settings, and a
`model_validator` that raises ValueError adds rules between them.  A kind that reads `history` also sets
`reads_history` and overrides `bounds`, tightly, because the dry run shows it as a range.  The class must be pure:
equal arguments, equal values.  The contract test runs every example of the class, so give one for each way to write it;
docs/schedules.md has a section per kind, whose table a test compares with the code.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field

from halo_forge.core.registry import discover, tagged_union
from halo_forge.core.schedules._schedule import (
    DecayFactor,
    History,
    NonNegative,
    NonNegativeOrPass,
    NumberSchedule,
    Schedule,
    Value,
    is_numeric,
    mix,
    require_floor_below_base,
)

__all__ = [
    "DecayFactor",
    "History",
    "NonNegative",
    "NonNegativeOrPass",
    "NumberSchedule",
    "Schedule",
    "Scheduled",
    "ScheduledNumber",
    "Value",
    "is_numeric",
    "kinds",
    "mix",
    "require_floor_below_base",
]


def kinds() -> tuple[str, ...]:
    """The names of all kinds, sorted."""
    return tuple(discover(__name__))


def _as_settings(raw: Any) -> Any:
    """The short spellings as settings of a kind; ValueError for anything else."""
    if isinstance(raw, Schedule):
        return raw
    if (isinstance(raw, int | float) and not isinstance(raw, bool)) or raw == "pass":
        return {"kind": "constant", "value": raw}
    if isinstance(raw, list | tuple):
        return {"kind": "manual", "values": raw}
    if isinstance(raw, Mapping) and "kind" not in raw and any(re.match(r"cycle_\d", str(key)) for key in raw):
        return {"kind": "manual", "values": raw}
    if isinstance(raw, Mapping) and "kind" in raw:
        return raw
    raise ValueError(f"found {raw!r}; a schedule is a number, or a mapping with `kind`, one of {', '.join(kinds())}")


def _numbers_only(schedule: Schedule) -> Schedule:
    if not schedule.is_numeric:
        raise ValueError('"pass" is a value of the reward threshold only; here every value must be a number')
    return schedule


if TYPE_CHECKING:
    Scheduled: TypeAlias = Schedule
    ScheduledNumber: TypeAlias = NumberSchedule
else:
    # A number, "pass", a list (manual), {cycle_1: ...} (manual), or a mapping with `kind`.
    _Specs = tagged_union(__name__)
    _Number = Annotated[float, Field(ge=0.0)]
    Scheduled = Annotated[_Specs, BeforeValidator(_as_settings, json_schema_input_type=_Number | str | list | _Specs)]
    # The same without "pass".
    ScheduledNumber = Annotated[Scheduled, AfterValidator(_numbers_only)]
    # A kind that contains another schedule refers to these types, which need all kinds.
    for _kind in discover(__name__).values():
        _kind.model_rebuild(_types_namespace={"Scheduled": Scheduled, "ScheduledNumber": ScheduledNumber})
