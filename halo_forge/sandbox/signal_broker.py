"""Whom a job may signal, where neither Landlock nor a user of its own sees to that: the launcher is asked, and looks.

A filter of system calls knows the number of the process that is meant, not whose it is.  So it lets a job signal its
first process, and hands all else to the launcher, which sends the signal itself if it is for a process of the job.
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
        # The descriptor here ends with exec.
        socket.send_fds(self._far, [b"x"], [listener])

    def listen(self) -> int:
        """A descriptor that can be read when there is a question; for the launcher, once the job has begun."""
        if self._listener is None:
            _, (self._listener,), _, _ = socket.recv_fds(self._near, 1, 1)
        return self._listener

    def answer(self) -> None:
        """Answer one question."""
        room = bytearray(_QUESTION.size)
        try:
            fcntl.ioctl(self.listen(), _RECEIVE, room)
            number, caller, _, call, _, _, *arguments = _QUESTION.unpack(room)
            error, flags = self._decide(caller, call, arguments)
            fcntl.ioctl(self.listen(), _SEND, bytearray(_ANSWER.pack(number, 0, -error, flags)))
        except FileNotFoundError:
            return  # who asked has ended or was interrupted meanwhile

    def _decide(self, caller: int, call: int, arguments: list[int]) -> tuple[int, int]:
        """The errno for the caller, 0 for none, and the flags of the answer."""
        target = _signed(arguments[0])
        if target > 0 and _group_of_threads(target) == _group_of_threads(caller):
            return 0, _CONTINUE  # it is alive, for it waits here: nobody else can have its number
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
        # Opened before the look: what is found out then is about the process that the signal goes to.
        descriptor = os.pidfd_open(process)
        try:
            if not self._is_below(process):
                return errno.EPERM
            signal.pidfd_send_signal(descriptor, number)
            return 0
        finally:
            os.close(descriptor)

    def _to_group(self, group: int, number: int) -> int:
        # The job began as a session of its own, and no group spans two sessions: one member tells of all.
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
        """Whoever still asks is told that there is no such system call."""
        self._near.close()
        self._far.close()
        if self._listener is not None:
            os.close(self._listener)


def _signed(argument: int) -> int:
    # The kernel looks at the low half only.
    number: int = struct.unpack("=i", struct.pack("=I", argument & 0xFFFFFFFF))[0]
    return number


def _group_of_threads(thread: int) -> int | None:
    """The process that a thread is of, None where it is gone."""
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
