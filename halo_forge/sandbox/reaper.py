"""Who ends a job when its launcher is killed, at the levels where jobs are among the host's processes.

What a dead launcher leaves would go on, as a child of whoever adopts it.  So the process that the trainer starts forks
the launcher and stays behind as its reaper: orphans of the launcher become its own, and it ends them.
"""

from __future__ import annotations

import os
import select
import socket
from typing import NoReturn

from halo_forge.sandbox import processes, syscalls
from halo_forge.sandbox.workdir import remove_tree


def fork_under_reaper(connection: socket.socket, work: str) -> int:
    """Go on as a child of this process, which only waits for its end, and then removes what it has left.

    For a child subreaper, which both of them are then.

    Args:
        connection: Closed in the reaper, so that its other side learns at once of the end of the child.
        work: The directory of jobs, which is removed with the one above it.

    Returns:
        A pidfd of the reaper: without it, the caller must not go on.
    """
    reaper = os.pidfd_open(os.getpid())
    child = os.fork()
    if child:
        connection.close()
        _keep(child, work)
    syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)  # it is not handed down
    return reaper


def _keep(child: int, work: str) -> NoReturn:
    select.select([os.pidfd_open(child)], [], [])
    status: list[int] = []
    processes.kill_all_below(os.getpid(), lambda: _reap(child, status))
    remove_tree(work)
    remove_tree(os.path.dirname(work))
    code = os.waitstatus_to_exitcode(status[0])
    os._exit(code if code >= 0 else 128 - code)


def _reap(child: int, status: list[int]) -> None:
    while True:
        try:
            pid, ended = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        if pid == child:
            status.append(ended)


def either(first: int, second: int) -> int:
    """A descriptor that can be read when one of the two can be."""
    both = select.epoll()
    both.register(first, select.EPOLLIN)
    both.register(second, select.EPOLLIN)
    return os.dup(both.fileno())
