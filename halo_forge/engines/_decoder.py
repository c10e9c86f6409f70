"""Decoding with a fixed number of rows in flight and a preallocated cache; imported late, because it needs torch.

The slots of the cache form a ring.  All rows write their next key and value into the same slot, one slot further at
every step, and a row that is filled with a new prompt gets the prompt's keys and values into the slots right before
it.  The ring has room for the longest prompt with the longest answer, so what is overwritten is no longer looked at.
What a row may look at is its mask.  Rotary positions are applied before keys are cached, so a slot's number carries
no meaning.  Nothing grows and nothing moves: memory depends on the rows in flight, not on the number of requests,
and the matrix products of attention read the cache as it lies (a part of it would be copied at every step).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import Cache, DynamicCache
from transformers.cache_utils import CacheLayerMixin

from halo_forge.errors import ConfigError

SLOT_MULTIPLE = 32
"""Matrix products are slower at odd sizes."""


class _Ring:
    """The slot that is written next, shared by all layers."""

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self.slot = 0


class _RingLayer(CacheLayerMixin):  # type: ignore[misc]
    """One layer's keys and values, each (rows, key-value heads, slots, head size)."""

    is_sliding = False
    """Sliding-window layers keep all slots too: the mask hides what is too far back."""

    def __init__(self, ring: _Ring, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self.ring, self.keys, self.values = ring, keys, values
        self.is_initialized = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing: the room is there from the beginning."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *arguments: Any, **options: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write one position of every row; returns all slots, uncopied."""
        slot = self.ring.slot
        self.keys[:, :, slot : slot + 1] = key_states
        self.values[:, :, slot : slot + 1] = value_states
        return self.keys, self.values

    def get_seq_length(self) -> int:
        """Slots that the next token can look back on."""
        return self.ring.num_slots - 1

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """(slots that are looked at, offset of the first)."""
        return self.ring.num_slots, 0

    def get_max_length(self) -> int:
        """Slots in all."""
        return self.ring.num_slots


@dataclass(frozen=True)
class _States:
    """Prompts that went through the model together, padded on the left to the longest of them.

    Attributes:
        layers: Keys and values of each layer, (prompts, key-value heads, length, head size).
        seen: (prompts, length); False where there is padding.
        logits: (prompts, vocabulary), of the token after the prompt.
    """

    layers: list[tuple[torch.Tensor, torch.Tensor]]
    seen: torch.Tensor
    logits: torch.Tensor

    def only(self, number: int) -> _States:
        """A copy of one prompt's, which holds on to no memory of the others."""
        layers = [
            (keys[number : number + 1].clone(), values[number : number + 1].clone()) for keys, values in self.layers
        ]
        return _States(layers, self.seen[number : number + 1].clone(), self.logits[number : number + 1].clone())


class Decoder:
    """The rows in flight.

    Args:
        model: A causal language model of transformers.
        num_rows: Rows in flight.
        longest_prompt: Tokens of the longest prompt that will be filled in.
        max_new_tokens: The most tokens that follow a prompt.

    Raises:
        ConfigError: The model has layers that keep something other than keys and values of each position.
    """

    def __init__(self, model: Any, *, num_rows: int, longest_prompt: int, max_new_tokens: int) -> None:
        self._model = model
        self._device = model.device
        self._windows = _attention_windows(model.config.get_text_config())
        needed = longest_prompt + max_new_tokens
        self._ring = _Ring(-(-needed // SLOT_MULTIPLE) * SLOT_MULTIPLE)
        self._mask = torch.zeros(num_rows, self._ring.num_slots, dtype=torch.bool, device=self._device)
        self._lengths = torch.zeros(num_rows, dtype=torch.long, device=self._device)
        self._cache: Cache | None = None
        self._kept: dict[tuple[int, ...], tuple[_States, int]] = {}

    @torch.inference_mode()
    def fill(self, rows: Sequence[int], prompts: Sequence[Sequence[int]]) -> torch.Tensor:
        """Put `prompts[i]` into row `rows[i]`; equal prompts are computed once.

        The last prompt is kept until the next call, so that a prompt whose samples come in several calls, one after
        the other, is computed once all the same.

        Returns:
            (len(rows), vocabulary) next-token logits.
        """
        wanted = [tuple(prompt) for prompt in prompts]
        distinct = [prompt for prompt in dict.fromkeys(wanted) if prompt not in self._kept]
        known = dict(self._kept)
        if distinct:
            fresh = self._prefill(distinct)
            known |= {prompt: (fresh, number) for number, prompt in enumerate(distinct)}
        logits: list[torch.Tensor] = [torch.empty(0)] * len(wanted)
        for states in {id(states): states for states, _ in known.values()}.values():
            here = [place for place, prompt in enumerate(wanted) if known[prompt][0] is states]
            if here:
                source = torch.tensor([known[wanted[place]][1] for place in here], device=self._device)
                self._write(torch.tensor([rows[place] for place in here], device=self._device), states, source)
                for place, row in zip(here, states.logits[source], strict=True):
                    logits[place] = row
        states, number = known[wanted[-1]]
        self._kept = {wanted[-1]: (states.only(number), 0)}
        return torch.stack(logits)

    def _prefill(self, prompts: Sequence[Sequence[int]]) -> _States:
        longest = max(map(len, prompts))
        # Any id serves as padding: the mask hides it.
        ids = [[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
        seen = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        attention = torch.tensor(seen, device=self._device)
        output = self._model(
            input_ids=torch.tensor(ids, device=self._device),
            attention_mask=attention,
            position_ids=(attention.cumsum(dim=1) - 1).clamp(min=0),
            past_key_values=DynamicCache(),
            use_cache=True,
            # An index and not a count: it copies the last states, and the head then multiplies them in one product.
            logits_to_keep=torch.tensor([longest - 1], device=self._device),
        )
        if self._cache is None:
            self._cache = self._allocate(output.past_key_values)
        layers = [(layer.keys, layer.values) for layer in output.past_key_values.layers]
        return _States(layers, attention.bool(), output.logits[:, -1])

    def _write(self, target: torch.Tensor, states: _States, source: torch.Tensor) -> None:
        """The states of prompts `source` into the rows `target`, right before the slot that is written next."""
        assert self._cache is not None
        longest = states.seen.shape[1]
        slots = torch.arange(self._ring.slot - longest, self._ring.slot, device=self._device) % self._ring.num_slots
        for layer, (keys, values) in zip(self._cache.layers, states.layers, strict=True):
            # Advanced indices on both sides of a slice: (rows, slots, heads, head size).
            layer.keys[target[:, None], :, slots] = keys[source].transpose(1, 2)
            layer.values[target[:, None], :, slots] = values[source].transpose(1, 2)
        self._mask[target] = False
        self._mask[target[:, None], slots] = states.seen[source]
        self._lengths[target] = states.seen[source].sum(dim=1)

    @torch.inference_mode()
    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """Feed every row its newest token.

        Args:
            tokens: (rows,) ids; those of rows that are finished do not matter.

        Returns:
            (rows, vocabulary) next-token logits.
        """
        self._mask[:, self._ring.slot] = True
        output = self._model(
            input_ids=tokens[:, None],
            attention_mask=self._masks(),
            position_ids=self._lengths[:, None],
            past_key_values=self._cache,
            use_cache=True,
        )
        # A finished row goes on counting; its position must stay one that the model knows.
        self._lengths += 1
        self._lengths %= self._ring.num_slots
        self._ring.slot = (self._ring.slot + 1) % self._ring.num_slots
        return output.logits[:, -1]

    @torch.inference_mode()
    def keep(self, rows: Sequence[int]) -> None:
        """Drop all rows but these; they are numbered anew in the order given."""
        index = torch.tensor(list(rows), device=self._device)
        self._mask, self._lengths = self._mask[index], self._lengths[index]
        assert self._cache is not None
        for layer in self._cache.layers:
            layer.keys, layer.values = layer.keys[index], layer.values[index]

    def _masks(self) -> Any:
        """What the model takes as its attention mask: one, or one for each kind of layer."""
        masks = {kind: self._mask_of(window) for kind, window in self._windows.items()}
        return masks if len(masks) > 1 else next(iter(masks.values()))

    def _mask_of(self, window: int | None) -> torch.Tensor:
        """(rows, 1, 1, slots): 0 where a row may look, minus infinity elsewhere; every kind of attention takes that."""
        hidden = ~self._mask
        if window is not None and window < self._ring.num_slots:
            slots = torch.arange(self._ring.num_slots, device=self._device)
            hidden |= (self._ring.slot - slots) % self._ring.num_slots >= window
        mask = torch.zeros(hidden.shape, dtype=self._model.dtype, device=self._device)
        return mask.masked_fill_(hidden, float("-inf"))[:, None, None]

    def _allocate(self, filled: Cache) -> Cache:
        layers = []
        for layer in filled.layers:
            shape = (self._mask.shape[0], layer.keys.shape[1], self._ring.num_slots)
            # Zeros, not what the memory held: a masked NaN would still spoil the sum over values.
            keys = layer.keys.new_zeros(*shape, layer.keys.shape[3])
            values = layer.values.new_zeros(*shape, layer.values.shape[3])
            layers.append(_RingLayer(self._ring, keys, values))
        return Cache(layers=layers)


def _attention_windows(config: Any) -> dict[str, int | None]:
    """Kind of layer -> how many positions it looks back on, itself included; None for all."""
    kinds = getattr(config, "layer_types", None)
    window = getattr(config, "sliding_window", None)
    if kinds is None:
        return {"full_attention" if window is None else "sliding_attention": window}
    windows = {"full_attention": None, "sliding_attention": window}
    unknown = sorted(set(kinds) - windows.keys())
    if unknown:
        raise ConfigError(
            f"model.model_name_or_path: layers of kind {', '.join(unknown)} cannot be sampled by engine.kind:"
            f" transformers (allowed: {', '.join(windows)})",
            "choose another model",
        )
    return {kind: windows[kind] for kind in dict.fromkeys(kinds)}
