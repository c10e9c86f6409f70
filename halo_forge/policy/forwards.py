"""Other forwards for some modules of a model, for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any


@contextlib.contextmanager
def replaced_forwards(forwards: Mapping[Any, Callable[..., Any]]) -> Iterator[None]:
    """While the block runs, each module's `forward` is the given function; then it is what it was before.

    A module that had a forward of its own, such as one that another block has put there, gets it back; the others
    fall back to their class's method.
    """
    before = {module: module.__dict__.get("forward") for module in forwards}
    for module, forward in forwards.items():
        module.forward = forward
    try:
        yield
    finally:
        for module, forward in before.items():
            if forward is None:
                del module.forward
            else:
                module.forward = forward
