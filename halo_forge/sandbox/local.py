"""The sandbox of this machine: one launcher process, started once, that runs one job after another."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from halo_forge.sandbox import processes, wire
from halo_forge.sandbox.job import Isolation, Job, JobResult, Level, Sandbox, SandboxError
from halo_forge.sandbox.launcher import BOOT
from halo_forge.sandbox.workdir import check_name, remove_tree

# The path of a job's directory, as the job sees it.
_WORKDIR = re.compile(r"/halo-forge(?:-\w+)?/work/job\b/?")
_BEFORE_A_PATH = frozenset(" \t\r\n:'\"")

# A job's private places, and what shows other processes; neither these nor their parents can be made readable.
_OWN_PLACES = ("/dev", "/dev/shm", "/halo-forge", "/proc", "/tmp", "/var/tmp")

_START_SECONDS = 30.0
# How long a job may take to be killed, cleaned up and reported after its wall-clock limit.
_GRACE_SECONDS = 60.0
_CLOSE_SECONDS = 10.0


class LevelUnavailable(SandboxError):
    """An isolation level cannot be set up on this machine.

    Args:
        message: The step that fails, and why.
        number: The errno of the failure, None if the kernel did not refuse it.
    """

    def __init__(self, message: str, number: int | None) -> None:
        super().__init__(message)
        self.number = number


def open_sandbox(isolation: str = "auto", read_only: Sequence[str] = ()) -> Sandbox:
    """A sandbox at an isolation level.

    Args:
        isolation: A level; "auto" uses the better of `namespace` and `landlock` that works.
        read_only: Paths outside the system's directories that jobs may read: a toolchain, an interpreter.

    Raises:
        SandboxError: The level does not work here (for "auto": neither of the two); no lower one is used instead.
        ValueError: There is no such level, or a path of `read_only` is missing or exposes too much.
    """
    from halo_forge.sandbox import ladder

    return ladder.open_level(isolation, read_only)


class LocalSandbox:
    """See `job.Sandbox` for the contract.

    Attributes:
        launcher: The process that runs the jobs.

    Raises:
        LevelUnavailable: `level` cannot be set up on this machine.
        SandboxError: The launcher does not start.
        ValueError: A path of `read_only` is missing or exposes too much.
    """

    def __init__(self, level: Level = "limits", read_only: Sequence[str] = ()) -> None:
        missing = [path for path in read_only if not os.path.exists(path)]
        if missing:
            raise ValueError(f"read_only paths must exist, found none at {missing}")
        if wide := [path for path in read_only if shows_too_much(path)]:
            raise ValueError(f"read_only paths must not show too much, such as the files of other jobs, found {wide}")
        self._arguments = [level, json.dumps([os.path.abspath(path) for path in read_only])]
        self._directory = tempfile.mkdtemp(prefix="halo-forge-")
        self._work = os.path.join(self._directory, "work")
        os.mkdir(self._work, 0o700)
        self._errors = tempfile.TemporaryFile()
        self._ending = threading.Lock()
        self._connection, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = self._start(theirs)
        except BaseException:
            self._forget()
            raise
        self._broken: str | None = None
        try:
            hello = self._greeting()
        except BaseException:
            self.close()
            raise
        self.launcher: int = hello["pid"]
        self.isolation = Isolation(level, tuple(hello["notes"]), hello["add_ons"])

    def _start(self, theirs: socket.socket) -> subprocess.Popen[bytes]:
        root = str(Path(__file__).resolve().parents[2])
        arguments = [root, str(theirs.fileno()), str(os.getpid()), self._work, *self._arguments]
        # Some builds of Python find their own shared library only through this variable.
        env = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
        # No preexec_fn: Popen would then fork this whole process instead of using vfork.
        return subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", BOOT, *arguments],
            env=env,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            pass_fds=(theirs.fileno(),),
            start_new_session=True,
        )

    def _greeting(self) -> dict[str, Any]:
        self._connection.settimeout(_START_SECONDS)
        try:
            hello, _ = wire.receive(self._connection)
        except (EOFError, OSError) as error:
            raise SandboxError(f"the launcher does not start: {self._explain(error)}") from error
        if "unavailable" in hello:
            raise LevelUnavailable(hello["unavailable"], hello["errno"])
        return hello

    def run(self, job: Job) -> JobResult:
        """See `job.Sandbox.run`."""
        if self._broken is not None:
            raise SandboxError(self._broken)
        _check(job)
        message: dict[str, Any] = {
            "argv": list(job.argv),
            "files": list(job.files),
            "env": dict(job.env),
            "limits": dataclasses.asdict(job.limits),
            "fetch": job.fetch,
        }
        self._connection.settimeout(job.limits.wall_seconds + _GRACE_SECONDS)
        try:
            wire.send(self._connection, message, [job.stdin, *job.files.values()])
            facts, blobs = wire.receive(self._connection)
        except (EOFError, OSError) as error:
            broken = f"the launcher is gone: {self._explain(error)}"
            self.close()  # the caller may never come back
            self._broken = broken
            raise SandboxError(broken) from error
        if "error" in facts:
            self._broken = f"the launcher failed: {facts['error']}"
            raise SandboxError(self._broken)
        return _outcome(facts, blobs)

    def _explain(self, error: Exception) -> str:
        with self._ending:
            if self._errors.closed:
                return "it was closed"
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=1.0)  # its last output comes before its end
            self._errors.seek(0)
            last_words = self._errors.read()[-2000:].decode(errors="backslashreplace").strip()
        return f"{type(error).__name__}: {error}; exit code {self._process.poll()}; {last_words}"

    def close(self) -> None:
        """See `job.Sandbox.close`."""
        self._broken = "the sandbox is closed"
        # The launcher sees the hang-up even during a job, kills the job and ends.
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        with self._ending:
            try:
                self._process.wait(timeout=_CLOSE_SECONDS)
            except subprocess.TimeoutExpired:
                self._kill()
            self._forget()

    def _kill(self) -> None:
        # With a reaper, the child is the launcher, and the reaper ends what is left of it.
        for child in processes.children(self._process.pid):
            processes.send_signal(child, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=_CLOSE_SECONDS)
        self._process.kill()
        self._process.wait()

    def _forget(self) -> None:
        self._connection.close()
        self._errors.close()
        remove_tree(self._work)
        remove_tree(self._directory)


def shows_too_much(path: str) -> bool:
    """Whether jobs that can read `path` would see other jobs, processes or devices, or lose what they need."""
    real = os.path.realpath(path)
    held = [*_OWN_PLACES, os.path.realpath(tempfile.gettempdir())]
    return real.startswith("/proc/") or any(os.path.commonpath([real, place]) == real for place in held)


def without_workdir_path(text: str) -> str:
    """Text that a job wrote, without the path of its directory, which differs from run to run.

    A single pass over the text, whatever it contains: it is hostile, and may be long.
    """
    kept: list[str] = []
    end = 0
    for match in _WORKDIR.finditer(text):
        start = match.start()
        while start > end and text[start - 1] not in _BEFORE_A_PATH:
            start -= 1
        kept.append(text[end : text.index("/", start)])
        end = match.end()
    return "".join([*kept, text[end:]])


def _check(job: Job) -> None:
    if not job.argv or "/" not in job.argv[0]:
        raise ValueError(f"argv must begin with a path that holds a slash, found {list(job.argv)}")
    for name in (*job.files, *([] if job.fetch is None else [job.fetch])):
        check_name(name)


def _outcome(facts: dict[str, Any], blobs: list[bytes]) -> JobResult:
    if facts["exec_error"] is not None:
        facts["exit_code"] = None
    return JobResult(**facts, stdout=blobs[0], stderr=blobs[1], fetched=blobs[2] if len(blobs) > 2 else None)
