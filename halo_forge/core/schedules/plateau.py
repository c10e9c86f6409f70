"""Decay when progress stops or turns into a decline, following the decisions of the run."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal, NamedTuple, Self

from pydantic import ConfigDict, Field, model_validator

from halo_forge.core.schedules._schedule import (
    DecayFactor,
    History,
    NonNegative,
    NumberSchedule,
    require_floor_below_base,
)

OUTCOME = "decision/outcome"
"""Key of the measurements: 1 if a version was ahead of the incumbent, 0 if it held, -1 if it degraded."""

# 0.42 - 0.40 is 0.01999... in floats: a difference this close to the threshold counts as reaching it.
_ROUNDING = 1e-9


class _State(NamedTuple):
    value: float
    wait: int = 0
    cooling: int = 0
    stalled_at_floor: bool = False


class Plateau(NumberSchedule):
    """`base`, times `decay` after each stall and times `decay_on_decline` after each decline, down to `min`.

    The outcomes of the versions 1 .. c-1 are replayed for cycle c, so the value needs no stored state.  They are those
    of the run's decisions (`halo-forge docs decisions`), which compare prompt by prompt and take noise into account: a
    version that was **ahead** resets the patience counter; one that **held** counts towards it; one that **degraded**,
    confirmed on resampled prompts, lowers the value at once.  `patience` versions that held, since the last one that
    was ahead or the last decay, are a stall, unless the last decay is at most `cooldown` versions back.  A version
    without an outcome (underpowered, too few to tell, or not measured) changes nothing.

    With `metric` a plain threshold on that metric is used instead: a version improves if it is at least
    `min_improvement` above the last one that did (at first version 0), else it held.  This mode ignores noise: with few
    prompts, a stall or an improvement can be mere chance.

    Attributes:
        patience: Versions that hold before a decay; 1 decays at once.
        cooldown: Versions after a decay that cannot be a stall, so that the decay can show its effect.
        metric: A key of the measurements that should rise; None uses the run's decisions.
        min_improvement: Only with `metric`, and in its units; by default 0.02, two percentage points of a rate.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"kind": "plateau", "base": 5e-5},
                {"kind": "plateau", "base": 5e-5, "patience": 1, "cooldown": 0, "metric": "dev/compile_rate"},
            ]
        }
    )

    reads_history: ClassVar[bool] = True

    kind: Literal["plateau"] = "plateau"
    base: NonNegative
    decay: DecayFactor = 0.7
    decay_on_decline: DecayFactor = 0.5
    min: NonNegative = 1e-6
    patience: Annotated[int, Field(ge=1)] = 2
    cooldown: Annotated[int, Field(ge=0)] = 1
    metric: Annotated[str, Field(min_length=1)] | None = None
    min_improvement: NonNegative | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        require_floor_below_base(self.base, self.min)
        if self.metric is None and self.min_improvement is not None:
            raise ValueError(
                f"found min_improvement {self.min_improvement:g} without a metric: the run's decisions have"
                " decisions.min_improvement; name a metric, or set that"
            )
        return self

    @property
    def lowers_on_decline(self) -> bool:
        return self.metric is None

    def value(self, cycle: int, num_cycles: int, history: History = ()) -> float:
        return self._replayed(cycle, num_cycles, history).value

    def stalled_at_floor(self, cycle: int, num_cycles: int, history: History) -> bool:
        return self._replayed(cycle, num_cycles, history).stalled_at_floor

    def bounds(self, cycle: int, num_cycles: int) -> tuple[float, float]:
        """The lowest value that a sequence of outcomes leads to, and `base`, the value without stalls or declines."""
        possible = (0.0, -1.0) if self.metric is None else (0.0,)
        lowest = {(0, 0): self.base}
        for _ in range(self.position(cycle, num_cycles) - 1):
            following: dict[tuple[int, int], float] = {}
            for (wait, cooling), value in lowest.items():
                for outcome in possible:
                    state = self._after(_State(value, wait, cooling), outcome)
                    key = state.wait, state.cooling
                    following[key] = min(state.value, following.get(key, math.inf))
            lowest = following
        return min(lowest.values()), self.base

    def _replayed(self, cycle: int, num_cycles: int, history: History) -> _State:
        cycle = self.position(cycle, num_cycles)
        state = _State(self.base)
        for outcome in self._outcomes(history[:cycle]):
            state = self._after(state, outcome)
        return state

    def _after(self, state: _State, outcome: float) -> _State:
        """The state after one more version; `outcome` is nan if it has none."""
        value, wait, cooling, _ = state
        if math.isnan(outcome):
            return _State(value, wait, cooling)
        if outcome < 0.0:
            return _State(max(self.min, value * self.decay_on_decline), 0, self.cooldown)
        wait = 0 if outcome > 0.0 else wait + 1
        if wait >= self.patience and cooling == 0:
            return _State(max(self.min, value * self.decay), 0, self.cooldown, value <= self.min)
        # Waiting longer than patience, during a cooldown, is not a different state.
        return _State(value, min(wait, self.patience), max(0, cooling - 1))

    def _outcomes(self, history: History) -> Iterator[float]:
        """One outcome for each version after version 0."""
        if self.metric is None:
            found = (metrics.get(OUTCOME, math.nan) for metrics in history[1:])
            yield from (outcome if math.isfinite(outcome) else math.nan for outcome in found)
            return
        least = 0.02 if self.min_improvement is None else self.min_improvement
        reference: float | None = None
        for metrics in history:
            measured = metrics.get(self.metric, math.nan)
            if not math.isfinite(measured):
                yield math.nan
            elif reference is None:
                reference = measured
            elif measured - reference >= least - _ROUNDING:
                reference = measured
                yield 1.0
            else:
                yield 0.0
