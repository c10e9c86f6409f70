"""Levels `limits` and `landlock`: jobs run among the host's processes, each in a fresh directory on its disk."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from halo_forge.sandbox import child_setup, landlock, processes, seccomp
from halo_forge.sandbox.backend import (
    READABLE_DEVICES,
    SYSTEM_DIRECTORIES,
    SYSTEM_SETTINGS,
    WRITABLE_DEVICES,
    Ending,
    Request,
    Steps,
    Unavailable,
    existing,
    filter_works,
    refusal_of_landlock,
    working_filter,
)
from halo_forge.sandbox.monitor import Monitor, Reason
from halo_forge.sandbox.signal_broker import SignalBroker
from halo_forge.sandbox.workdir import Workdir

_COUNT_TASKS_SECONDS = 5.0
_LEAST_FREE_BYTES = 1024 * 1024
_OWN_USER_NOTE = "programs run as a separate user: they can read what every user can, and use the network"
_LIMITS_NOTE = "programs can read and write this user's files, use the network and reach this user's processes"
_SIGNALS_NOTE = "programs can signal themselves but not the processes that they start"
_ROOT_NOTE = "running as root: the kernel does not limit processes; a job over its limit is ended within 0.1 s"
_SEEN_NOTE = "programs can learn that other files and processes exist, but not open or signal them"
_UNREADABLE_NOTE = "jobs run as root without its capabilities, because no other user can read {}"
_DISK_NOTE = "disk use is checked ten times a second and can exceed its limit until then; nothing is left of it"


class HostBackend:
    """Runs jobs in `work`.

    Raises:
        Unavailable: Landlock or the system call filter is needed and does not work.
    """

    def __init__(self, work: str, read_only: Sequence[str], with_landlock: bool) -> None:
        self._work = work
        self._steps = Steps()
        user = child_setup.unused_user(work)
        unreadable = [] if user is None else [path for path in read_only if not _readable(path, user)]
        # Landlock also confines root without capabilities; at level `limits` only a separate user does.
        self._user = None if unreadable and with_landlock else user
        self._num_tasks = 0
        self._counted = float("-inf")
        self._confinement, abi = (
            _confinement(read_only, self._user is None) if with_landlock else (child_setup.Confinement(), 0)
        )
        # At level `limits` a job may do what its user may, but must not end all of that user's processes by mistake.
        needs_signals = self._user is None and abi < landlock.SIGNALS_ABI
        self._signals = _keeps_signals() if needs_signals else "no"
        if needs_signals and with_landlock and self._signals == "no":
            raise Unavailable("seccomp: signals cannot be confined", errno.EPERM)
        self.notes = list(self._steps.notes)
        if os.geteuid() == 0 and self._user is None:
            self.notes.insert(0, _ROOT_NOTE)
        if with_landlock:
            self.notes += [_SEEN_NOTE, _DISK_NOTE, *(_UNREADABLE_NOTE.format(path) for path in unreadable)]
        else:
            self.notes.insert(0, _LIMITS_NOTE if self._user is None else _OWN_USER_NOTE)
        if self._signals == "refuses":
            self.notes.append(_SIGNALS_NOTE)
        self.add_ons: Mapping[str, Any] = {
            "landlock_abi": abi,
            "fresh_proc": False,
            "uid_drop": self._user is not None,
            "seccomp": self._confinement.filter is not None or self._signals != "no",
        }

    def run(self, request: Request, wait: Callable[[Monitor], Reason]) -> Ending:
        """See `backend.Backend.run`."""
        workdir = Workdir(self._work, self._user)
        try:
            for name, content in request.files.items():
                workdir.put(name, content)
            return self._execute(request, workdir, wait)
        finally:
            workdir.remove()

    def _execute(self, request: Request, workdir: Workdir, wait: Callable[[Monitor], Reason]) -> Ending:
        confinement = self._confinement
        if self._signals == "no":
            return self._run_monitored(request, workdir, wait, confinement, None)
        if self._signals == "refuses":
            return self._run_monitored(request, workdir, wait, replace(confinement, signals=_refuse_signals), None)
        broker = SignalBroker()
        try:
            return self._run_monitored(request, workdir, wait, replace(confinement, signals=broker.confine), broker)
        finally:
            broker.close()

    def _run_monitored(
        self,
        request: Request,
        workdir: Workdir,
        wait: Callable[[Monitor], Reason],
        confinement: child_setup.Confinement,
        broker: SignalBroker | None,
    ) -> Ending:
        started = time.monotonic()
        command = child_setup.Command(
            argv=request.argv,
            env={**request.env, "HOME": workdir.path, "TMPDIR": workdir.path},
            workdir=workdir.descriptor,
            streams=request.streams,
            limits=request.limits,
            num_other_tasks=self._count_tasks() if self._user is None else None,
            steps=self._steps.names,
            proc=self._steps.proc,
            user=self._user,
            confinement=confinement,
        )
        main, exec_error = child_setup.start(command)
        most = (request.limits["disk_bytes"], request.limits["num_files"])
        monitor = Monitor(main, request.limits, started, lambda: workdir.exceeds(*most), broker)
        try:
            reason = wait(monitor)
        finally:
            monitor.end()
        if reason == "ended" and workdir.exceeds(*most):
            reason = "disk"
        disk = os.fstatvfs(workdir.descriptor)
        if disk.f_bavail * disk.f_frsize < _LEAST_FREE_BYTES:
            # Whatever the command did then, the failure would be ours.
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), workdir.path)
        fetched = None if request.fetch is None else workdir.fetch(request.fetch, request.limits["file_bytes"])
        return Ending(reason, monitor, exec_error, fetched)

    def _count_tasks(self) -> int:
        if time.monotonic() - self._counted > _COUNT_TASKS_SECONDS:
            self._num_tasks = processes.num_tasks(os.getuid())
            self._counted = time.monotonic()
        return self._num_tasks


def _confinement(read_only: Sequence[str], same_user: bool) -> tuple[child_setup.Confinement, int]:
    """The confinement, and the version of Landlock's interface."""
    refusal = refusal_of_landlock()
    if refusal is not None:
        raise Unavailable("Landlock", refusal.errno) from refusal
    if not seccomp.available():
        raise Unavailable("seccomp: no table of system calls for this machine", None)
    abi = landlock.kernel_abi()
    code = working_filter(same_user, may_truncate=not same_user or abi >= landlock.TRUNCATE_ABI)
    if code is None:
        raise Unavailable("seccomp", errno.EPERM)
    # Opened now: the user of jobs may be unable to reach them, and no path is resolved per job.
    readable = [
        os.open(path, os.O_PATH | os.O_CLOEXEC)
        for path in existing([*SYSTEM_DIRECTORIES, *SYSTEM_SETTINGS, *READABLE_DEVICES, *read_only])
    ]
    writable = existing(WRITABLE_DEVICES)
    # Runtimes need what /proc says about their own process, which is another directory for each job.
    return child_setup.Confinement(
        lambda workdir: landlock.new_ruleset([*readable, "/proc/self"], [*writable, workdir], abi), code
    ), abi


def _keeps_signals() -> Literal["asks", "refuses", "no"]:
    """How a job's signals to others can be confined: the launcher is asked, or all but its own are refused."""
    if not seccomp.available():
        return "no"
    if filter_works(seccomp.signals_of(1, seccomp.ASK), seccomp.NEW_LISTENER):
        return "asks"
    # Older than Linux 5.5, or another listener is already installed from outside.
    return "refuses" if filter_works(seccomp.signals_of(1, seccomp.REFUSE)) else "no"


def _refuse_signals() -> None:
    seccomp.install(seccomp.signals_of(os.getpid(), seccomp.REFUSE))


def _readable(path: str, user: int) -> bool:
    return child_setup.works_in_a_child(lambda: _read_as(user, path))


def _read_as(user: int, path: str) -> None:
    child_setup.become_user(user)
    os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
