"""A server that a run starts, watches and stops."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from halo_forge.supervisor import heartbeat
from halo_forge.supervisor.server_guard import BOOT, GRACE_SECONDS

_log = logging.getLogger(__name__)
POLL_SECONDS = 0.1
LOG_LINES = 15
LOG_BYTES = 64 * 1024
_END_SECONDS = GRACE_SECONDS + 25.0
"""The guard's grace period, and the time that killed processes may take to disappear."""


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens at now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class NotStarted(Exception):
    """The server did not start.

    Attributes:
        code: Its exit code; None if it did not respond in time.
        log: The end of its output.
    """

    def __init__(self, code: int | None, log: str) -> None:
        super().__init__(code, log)
        self.code, self.log = code, log

    @property
    def last_lines(self) -> str:
        """The last non-empty lines of its output."""
        return "\n".join([line for line in self.log.splitlines() if line.strip()][-LOG_LINES:])


class ServerProcess:
    """One server at a time, under a guard: it and everything it starts end with this process, however that ends.

    Args:
        name: The stem of its files.
        folder: Where the output of each server is kept: `name.1.log`, `name.2.log`, ...; nothing there is overwritten
            or removed.  None creates a temporary folder when a server is first started.

    Attributes:
        log: The log of the server started last; None before the first start.
    """

    def __init__(self, name: str, folder: Path | None = None) -> None:
        self.name, self.folder = name, folder
        self.log: Path | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._pid_file: Path | None = None

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._guard is not None and self._guard.poll() is None

    @property
    def exit_code(self) -> int | None:
        """The exit code of a server that ended by itself; None if it runs or was never started."""
        return None if self._guard is None else self._guard.poll()

    def start(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        answers: Callable[[], bool],
        timeout_seconds: float,
    ) -> None:
        """Start it and wait until `answers()`, which may raise to give up.

        Every check counts as a sign of life, because waiting for a server has its own limit.

        Raises:
            NotStarted: It ended, or did not respond in time and was stopped.
        """
        self.close()
        self.wait_for_leftover()
        root = str(Path(__file__).resolve().parents[2])
        self.log = self._new_log()
        with self.log.open("xb") as output:
            # A separate session: Ctrl-C is for us, and we stop the server when we are done.
            self._guard = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", BOOT, root, *command],
                env=dict(environment),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._pid_file = self._leftover_file
        self._pid_file.write_text(f"{self._guard.pid}\n", encoding="ascii")
        try:
            self._wait(self._guard, answers, time.monotonic() + timeout_seconds)
        except BaseException:
            self.close()
            raise

    def wait_for_leftover(self) -> None:
        """Wait until the server of a killed attempt is gone: it holds its memory and its port until then."""
        if self.folder is None or not self._leftover_file.exists():
            return
        text = self._leftover_file.read_text(encoding="ascii").strip()
        if not text:  # killed between creating the file and writing it
            return
        pid = int(text)
        deadline = time.monotonic() + _END_SECONDS
        while _is_guard(pid) and time.monotonic() < deadline:
            heartbeat.beat()
            time.sleep(POLL_SECONDS)
        if _is_guard(pid):
            _log.warning("the server %s of an earlier attempt is still running (process %d)", self.name, pid)

    def close(self) -> None:
        """Stop it, if it runs; nothing that it started is left afterwards."""
        if self._guard is not None:
            assert self._guard.stdin is not None
            self._guard.stdin.close()
            try:
                self._guard.wait(_END_SECONDS)
                if self._pid_file is not None:
                    self._pid_file.unlink(missing_ok=True)
            except subprocess.TimeoutExpired:
                # Its file stays: the next start waits for it again.
                _log.warning(
                    "process %d, which stops the server %s, is still running %g s after it was told to end",
                    self._guard.pid,
                    self.name,
                    _END_SECONDS,
                )
            self._guard = None

    def _wait(self, guard: subprocess.Popen[bytes], answers: Callable[[], bool], deadline: float) -> None:
        while not answers():
            heartbeat.beat()
            code = guard.poll()
            if code is not None or time.monotonic() > deadline:
                raise NotStarted(code, self._tail())
            time.sleep(POLL_SECONDS)

    @property
    def _leftover_file(self) -> Path:
        """Holds the guard's process id while a server runs."""
        assert self.folder is not None
        return self.folder / f"{self.name}.pid"

    def _new_log(self) -> Path:
        if self.folder is None:
            self.folder = Path(tempfile.mkdtemp(prefix="halo-forge-logs-"))
        self.folder.mkdir(parents=True, exist_ok=True)
        numbers = [path.name.split(".")[-2] for path in self.folder.glob(f"{self.name}.*.log")]
        last = max((int(number) for number in numbers if number.isdecimal()), default=0)
        return self.folder / f"{self.name}.{last + 1}.log"

    def _tail(self) -> str:
        assert self.log is not None
        with self.log.open("rb") as written:
            written.seek(max(0, os.fstat(written.fileno()).st_size - LOG_BYTES))
            return written.read().decode(errors="replace")


def _is_guard(pid: int) -> bool:
    """Whether the process runs and is a guard: process ids are reused."""
    try:
        return BOOT.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False
