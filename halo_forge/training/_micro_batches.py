"""The rows of one optimizer step, cut into forward passes that hold little padding and fit into memory."""

from __future__ import annotations

from collections.abc import Sequence


def micro_batches(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Rows that go through the model together, those of similar lengths, the longest first.

    Args:
        lengths: Tokens of each row.
        max_tokens: The most tokens of one pass, padding included; a row that is longer goes alone.

    Returns:
        Positions in `lengths`; each occurs once.
    """
    batches: list[list[int]] = []
    num_rows = 0
    for position in sorted(range(len(lengths)), key=lambda position: (-lengths[position], position)):
        if not batches or len(batches[-1]) >= num_rows:
            # The first row of a pass is its longest: the others are padded to it.
            num_rows = max(1, max_tokens // max(1, lengths[position]))
            batches.append([])
        batches[-1].append(position)
    return batches
