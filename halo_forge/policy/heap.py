"""What glibc does with freed memory while the policy samples, and while it is trained."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_MMAP_THRESHOLD = 4 << 20
"""Bytes; the activations of a layer are smaller, logits are larger."""


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """While the block runs, glibc keeps what is freed: a decoding step frees and asks for the same large tensors.

    Returning their pages and faulting them in again costs up to a fifth of the step.  Before and after, what is free
    is given back, and large tensors lie outside the heap: training asks for other sizes each time, and its heap would
    grow without end.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):  # musl
        yield
        return
    libc.malloc_trim(0)
    libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
    libc.mallopt(_M_TRIM_THRESHOLD, 1 << 30)
    try:
        yield
    finally:
        # Not glibc's 128 KiB, which it raises by itself only as long as nobody sets it: with that, faults took half as
        # long again as all the rest of a training step (docs/log.md).
        libc.mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD)
        libc.mallopt(_M_TRIM_THRESHOLD, 2 * _MMAP_THRESHOLD)
        libc.malloc_trim(0)
