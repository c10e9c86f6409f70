"""How large a run can be in the time that there is: cycles, prompts and samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from halo_forge.hardware import ModelShape
from halo_forge.starter.estimate import Speed, Work, cycle_seconds, run_seconds

_KEPT = 0.4
"""The assumed share of the rows that a cycle may keep which it does keep."""
PER_PROMPT = 4
"""Rows of one prompt that a cycle trains on at most (`selection.per_prompt_cap`)."""
ROWS_PER_STEP = (32, 16, 8)
_SHARE = 0.5
"""The share of the time that a run is sized for: the estimate is rough."""
_STEPS = 8
"""A cycle of fewer optimizer steps gets fewer rows for each."""


@dataclass(frozen=True)
class RunSize:
    """The numbers that decide how long a run takes.

    Attributes:
        prompts: Train prompts of a cycle.
        samples: Of each train prompt.
        dev: Prompts measured in each cycle; `test` has as many at the end.
        dev_samples: Of each of these.
    """

    cycles: int
    prompts: int
    samples: int
    dev: int
    dev_samples: int

    def kept(self) -> int:
        """The number of rows that a cycle is assumed to keep."""
        return max(1, round(_KEPT * self.prompts * min(self.samples, PER_PROMPT)))

    def rows_per_step(self) -> int:
        """The most rows of an optimizer step with which a cycle has enough steps."""
        return next((rows for rows in ROWS_PER_STEP if self.kept() >= _STEPS * rows), ROWS_PER_STEP[-1])


LADDER = (
    RunSize(6, 512, 16, 400, 8),
    RunSize(6, 512, 8, 400, 8),
    RunSize(6, 256, 8, 200, 8),
    RunSize(6, 256, 8, 200, 4),
    RunSize(6, 128, 8, 200, 4),
    RunSize(6, 128, 8, 100, 4),
    RunSize(6, 64, 8, 100, 4),
    RunSize(4, 64, 8, 100, 4),
    RunSize(4, 64, 8, 64, 4),
    RunSize(4, 48, 8, 64, 2),
    RunSize(3, 48, 6, 64, 2),
    RunSize(3, 32, 4, 48, 2),
    RunSize(3, 24, 4, 40, 2),
)
"""From the largest run to the smallest one that can still show something.

Six cycles: the project's first runs were best at the sixth.  Dev shrinks late, because with too few prompts nothing
that a run does can be seen.
"""


@dataclass(frozen=True)
class Sized:
    """A size with its estimated times.

    Attributes:
        size: No larger than the prompt sets.
        fits: The run fits into the time.
    """

    size: RunSize
    cycle_seconds: float
    run_seconds: float
    fits: bool


def sized(
    seconds: float, shape: ModelShape, speed: Speed, work: Callable[[RunSize], Work], available: tuple[int, int]
) -> Sized:
    """The largest run that is expected to fit easily, else the smallest.

    Args:
        seconds: The time that there is.
        work: What one cycle of a size does.
        available: Numbers of train and dev prompts.
    """
    found = []
    for step in LADDER:
        size = replace(step, prompts=min(step.prompts, available[0]), dev=min(step.dev, available[1]))
        each = work(size)
        total = run_seconds(shape, speed, each, size.cycles, size.dev * size.dev_samples)
        found.append(Sized(size, cycle_seconds(shape, speed, each), total, total <= seconds))
    return next((each for each in found if each.run_seconds <= _SHARE * seconds), found[-1])
