"""The rows of one optimizer step, cut into forward passes, as tensors; imported late, because it needs torch.

Everything that a pass needs is computed while the rows are still lists: on a GPU each value read back would be a wait.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

IGNORED = -100
"""The label of a token that the loss leaves out (torch's cross entropy default)."""
PADDING_ID = 0
"""Any token id would do: no real token attends to the padding after it, and no label is on it."""


@dataclass(frozen=True)
class Pass:
    """One forward pass.

    Attributes:
        input_ids: (rows, length), padded on the right.
        positions: (labels,), the indices in the flattened `input_ids` whose hidden states predict a label.
        targets: (labels,), the token id that each of them has to predict.
    """

    input_ids: torch.Tensor
    positions: torch.Tensor
    targets: torch.Tensor


def step_batch(rows: Sequence[dict[str, list[int]]], max_tokens: int) -> dict[str, Any]:
    """All passes of an optimizer step as one flat int64 tensor `numbers`, which needs a single copy to the device.

    Args:
        rows: `input_ids` and `labels` of each, of equal length.
        max_tokens: See `micro_batches`.

    Returns:
        `numbers`, and `shapes`: (rows, length, labels) of each pass, by which `passes` splits `numbers`.
    """
    numbers: list[int] = []
    shapes: list[tuple[int, int, int]] = []
    for part in micro_batches([len(row["input_ids"]) for row in rows], max_tokens):
        length = len(rows[part[0]]["input_ids"])
        positions: list[int] = []
        targets: list[int] = []
        for place, number in enumerate(part):
            ids, labels = rows[number]["input_ids"], rows[number]["labels"]
            numbers += ids + [PADDING_ID] * (length - len(ids))
            # The state at a position predicts the token after it.
            learned = [position for position in range(1, len(labels)) if labels[position] != IGNORED]
            positions += [place * length + position - 1 for position in learned]
            targets += [labels[position] for position in learned]
        numbers += positions + targets
        shapes.append((len(part), length, len(targets)))
    return {"numbers": torch.tensor(numbers), "shapes": shapes}


def micro_batches(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Groups rows of similar length into forward passes, the longest first.

    Args:
        lengths: Tokens of each row.
        max_tokens: The most tokens of one pass, padding included; a longer row gets a pass to itself.

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


def passes(batch: dict[str, Any]) -> Iterator[Pass]:
    """The passes of a `step_batch`, as views of its tensor on whichever device that is."""
    numbers = batch["numbers"]
    for num_rows, length, num_labels in batch["shapes"]:
        ids, positions, targets, numbers = numbers.split(
            [num_rows * length, num_labels, num_labels, len(numbers) - num_rows * length - 2 * num_labels]
        )
        yield Pass(ids.view(num_rows, length), positions, targets)
