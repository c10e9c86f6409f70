"""Waits for the command to end; ends it if the job exceeds a limit or nobody waits for its outcome."""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

from halo_forge.sandbox import processes
from halo_forge.sandbox.signal_broker import SignalBroker

Reason = Literal["ended", "cpu", "wall", "memory", "processes", "disk"]
_FIRST_POLL_MILLISECONDS, _LAST_POLL_MILLISECONDS = 20.0, 40.0
_DISK_SECONDS = 0.1
_KILL_SECONDS = 20.0


class TrainerGone(Exception):
    """The process that requested this job has ended or hung up."""


class Monitor:
    """One job's processes: the command `main` and all that it leaves to its launcher.

    Args:
        over_disk: Whether the job's files exceed their limit; None if the kernel enforces it.
        signal_broker: Decides on the job's signals; None if it is not needed.

    Attributes:
        status: Wait status of `main`, None until it was reaped.
        cpu_seconds: CPU time of all reaped processes.
        max_rss_bytes: Largest resident memory seen.
    """

    def __init__(
        self,
        main: int,
        limits: Mapping[str, Any],
        started: float,
        over_disk: Callable[[], bool] | None = None,
        signal_broker: SignalBroker | None = None,
    ) -> None:
        self._main = main
        self._over_disk = over_disk
        self._signal_broker = signal_broker
        self._next_disk = started + _DISK_SECONDS
        self._limits = limits
        self._started = started
        self._me = os.getpid()
        self.status: int | None = None
        self.cpu_seconds = 0.0
        self.max_rss_bytes = 0
        self._seen_cpu_seconds = 0.0

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
        if self._signal_broker is not None:
            poll.register(self._signal_broker.listen(), select.POLLIN)
        # A check costs most of a millisecond, and most commands end before there is anything to see.
        patience = _FIRST_POLL_MILLISECONDS
        try:
            while True:
                ready = {descriptor for descriptor, _ in poll.poll(patience)}
                patience = min(1.5 * patience, _LAST_POLL_MILLISECONDS)
                if ready & {trainer, connection.fileno()}:
                    raise TrainerGone
                if command in ready:
                    return "ended"
                if self._signal_broker is not None and self._signal_broker.listen() in ready:
                    self._signal_broker.answer()
                reason = self._exceeded()
                if reason is not None:
                    return reason
        finally:
            os.close(command)

    def _exceeded(self) -> Reason | None:
        now = time.monotonic()
        if now - self._started > self._limits["wall_seconds"]:
            return "wall"
        if self._over_disk is not None and now > self._next_disk:
            if self._over_disk():
                return "disk"
            # Measuring a full directory takes long; the other limits must not wait for it.
            self._next_disk = time.monotonic() + max(_DISK_SECONDS, 4 * (time.monotonic() - now))
        cpu_seconds, num_tasks = self.cpu_seconds, 0
        living: list[processes.Process] = []
        for process in processes.below(self._me):
            if self._is_overhead(process):
                cpu_seconds += process.reaped_cpu_seconds
                continue
            cpu_seconds += process.cpu_seconds
            if process.state == "Z":
                self._reap_stray(process)
                continue
            num_tasks += process.num_threads
            if num_tasks > self._limits["num_processes"]:
                # With hundreds of running processes, checking the rest takes long enough for hundreds more.
                self._seen_cpu_seconds = max(self._seen_cpu_seconds, cpu_seconds)
                return "processes"
            living.append(process)
        self._seen_cpu_seconds = max(self._seen_cpu_seconds, cpu_seconds)
        if cpu_seconds > self._limits["cpu_seconds"]:
            return "cpu"
        rss_bytes = sum(process.rss_bytes for process in living)
        if rss_bytes > self._limits["memory_bytes"] and len(living) > 1:
            # Pages shared by forked processes were counted once for each of them.
            rss_bytes = sum(processes.exact_bytes(process) for process in living)
        self.max_rss_bytes = max(self.max_rss_bytes, rss_bytes)
        return "memory" if rss_bytes > self._limits["memory_bytes"] else None

    def _is_overhead(self, process: processes.Process) -> bool:
        """Whether this process is ours, so the limits do not apply to it."""
        return False

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


class NamespaceMonitor(Monitor):
    """The same for a job in a separate process id namespace, where `main` is the init that oversees it.

    The kernel ends all processes of such a namespace with its init.  The init reports how the command ended.
    """

    def _is_overhead(self, process: processes.Process) -> bool:
        return process.pid == self._main

    def end(self) -> None:
        """Kill the init, unless it has already ended, and reap it; everything left of the job ends with it.

        Raises:
            TimeoutError: Some process does not die.
        """
        command = os.pidfd_open(self._main)
        try:
            if not select.select([command], [], [], 0)[0]:
                os.kill(self._main, signal.SIGKILL)
            if not select.select([command], [], [], _KILL_SECONDS)[0]:
                raise TimeoutError("processes of a finished job do not die")
        finally:
            os.close(command)
        os.waitpid(self._main, 0)

    def told(self, status: int | None, cpu_seconds: float, max_rss_bytes: int) -> None:
        """Take over what the init reported; a `status` of None means that the job was killed."""
        self.status = signal.SIGKILL if status is None else status
        self.cpu_seconds = max(cpu_seconds, self._seen_cpu_seconds)
        self.max_rss_bytes = max(self.max_rss_bytes, max_rss_bytes)
