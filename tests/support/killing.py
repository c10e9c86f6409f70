"""Kills a process at its n-th write point: before every operation that changes the disk, after a file was made and
before anything is in it, and in the middle of a line.

An audit hook hears of every file that is opened for writing, renamed, removed, linked, cut or made, whoever does it;
a hook cannot be taken back, so it lives in a forked child only.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from halo_forge.store import files

CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.symlink", "os.link", "os.truncate"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class WritePoints:
    """Counts write points and kills this process at number `kill_at` (counted from 1)."""

    def __init__(self, kill_at: int) -> None:
        self.kill_at = kill_at
        self.count = 0

    def hit(self, last_words: Callable[[], object] = lambda: None) -> None:
        self.count += 1
        if self.count == self.kill_at:
            last_words()
            os.kill(os.getpid(), signal.SIGKILL)

    def install(self) -> None:
        """Watch this process from now on; for a child that ends soon."""
        append = files.GrowingFile.append

        def torn_append(growing: files.GrowingFile, row: Any) -> None:
            self.hit()
            data = files.line(row).encode()
            self.hit(lambda: growing._handle.write(data[: len(data) // 2]))
            append(growing, row)

        files.GrowingFile.append = torn_append  # type: ignore[method-assign]
        real_open = Path.open

        def empty_open(path: Path, mode: str = "r", *arguments: Any, **named: Any) -> Any:
            handle = real_open(path, mode, *arguments, **named)
            if mode.startswith("w"):
                self.hit()  # the file is there, and nothing is in it
            return handle

        Path.open = empty_open  # type: ignore[assignment, method-assign]
        # What a killed process wrote is in the page cache; only a power failure needs the disk.
        os.fsync = lambda descriptor: self.hit()  # type: ignore[assignment]
        sys.addaudithook(self._heard)

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in CHANGES or (event == "open" and arguments[2] & WRITING and arguments[0] != os.devnull):
            self.hit()


def in_child(work: Callable[[], object]) -> int:
    """Run `work` in a forked child; its exit code, -9 where it was killed, 1 after an exception."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:  # noqa: BLE001 -- nothing may come back out of a forked child
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@contextlib.contextmanager
def room_in_memory() -> Iterator[Path]:
    """A folder in memory where there is one: hundreds of runs make tens of thousands of small files."""
    memory = "/dev/shm"
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None, prefix="halo_forge_") as name:
        yield Path(name)
