"""Shared by all schedules: the base class, the field types, and the handling of cycles outside the run."""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import Field, PlainValidator

from halo_forge.core.registry import Spec
from halo_forge.core.wording import counted

Value: TypeAlias = float | Literal["pass"]
History: TypeAlias = Sequence[Mapping[str, float]]

NonNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
# A factor above 1 is far more often a typo (85 for 0.85) than intended; `linear` can rise on purpose.
DecayFactor = Annotated[float, Field(gt=0.0, le=1.0)]


def _number_or_pass(raw: Any) -> Value:
    if raw == "pass":
        return "pass"
    if isinstance(raw, bool) or not isinstance(raw, int | float) or not math.isfinite(raw) or raw < 0:
        raise ValueError(f'found {raw!r}; it must be a number of at least 0, or "pass"')
    return float(raw)


# One message for a wrong value; a plain union would report one for each of its members.
NonNegativeOrPass = Annotated[
    Value, PlainValidator(_number_or_pass, json_schema_input_type=NonNegative | Literal["pass"])
]


class Schedule(Spec, abc.ABC):
    """A value for each cycle of a run, as a pure function of its settings and the arguments of `value`.

    The value is a number of at least 0, or the string "pass" for kinds that allow it in their settings (only a reward
    threshold uses it).

    Attributes:
        reads_history: `value` depends on results.
        kind: The name of the kind in the configuration; the name of its module.
        beyond: For a cycle after `num_cycles`: "hold" gives the value of the last cycle, "error" a ValueError.
    """

    reads_history: ClassVar[bool] = False

    kind: str
    beyond: Literal["hold", "error"] = "hold"

    @abc.abstractmethod
    def value(self, cycle: int, num_cycles: int, history: History = ()) -> Value:
        """The value of `cycle`, the 1-based number of the cycle in a run of `num_cycles` cycles.

        Args:
            history: `history[v]` holds the metrics of policy version `v`; before cycle `c` trains, the entries
                0 .. c-1 exist (before it samples, one fewer).  Later entries are ignored, so that a cycle that is
                redone gets the same value.

        Raises:
            ValueError: `cycle` or `num_cycles` is below 1, `cycle` lies beyond the run and `beyond` is "error", or
                the settings do not fit into `num_cycles` cycles.
        """

    def bounds(self, cycle: int, num_cycles: int) -> tuple[Value, Value]:
        """The smallest and the largest value that `value` can return for `cycle`, over all histories.

        Equal unless the kind depends on results.  Raises what `value` raises.
        """
        value = self.value(cycle, num_cycles)
        return value, value

    @property
    def lowers_on_decline(self) -> bool:
        """Whether `value` falls after a confirmed decline by itself, so that no policy has to lower it as well."""
        return False

    def stalled_at_floor(self, cycle: int, num_cycles: int, history: History) -> bool:
        """Whether the newest measurement would lower the value of `cycle`, but it is already at its floor.

        Raises what `value` raises.
        """
        self.position(cycle, num_cycles)
        return False

    @property
    def is_numeric(self) -> bool:
        """Whether no setting is the string "pass", so that every value is a number."""
        return True

    def position(self, cycle: int, num_cycles: int) -> int:
        """`cycle`, capped at `num_cycles`; every `value` starts with this.  Raises what `value` raises."""
        if num_cycles < 1:
            raise ValueError(f"num_cycles is {num_cycles}; a run has at least 1 cycle")
        if cycle < 1:
            raise ValueError(f"cycle is {cycle}; cycles are counted from 1")
        if cycle > num_cycles and self.beyond == "error":
            raise ValueError(
                f"cycle {cycle} is beyond the {counted(num_cycles, 'cycle')} of the run, and beyond is 'error'"
            )
        return min(cycle, num_cycles)


class NumberSchedule(Schedule):
    """A schedule that gives numbers only, whatever its settings."""

    @abc.abstractmethod
    def value(self, cycle: int, num_cycles: int, history: History = ()) -> float:
        """As `Schedule.value`."""

    def bounds(self, cycle: int, num_cycles: int) -> tuple[float, float]:
        """As `Schedule.bounds`."""
        value = self.value(cycle, num_cycles)
        return value, value


def is_numeric(schedule: Schedule) -> bool:
    """Whether every value of `schedule` is a number; False if "pass" occurs, which only a threshold allows."""
    return schedule.is_numeric


def require_floor_below_base(base: float, floor: float) -> None:
    """Raise ValueError for a floor that is above the first value."""
    if base < floor:
        raise ValueError(f"base {base:g} is below min {floor:g}: lower min, or raise base")


def mix(start: float, end: float, share: float) -> float:
    """Linear interpolation: `end` weighted by `share` in [0, 1], `start` by the rest; exact at both ends."""
    blended = start * (1.0 - share) + end * share
    return min(max(blended, min(start, end)), max(start, end))
