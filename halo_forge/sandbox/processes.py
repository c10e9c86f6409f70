"""The processes below the launcher: what they use, and how they are ended.

The launcher is a child subreaper and serves one job at a time, so every process below it belongs to that job,
whatever sessions and process groups it has created.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_QUIET_PASSES = 3
_KILL_SECONDS = 20.0


@dataclass(slots=True)
class Process:
    """One line of /proc/<pid>/stat: state letter, resident bytes, CPU seconds (its reaped children included)."""

    pid: int
    parent: int
    state: str
    num_threads: int
    rss_bytes: int
    cpu_seconds: float
    reaped_cpu_seconds: float


def read(pid: int) -> Process | None:
    """What the kernel reports about `pid`; None if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as handle:
            # The name, in parentheses, may hold anything; the numbers follow its last parenthesis.
            fields = handle.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    own, reaped = (sum(map(int, pair)) / _TICKS for pair in (fields[11:13], fields[13:15]))
    rss_bytes = int(fields[21]) * _PAGE
    return Process(pid, int(fields[1]), fields[0].decode(), int(fields[17]), rss_bytes, own + reaped, reaped)


def _children_from_kernel(pid: int) -> list[int]:
    found: list[int] = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children", "rb") as handle:
                found += map(int, handle.read().split())
    except (FileNotFoundError, ProcessLookupError):
        return found  # it ended meanwhile; its children now belong to the launcher
    return found


def _children_from_scan(pid: int) -> list[int]:
    processes = (read(int(name)) for name in os.listdir("/proc") if name.isdigit())
    return [process.pid for process in processes if process is not None and process.parent == pid]


# Not every kernel is built with CONFIG_PROC_CHILDREN.
children: Callable[[int], list[int]] = (
    _children_from_kernel if os.path.exists(f"/proc/self/task/{os.getpid()}/children") else _children_from_scan
)


def below(pid: int) -> Iterator[Process]:
    """Every process below `pid`, zombies included."""
    pending = children(pid)
    seen = set(pending)
    while pending:
        process = read(pending.pop())
        if process is None:
            continue
        yield process
        new = [child for child in children(process.pid) if child not in seen]
        seen.update(new)
        pending += new


def exact_bytes(process: Process) -> int:
    """Resident memory with shared pages divided among their owners (PSS); 0 if the process has ended.

    If the kernel does not report PSS, it is the resident memory as read before.
    """
    try:
        with open(f"/proc/{process.pid}/smaps_rollup", "rb") as handle:
            for line in handle:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) * 1024
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        now = read(process.pid)
        return 0 if now is None or now.state in "ZX" else process.rss_bytes
    return 0


def num_tasks(uid: int) -> int:
    """Processes and threads of user `uid` on this machine: what RLIMIT_NPROC is compared with."""
    total = 0
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            if os.stat(f"/proc/{name}").st_uid == uid:
                total += len(os.listdir(f"/proc/{name}/task"))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # ended meanwhile, or hidden from us
    return total


def send_signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return  # gone, or another user's by now: not ours to end


def kill_all_below(pid: int, reap: Callable[[], None]) -> None:
    """Stop every process below `pid`, then kill them, until none is left.

    Killing one by one never succeeds against a program that forks faster; a stopped process cannot fork.

    Args:
        reap: Collects the dead children of `pid` (which is the caller).

    Raises:
        TimeoutError: Some process does not die.
    """
    deadline = time.monotonic() + _KILL_SECONDS
    reap()
    while children(pid):
        _freeze(pid, deadline)
        # The whole list first: the children of a process become the launcher's the moment it is killed.
        killed = {process.pid for process in list(below(pid))}
        for victim in killed:
            send_signal(victim, signal.SIGKILL)
        while left := children(pid):
            reap()
            if time.monotonic() > deadline:
                raise TimeoutError("processes of a finished job cannot be killed")
            if not killed.issuperset(left):
                break  # a process slipped through: freeze again
            time.sleep(0.0002)


def _freeze(pid: int, deadline: float) -> None:
    signalled: set[int] = set()
    quiet = 0
    while quiet < _QUIET_PASSES and time.monotonic() < deadline:
        if _stop_below(pid, signalled):
            quiet = 0
            continue
        # State D with our SIGSTOP pending (such as the parent of a vfork) cannot return to fork again.
        moving = [p.pid for p in below(pid) if p.state not in "TtZX" and not (p.state == "D" and p.pid in signalled)]
        for process in moving:
            send_signal(process, signal.SIGSTOP)  # again: others of the job may have continued it
        signalled.update(moving)
        quiet = 0 if moving else quiet + 1


def _stop_below(pid: int, stopped: set[int]) -> bool:
    """Stop the processes below `pid` that are not in `stopped` yet, and add them; returns whether there were any.

    Each is stopped the moment it is found, before anything more is read: hundreds of running processes leave the
    launcher almost no CPU time, and the kernel completes no fork in a process with a pending signal, so the children
    read afterwards are all that it will ever have.
    """
    found = False
    pending = [pid]
    while pending:
        for child in children(pending.pop()):
            if child not in stopped:
                send_signal(child, signal.SIGSTOP)
                stopped.add(child)
                found = True
            pending.append(child)
    return found
