"""The cache of rows in flight on a GPU; imported late, because it needs torch.

It is made once, at the size that it needs at most, and never grows or moves: freed blocks of many sizes are what a
caching allocator cannot use again, and a step whose tensors keep their addresses can be captured as a graph.  A row's
position `p` lies in its slot `p`, so rows join and leave at any time, and attention goes over the slots of the longest
row.  Where the next state goes is a tensor on the device; how far attention has to look, the host counts by itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from halo_forge.engines._transfer import keep_rows, upload_indices

SLOT_BUCKET, GRAPH_SLOT_BUCKET = 64, 256
"""Attention goes over a multiple of so many slots: a mask that is not aligned costs another copy in every layer, and
every number of slots is a graph of its own."""
GRAPH_ROW_BUCKETS = 8
"""With graphs the step computes an eighth, two eighths ... or all of the most rows; those that are not in use too."""


class FixedCache:
    """Rows in flight, at first none; for the decoder what a `Cohort` is.

    Args:
        device: Where the model is.
        max_rows: The most rows at once.
        max_length: Tokens of the longest prompt together with its completion.
        few_shapes: Of rows and slots, so that each can have its graph.
    """

    def __init__(self, device: torch.device, *, max_rows: int, max_length: int, few_shapes: bool = False) -> None:
        self._device = device
        self._max_rows = max_rows
        self._row_bucket = -(-max_rows // GRAPH_ROW_BUCKETS) if few_shapes else 1
        self._slot_bucket = GRAPH_SLOT_BUCKET if few_shapes else SLOT_BUCKET
        self._capacity = rounded_up(max_length, SLOT_BUCKET)
        self._lengths = torch.zeros(max_rows, dtype=torch.long, device=device)
        self._slots = torch.arange(self._capacity, device=device)
        self._seen: list[int] = []
        self._num_slots = self._slots_needed()  # kept, because every layer asks
        # (most rows, key-value heads, most slots, head size); never uninitialised, because a masked NaN would still
        # spoil the sum over values.
        self._layers: list[tuple[torch.Tensor, torch.Tensor]] = []

    def __len__(self) -> int:
        return len(self._seen)

    @property
    def width(self) -> int:
        """Rows that a step computes: those in flight, and with few shapes some whose results nobody reads."""
        return min(self._max_rows, rounded_up(len(self), self._row_bucket))

    @property
    def lengths(self) -> torch.Tensor:
        """(width,) positions that each row has seen, which is also the position of its next token."""
        return self._lengths[: self.width]

    @property
    def num_slots(self) -> int:
        """Slots that attention goes over in the next step."""
        return self._num_slots

    def _slots_needed(self) -> int:
        return min(self._capacity, rounded_up(max(self._seen, default=0) + 1, self._slot_bucket))

    def append(
        self, layers: Sequence[tuple[torch.Tensor, torch.Tensor]], lengths: Sequence[int], index: Sequence[int]
    ) -> None:
        """Take in rows.

        Args:
            layers: Keys and values of each layer, each (sources, key-value heads, positions, head size), the newest
                position last; not kept, and not written to.
            lengths: How many of each source's last positions count.
            index: The source of each new row; several rows may have the same.
        """
        if not self._layers:
            self._layers = [(self._room(keys), self._room(values)) for keys, values in layers]
        rows = slice(len(self), len(self) + len(index))
        longest = layers[0][0].shape[2]
        own = [lengths[source] for source in index]
        sources, counts = upload_indices(index, own, device=self._device)
        # Slot s of a row is its position s; what lies after its length is hidden until it is written.
        positions = (self._slots[:longest] + (longest - counts)[:, None]).clamp_(max=longest - 1)
        for own_layer, new_layer in zip(self._layers, layers, strict=True):
            for states, new in zip(own_layer, new_layer, strict=True):
                states[rows, :, :longest] = new[sources[:, None], :, positions].transpose(1, 2)
        self._lengths[rows] = counts
        self._seen += own
        self._num_slots = self._slots_needed()

    def _room(self, states: torch.Tensor) -> torch.Tensor:
        return states.new_zeros(self._max_rows, states.shape[1], self._capacity, states.shape[3])

    def keep(self, rows: Sequence[int]) -> list[int]:
        """Drop all rows but these; the last of them move into the gaps, so that little is copied.

        Args:
            rows: Numbers of rows, rising.

        Returns:
            What is left, by the old numbers, in the new order.
        """
        states = [self._lengths, *(each for layer in self._layers for each in layer)]
        order = keep_rows(rows, states, self._device)
        self._seen = [self._seen[row] for row in order]
        self._num_slots = self._slots_needed()
        return order

    def make_room(self) -> None:
        """Nothing: all the room there will be is there."""

    def write(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Put one position of every row into its slot; returns the slots of that layer that are looked at, uncopied.

        Args:
            layer: The layer's number.
            keys, values: (width, key-value heads, 1, head size).
        """
        where, width, num_slots = self.lengths[:, None, None, None], self.width, self.num_slots
        found = []
        for states, new in zip(self._layers[layer], (keys, values), strict=True):
            states[:width].scatter_(2, where.expand_as(new), new)
            found.append(states[:width, :, :num_slots])
        return found[0], found[1]

    def hidden(self, num_slots: int, window: int | None) -> torch.Tensor:
        """(width, num_slots): True where a row's new position may not look.

        Args:
            num_slots: At most all.
            window: Positions that it looks back on, itself included; None for all.
        """
        slots, newest = self._slots[:num_slots], self.lengths[:, None]
        hidden = slots > newest
        return hidden if window is None else hidden | (slots <= newest - window)

    def advance(self, max_length: int) -> None:
        """After a step.

        Args:
            max_length: What lengths stop at: a finished row that was not dropped goes on counting, and its position
                must stay one that the model knows.
        """
        self.lengths.add_(1).clamp_(max=max_length)
        self._seen = [min(length + 1, max_length) for length in self._seen]
        self._num_slots = self._slots_needed()


def rounded_up(number: int, multiple: int) -> int:
    """The smallest multiple that is not below it."""
    return -(-number // multiple) * multiple
