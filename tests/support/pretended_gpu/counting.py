"""What happened on the pretended GPU."""

from __future__ import annotations

import ctypes
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

KINDS = ("launches", "reads", "writes", "shapes", "synchronizations", "async_copies", "views", "allocations")
"""In the order of `Kind` in plugin.cpp."""
WAITS = frozenset({"reads", "writes", "shapes", "synchronizations"})
_LISTENER = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p)
_NOT_A_CALLER = (f"{Path(__file__).parent}/", "/torch/", "/contextlib.py")


@dataclass
class Counted:
    """What a block of code did.

    Attributes:
        launches: Operators that start a kernel, copies within the device included.
        reads: Copies to the host that block, `item`, `tolist` and `bool` among them.
        writes: Copies to the device that block, all from memory that is not pinned.
        shapes: Results whose shape depends on data: `nonzero`, indexing with a mask.
        synchronizations: Of the device, a stream or an event.
        async_copies: Copies that do not block.
        views, allocations: What starts no kernel.
        operators: (kind, operator) -> how often.
        places: (kind of wait, file:line that called torch) -> how often.
    """

    launches: int = 0
    reads: int = 0
    writes: int = 0
    shapes: int = 0
    synchronizations: int = 0
    async_copies: int = 0
    views: int = 0
    allocations: int = 0
    operators: Counter[tuple[str, str]] = field(default_factory=Counter)
    places: Counter[tuple[str, str]] = field(default_factory=Counter)

    @property
    def waits(self) -> int:
        """How often the host waited for the device."""
        return self.reads + self.writes + self.shapes + self.synchronizations


@contextmanager
def counted(*, with_names: bool = False) -> Iterator[Counted]:
    """Counts what the block does, whichever thread does it; complete when the block has ended.

    Args:
        with_names: Fill `operators` and `places` too, which makes every operator slower.
    """
    from support.pretended_gpu.device import plugin

    found, library = Counted(), plugin()
    before = [library.count_of(number) for number in range(len(KINDS))]

    def note(kind: int, name: bytes) -> None:
        found.operators[KINDS[kind], name.decode()] += 1
        if KINDS[kind] in WAITS:
            found.places[KINDS[kind], _caller()] += 1

    listener = _LISTENER(note)
    if with_names:
        library.listen(listener)
    try:
        yield found
    finally:
        library.listen(None)
        for number, name in enumerate(KINDS):
            setattr(found, name, library.count_of(number) - before[number])


def _caller() -> str:
    """The innermost line outside torch: of a library or of the project."""
    frame = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if not any(part in file for part in _NOT_A_CALLER):
            return f"{'/'.join(Path(file).parts[-2:])}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return "a thread of autograd"
