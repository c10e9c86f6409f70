"""What the filters of a job refuse where neither Landlock nor another user does: signals to others, `truncate`."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from halo_forge.sandbox import seccomp, syscalls

SETOWN_EX, FIOSETOWN, SIOCSPGRP = 15, 0x8901, 0x8902
pytestmark = pytest.mark.skipif(not seccomp.available(), reason="the system calls of this machine are not known")


def signals_of_this_process() -> bytes:
    return seccomp.signals_of(os.getpid(), seccomp.REFUSE)


def behind_the_filter(
    attempt: Callable[[int], object], filter_of_process: Callable[[], bytes] = signals_of_this_process
) -> int | None:
    """The errno that `attempt` ends with in a process behind a filter; it is given the id of this very process."""
    me = os.getpid()
    pid = os.fork()
    if pid == 0:
        code = 255
        try:
            os.setsid()
            syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
            seccomp.install(filter_of_process())
            attempt(me)
            code = 0
        except OSError as error:
            code = error.errno or 255
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code != 255
    return code or None


# The signal 0 harms nobody.
@pytest.mark.parametrize(
    "attempt",
    [
        lambda other: os.kill(other, 0),
        lambda other: os.kill(-1, 0),
        lambda other: os.kill(-os.getpgid(other), 0),
        lambda other: syscalls.call("tkill", other, 0),
        lambda other: syscalls.call("tgkill", other, other, 0),
        lambda other: syscalls.call("rt_sigqueueinfo", other, 0, bytes(128)),
        lambda other: syscalls.call("rt_tgsigqueueinfo", other, other, 0, bytes(128)),
        lambda other: signal.pidfd_send_signal(os.pidfd_open(other), 0),
        lambda other: fcntl.fcntl(0, fcntl.F_SETOWN, other),
        lambda other: fcntl.fcntl(0, fcntl.F_SETSIG, signal.SIGKILL),
        lambda other: fcntl.fcntl(0, SETOWN_EX, (1).to_bytes(4, "little") + other.to_bytes(4, "little")),
        lambda other: fcntl.ioctl(socket.socketpair()[0], FIOSETOWN, other.to_bytes(4, "little")),
        lambda other: fcntl.ioctl(socket.socketpair()[0], SIOCSPGRP, other.to_bytes(4, "little")),
    ],
)
def test_nobody_else_is_signalled(attempt: Callable[[int], object]) -> None:
    assert behind_the_filter(attempt) == errno.EPERM


def wait_for_a_thread() -> None:
    thread = threading.Thread(target=signal.pthread_kill, args=(threading.main_thread().ident, 0))
    thread.start()
    thread.join()


@pytest.mark.parametrize(
    "attempt",
    [
        lambda _: os.kill(os.getpid(), 0),
        lambda _: os.kill(0, 0),
        lambda _: os.killpg(os.getpid(), 0),
        lambda _: wait_for_a_thread(),
        lambda _: signal.setitimer(signal.ITIMER_REAL, 60),
        lambda _: fcntl.fcntl(0, fcntl.F_SETFD, fcntl.FD_CLOEXEC),
        lambda _: os.get_blocking(0),
    ],
)
def test_a_program_signals_itself(attempt: Callable[[int], object]) -> None:
    assert behind_the_filter(attempt) is None


def test_a_child_signals_its_group_and_nobody_by_name() -> None:
    def attempt(_: int) -> None:
        pid = os.fork()
        if pid == 0:
            os.kill(0, 0)
            os.kill(os.getppid(), 0)
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        os.kill(pid, 0)

    assert behind_the_filter(attempt) == errno.EPERM


@pytest.mark.parametrize("may_truncate", [True, False])
def test_files_are_shortened_by_path_where_landlock_looks_at_that(tmp_path: Path, may_truncate: bool) -> None:
    path = tmp_path / "file"
    path.write_text("content")

    def code() -> bytes:
        return seccomp.job_filter(owns_files=True, may_truncate=may_truncate)

    assert behind_the_filter(lambda _: os.truncate(path, 4), code) == (None if may_truncate else errno.EPERM)
    with path.open("r+") as handle:
        assert behind_the_filter(lambda _: os.ftruncate(handle.fileno(), 2), code) is None
    assert path.read_text() == "co"
    assert behind_the_filter(lambda _: path.chmod(0o600), code) == errno.EPERM
