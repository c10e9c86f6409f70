"""The small process that runs jobs for one worker of the trainer, one at a time.

It is started as `python -I -S -c <BOOT> <package root> <descriptor> <trainer's pid> <work directory> <level>
<JSON list of additional paths that jobs may read>` and speaks `wire` over that descriptor.  It ends, and takes the
running job with it, as soon as the trainer hangs up or dies.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Mapping
from typing import Any

from halo_forge.sandbox import child_setup, reaper, syscalls, wire
from halo_forge.sandbox.backend import Backend, Ending, Request, Unavailable
from halo_forge.sandbox.host_backend import HostBackend
from halo_forge.sandbox.monitor import TrainerGone
from halo_forge.sandbox.namespace_backend import NamespaceBackend
from halo_forge.sandbox.workdir import remove_tree

BOOT = "import sys; sys.path.insert(0, sys.argv[1]); from halo_forge.sandbox.launcher import main; main()"


class Launcher:
    """Runs jobs in `backend`."""

    def __init__(self, connection: socket.socket, trainer: int, backend: Backend) -> None:
        self._connection = connection
        self._trainer = trainer
        self._backend = backend

    def serve(self) -> None:
        """Run jobs until the trainer hangs up (EOFError, OSError, TrainerGone)."""
        backend = self._backend
        hello = {"pid": os.getpid(), "notes": list(backend.notes), "add_ons": dict(backend.add_ons)}
        wire.send(self._connection, hello)
        while True:
            if self._trainer in select.select([self._connection.fileno(), self._trainer], [], [])[0]:
                raise TrainerGone
            message, blobs = wire.receive(self._connection)
            try:
                reply, answer = self._run(message, blobs)
            except (OSError, ValueError, child_setup.ChildSetupError) as error:
                reply, answer = {"error": f"{type(error).__name__}: {error}"}, []
            wire.send(self._connection, reply, answer)

    def _run(self, message: Mapping[str, Any], blobs: list[bytes]) -> tuple[dict[str, Any], list[bytes]]:
        streams: list[int] = []
        try:
            for name in ("stdin", "stdout", "stderr"):
                streams.append(os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
            _write_all(streams[0], blobs[0])
            _keep_what_is_written(*streams[1:])
            limits = message["limits"]
            started = time.monotonic()
            files = dict(zip(message["files"], blobs[1:], strict=True))
            request = Request(message["argv"], files, message["env"], limits, message["fetch"], streams)
            ending = self._backend.run(request, lambda monitor: monitor.wait(self._connection, self._trainer))
            facts = _facts(ending, limits, [os.fstat(stream).st_size for stream in streams[1:]])
            facts |= {"exec_error": ending.exec_error or None, "wall_seconds": time.monotonic() - started}
            answer = [os.pread(stream, limits["keep_bytes"], 0) for stream in streams[1:]]
            return facts, answer if ending.fetched is None else [*answer, ending.fetched]
        finally:
            for stream in streams:
                os.close(stream)


def _facts(ending: Ending, limits: Mapping[str, Any], sizes: list[int]) -> dict[str, Any]:
    monitor, reason = ending.monitor, ending.reason
    assert monitor.status is not None, "the command was not reaped"
    number = os.WTERMSIG(monitor.status) if os.WIFSIGNALED(monitor.status) else None
    output_limit = number == signal.SIGXFSZ or max(sizes) >= limits["file_bytes"] or reason == "disk"
    # Whether or not the monitor saw it in time: a job that used more CPU time than allowed is over the limit.
    over_cpu = monitor.cpu_seconds >= limits["cpu_seconds"]
    timed_out = reason if reason in ("cpu", "wall") else "cpu" if over_cpu and reason == "ended" else None
    return {
        "exit_code": os.WEXITSTATUS(monitor.status) if number is None else None,
        "signal": number,
        "timed_out": timed_out,
        "out_of_memory": reason == "memory" or monitor.max_rss_bytes > limits["memory_bytes"],
        "output_limit": output_limit,
        "process_limit": reason == "processes",
        "cpu_seconds": monitor.cpu_seconds,
        "max_rss_bytes": monitor.max_rss_bytes,
        "truncated": max(sizes) > limits["keep_bytes"],
    }


def _keep_what_is_written(output: int, errors: int) -> None:
    """A job cannot take back its output: writes are always appended, and standard output cannot be truncated."""
    for stream in (output, errors):
        fcntl.fcntl(stream, fcntl.F_SETFL, fcntl.fcntl(stream, fcntl.F_GETFL) | os.O_APPEND)
    # Not standard error: `echo ... > /dev/stderr`, which truncates it, is common in scripts.
    fcntl.fcntl(output, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)


def _write_all(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
    os.lseek(descriptor, 0, os.SEEK_SET)


def main() -> None:
    """Serve the trainer named on the command line until it hangs up."""
    _, _, descriptor, trainer_pid, work, level, read_only = sys.argv
    connection = socket.socket(fileno=int(descriptor))
    connection.set_inheritable(False)
    # A thread of the trainer may have blocked signals, and children inherit that.
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
    try:
        trainer = os.pidfd_open(int(trainer_pid))
        if level != "namespace":  # there the kernel ends the job with its launcher
            trainer = reaper.either(trainer, reaper.fork_under_reaper(connection, work))
        backend = _open_backend(level, work, json.loads(read_only), connection.fileno())
        Launcher(connection, trainer, backend).serve()
    except Unavailable as refusal:
        wire.send(connection, {"unavailable": str(refusal), "errno": refusal.number})
    except (EOFError, ConnectionError, ProcessLookupError, TrainerGone):
        return  # the normal end of a launcher: nobody is left to answer
    finally:
        # Where setting up a root file system failed half way, `work` holds the system's own directories, which removing
        # it would change, as seen from outside too. Then the trainer, which does not see them, removes it.
        if not os.path.ismount(work):
            remove_tree(work)
            remove_tree(os.path.dirname(work))


def _open_backend(level: str, work: str, read_only: list[str], connection: int) -> Backend:
    if level == "namespace":
        return NamespaceBackend(work, read_only, connection)
    return HostBackend(work, read_only, with_landlock=level == "landlock")
