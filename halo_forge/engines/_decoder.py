"""Decoding with a fixed number of rows in flight and a preallocated cache; imported late, because it needs torch.

All rows write their next key and value into the same slot, one slot further at every step.  A row that is filled
with a new prompt gets the prompt's keys and values right before the current slot, so prompts of any length line up
at their ends, as in left padding.  What a row may look at is its mask.  Rotary positions are applied before keys
are cached, so a slot's number carries no meaning and the used window can be moved to the front when the slots run
out.  Nothing grows: memory depends on the rows in flight, not on the number of requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import Cache, DynamicCache
from transformers.cache_utils import CacheLayerMixin


class _Window:
    """The slots in use: [start, end) hold keys and values, and `end` is written next."""

    def __init__(self) -> None:
        self.start = 0
        self.end = 0


class _SlotLayer(CacheLayerMixin):  # type: ignore[misc]
    """One layer's keys and values, each (rows, key-value heads, slots, head size)."""

    is_sliding = False
    """Sliding-window layers keep all slots too: the mask hides what is too far back."""

    def __init__(self, window: _Window, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self.window, self.keys, self.values = window, keys, values
        self.is_initialized = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing: the room is there from the beginning."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *arguments: Any, **options: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write one position of every row; returns views, so nothing is copied."""
        start, end = self.window.start, self.window.end
        self.keys[:, :, end : end + 1] = key_states
        self.values[:, :, end : end + 1] = value_states
        return self.keys[:, :, start : end + 1], self.values[:, :, start : end + 1]

    def get_seq_length(self) -> int:
        """Slots that the next token can look back on."""
        return self.window.end - self.window.start

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """(slots that are looked at, offset of the first)."""
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        """Slots in all."""
        return int(self.keys.shape[2])


class Decoder:
    """The rows in flight.

    Args:
        model: A causal language model of transformers.
        num_rows: Rows in flight.
        longest_prompt: Tokens of the longest prompt that will be filled in.
        max_new_tokens: The most tokens that follow a prompt.
    """

    def __init__(self, model: Any, *, num_rows: int, longest_prompt: int, max_new_tokens: int) -> None:
        self._model = model
        self._device = model.device
        self._longest_prompt = longest_prompt
        # With room for two answers the window is moved once every `max_new_tokens` steps at most.
        self._num_slots = longest_prompt + 2 * max_new_tokens + 1
        self._window = _Window()
        self._window.start = self._window.end = longest_prompt
        self._mask = torch.zeros(num_rows, self._num_slots, dtype=torch.bool, device=self._device)
        self._starts = torch.full((num_rows,), longest_prompt, device=self._device)
        self._cache: Cache | None = None

    @torch.inference_mode()
    def fill(self, rows: Sequence[int], prompts: Sequence[Sequence[int]]) -> torch.Tensor:
        """Put `prompts[i]` into row `rows[i]`; equal prompts are computed once.

        Returns:
            (len(rows), vocabulary) next-token logits.
        """
        distinct = list(dict.fromkeys(tuple(prompt) for prompt in prompts))
        longest = max(map(len, distinct))
        # Any id serves as padding: the mask hides it.
        ids = [[0] * (longest - len(prompt)) + list(prompt) for prompt in distinct]
        seen = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in distinct]
        attention = torch.tensor(seen, device=self._device)
        output = self._model(
            input_ids=torch.tensor(ids, device=self._device),
            attention_mask=attention,
            position_ids=(attention.cumsum(dim=1) - 1).clamp(min=0),
            past_key_values=DynamicCache(),
            use_cache=True,
            logits_to_keep=1,
        )
        if self._cache is None:
            self._cache = self._allocate(output.past_key_values)
        source = torch.tensor([distinct.index(tuple(prompt)) for prompt in prompts], device=self._device)
        target = torch.tensor(list(rows), device=self._device)
        start, end = self._window.end - longest, self._window.end
        for layer, filled in zip(self._cache.layers, output.past_key_values.layers, strict=True):
            layer.keys[target, :, start:end] = filled.keys[source]
            layer.values[target, :, start:end] = filled.values[source]
        self._mask[target] = False
        self._mask[target, start:end] = attention[source].bool()
        self._starts[target] = end - attention[source].sum(dim=1)
        return output.logits[source, -1]

    @torch.inference_mode()
    def step(self, tokens: torch.Tensor, active: Sequence[int]) -> torch.Tensor:
        """Feed every row its newest token.

        Args:
            tokens: (rows,) ids; those of rows that are not active do not matter.
            active: Rows whose answers are not finished; the window begins where the first of them begins.

        Returns:
            (rows, vocabulary) next-token logits.
        """
        window = self._window
        window.start = int(self._starts[list(active)].min())
        if window.end == self._num_slots:
            self._move_window()
        self._mask[:, window.end] = True
        output = self._model(
            input_ids=tokens[:, None],
            attention_mask=self._mask[:, window.start : window.end + 1],
            # Rows that are not active may have begun before the window.
            position_ids=(window.end - self._starts)[:, None],
            past_key_values=self._cache,
            use_cache=True,
        )
        window.end += 1
        return output.logits[:, -1]

    @torch.inference_mode()
    def keep(self, rows: Sequence[int]) -> None:
        """Drop all rows but these; they are numbered anew in the order given."""
        index = torch.tensor(list(rows), device=self._device)
        self._mask, self._starts = self._mask[index], self._starts[index]
        assert self._cache is not None
        for layer in self._cache.layers:
            layer.keys, layer.values = layer.keys[index], layer.values[index]

    def _allocate(self, filled: Cache) -> Cache:
        layers = []
        for layer in filled.layers:
            shape = (self._mask.shape[0], layer.keys.shape[1], self._num_slots)
            # Zeros, not what the memory held: a masked NaN would still spoil the sum over values.
            keys = layer.keys.new_zeros(*shape, layer.keys.shape[3])
            values = layer.values.new_zeros(*shape, layer.values.shape[3])
            layers.append(_SlotLayer(self._window, keys, values))
        return Cache(layers=layers)

    def _move_window(self) -> None:
        """Move the used slots to the front, leaving room for the longest prompt before `end`."""
        window = self._window
        shift = min(window.start, window.end - self._longest_prompt)
        assert self._cache is not None
        for tensor in [self._mask[:, None, :, None]] + [
            part for layer in self._cache.layers for part in (layer.keys, layer.values)
        ]:
            tensor[:, :, : self._num_slots - shift] = tensor[:, :, shift:].clone()
        window.start, window.end = window.start - shift, window.end - shift
        self._mask[:, window.end :] = False
        self._starts -= shift
