"""Writing files so that a kill cannot leave them half-written."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Literal

from halo_forge.core.errors import RunDirError
from halo_forge.supervisor import heartbeat

EDITED = (
    "a run's files must not be edited, nor read by another version of halo-forge: redo the cycle with"
    " `halo-forge raft resume RUN --from-cycle N`, or start a new run with another output_dir"
)


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn an operating system error about `path` into one that says how to fix it.

    Raises:
        RunDirError: Disk full, not writable, not readable.
    """
    try:
        yield
    except OSError as error:
        hints = {
            errno.ENOSPC: "free some space, then rerun with --resume; completed work is kept",
            errno.EDQUOT: "raise the quota or free some space, then rerun with --resume",
            errno.EACCES: "make the folder writable or choose another output_dir",
            errno.EROFS: "choose an output_dir on a writable file system",
        }
        hint = hints.get(error.errno if error.errno is not None else 0, "check the path and its file system")
        raise RunDirError(f"{path}: {error.strerror or error}", hint) from error


@contextlib.contextmanager
def as_written(path: Path) -> Iterator[None]:
    """Turn what goes wrong with the content of an edited file into an error about the file.

    Raises:
        RunDirError: The block looked for something that is not there, or is of another kind.
    """
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        wrong = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise RunDirError(f"{path}: not what halo-forge wrote here: {wrong}", EDITED) from error


def sync_folder(folder: Path) -> None:
    """Make sure that the names in `folder` survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically: a reader sees the old file or the complete new one."""
    with explained(path):
        temporary = path.with_name(f".{path.name}.tmp")
        with temporary.open("wb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    heartbeat.beat()


def write_text(path: Path, text: str) -> None:
    """`write_bytes` for UTF-8 text."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """One indented JSON object; equal values give equal bytes."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write all rows atomically."""
    write_text(path, "".join(line(row) for row in rows))


NO_LINK = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS)
"""What a file system says that has no hard links, or none to there."""


def link_or_copy(source: Path, target: Path) -> Literal["link", "copy"]:
    """One more name for a sealed file, which is never edited; a copy where the file system has no hard links.

    Raises:
        FileNotFoundError: The source is gone.
        RunDirError: The target cannot be written.
    """
    how: Literal["link", "copy"] = "link"
    with explained(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in NO_LINK:
            if isinstance(error, FileNotFoundError):
                raise
            with explained(target):
                raise
        how = "copy"
        write_bytes(target, source.read_bytes())
    sync_folder(target.parent)
    return how


def share_bytes(left: Path, right: Path) -> bool:
    """Whether two files have the same content."""
    return left.samefile(right) or left.read_bytes() == right.read_bytes()


def line(row: Mapping[str, Any]) -> str:
    """A row as one line of JSON, including the newline."""
    return json.dumps(row, ensure_ascii=False, separators=(", ", ": ")) + "\n"


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        RunDirError: The file is not readable or not a JSON object: a sealed file was edited.
    """
    with explained(path):
        data = path.read_bytes()
    return _object(data, str(path))


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """All rows of a JSONL file; what follows the last newline is a line that is still being written.

    Raises:
        RunDirError: A line is not a JSON object.
    """
    with explained(path):
        data = path.read_bytes()
    return [_object(row, f"{path}:{number}") for number, row in enumerate(data.split(b"\n")[:-1], start=1)]


def _object(data: bytes, where: str) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RunDirError(f"{where}: not JSON: {error}", EDITED) from error
    if not isinstance(value, dict):
        raise RunDirError(f"{where}: {str(value)[:80]!r} is not a JSON object", EDITED)
    return value


class GrowingFile:
    """A JSONL file that is appended to line by line and survives a kill at any moment.

    A last line without a newline was left by a killed writer; it is cut when the file is opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with explained(path):
            if path.exists():
                cut_torn_tail(path)
            self._handle: BinaryIO = path.open("ab", buffering=0)

    def append(self, row: Mapping[str, Any]) -> None:
        """Hand one line to the operating system, so that it survives this process."""
        with explained(self.path):
            data = line(row).encode()
            written = self._handle.write(data)
            if written != len(data):  # the disk became full in the middle of the line
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        heartbeat.beat()

    def close(self) -> None:
        """Close the file; the lines are kept."""
        self._handle.close()

    def __enter__(self) -> GrowingFile:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def cut_torn_tail(path: Path) -> None:
    """Remove everything after the last newline."""
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole != len(data):
        os.truncate(path, whole)
