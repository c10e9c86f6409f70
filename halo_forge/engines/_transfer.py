"""Copies between the host and the device that the host does not wait for; imported late, because it needs torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch


def upload(values: Any, device: torch.device) -> torch.Tensor:
    """`values` on the device; on a GPU by way of page-locked memory, so that the host goes on at once.

    Args:
        values: A nested sequence of numbers, or a tensor of the CPU.
    """
    made = torch.as_tensor(values)
    if device.type == "cpu":
        return made
    return made.pin_memory().to(device, non_blocking=True)


def upload_indices(*lists: Sequence[int], device: torch.device) -> list[torch.Tensor]:
    """Each list as a tensor of integers on the device, all in one transfer."""
    flat = torch.tensor([number for numbers in lists for number in numbers], dtype=torch.long)
    return list(torch.split(upload(flat, device), [len(numbers) for numbers in lists]))


def keep_rows(rows: Sequence[int], tensors: Iterable[torch.Tensor], device: torch.device) -> list[int]:
    """Move the rows to keep to the front of each tensor, in place; few are copied, because the last ones fill the gaps.

    Args:
        rows: Numbers of the rows to keep, ascending.
        tensors: (rows, ...) each, on `device`; the rows after the kept ones are free afterwards.

    Returns:
        The old numbers of the kept rows, in their new order.
    """
    order = list(range(len(rows)))
    gaps = sorted(set(order) - set(rows))
    moved = list(rows[len(rows) - len(gaps) :])
    for gap, row in zip(gaps, moved, strict=True):
        order[gap] = row
    if gaps:
        into, source = upload_indices(gaps, moved, device=device)
        for tensor in tensors:
            tensor[into] = tensor[source]
    return order


class Readback:
    """Numbers on their way from the device: the copy is asked for at once, `read` waits for it and nothing later.

    Args:
        tensor: (length,) integers.
    """

    def __init__(self, tensor: torch.Tensor) -> None:
        self._ready: torch.cuda.Event | None = None
        self._numbers = tensor
        if tensor.is_cuda:
            self._numbers = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._numbers.copy_(tensor, non_blocking=True)
            self._ready = torch.cuda.Event()
            self._ready.record()

    def read(self) -> list[int]:
        """The numbers."""
        if self._ready is not None:
            self._ready.synchronize()
        found: list[int] = self._numbers.tolist()
        return found
