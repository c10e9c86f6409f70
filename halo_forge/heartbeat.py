"""Signs of life for a supervisor: a byte in a pipe whenever a token, a record or a training pass is really there.

Nobody listens in a run that is not supervised; then a sign costs one comparison.
"""

from __future__ import annotations

import contextlib
import os
import time

INTERVAL_SECONDS = 0.1
"""A GPU decodes a hundred steps a second; the supervisor needs no more than a few signs."""

_pipe: int | None = None
_last = 0.0


def connect(pipe: int) -> None:
    """Give signs through this descriptor from now on; it must not block."""
    global _pipe
    _pipe = pipe


def is_connected() -> bool:
    """Whether somebody listens."""
    return _pipe is not None


def beat() -> None:
    """Say that something was made.  Call it with the result at hand, never before it or from a timer."""
    global _last
    if _pipe is None:
        return
    now = time.monotonic()
    if now - _last < INTERVAL_SECONDS:
        return
    _last = now
    with contextlib.suppress(BlockingIOError):  # a full pipe: nobody has looked for hours, and all of it is progress
        os.write(_pipe, b".")
