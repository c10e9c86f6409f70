"""As many torch threads as processors are idle.

Every product of a model waits for the slowest thread, and torch's threads wait by spinning.  With one thread more than
there are idle processors, a thread shares its processor with another program while the others spin: a step takes three
times as long, sometimes twenty.  One thread less costs only its own share of the work (docs/log.md).
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_log = logging.getLogger(__name__)
_INTERVAL_SECONDS = 0.5
"""The kernel counts in hundredths of a second."""
_FIRST_SECONDS = 0.05
"""Before the first step, because one alone can take seconds with a thread too many."""
_TOLERATED = 0.3
"""Processors that others may use before we give up a thread."""
_QUIET_INTERVALS = 3
"""This many intervals processors must be idle before a thread is added again: intermittent load must not cause it."""
_SAID_AFTER_SECONDS = 10.0
_STAT = Path("/proc/stat")
_CGROUP = Path("/sys/fs/cgroup")
_said = False


class ThreadBudget:
    """Decides how many threads to compute with, from what other processes use of the processors.

    Args:
        most: Threads on an idle machine.
        num_processors: Those that this process may use.
        used_by_others: Processor seconds that other processes have used since some moment; None where the system does
            not say.
        clock: Seconds.
    """

    def __init__(
        self,
        most: int,
        num_processors: int,
        used_by_others: Callable[[], float | None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.most, self.num_processors = most, num_processors
        self.threads = most
        self._used_by_others, self._clock = used_by_others, clock
        self._since, self._used = clock(), used_by_others()
        self._num_quiet = 0
        self._fewer_since: float | None = None

    def look(self, least_seconds: float) -> int:
        """How many threads to compute with from now on; cheap, so ask before every step.

        Args:
            least_seconds: Nothing is concluded from less time since the last conclusion.
        """
        now = self._clock()
        seconds = now - self._since
        if self.most == 1 or self._used is None or seconds < least_seconds:
            return self.threads
        used = self._used_by_others()
        if used is None:
            return self.threads
        others = (used - self._used) / seconds
        self._since, self._used = now, used
        fitting = max(1, min(self.most, math.floor(self.num_processors - others + _TOLERATED)))
        self._num_quiet = self._num_quiet + 1 if fitting > self.threads else 0
        if fitting < self.threads or self._num_quiet >= _QUIET_INTERVALS:
            self.threads, self._num_quiet = fitting, 0
        if fitting < self.most:
            self._say(now, others)
        elif self.threads == self.most:
            self._fewer_since = None
        return self.threads

    def _say(self, now: float, others: float) -> None:
        """Warn once, and only about lasting load, why this takes longer than it could."""
        global _said
        if self._fewer_since is None:
            self._fewer_since = now
        elif now - self._fewer_since >= _SAID_AFTER_SECONDS and not _said:
            _said = True
            _log.warning(
                "other programs keep %.1f of %d processors busy; meanwhile the model computes with %d of %d threads",
                others,
                self.num_processors,
                self.threads,
                self.most,
            )


def used_by_others(stat: Path = _STAT, cgroup: Path = _CGROUP) -> float | None:
    """Processor seconds that all other processes have used on the processors that are ours to use.

    Processes of lower priority than ours do not count: they give way by themselves.

    Returns:
        None where the system does not say, or counts what is none of ours: a container with a quota shares its
        processors with other containers, whose work lies outside the quota.
    """
    if _has_quota(cgroup):
        return None
    try:
        lines = stat.read_text(encoding="ascii").splitlines()
    except OSError:  # not Linux, or hidden
        return None
    ours = {f"cpu{number}" for number in os.sched_getaffinity(0)}
    # user, nice and system time; what the kernel does for nobody and what a hypervisor took is no program's.
    counted = (1, 2, 3) if os.getpriority(os.PRIO_PROCESS, 0) > 0 else (1, 3)
    fields = [line.split() for line in lines if line.split(" ", 1)[0] in ours]
    ticks = sum(int(each[number]) for each in fields for number in counted)
    return ticks / os.sysconf("SC_CLK_TCK") - time.process_time()


def _has_quota(cgroup: Path) -> bool:
    """Whether this container may use less than its processors; version 2 of cgroups says "max" where not, 1 says -1."""
    for name, none in (("cpu.max", "max"), ("cpu/cpu.cfs_quota_us", "-1")):
        with contextlib.suppress(OSError):  # the other version, or not in a container
            return (cgroup / name).read_text(encoding="ascii").split()[0] != none
    return False


_current: ThreadBudget | None = None


@contextlib.contextmanager
def yielding_threads(device: torch.device) -> Iterator[None]:
    """While the block runs, `adjust` gives threads away and takes them back; then all are back.  Nothing on a GPU."""
    global _current
    if device.type != "cpu":
        yield
        return
    import torch

    most, outer = torch.get_num_threads(), _current
    _current = ThreadBudget(most, len(os.sched_getaffinity(0)), used_by_others)
    try:
        if most > 1:
            time.sleep(_FIRST_SECONDS)
            _take(_current.look(_FIRST_SECONDS))
        yield
    finally:
        _current = outer
        torch.set_num_threads(most)


def adjust() -> None:
    """Adjust the number of threads to the idle processors; call it before every step or pass."""
    if _current is not None:
        _take(_current.look(_INTERVAL_SECONDS))


def _take(threads: int) -> None:
    import torch

    if threads != torch.get_num_threads():
        torch.set_num_threads(threads)
