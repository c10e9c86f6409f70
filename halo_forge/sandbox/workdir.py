"""The working directory of one job: filled, read and removed without following links that the job created."""

from __future__ import annotations

import os
import stat

_MAX_DEPTH = 64


def check_name(name: str) -> None:
    """Raises ValueError unless `name` is a plain file name."""
    if not name or "/" in name or "\0" in name or name in (".", ".."):
        raise ValueError(f"{name!r} is not a plain file name")


class Workdir:
    """A fresh directory `job` inside `work`, owned by `user` if that is not our own."""

    def __init__(self, work: str, user: int | None = None) -> None:
        self._work = work
        self._user = user
        self.path = os.path.join(work, "job")
        os.makedirs(self.path, 0o700)  # a program that is not isolated may have removed `work` itself
        # Held open, so that later reads are from this directory, whatever is at its path by then.
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
        """The content of a regular file with a single name and at most `max_bytes`, else None."""
        check_name(name)
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        try:
            descriptor = os.open(name, flags, dir_fd=self.descriptor)
        except OSError:
            return None  # missing, a link, a socket, unreadable: the job did not leave the requested file
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1 or status.st_size > max_bytes:
                return None
            with os.fdopen(descriptor, "rb", closefd=False) as handle:
                return handle.read(max_bytes)
        finally:
            os.close(descriptor)

    def exceeds(self, max_bytes: int, max_files: int) -> bool:
        """Whether the directory's content exceeds that, or is nested deeper than any honest program needs."""
        return _Measure(max_bytes, max_files).is_over(self.descriptor, _MAX_DEPTH)

    def remove(self) -> None:
        """Remove the directory, and what the job created next to it."""
        os.close(self.descriptor)
        if os.path.isdir(self._work):
            for name in os.listdir(self._work):
                remove_tree(os.path.join(self._work, name))


class _Measure:
    """Sums up files while the job may still be changing them; files that vanish meanwhile do not count."""

    def __init__(self, max_bytes: int, max_files: int) -> None:
        self._bytes_left = max_bytes
        self._files_left = max_files

    def is_over(self, directory: int, depth: int) -> bool:
        """Whether the content below the descriptor `directory` exceeds what is left."""
        with os.scandir(directory) as entries:
            for entry in entries:
                try:
                    status = entry.stat(follow_symlinks=False)
                    self._files_left -= 1
                    self._bytes_left -= status.st_blocks * 512 // status.st_nlink
                    if self._bytes_left < 0 or self._files_left < 0:
                        return True
                    is_directory = stat.S_ISDIR(status.st_mode)
                    if is_directory and (depth == 0 or self._is_over_below(entry.name, directory, depth)):
                        return True
                except FileNotFoundError:
                    continue
                except PermissionError:
                    return True  # listed but not searchable: what cannot be measured counts as too much
        return False

    def _is_over_below(self, name: str, directory: int, depth: int) -> bool:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            inner = os.open(name, flags, dir_fd=directory)
        except PermissionError:
            # A directory that can be written but not listed hides its content, until the next check.
            _make_accessible(name, directory)
            return False
        except NotADirectoryError:
            return False  # replaced meanwhile
        try:
            return self.is_over(inner, depth - 1)
        finally:
            os.close(inner)


def _make_accessible(name: str, directory: int) -> None:
    # By descriptor: the job may replace the directory by a link to somebody else's file at any moment.
    try:
        descriptor = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except OSError:
        return  # replaced meanwhile; it is checked again
    try:
        os.chmod(f"/proc/self/fd/{descriptor}", 0o700)
    finally:
        os.close(descriptor)


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
