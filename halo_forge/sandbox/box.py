"""The directory of one job: filled, read from and removed without following anything that the job has put there."""

from __future__ import annotations

import os
import stat


def check_name(name: str) -> None:
    """Raises ValueError unless `name` is a plain file name."""
    if not name or "/" in name or "\0" in name or name in (".", ".."):
        raise ValueError(f"{name!r} is no plain file name")


class Box:
    """A fresh directory `box` inside `work`, owned by `user` where that is another than our own."""

    def __init__(self, work: str, user: int | None = None) -> None:
        self._work = work
        self._user = user
        self.path = os.path.join(work, "box")
        os.makedirs(self.path, 0o700)  # a program that is not isolated may have removed `work` itself
        # Held open, so that what is read later is in this directory, whatever is at its path by then.
        self.descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        if user is not None:
            os.fchown(self.descriptor, user, user)

    def put(self, name: str, content: bytes) -> None:
        check_name(name)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(name, flags, 0o700, dir_fd=self.descriptor)
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(content)
            if self._user is not None:
                os.fchown(descriptor, self._user, self._user)

    def fetch(self, name: str, max_bytes: int) -> bytes | None:
        """The content of a plain file that has no other name and at most `max_bytes`, else None."""
        check_name(name)
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        try:
            descriptor = os.open(name, flags, dir_fd=self.descriptor)
        except OSError:
            return None  # missing, a link, a socket, unreadable: the job did not leave what was asked for
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1 or status.st_size > max_bytes:
                return None
            with os.fdopen(descriptor, "rb", closefd=False) as handle:
                return handle.read(max_bytes)
        finally:
            os.close(descriptor)

    def remove(self) -> None:
        """Remove the directory, and what the job has put next to it."""
        os.close(self.descriptor)
        if os.path.isdir(self._work):
            for name in os.listdir(self._work):
                remove_tree(os.path.join(self._work, name))


def remove_tree(top: str) -> None:
    """Remove a directory, however deep it is and whatever permissions its parts have; nothing if it is gone.

    Directories are moved up next to `top` before they are emptied, so that no path grows long and nothing recurses.
    """
    pending = [top]
    while pending:
        directory = pending.pop()
        try:
            status = os.lstat(directory)
        except FileNotFoundError:
            continue
        if not stat.S_ISDIR(status.st_mode):
            os.unlink(directory)
            continue
        os.chmod(directory, 0o700)
        for name in os.listdir(directory):
            path = os.path.join(directory, name)
            if stat.S_ISDIR(os.lstat(path).st_mode):
                os.chmod(path, 0o700)  # moving a directory writes its entry `..`
                moved = f"{top}.{os.urandom(8).hex()}"
                os.rename(path, moved)
                pending.append(moved)
            else:
                os.unlink(path)
        os.rmdir(directory)
