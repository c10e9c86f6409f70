"""Attention of one new token on a CPU; imported late, because it needs torch.

Several query heads share one key-value head.  Two batched matrix products over the groups read every key and value
once; the library's kernel for one query row does not use more than a part of the machine there.  Registered through
transformers' own interface, so every model of the library that uses it gains and no model code is copied.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

NAME = "halo_forge_grouped"


def grouped_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attention for one query position; anything else goes to the library's `sdpa`.

    Args:
        query: (rows, heads, 1, head size).
        key, value: (rows, key-value heads, slots, head size).
        attention_mask: (rows, 1, 1, slots), added to the scores; None for nothing.
        scaling: Factor on the scores; None is 1 / sqrt(head size).

    Returns:
        (rows, 1, heads, head size), and no weights.
    """
    if query.shape[2] != 1 or options.get("position_bias") is not None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **options)  # type: ignore[no-any-return]
    rows, heads, _, size = query.shape
    key_value_heads, slots = key.shape[1], key.shape[2]
    groups = query.reshape(rows * key_value_heads, heads // key_value_heads, size)
    keys, values = key.view(-1, slots, size), value.view(-1, slots, value.shape[3])
    scale = size**-0.5 if scaling is None else scaling
    if attention_mask is None:
        scores = torch.bmm(groups, keys.transpose(1, 2)).mul_(scale)
    else:
        bias = attention_mask.expand(rows, key_value_heads, 1, slots).reshape(-1, 1, slots)
        scores = torch.baddbmm(bias, groups, keys.transpose(1, 2), alpha=scale)
    # The softmax sums in float32 inside, whatever the type of its input.
    mixed = torch.bmm(scores.softmax(dim=-1), values)
    return mixed.view(rows, 1, heads, value.shape[3]), None


AttentionInterface.register(NAME, grouped_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


@contextmanager
def fast_decoding(model: Any) -> Iterator[None]:
    """Use it while the block runs, where it is faster: on a CPU, in place of `sdpa`."""
    chosen = model.config._attn_implementation
    if model.device.type != "cpu" or chosen != "sdpa":
        yield
        return
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(chosen)
