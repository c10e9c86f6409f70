"""One writer for a run directory."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from halo_forge.core.errors import RunDirError
from halo_forge.store.files import explained


class RunLock:
    """An advisory lock on `<run>/lock`; the kernel drops it when the process ends, however it ends."""

    def __init__(self, root: Path) -> None:
        path = root / "lock"
        with explained(path):
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.read(self._descriptor, 64).decode(errors="replace").strip()
            os.close(self._descriptor)
            raise RunDirError(
                f"{root}: another process is writing to this run" + (f" (process {owner})" if owner else ""),
                "wait for it, stop it with Ctrl-C or `kill`, or choose another --output-dir",
            ) from error
        os.truncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let another process write; the file stays, empty."""
        os.truncate(self._descriptor, 0)
        os.close(self._descriptor)
