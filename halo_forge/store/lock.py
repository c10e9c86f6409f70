"""One writer for a run directory."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from halo_forge.core.errors import RunDirError
from halo_forge.store.files import explained


def writing_process(root: Path) -> int | None:
    """The process that has the lock on a run, found without taking the lock; None where nobody writes.

    The file names the last writer, also one that was killed, so what counts is that this process has the file open.
    """
    path = root / "lock"
    try:
        process = int(path.read_text(encoding="ascii"))
        links = list(Path(f"/proc/{process}/fd").iterdir())
    except PermissionError:
        return process  # a process of another user
    except (OSError, ValueError):
        return None
    lock = path.resolve()
    return process if any(_target(link) == lock for link in links) else None


def _target(link: Path) -> Path | None:
    try:
        return Path(os.readlink(link))
    except OSError:
        return None  # closed meanwhile


class RunLock:
    """An advisory lock on `<run>/lock`; the kernel drops it when the process ends, however it ends.

    Args:
        what: What errors call the content of `root`.
    """

    def __init__(self, root: Path, what: str = "run") -> None:
        path = root / "lock"
        with explained(path):
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.read(self._descriptor, 64).decode(errors="replace").strip()
            os.close(self._descriptor)
            raise RunDirError(
                f"{root}: another process is writing to this {what}" + (f" (process {owner})" if owner else ""),
                "wait for it, stop it with Ctrl-C or `kill`, or choose another output_dir",
            ) from error
        os.truncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let another process write; the file stays, empty."""
        os.truncate(self._descriptor, 0)
        os.close(self._descriptor)
