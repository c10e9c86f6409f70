"""How long a run still takes, judged by what the cycles of this very run took."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from halo_forge.core.plan import Plan
from halo_forge.store.run import cycle_folder, version_folders
from halo_forge.store.status import CycleRow, read_status

LAST_CYCLES = 3
"""How many of the latest cycles are averaged: schedules change what a cycle costs."""


@dataclass(frozen=True)
class _Seen:
    """What the run directory said when it was looked at last.

    Attributes:
        cycle_seconds: Mean of a whole cycle.
        sample_seconds: Mean of sampling and verifying one completion.
        num_left: Cycles that are not trained yet; the one that is being worked on is one of them.
        final_left: Whether the final evaluation is not done yet.
        tests_left: Versions that are still to be measured on test.
        spent: Seconds of the cycle, or final evaluation, that is being worked on.
    """

    cycle_seconds: float
    sample_seconds: float
    num_left: int
    final_left: bool
    tests_left: int
    spent: float


class Forecast:
    """The time that is left of the run in `root`.

    Args:
        clock: Seconds that grow evenly.
    """

    def __init__(self, root: Path, num_cycles: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._root = root
        self._num_cycles = num_cycles
        self._clock = clock
        self._num_dev = self._num_test = 0
        self._seen: _Seen | None = None
        self._looked_at = clock()

    def opened(self, plan: Plan) -> None:
        """Take from the plan what follows the last cycle."""
        self._num_dev = len(plan.dev_requests())
        self._num_test = len(plan.test_requests()) if plan.config.evaluation.test_at_end else 0

    def look(self) -> None:
        """Read what the cycles took; to be called when a stage begins, and when a cycle is done."""
        self._looked_at = self._clock()
        if not (self._root / "run.json").is_file():
            return
        status = read_status(self._root, self._num_cycles)
        trained = [row for row in status.cycles if row.settings and row.state == "done" and not _ends(row)]
        if not trained:
            return
        ended = any(_ends(row) for row in status.cycles)
        current = [row for row in status.cycles if row.cycle == trained[-1].cycle + 1 and not ended]
        num_tested = sum((each / "verdicts.jsonl").is_file() for each in version_folders(self._root, "test"))
        self._seen = _Seen(
            cycle_seconds=fmean(_seconds(row) for row in trained[-LAST_CYCLES:]),
            sample_seconds=fmean(self._sample_seconds(row) for row in trained[-LAST_CYCLES:]),
            num_left=0 if ended else self._num_cycles - len(trained),
            final_left=not ended,
            tests_left=len({0, status.best_version, self._num_cycles}) - num_tested,
            spent=sum(map(_seconds, current)),
        )

    def seconds_left(self, stage_seconds: float = 0.0) -> float | None:
        """What is left of the whole run; None before the first cycle is done.

        Args:
            stage_seconds: What is left of the stage that is running, by its own rate.
        """
        seen = self._seen
        if seen is None:
            return None
        final = seen.sample_seconds * self._num_dev * seen.final_left
        tests = seen.sample_seconds * self._num_test * max(seen.tests_left, 0)
        spent = seen.spent + self._clock() - self._looked_at
        if seen.num_left > 0:
            later = (seen.num_left - 1) * seen.cycle_seconds
            return max(seen.cycle_seconds - spent, stage_seconds) + later + final + tests
        if seen.final_left:
            return max(final - spent, stage_seconds) + tests
        return max(tests - spent, stage_seconds)

    def _sample_seconds(self, row: CycleRow) -> float:
        files = cycle_folder(self._root, row.cycle).glob("*completions.jsonl")
        num_samples = sum(path.read_bytes().count(b"\n") for path in files)
        seconds = row.metrics.get("seconds/generate", 0.0) + row.metrics.get("seconds/verify", 0.0)
        return seconds / max(num_samples, 1)


def _ends(row: CycleRow) -> bool:
    return row.decision.get("action") in ("stop", "finish")


def _seconds(row: CycleRow) -> float:
    return sum(seconds for name, seconds in row.metrics.items() if name.startswith("seconds/"))
