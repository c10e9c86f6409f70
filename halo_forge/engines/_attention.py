"""Attention of one new token on a CPU; imported late, because it needs torch.

Several query heads share one key-value head.  Two batched matrix products over the groups read every key and value
once; the library's kernel for one query row does not use more than a part of the machine there.  Registered through
transformers' own interface, so every model of the library that uses it gains and no model code is copied.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

NAME = "halo_forge_grouped"


class CohortsLostError(RuntimeError):
    """The model did not hand on the keys that `with_parts` returned."""


def with_parts(
    key: torch.Tensor, value: torch.Tensor, parts: Sequence[tuple[torch.Tensor, torch.Tensor]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """What a cache returns where its rows lie in several places: the new states, from which attention finds the others.

    Args:
        key, value: The new states, (rows, key-value heads, 1, head size).
        parts: Keys and values of the first rows, the next rows and so on, each (its rows, key-value heads, its slots,
            head size).
    """
    key.halo_forge_parts = parts  # type: ignore[attr-defined]  # travels on the tensor, through the model
    return key, value


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
        key, value: (rows, key-value heads, slots, head size), or what `with_parts` returned.
        attention_mask: (rows, 1, 1, slots), added to the scores; None for nothing.  Rows of a part with fewer slots
            use its first ones.
        scaling: Factor on the scores; None is 1 / sqrt(head size).

    Returns:
        (rows, 1, heads, head size), and no weights.

    Raises:
        CohortsLostError: The mask is wider than the keys.
    """
    if query.shape[2] != 1 or options.get("position_bias") is not None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **options)
    scale = query.shape[3] ** -0.5 if scaling is None else scaling
    parts = getattr(key, "halo_forge_parts", None)
    if parts is None:
        if attention_mask is not None and attention_mask.shape[3] != key.shape[2]:
            raise CohortsLostError
        return _grouped(query, key, value, attention_mask, scale), None
    mixed, first = [], 0
    for keys, values in parts:
        rows = slice(first, first + keys.shape[0])
        mask = None if attention_mask is None else attention_mask[rows, :, :, : keys.shape[2]]
        mixed.append(_grouped(query[rows], keys, values, mask, scale))
        first = rows.stop
    return torch.cat(mixed), None


def _grouped(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, scale: float
) -> torch.Tensor:
    rows, heads, _, size = query.shape
    key_value_heads, slots = key.shape[1], key.shape[2]
    groups = query.reshape(rows * key_value_heads, heads // key_value_heads, size)
    keys, values = key.view(-1, slots, size), value.view(-1, slots, value.shape[3])
    if mask is None:
        scores = torch.bmm(groups, keys.transpose(1, 2)).mul_(scale)
    else:
        bias = mask.expand(rows, key_value_heads, 1, slots).reshape(-1, 1, slots)
        scores = torch.baddbmm(bias, groups, keys.transpose(1, 2), alpha=scale)
    # The softmax sums in float32 inside, whatever the type of its input.
    return torch.bmm(scores.softmax(dim=-1), values).view(rows, 1, heads, value.shape[3])


AttentionInterface.register(NAME, grouped_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


@contextmanager
def fast_decoding(model: Any) -> Iterator[None]:
    """What decodes while the block runs: on a CPU this in place of `sdpa`, and `sdpa` in place of flash attention.

    Flash attention knows no mask of (rows, 1, 1, slots), which decoding needs.
    """
    chosen = model.config._attn_implementation
    if chosen.startswith("flash_attention"):
        decoding = "sdpa"
    elif model.device.type == "cpu" and chosen == "sdpa":
        decoding = NAME
    else:
        yield
        return
    model.set_attn_implementation(decoding)
    try:
        yield
    finally:
        model.set_attn_implementation(chosen)
