"""Confines the signals of a job where neither Landlock nor a separate user does: the launcher decides on each.

A system call filter sees the number of the target process, not whose process it is.  So it lets a job signal its first
process and passes everything else to the launcher, which delivers the signal if the target belongs to the job.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import struct

from halo_forge.sandbox import processes, seccomp
from halo_forge.sandbox.syscalls import NUMBERS

# struct seccomp_notif: id, thread that asks, flags, number, architecture, instruction, six arguments.
_QUESTION = struct.Struct("=QIIiIQ6Q")
# struct seccomp_notif_resp: id, value, error, flags.
_ANSWER = struct.Struct("=QqiI")
_RECEIVE, _SEND = 0xC0502100, 0xC0182101
_CONTINUE = 1
_EVERYBODY = -1


class SignalBroker:
    """Decides on the signals of one job.  The launcher creates it; the job's first process enters its filter."""

    def __init__(self) -> None:
        self._me = os.getpid()
        self._near, self._far = socket.socketpair()
        self._listener: int | None = None

    def confine(self) -> None:
        """Put this process, a child of the launcher, under the filter.

        Raises:
            OSError: The kernel refuses.
        """
        listener = seccomp.install(seccomp.signals_of(os.getpid(), seccomp.ASK), seccomp.NEW_LISTENER)
        # This process's copy of the descriptor is closed by exec.
        socket.send_fds(self._far, [b"x"], [listener])

    def listen(self) -> int:
        """A descriptor that is readable when a call waits for a decision; for the launcher, once the job runs."""
        if self._listener is None:
            _, (self._listener,), _, _ = socket.recv_fds(self._near, 1, 1)
        return self._listener

    def answer(self) -> None:
        """Decide on one call."""
        room = bytearray(_QUESTION.size)
        try:
            fcntl.ioctl(self.listen(), _RECEIVE, room)
            number, caller, _, call, _, _, *arguments = _QUESTION.unpack(room)
            error, flags = self._decide(caller, call, arguments)
            fcntl.ioctl(self.listen(), _SEND, bytearray(_ANSWER.pack(number, 0, -error, flags)))
        except FileNotFoundError:
            return  # the caller has ended or was interrupted meanwhile

    def _decide(self, caller: int, call: int, arguments: list[int]) -> tuple[int, int]:
        """The errno for the caller, 0 for none, and the flags of the response."""
        target = _signed(arguments[0])
        if target > 0 and _group_of_threads(target) == _group_of_threads(caller):
            return 0, _CONTINUE  # it is alive, because it waits here: no other process can have its number
        thread_named = call in (NUMBERS["tgkill"], NUMBERS["rt_tgsigqueueinfo"])
        number = _signed(arguments[2 if thread_named else 1])
        try:
            if target == _EVERYBODY:
                return errno.EPERM, 0
            deliver = self._to_process if target > 0 else self._to_group
            return deliver(abs(target), number), 0
        except OSError as error:
            return error.errno or errno.EPERM, 0

    def _to_process(self, target: int, number: int) -> int:
        process = _group_of_threads(target)
        if process is None:
            return errno.ESRCH
        # Opened before the check, so the check is about the process that gets the signal.
        descriptor = os.pidfd_open(process)
        try:
            if not self._is_below(process):
                return errno.EPERM
            signal.pidfd_send_signal(descriptor, number)
            return 0
        finally:
            os.close(descriptor)

    def _to_group(self, group: int, number: int) -> int:
        # The job began as a new session, and no group spans two sessions: one member decides for all.
        if any(_group_of(process.pid) == group for process in processes.below(self._me)):
            os.killpg(group, number)
            return 0
        return errno.EPERM

    def _is_below(self, pid: int) -> bool:
        while (process := processes.read(pid)) is not None and process.parent > 1:
            if process.parent == self._me:
                return True
            pid = process.parent
        return False

    def close(self) -> None:
        """Stop listening; callers that still wait get ENOSYS."""
        self._near.close()
        self._far.close()
        if self._listener is not None:
            os.close(self._listener)


def _signed(argument: int) -> int:
    # The kernel uses the low half only.
    number: int = struct.unpack("=i", struct.pack("=I", argument & 0xFFFFFFFF))[0]
    return number


def _group_of_threads(thread: int) -> int | None:
    """The process that a thread belongs to, None if it is gone."""
    try:
        with open(f"/proc/{thread}/status", "rb") as handle:
            return next(int(line.split()[1]) for line in handle if line.startswith(b"Tgid:"))
    except (FileNotFoundError, ProcessLookupError):
        return None


def _group_of(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None  # it has ended
