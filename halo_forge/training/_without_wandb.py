"""TRL without Weights & Biases, which it imports wherever that is installed."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

NAME = "wandb"


@contextlib.contextmanager
def without_wandb() -> Iterator[None]:
    """Within this block wandb looks as if it were not installed, unless it has been imported before.

    Importing it takes a second and makes two folders in TMPDIR, which a killed run leaves behind.  Nothing here needs
    it: trackers have a process of their own (runtime/tracker_process.py).
    """
    if NAME in sys.modules:
        yield
        return
    sys.modules[NAME] = None  # type: ignore[assignment]  # what `find_spec` and `import` take for "not installed"
    try:
        yield
    finally:
        del sys.modules[NAME]
