"""Level `namespace`: each job in separate process id and mount namespaces, inside the launcher's `rootfs`.

An init (process 1 of the job, a fork of the launcher) mounts what the job may write, starts the command, reaps its
orphans, and when the command ends kills what is left, reads the requested file, and reports.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import re
import select
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from halo_forge.sandbox import child_setup, landlock, rootfs, syscalls
from halo_forge.sandbox.backend import (
    WRITABLE_DEVICES,
    Ending,
    Request,
    Steps,
    Unavailable,
    existing,
    refusal_of_landlock,
    working_filter,
)
from halo_forge.sandbox.monitor import Monitor, NamespaceMonitor, Reason
from halo_forge.sandbox.syscalls import MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY
from halo_forge.sandbox.workdir import Workdir

_NEW = syscalls.CLONE_NEWPID | syscalls.CLONE_NEWNS
# Since this version RLIMIT_NPROC counts the processes of each user namespace separately.
_COUNTED_APART = (5, 14)
_EMPTY_PROC_NOTE = "programs see an empty /proc, because a container hides parts of this one"
_SAME_USER_NOTE = "jobs run as root of this container, without its capabilities: no other user id is mapped"
_NO_LANDLOCK_NOTE = "Landlock, the second layer, does not work here: {}"
_NO_FILTER_NOTE = "the system call filter, the third layer, does not work here"


class NamespaceBackend:
    """Moves this process into a `rootfs`, and runs jobs there.

    Args:
        connection: The descriptor over which the trainer talks to this process.

    Raises:
        Unavailable: The kernel refuses a step.
    """

    def __init__(self, work: str, read_only: Sequence[str], connection: int) -> None:
        was_root = os.geteuid() == 0
        self._connection = connection
        self._launcher = os.pidfd_open(os.getpid())
        own_user = rootfs.enter(work, read_only)
        self._steps = Steps()
        self._user = rootfs.JOB_USER if own_user else None
        try:
            self._fresh_proc = child_setup.works_in_a_child(_mount_proc, lambda: syscalls.clone_process(_NEW))
        except OSError as error:
            raise Unavailable("clone process id and mount namespaces", error.errno) from error
        refusal = refusal_of_landlock()
        abi = landlock.kernel_abi() if refusal is None else 0
        # One ruleset for all jobs: what each of them mounts is below that place.
        writable = [*existing(WRITABLE_DEVICES), rootfs.PLACE]
        ruleset = landlock.new_ruleset(["/"], writable, abi) if refusal is None else None
        self._confinement = child_setup.Confinement(None if ruleset is None else lambda _: ruleset, working_filter())
        self.notes = [
            *([] if self._fresh_proc else [_EMPTY_PROC_NOTE]),
            *([_SAME_USER_NOTE] if was_root and not own_user else []),
            *([] if refusal is None else [_NO_LANDLOCK_NOTE.format(refusal)]),
            *([] if self._confinement.filter is not None else [_NO_FILTER_NOTE]),
            *self._steps.notes,
        ]
        self.add_ons: Mapping[str, Any] = {
            "landlock_abi": abi,
            "fresh_proc": self._fresh_proc,
            "uid_drop": own_user,
            "seccomp": self._confinement.filter is not None,
        }
        # Before that version all processes of this user count, whose number is not known here.
        version = re.match(r"(\d+)\.(\d+)", platform.release())
        counted_apart = version is not None and tuple(map(int, version.groups())) >= _COUNTED_APART
        self._num_other_tasks = None if own_user or counted_apart else 4096

    def run(self, request: Request, wait: Callable[[Monitor], Reason]) -> Ending:
        """See `backend.Backend.run`."""
        started = time.monotonic()
        report_reader, report_writer = os.pipe2(os.O_CLOEXEC)
        fetched = os.memfd_create("fetched")
        try:
            init = syscalls.clone_process(_NEW)
            if init == 0:
                self._be_init(request, report_writer, fetched)
            os.close(report_writer)
            monitor = NamespaceMonitor(init, request.limits, started)
            try:
                reason = wait(monitor)
            finally:
                monitor.end()
            report = _read_report(report_reader, reason)
            monitor.told(report["status"], report["cpu_seconds"], report["max_rss_bytes"])
            content = os.pread(fetched, request.limits["file_bytes"], 0) if report["fetched"] else None
            return Ending(reason, monitor, report["exec_error"], content)
        finally:
            os.close(report_reader)
            os.close(fetched)

    def _be_init(self, request: Request, reports: int, fetched: int) -> NoReturn:
        code = 1
        try:
            # When the launcher ends, this process ends, and with it the whole namespace.
            syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
            os.close(self._connection)  # else the trainer would not see the launcher's end before ours
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            workdir = self._furnish(request)
            command = self._command(request, workdir)
            # This process shares the limits and confinement of the command: what it does not have it cannot lose to it,
            # and starting the command copies no memory, as forking once more would.
            child_setup.confine(command)
            syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)  # before a first other process of this namespace can look
            if select.select([self._launcher], [], [], 0)[0]:
                os._exit(code)  # it ended before we could ask to be ended with it
            report = _oversee(_spawn(command))
            content = None if request.fetch is None else workdir.fetch(request.fetch, request.limits["file_bytes"])
            if content is not None:
                _write_all(fetched, content)
            os.write(reports, json.dumps({**report, "fetched": content is not None}).encode())
            code = 0
        except (OSError, ValueError) as error:
            os.write(reports, json.dumps({"setup": f"{type(error).__name__}: {error}"}).encode())
        finally:
            os._exit(code)

    def _furnish(self, request: Request) -> Workdir:
        limits = request.limits
        options = f"mode=0755,size={limits['disk_bytes']},nr_inodes={limits['num_files']}"
        syscalls.mount("tmpfs", rootfs.MOUNT_POINT, "tmpfs", MS_NOSUID | MS_NODEV, options)
        rootfs.furnish_temporary()
        if self._user is not None:
            os.chown(rootfs.TEMPORARY, self._user, self._user)
        workdir = Workdir(rootfs.MOUNT_POINT, self._user)
        for name, content in request.files.items():
            workdir.put(name, content)
        if self._fresh_proc:
            _mount_proc()
        else:
            syscalls.mount("tmpfs", "/proc", "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0555,size=4k")
        return workdir

    def _command(self, request: Request, workdir: Workdir) -> child_setup.Command:
        return child_setup.Command(
            argv=request.argv,
            env={**request.env, "HOME": workdir.path, "TMPDIR": workdir.path},
            workdir=workdir.descriptor,
            streams=request.streams,
            limits=request.limits,
            num_other_tasks=self._num_other_tasks,
            steps=self._steps.names,
            proc=self._steps.proc,
            user=self._user,
            confinement=self._confinement,
        )


def _spawn(command: child_setup.Command) -> int:
    """The process id of the command, or the negative errno with which its start was refused."""
    try:
        return os.posix_spawn(command.argv[0], list(command.argv), command.env, setsid=True)
    except OSError as error:
        return -(error.errno or errno.ENOEXEC)


def _mount_proc() -> None:
    syscalls.mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)


def _oversee(main: int) -> dict[str, Any]:
    """Reap everybody until the command has ended, end the others, and tell what all of them used.

    Args:
        main: See `_spawn`.
    """
    if main < 0:
        return {"status": 127 << 8, "cpu_seconds": 0.0, "max_rss_bytes": 0, "exec_error": -main}
    status, cpu_seconds, max_rss_bytes = None, 0.0, 0
    while True:
        try:
            pid, this_status, usage = os.wait4(-1, 0)
        except ChildProcessError:
            return {"status": status, "cpu_seconds": cpu_seconds, "max_rss_bytes": max_rss_bytes, "exec_error": 0}
        cpu_seconds += usage.ru_utime + usage.ru_stime
        max_rss_bytes = max(max_rss_bytes, usage.ru_maxrss * 1024)
        if pid == main:
            status = this_status
            try:
                os.kill(-1, signal.SIGKILL)  # everybody in this namespace but its init
            except ProcessLookupError:
                continue  # nobody is left


def _read_report(reader: int, reason: Reason) -> dict[str, Any]:
    text = os.read(reader, 4096)
    if text:
        report: dict[str, Any] = json.loads(text)
        if "setup" in report:
            raise child_setup.ChildSetupError(f"setup: {report['setup']}")
        return report
    if reason == "ended":
        raise OSError(errno.ESRCH, "the init of a job ended without a report")
    return {"status": None, "cpu_seconds": 0.0, "max_rss_bytes": 0, "exec_error": 0, "fetched": False}


def _write_all(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
