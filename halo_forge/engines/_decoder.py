"""Decoding of rows in flight; imported late, because it needs torch.

On a CPU, rows that started together form a cohort with a separate cache: attention covers what they have seen and no
more, and little is copied.  On a GPU, where launching another product costs more than its width, all rows share one
cache, allocated once.  The other layers see all rows as one batch.  Memory depends on the rows in flight, not on the
number of requests.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

import torch
from transformers import Cache, DynamicCache
from transformers.cache_utils import CacheLayerMixin

from halo_forge.core.errors import ConfigError
from halo_forge.engines._attention import NAME, with_parts
from halo_forge.engines._cohort import Cohort
from halo_forge.engines._cuda_graphs import CudaGraphs
from halo_forge.engines._fixed_cache import FixedCache
from halo_forge.engines._transfer import upload, upload_indices
from halo_forge.policy import threads
from halo_forge.supervisor import heartbeat

MAX_COHORTS = 4
"""Every cohort costs separate products in every layer; merging with older rows makes products wider."""
PREFILL_TOKENS = {"cpu": 1024, "cuda": 8192}
"""The most tokens of prompts, padding included, that go through the model at once; a longer prompt goes alone.

A CPU gains nothing from more (docs/log.md), and the shorter of many prompts are padded to the longest."""


class _CohortsLayer(CacheLayerMixin):
    """One layer's cache, as the model sees it."""

    is_sliding = False
    """Sliding-window layers keep all slots too: the mask hides what is too far back."""

    def __init__(self, cohorts: Sequence[Cohort | FixedCache], number: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # the library leaves it untyped
        self.cohorts, self.number = cohorts, number
        self.is_initialized = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing: the memory is allocated from the beginning."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *arguments: Any, **options: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write one position of every row; returns all slots, or with several cohorts what attention finds them by."""
        if len(self.cohorts) == 1:
            return self.cohorts[0].write(self.number, key_states, value_states)
        sizes = [len(cohort) for cohort in self.cohorts]
        parts = [
            cohort.write(self.number, keys, values)
            for cohort, keys, values in zip(
                self.cohorts, torch.split(key_states, sizes), torch.split(value_states, sizes), strict=True
            )
        ]
        return with_parts(key_states, value_states, parts)

    def get_seq_length(self) -> int:
        """Slots that the next token can look back on."""
        return self.get_max_length() - 1

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """(slots that are looked at, offset of the first)."""
        return self.get_max_length(), 0

    def get_max_length(self) -> int:
        """Slots in all."""
        return max(cohort.num_slots for cohort in self.cohorts)


@dataclass(frozen=True)
class _States:
    """Prompts that went through the model together, padded on the left to the longest of them.

    Attributes:
        layers: Keys and values of each layer, (prompts, key-value heads, length, head size).
        lengths: Tokens of each.
        logits: (prompts, vocabulary), of the token after the prompt.
    """

    layers: list[tuple[torch.Tensor, torch.Tensor]]
    lengths: Sequence[int]
    logits: torch.Tensor

    def last(self) -> _States:
        """A copy of the last prompt's, which holds on to no memory of the others."""
        layers = [(keys[-1:].clone(), values[-1:].clone()) for keys, values in self.layers]
        return _States(layers, self.lengths[-1:], self.logits[-1:].clone())


class Decoder:
    """The rows in flight, initially none.

    Args:
        model: A causal language model of transformers.
        max_rows: The most rows in flight.
        max_length: Tokens of the longest prompt together with its completion.
        graphs: On a GPU a step runs as a CUDA graph, and the tokens come in one tensor for the most rows.

    Raises:
        ConfigError: The model has layers whose state is not keys and values of each position.
    """

    def __init__(self, model: Any, *, max_rows: int, max_length: int, graphs: bool = False) -> None:
        self._model = model
        self._device = model.device
        self._cache_argument = cache_argument(model)
        self._windows = _attention_windows(model.config.get_text_config())
        self._max_rows, self._max_length = max_rows, max_length
        # The library's own attention takes one tensor of keys.
        self._max_cohorts = MAX_COHORTS if model.config._attn_implementation == NAME else 1
        self._graphs = CudaGraphs(max_rows) if graphs else None
        self._cohorts: list[Any] = []  # each a Cohort; on a GPU a single FixedCache, from the first rows on
        self._cache: Cache | None = None
        self._kept: tuple[tuple[int, ...], _States] | None = None

    @torch.inference_mode()
    def add(self, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
        """Add rows after those in flight; consecutive equal prompts are computed once.

        The last prompt is kept until the next call, so a prompt whose samples come in several consecutive calls is
        computed only once.

        Args:
            prompts: Their token ids.

        Returns:
            (prompts, vocabulary) next-token logits.
        """
        cohort, logits = self._for_new_rows(), []
        for part in self._passes([tuple(prompt) for prompt in prompts]):
            threads.adjust()
            distinct = list(dict.fromkeys(part))
            states = self._prefill(distinct) if self._kept is None or distinct != [self._kept[0]] else self._kept[1]
            self._kept = distinct[-1], states.last()
            index = [distinct.index(prompt) for prompt in part]
            cohort.append(states.layers, states.lengths, index)
            logits.append(states.logits[upload_indices(index, device=self._device)[0]])
            if self._device.type == "cpu":
                heartbeat.beat()  # many passes over long prompts; on a GPU this would be before they are computed
        self._merge()
        return torch.cat(logits)

    def _for_new_rows(self) -> Any:
        """Where new rows go: a new cohort, or on a GPU the common cache."""
        if self._device.type == "cpu":
            self._cohorts.append(Cohort())
        elif not self._cohorts:
            sizes = {"max_rows": self._max_rows, "max_length": self._max_length}
            self._cohorts.append(FixedCache(self._device, **sizes, few_shapes=self._graphs is not None))
        return self._cohorts[-1]

    def _passes(self, prompts: Sequence[tuple[int, ...]]) -> Iterator[list[tuple[int, ...]]]:
        """The prompts in order, cut where the model takes in as many tokens as it should at once."""
        kept, limit = None if self._kept is None else self._kept[0], PREFILL_TOKENS[self._device.type]
        part: list[tuple[int, ...]] = []
        num_distinct = longest = 0
        for prompt, equal in groupby(prompts):
            longest, num_distinct = max(longest, len(prompt)), num_distinct + 1
            if part and (part[-1] == kept or num_distinct * longest > limit):
                yield part
                part, num_distinct, longest = [], 1, len(prompt)
            part += equal
        yield part

    def _prefill(self, prompts: Sequence[Sequence[int]]) -> _States:
        longest = max(map(len, prompts))
        # Any id serves as padding: the mask hides it.
        ids = [[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
        seen = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        attention, cache = upload(seen, self._device), DynamicCache()
        output = self._model(
            input_ids=upload(ids, self._device),
            attention_mask=attention,
            position_ids=(attention.cumsum(dim=1) - 1).clamp(min=0),
            use_cache=True,
            # An index and not a count: it copies the last states, and the head then multiplies them in one product.
            logits_to_keep=upload([longest - 1], self._device),
            **{self._cache_argument: cache},
        )
        filled: list[Any] = cache.layers  # after a pass each layer holds its keys and values
        layers = [(layer.keys, layer.values) for layer in filled]
        if self._cache is None:
            self._cache = Cache(layers=[_CohortsLayer(self._cohorts, number) for number in range(len(layers))])
        return _States(layers, [len(prompt) for prompt in prompts], output.logits[:, -1])

    def _merge(self) -> None:
        """Merge neighbouring cohorts where that wastes the fewest slots, until there are no more than allowed."""
        while len(self._cohorts) > self._max_cohorts:
            wasted = [
                abs(left.num_seen - right.num_seen) * len(left if left.num_seen < right.num_seen else right)
                for left, right in pairwise(self._cohorts)
            ]
            number = wasted.index(min(wasted))
            self._cohorts[number].absorb(self._cohorts.pop(number + 1))

    @torch.inference_mode()
    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """Feed every row its newest token.

        Args:
            tokens: (rows,) ids; those of rows that are finished do not matter.  With graphs the first of them are
                taken, and have to lie where they lay at the last step.

        Returns:
            (rows, vocabulary) next-token logits; with graphs the next step may overwrite them.
        """
        threads.adjust()
        if self._graphs is not None:
            (cache,) = self._cohorts
            inputs = tokens[: cache.width]
            logits = self._graphs.run((cache.width, cache.num_slots), lambda: self._forward(inputs))[: len(cache)]
            cache.advance(self._max_length - 1)
            return logits
        try:
            logits = self._forward(tokens)
        except RuntimeError as error:
            if len(self._cohorts) == 1 or isinstance(error, torch.OutOfMemoryError):
                raise
            # A model that computes with what the cache returns, or with an attention of its own, takes one cohort; the
            # same slots are written once more.  If that was not the reason, the error comes again.
            self._max_cohorts = 1
            self._merge()
            logits = self._forward(tokens)
        for cohort in self._cohorts:
            cohort.advance(self._max_length - 1)
        return logits

    def _forward(self, tokens: torch.Tensor) -> torch.Tensor:
        for cohort in self._cohorts:
            cohort.make_room()
        output = self._model(
            input_ids=tokens[:, None],
            attention_mask=self._masks(),
            position_ids=_joined([cohort.lengths for cohort in self._cohorts])[:, None],
            use_cache=True,
            **{self._cache_argument: self._cache},
        )
        logits: torch.Tensor = output.logits[:, -1]
        return logits

    @torch.inference_mode()
    def keep(self, rows: Sequence[int]) -> list[int]:
        """Drop all rows but these.

        Args:
            rows: Numbers of rows, rising.

        Returns:
            The rows that are left, by their old numbers, in their new order.
        """
        order: list[int] = []
        first = 0
        for cohort in self._cohorts:
            num_rows = len(cohort)
            own = [row - first for row in rows if first <= row < first + num_rows]
            order += [first + row for row in cohort.keep(own)]
            first += num_rows
        if self._device.type == "cpu":
            self._cohorts[:] = [cohort for cohort in self._cohorts if len(cohort)]
        return order

    def _masks(self) -> Any:
        """What the model takes as its attention mask: one, or one for each kind of layer."""
        masks = {kind: self._mask_of(window) for kind, window in self._windows.items()}
        return masks if len(masks) > 1 else next(iter(masks.values()))

    def _mask_of(self, window: int | None) -> torch.Tensor:
        """(rows, 1, 1, slots): 0 where a row may look, minus infinity elsewhere; every kind of attention takes that."""
        num_slots = max(cohort.num_slots for cohort in self._cohorts)
        hidden = _joined([cohort.hidden(num_slots, window) for cohort in self._cohorts])
        mask = torch.zeros(hidden.shape, dtype=self._model.dtype, device=self._device)
        return mask.masked_fill_(hidden, float("-inf"))[:, None, None]


def _joined(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def cache_argument(model: Any) -> str:
    """What the model's forward calls its cache: `cache`, or `past_key_values` as before transformers 5.24."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return "cache" if "cache" in inspect.signature(base.forward).parameters else "past_key_values"


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
