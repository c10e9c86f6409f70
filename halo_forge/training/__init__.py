"""Training turns selected completions into the next policy version.

A trainer writes `adapter/` (a plain PEFT folder) into a scratch folder, hands over one row for every optimizer step
(step, learning_rate, loss, gradient_norm before clipping, num_tokens, num_rows: the lines of training_log.jsonl), and
returns the metrics of docs/metrics.md together with the adapter's digest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from halo_forge.core.records import Trained, TrainingRow, TrainingSettings


class StepListener(Protocol):
    """Called at every optimizer step; `row` is a line of training_log.jsonl."""

    def __call__(self, row: Mapping[str, float], num_steps: int) -> None: ...


class Trainer(Protocol):
    """What the loop asks of a trainer."""

    def train(
        self,
        rows: Sequence[TrainingRow],
        settings: TrainingSettings,
        folder: Path,
        on_step: StepListener,
        optimizer_state: Path | None = None,
    ) -> Trained:
        """Train v_c from its parent version, which is in memory, at exactly these settings; fill `folder`.

        Args:
            optimizer_state: The optimizer state after the parent version, if `settings` carry it over.
        """
        ...
