"""Waits for the command to end, or ends it when the job goes over a limit or nobody waits for its outcome."""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Mapping
from typing import Any, Literal

from halo_forge.sandbox import processes

Reason = Literal["ended", "cpu", "wall", "memory", "processes"]
_POLL_MILLISECONDS = 20


class TrainerGone(Exception):
    """The process that asked for this job has ended or hung up."""


class Watch:
    """One job's processes: the command `main` and all that it leaves to its launcher.

    Attributes:
        status: Wait status of `main`, None until it was reaped.
        cpu_seconds: CPU time of all reaped processes.
        max_rss_bytes: Largest resident memory seen.
    """

    def __init__(self, main: int, limits: Mapping[str, Any], started: float) -> None:
        self._main = main
        self._limits = limits
        self._started = started
        self._me = os.getpid()
        self.status: int | None = None
        self.cpu_seconds = 0.0
        self.max_rss_bytes = 0

    def wait(self, connection: socket.socket, trainer: int) -> Reason:
        """Returns once `main` has ended (it is not reaped yet) or a limit is exceeded.

        Args:
            connection: Hangs up when the trainer closes it or dies.
            trainer: A pidfd of the trainer.

        Raises:
            TrainerGone: Nobody waits for the outcome any more.
        """
        command = os.pidfd_open(self._main)
        poll = select.poll()
        poll.register(command, select.POLLIN)
        poll.register(trainer, select.POLLIN)
        poll.register(connection, select.POLLRDHUP)
        try:
            while True:
                ready = {descriptor for descriptor, _ in poll.poll(_POLL_MILLISECONDS)}
                if ready & {trainer, connection.fileno()}:
                    raise TrainerGone
                if command in ready:
                    return "ended"
                reason = self._exceeded()
                if reason is not None:
                    return reason
        finally:
            os.close(command)

    def _exceeded(self) -> Reason | None:
        if time.monotonic() - self._started > self._limits["wall_seconds"]:
            return "wall"
        cpu_seconds, num_tasks = self.cpu_seconds, 0
        living: list[processes.Process] = []
        for process in processes.below(self._me):
            cpu_seconds += process.cpu_seconds
            if process.state == "Z":
                self._reap_stray(process)
                continue
            num_tasks += process.num_threads
            living.append(process)
        if cpu_seconds > self._limits["cpu_seconds"]:
            return "cpu"
        if num_tasks > self._limits["num_processes"]:
            return "processes"
        rss_bytes = sum(process.rss_bytes for process in living)
        if rss_bytes > self._limits["memory_bytes"] and len(living) > 1:
            # Pages that forked processes share were counted once for each of them.
            rss_bytes = sum(processes.exact_bytes(process) for process in living)
        self.max_rss_bytes = max(self.max_rss_bytes, rss_bytes)
        return "memory" if rss_bytes > self._limits["memory_bytes"] else None

    def _reap_stray(self, process: processes.Process) -> None:
        if process.parent == self._me and process.pid != self._main:
            self._account(*os.wait4(process.pid, os.WNOHANG))

    def reap(self) -> None:
        """Collect every child that has ended."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._account(pid, status, usage)

    def _account(self, pid: int, status: int, usage: Any) -> None:
        if pid == 0:
            return
        if pid == self._main:
            self.status = status
        self.cpu_seconds += usage.ru_utime + usage.ru_stime
        self.max_rss_bytes = max(self.max_rss_bytes, usage.ru_maxrss * 1024)

    def end(self) -> None:
        """Kill and reap all that is left of the job.

        Raises:
            TimeoutError: Some process does not die.
        """
        processes.kill_all_below(self._me, self.reap)
