"""Ends a job when its launcher is killed, at the levels where jobs are among the host's processes.

Processes that a dead launcher leaves would survive.  So the process that the trainer starts forks the launcher and
remains as its reaper: orphans of the launcher become its children, and it ends them.
"""

from __future__ import annotations

import os
import select
import socket
from typing import NoReturn

from halo_forge.sandbox import processes, syscalls
from halo_forge.sandbox.workdir import remove_tree


def fork_under_reaper(connection: socket.socket, work: str) -> int:
    """Continue as a child of this process, which waits for the child's end and then removes what it left.

    The calling process has to be a child subreaper; afterwards both are.

    Args:
        connection: Closed in the reaper, so the other side notices the child's end at once.
        work: The directory of jobs, which is removed together with its parent.

    Returns:
        A pidfd of the reaper: if it ends, the caller must end too.
    """
    reaper = os.pidfd_open(os.getpid())
    child = os.fork()
    if child:
        connection.close()
        _keep(child, work)
    syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)  # it is not inherited
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
    """A descriptor that is readable when either of the two is."""
    both = select.epoll()
    both.register(first, select.EPOLLIN)
    both.register(second, select.EPOLLIN)
    return os.dup(both.fileno())
