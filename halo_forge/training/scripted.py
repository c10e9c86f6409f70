"""The trainer beside the `scripted` engine: takes every step of the plan, but there is no model to change.

It exists so that the whole loop, its files and its resume can be tried without torch.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from halo_forge.core.lr_scheduler import SftSettings, planned_factors
from halo_forge.core.metrics import TrainingFacts, measure_training
from halo_forge.core.records import Trained, TrainingRow, TrainingSettings
from halo_forge.policy import ADAPTER_FILES, adapter_digest
from halo_forge.training import StepListener

EMPTY_SAFETENSORS = (2).to_bytes(8, "little") + b"{}"
"""A valid safetensors file without tensors: the length of its header, and the header."""


class ScriptedTrainer:
    """Writes the log of the planned steps and an adapter without weights."""

    def __init__(self, settings: SftSettings) -> None:
        self.settings = settings

    def train(
        self,
        rows: Sequence[TrainingRow],
        settings: TrainingSettings,
        folder: Path,
        on_step: StepListener,
        optimizer_state: Path | None = None,
    ) -> Trained:
        """See `halo_forge.training.Trainer`; loss and gradient norm are absent, because nothing is computed."""
        factors = planned_factors(
            self.settings, len(rows), settings.num_train_epochs, settings.gradient_accumulation_steps
        )
        steps = []
        for step, factor in enumerate(factors, start=1):
            steps.append({"step": step, "learning_rate": settings.learning_rate * factor})
            on_step(steps[-1], len(factors))
        adapter = folder / "adapter"
        adapter.mkdir()
        samples = [[row.prompt.id, row.completion.index] for row in rows]
        note = {
            "scripted": "no weights: the scripted engine has no model",
            "cycle": settings.cycle,
            "parent_version": settings.parent_version,
            "samples": samples,
        }
        (adapter / ADAPTER_FILES[0]).write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")
        (adapter / ADAPTER_FILES[1]).write_bytes(EMPTY_SAFETENSORS)
        metrics = measure_training(TrainingFacts(steps, settings.max_grad_norm))
        return Trained(settings.cycle, settings.cycle, len(rows), metrics, adapter_digest(adapter))
