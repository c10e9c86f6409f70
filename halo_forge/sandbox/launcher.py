"""The small process that runs jobs for one worker of the trainer, one at a time.

It is started as `python -I -S -c <BOOT> <package root> <descriptor> <trainer's pid> <work directory>` and speaks
`wire` over that descriptor.  It ends, and takes the running job with it, as soon as the trainer hangs up or dies.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping
from typing import Any

from halo_forge.sandbox import jail, processes, wire
from halo_forge.sandbox.box import Box, remove_tree
from halo_forge.sandbox.watch import TrainerGone, Watch

BOOT = "import sys; sys.path.insert(0, sys.argv[1]); from halo_forge.sandbox.launcher import main; main()"
_COUNT_TASKS_SECONDS = 5.0
_LEAST_FREE_BYTES = 1024 * 1024


class Launcher:
    """Runs jobs in `work`."""

    def __init__(self, connection: socket.socket, trainer: int, work: str) -> None:
        self._connection = connection
        self._trainer = trainer
        self._work = work
        refused = jail.unavailable_steps()
        self._steps = [name for name in jail.OPTIONAL if name not in refused]
        self._notes = [jail.OPTIONAL[name][1] for name in refused]
        self._user = jail.unused_user(work)
        self._num_tasks = 0
        self._counted = float("-inf")

    def serve(self) -> None:
        """Answer jobs until the trainer hangs up (EOFError, OSError, TrainerGone)."""
        wire.send(
            self._connection,
            {
                "root": os.geteuid() == 0 and self._user is None,
                "own_user": self._user is not None,
                "notes": self._notes,
            },
        )
        while True:
            message, blobs = wire.receive(self._connection)
            try:
                reply, answer = self._run(message, blobs)
            except (OSError, ValueError, jail.JailError) as error:
                reply, answer = {"error": f"{type(error).__name__}: {error}"}, []
            wire.send(self._connection, reply, answer)

    def _run(self, message: Mapping[str, Any], blobs: list[bytes]) -> tuple[dict[str, Any], list[bytes]]:
        box = Box(self._work, self._user)
        streams: list[int] = []
        try:
            for name, content in zip(message["files"], blobs[1:], strict=True):
                box.put(name, content)
            for name in ("stdin", "stdout", "stderr"):
                streams.append(os.memfd_create(name))
            _write_all(streams[0], blobs[0])
            return self._execute(message, box, streams)
        finally:
            for stream in streams:
                os.close(stream)
            box.remove()

    def _execute(self, message: Mapping[str, Any], box: Box, streams: list[int]) -> tuple[dict[str, Any], list[bytes]]:
        limits = message["limits"]
        env = {**message["env"], "HOME": box.path, "TMPDIR": box.path}
        others = self._count_tasks() if self._user is None else 0
        started = time.monotonic()
        command = jail.Command(message["argv"], env, box.descriptor, streams, limits, others, self._steps, self._user)
        main, exec_error = jail.start(command)
        watch = Watch(main, limits, started)
        try:
            reason = watch.wait(self._connection, self._trainer)
        finally:
            watch.end()
        disk = os.fstatvfs(box.descriptor)
        if disk.f_bavail * disk.f_frsize < _LEAST_FREE_BYTES:
            # Whatever the command made of it, its failure would be ours.
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), box.path)
        facts = _facts(watch, reason, limits, [os.fstat(stream).st_size for stream in streams[1:]])
        facts |= {"exec_error": exec_error or None, "wall_seconds": time.monotonic() - started}
        blobs = [os.pread(stream, limits["keep_bytes"], 0) for stream in streams[1:]]
        fetched = None if message["fetch"] is None else box.fetch(message["fetch"], limits["file_bytes"])
        if fetched is not None:
            blobs.append(fetched)
        return facts, blobs

    def _count_tasks(self) -> int:
        if time.monotonic() - self._counted > _COUNT_TASKS_SECONDS:
            self._num_tasks = processes.num_tasks(os.getuid())
            self._counted = time.monotonic()
        return self._num_tasks


def _facts(watch: Watch, reason: str, limits: Mapping[str, Any], sizes: list[int]) -> dict[str, Any]:
    assert watch.status is not None, "the command was not reaped"
    number = os.WTERMSIG(watch.status) if os.WIFSIGNALED(watch.status) else None
    output_limit = number == signal.SIGXFSZ or max(sizes) >= limits["file_bytes"]
    # Whether the watch saw it in time or not: what used more than its CPU time is over the limit.
    over_cpu = watch.cpu_seconds >= limits["cpu_seconds"]
    timed_out = reason if reason in ("cpu", "wall") else "cpu" if over_cpu and reason == "ended" else None
    return {
        "exit_code": os.WEXITSTATUS(watch.status) if number is None else None,
        "signal": number,
        "timed_out": None if output_limit else timed_out,
        "out_of_memory": reason == "memory" or watch.max_rss_bytes > limits["memory_bytes"],
        "output_limit": output_limit,
        "process_limit": reason == "processes",
        "cpu_seconds": watch.cpu_seconds,
        "max_rss_bytes": watch.max_rss_bytes,
        "truncated": max(sizes) > limits["keep_bytes"],
    }


def _write_all(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
    os.lseek(descriptor, 0, os.SEEK_SET)


def main() -> None:
    """Serve the trainer named on the command line until it hangs up."""
    _, _, descriptor, trainer_pid, work = sys.argv
    connection = socket.socket(fileno=int(descriptor))
    connection.set_inheritable(False)
    # A thread of the trainer may have blocked signals; what is blocked stays so in every child.
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    jail.prctl(jail.PR_SET_CHILD_SUBREAPER, 1)
    try:
        trainer = os.pidfd_open(int(trainer_pid))
        Launcher(connection, trainer, work).serve()
    except (EOFError, ConnectionError, ProcessLookupError, TrainerGone):
        return  # the end of every launcher: nobody is left to answer
    finally:
        remove_tree(work)
        remove_tree(os.path.dirname(work))
