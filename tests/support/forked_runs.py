"""An experiment whose runs are forked children of this light process: a start takes milliseconds instead of a second.

Everything else is the real thing: `execute` starts, watches and ends them, and each runs the command line that it is
given.  A program that uses this must have no threads and no torch in memory.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from io import FileIO
from pathlib import Path
from typing import IO, Any

from killing import in_child
from scripted_runs import MemoryVerifier

import halo_forge.experiments.execute
import halo_forge.runtime.identity
import halo_forge.verifiers.verifier
from halo_forge.cli import app
from halo_forge.experiments.execute import Outcome, execute
from halo_forge.experiments.file import load_experiment
from halo_forge.supervisor.join import PIPE_VARIABLE


class ForkedProcess:
    """What `execute` needs of a `Popen`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, timeout: float) -> int:
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Forks:
    """Takes the place of `supervisor.child.start`.

    Args:
        in_run: Called in each child before it starts, with its command line.
    """

    def __init__(self, in_run: Callable[[Sequence[str]], object] = lambda command: None) -> None:
        self.in_run = in_run
        self.started: list[list[str]] = []
        self.environments: list[dict[str, str]] = []

    def __call__(
        self, command: Sequence[str], environment: Mapping[str, str], output: IO[bytes] | None = None
    ) -> tuple[Any, FileIO]:
        self.started.append(list(command))
        self.environments.append(dict(environment))
        reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            code = 1
            try:
                assert output is not None
                os.dup2(output.fileno(), 1)
                os.dup2(output.fileno(), 2)
                sys.stdout = io.TextIOWrapper(FileIO(1, "w"), write_through=True)
                sys.stderr = io.TextIOWrapper(FileIO(2, "w"), write_through=True)
                os.environ.update(environment)
                os.environ[PIPE_VARIABLE] = str(writing)
                sys.argv = list(command)
                self.in_run(command)
                app.main()
                code = 0
            except SystemExit as done:
                code = done.code if isinstance(done.code, int) else int(done.code is not None)
            finally:
                with contextlib.suppress(ValueError):
                    sys.stderr.flush()
                os._exit(code)
        os.close(writing)
        return ForkedProcess(pid), FileIO(reading, "rb")


def without_cost(**words: Any) -> None:
    """A verifier in memory, and an identity without what only costs time; for this process and its children."""
    halo_forge.verifiers.verifier.ThreadedVerifier = lambda spec: MemoryVerifier(**words)  # type: ignore[assignment, misc]
    halo_forge.runtime.identity.package_versions = dict  # type: ignore[assignment]
    halo_forge.runtime.identity.git_commit = lambda: None


def run_forked(
    path: Path,
    *,
    resume: bool = True,
    parallel: int = 1,
    forks: Forks | None = None,
    said: list[str] | None = None,
    overrides: Sequence[str] = (),
) -> Outcome:
    """Run an experiment in this process, its runs in forked children."""
    heard = [] if said is None else said
    halo_forge.experiments.execute.start = Forks() if forks is None else forks  # type: ignore[assignment]
    return execute(
        load_experiment(path, overrides), resume=resume, parallel=parallel, program=["halo-forge"], say=heard.append
    )


__all__ = ["Forks", "in_child", "run_forked", "without_cost"]
