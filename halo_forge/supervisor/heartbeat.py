"""Signs of life for a supervisor: a byte in a pipe whenever a token, a record or a training pass is really there.

While a model is downloaded or loaded there are none of these, for minutes.  Then a byte of another kind says that this
process moved data, from the network or a disk; it carries the phase, so the supervisor can wait longer for it.

Nobody listens in a run that is not supervised; then a sign costs one comparison.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

INTERVAL_SECONDS = 0.1
"""A GPU decodes a hundred steps a second; the supervisor needs no more than a few signs."""
PROGRESS, LOADING = b".", b"l"
"""Something was made; data was moved while loading, or loading begins."""
LOADED_BYTES = 1 << 20
"""Data moved for one sign of loading: more than what logs and idle connections move in an hour."""
LOOK_SECONDS = 1.0

_pipe: int | None = None
_phase = PROGRESS
_last = 0.0


def connect(pipe: int) -> None:
    """Give signs through this descriptor from now on; it must not block."""
    global _pipe
    _pipe = pipe


def is_connected() -> bool:
    """Whether somebody listens."""
    return _pipe is not None


def beat() -> None:
    """Report progress.  Call it after a result exists, never before it and never from a timer."""
    global _last
    if _pipe is None:
        return
    now = time.monotonic()
    if now - _last < INTERVAL_SECONDS:
        return
    _last = now
    _write(_phase)


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """While the block runs, data that this process reads or writes is a sign of life, and silence may last longer."""
    if _pipe is None:
        yield
        return
    global _phase
    over, before = threading.Event(), _phase
    watcher = threading.Thread(target=_watch_data, args=(over,), name="loading", daemon=True)
    _phase = LOADING
    _write(_phase)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
        _phase = before
        _write(_phase)  # what was loaded is there; from now on silence counts as before


def moved_bytes(text: str) -> int:
    """Bytes that a process has read and written so far, by its /proc/PID/io.

    `rchar` and `wchar` count calls: a download is written to its file, a checkpoint may be read.  `read_bytes` counts
    what came from a disk, also into memory that is mapped, as safetensors does.
    """
    rows = dict(line.split(": ", 1) for line in text.splitlines())
    return sum(int(rows[name]) for name in ("rchar", "wchar", "read_bytes"))


def _watch_data(over: threading.Event) -> None:
    path = Path("/proc/self/io")
    try:
        before = moved_bytes(path.read_text())
        while not over.wait(LOOK_SECONDS):
            now = moved_bytes(path.read_text())
            if now - before >= LOADED_BYTES:
                before = now
                _write(LOADING)
    except OSError:
        return  # a kernel without this file: loading has its limit alone


def _write(sign: bytes) -> None:
    if _pipe is None:
        return
    with contextlib.suppress(BlockingIOError):  # a full pipe: nobody has looked for hours, and all of it is progress
        os.write(_pipe, sign)
