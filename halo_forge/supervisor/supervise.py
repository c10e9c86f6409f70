"""Runs the job as a child, ends it when it makes no progress, and restarts it from what is on disk.

A child is alive while it gives signs of progress (`heartbeat`): a new token, a record on disk, a training pass, or data
that moves while it downloads or loads a model.  A child that gives none for the set time is ended, whatever it waits
for; a child that a signal ended is restarted too.  An attempt made progress if the run directory holds more finished
work than before it; a run whose attempts make no progress is given up.  Exit codes of the child pass through.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from halo_forge.core.errors import NoProgress
from halo_forge.core.wording import counted
from halo_forge.hardware import Machine, detect
from halo_forge.supervisor.child import Child, held_back_signals

LOADING_SECONDS = 900.0
_AFTER_A_STALL = {"gfx1151": {"HSA_ENABLE_INTERRUPT": "0"}}
"""If the GPU's interrupts get lost, polling was seen to cure it; it costs a CPU core."""


@dataclass(frozen=True)
class RestartPolicy:
    """When a child counts as stalled, and when its run is given up.

    Attributes:
        stall_seconds: Time without any sign of progress.
        loading_seconds: The same while the child starts, downloads or loads: copying a large model to a GPU, or waiting
            for another process that downloads it, moves no data of its own for minutes.  None for `LOADING_SECONDS`, or
            stall_seconds where that is more.
        max_restarts: Restarts in a row without finished work in between.
    """

    stall_seconds: float = 600.0
    max_restarts: int = 3
    loading_seconds: float | None = None

    def silent_seconds(self, *, is_loading: bool) -> float:
        """How long a child may give no sign."""
        if not is_loading:
            return self.stall_seconds
        return max(LOADING_SECONDS, self.stall_seconds) if self.loading_seconds is None else self.loading_seconds


class RecordsAttempts(Protocol):
    """What the attempts of one job leave behind; `halo_forge.store.attempts` implements it for a run directory."""

    def finished_work(self) -> frozenset[tuple[str, int]]:
        """The finished work; it changes if an attempt made progress."""
        ...

    def note(self, event: str, **fields: Any) -> None:
        """Record how an attempt ended."""
        ...


def supervise(
    first: Sequence[str],
    again: Callable[[], Sequence[str]],
    attempts: RecordsAttempts,
    policy: RestartPolicy,
    say: Callable[[str], None],
    machine: Machine | None = None,
) -> int:
    """Run `first`, then `again()` as often as needed; returns the exit code of the last attempt.

    Args:
        first, again: Command lines.  `again` resumes what the attempts before it left.
        attempts: Tells what the attempts finished, and records how they ended.
        say: Called with one line for each thing that a user should know.

    Raises:
        NoProgress: Too many attempts in a row got no further, or one cannot be ended.
        RunDirError: Another process writes to the run.
    """
    command, environment, num_restarts = first, dict(os.environ), 0
    finished = attempts.finished_work()
    machine = Machine() if machine is None else machine
    silences = policy.silent_seconds(is_loading=False), policy.silent_seconds(is_loading=True)
    with held_back_signals() as signals:
        while True:
            end = Child(command, environment, *silences, signals, machine).run()
            if end.why in ("exited", "interrupted"):
                return end.code
            now = attempts.finished_work()
            num_restarts, finished = (0 if now != finished else num_restarts) + 1, now
            given_up = num_restarts > policy.max_restarts
            if end.why == "stalled":
                wanted = _AFTER_A_STALL.get(detect(machine).name, {})
                changes = {name: value for name, value in wanted.items() if name not in environment}
                environment |= changes
            else:
                changes = {}
            more: Mapping[str, Any] = {} if given_up else {"restart": num_restarts, "environment": changes}
            attempts.note("attempt_ended", why=end.why, **end.fields, **more)
            if given_up:
                raise NoProgress(
                    f"gave up after {counted(policy.max_restarts, 'restart')} without progress; the last attempt"
                    f" {end.seen}",
                    "the stacks above show where it was, and `halo-forge doctor` checks the machine; raise"
                    f" {end.option} if it was only slow; then rerun with --resume",
                )
            number = f"restart {num_restarts} of at most {policy.max_restarts} without progress"
            settings = "".join(f", with {name}={value}" for name, value in changes.items())
            say(f"the run {end.seen}; {number}{settings}")
            command = again()
