"""The caches of rows in flight that go in step, on a CPU; imported late, because it needs torch.

All rows of a cohort write their next key and value into the same slot, and what a row has seen lies in the slots right
before it.  So each row looks at `lengths` slots, and rows that are of one age waste none.  Rotary positions are applied
before keys are cached, so a slot's number carries no meaning, and rows can join at any time.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from halo_forge.engines._transfer import keep_rows

SLOT_MULTIPLE = 32
"""Matrix products are slower at odd sizes, and a cache that grew at every step would be copied at every step."""


class Cohort:
    """Rows in flight, at first none.

    Attributes:
        lengths: (rows,) positions that each row has seen, which is also the position of its next token.
        slot: Where the next key and value go.
    """

    def __init__(self) -> None:
        self.lengths = torch.zeros(0, dtype=torch.long)
        self.slot = 0
        # (at least rows, key-value heads, slots, head size); slots after `slot` are zeros, because a masked NaN would
        # still spoil the sum over values.
        self._layers: list[tuple[torch.Tensor, torch.Tensor]] = []

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def num_slots(self) -> int:
        """Slots that the matrix products go over."""
        return self._layers[0][0].shape[2]

    @property
    def num_seen(self) -> int:
        """Positions of the row that has seen the most."""
        return int(self.lengths.max())

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
        first, last, needed = len(self), len(self) + len(index), layers[0][0].shape[2]
        sources = torch.tensor(index)
        if not self._layers:
            self._layers = [(keys.new_zeros(0, *keys.shape[1:]), values[:0]) for keys, values in layers]
        if self.slot < needed or self._layers[0][0].shape[0] < last:
            self._resize(last, max(needed, self.num_seen if first else 0))
        for own, new in zip(self._layers, layers, strict=True):
            for own_states, new_states in zip(own, new, strict=True):
                # Layer by layer: nothing but one layer's new rows is there twice.
                own_states[first:last, :, self.slot - needed : self.slot] = new_states[sources]
        self.lengths = torch.cat([self.lengths, torch.tensor(lengths)[sources]])

    def absorb(self, other: Cohort) -> None:
        """Take in all rows of another cohort, which must not be used afterwards."""
        seen = slice(other.slot - other.num_seen, other.slot)
        layers = [(keys[:, :, seen], values[:, :, seen]) for keys, values in other._layers]
        self.append(layers, other.lengths.tolist(), range(len(other)))

    def keep(self, rows: Sequence[int]) -> list[int]:
        """Drop all rows but these; the last of them move into the gaps, so that little is copied.

        Args:
            rows: Numbers of rows, rising.

        Returns:
            What is left, by the old numbers, in the new order.
        """
        order = keep_rows(rows, (states for layer in self._layers for states in layer), self.lengths.device)
        self.lengths = self.lengths[torch.tensor(order, dtype=torch.long)]
        return order

    def make_room(self) -> None:
        """Before a step: a slot for the new position."""
        if self.slot == self.num_slots:
            self._resize(len(self), self.num_seen)

    def write(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Put one position of every row into the slot; returns all slots of that layer, uncopied.

        Args:
            layer: The layer's number.
            keys, values: (rows, key-value heads, 1, head size).
        """
        own_keys, own_values = (states[: len(self)] for states in self._layers[layer])
        own_keys[:, :, self.slot : self.slot + 1] = keys
        own_values[:, :, self.slot : self.slot + 1] = values
        return own_keys, own_values

    def hidden(self, num_slots: int, window: int | None) -> torch.Tensor:
        """(rows, num_slots): True where a row's new position may not look.

        Args:
            num_slots: At least those of this cohort.
            window: Positions that it looks back on, itself included; None for all.
        """
        back = self.slot - torch.arange(num_slots)
        farthest = self.lengths if window is None else self.lengths.clamp(max=window - 1)
        return (back < 0) | (back > farthest[:, None])

    def advance(self, max_length: int) -> None:
        """After a step.

        Args:
            max_length: What lengths stop at: a finished row that was not dropped goes on counting, and its position
                must stay one that the model knows.
        """
        self.slot += 1
        self.lengths = (self.lengths + 1).clamp_(max=max_length)

    def _resize(self, num_rows: int, num_before: int) -> None:
        """New room, with `num_before` slots before the next one; slots that no row looks at any more are left out."""
        rows = len(self)
        num_kept = self.num_seen if rows else 0
        old, new = slice(self.slot - num_kept, self.slot), slice(num_before - num_kept, num_before)
        num_slots = (num_before // SLOT_MULTIPLE + 1) * SLOT_MULTIPLE
        for number, layer in enumerate(self._layers):
            roomy = []
            for states in layer:
                room = states.new_zeros(num_rows, states.shape[1], num_slots, states.shape[3])
                room[:rows, :, new] = states[:rows, :, old]
                roomy.append(room)
            self._layers[number] = (roomy[0], roomy[1])  # layer by layer: only one is there twice
        self.slot = num_before
