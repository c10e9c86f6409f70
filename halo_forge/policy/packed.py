"""Weights laid out as the CPU's matrix products read them, while nothing is trained."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_ROWS = 64
"""What the layout is chosen for; it serves any number of rows."""
_MEMORY_SHARE = 0.25
"""Of the memory that is free, this much at most goes to the second copy of the weights."""


@contextlib.contextmanager
def packed_linears(model: Any) -> Iterator[None]:
    """While the block runs, bfloat16 linear layers on a CPU multiply with a packed copy of their weights.

    The plain layout is rearranged in every product, which for the few rows of a decoding step costs as much as the
    product.  The layers must not be trained meanwhile, and gradients do not pass.
    """
    layers = _suitable(model)
    for layer in layers:
        layer.forward = _packed_forward(layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _suitable(model: Any) -> list[Any]:
    import torch

    operations = torch.ops.mkldnn  # not public: a later torch may do without them
    if not hasattr(operations, "_reorder_linear_weight") or not operations._is_mkldnn_bf16_supported():
        return []
    layers = [
        module
        for module in model.modules()
        if type(module) is torch.nn.Linear
        and module.weight.device.type == "cpu"
        and module.weight.dtype == torch.bfloat16
        and not module.weight.requires_grad
    ]
    num_bytes = sum(layer.weight.numel() * layer.weight.element_size() for layer in layers)
    free_bytes = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return layers if num_bytes <= _MEMORY_SHARE * free_bytes else []


def _packed_forward(layer: torch.nn.Linear) -> Callable[[torch.Tensor], torch.Tensor]:
    import torch

    with torch.no_grad():
        weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.data, _ROWS)

    def forward(x: torch.Tensor) -> torch.Tensor:
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            x.reshape(-1, x.shape[-1]), weight, layer.bias, "none", [], ""
        )
        return product.view(*x.shape[:-1], product.shape[-1])

    return forward
