"""TRL's SFTTrainer with our learning-rate shape and a record of every optimizer step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback
from trl import SFTTrainer

from halo_forge import heartbeat
from halo_forge.training import StepListener
from halo_forge.training._loss import completion_loss
from halo_forge.training._micro_batches import micro_batches


class _StepRecordingTrainer(SFTTrainer):  # type: ignore[misc]
    """Writes one row for each optimizer step: what was really applied, not what was planned."""

    def __init__(
        self,
        *,
        factors: list[float],
        on_step: StepListener,
        max_tokens: int,
        prepare_optimizer: Callable[[Optimizer, Any], None] | None = None,
        **arguments: Any,
    ) -> None:
        self._factors = factors
        self._max_tokens = max_tokens
        self._prepare_optimizer = prepare_optimizer
        self._on_step = on_step
        self._num_tokens = 0
        self._num_rows = 0
        self._applied = 0.0
        self.step_rows: list[dict[str, float]] = []
        super().__init__(callbacks=[_AppliedRate(self)], **arguments)
        self.remove_callback(PrinterCallback)  # it prints every log line to stdout

    def create_optimizer(self, model: Any = None) -> Optimizer:
        """The library's own AdamW, with the state that it is to start with."""
        optimizer: Optimizer = super().create_optimizer(model)
        if self._prepare_optimizer is not None:
            self._prepare_optimizer(optimizer, self.model)
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Optimizer | None = None) -> LambdaLR:
        """Our own shape in place of the library's, whose warm-up starts at a learning rate of 0."""
        if num_training_steps != len(self._factors):
            raise RuntimeError(f"the plan says {len(self._factors)} optimizer steps, the trainer {num_training_steps}")
        last = len(self._factors) - 1
        self.lr_scheduler = LambdaLR(
            self.optimizer if optimizer is None else optimizer, lambda step: self._factors[min(step, last)]
        )
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """The rows of one optimizer step, a forward and a backward pass for each part that fits into memory."""
        lengths = inputs["attention_mask"].sum(dim=1).tolist()
        num_items = (inputs["labels"][:, 1:] != -100).sum()
        total = torch.zeros((), device=inputs["labels"].device)  # the library adds it up there
        for part in micro_batches(lengths, self._max_tokens):
            longest = max(lengths[position] for position in part)
            cut = {name: inputs[name][part, :longest] for name in ("input_ids", "attention_mask", "labels")}
            total = total + super().training_step(model, cut, num_items)
            heartbeat.beat()
        return total

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Our own loss, which leaves out the logits of the prompt; counts the tokens it falls on."""
        self._num_tokens += int((inputs["labels"] != -100).sum())
        self._num_rows += int(inputs["labels"].shape[0])
        return completion_loss(self.accelerator.unwrap_model(model), inputs, num_items_in_batch)

    def log(self, logs: dict[str, float], *arguments: Any, **options: Any) -> None:
        """Called once a step (logging_steps=1), and once more at the end without a loss."""
        if "loss" in logs:
            row = {
                "step": self.state.global_step,
                "learning_rate": self._applied,
                "loss": float(logs["loss"]),
                "gradient_norm": float(logs["grad_norm"]),
                "num_tokens": self._num_tokens,
                "num_rows": self._num_rows,
            }
            self._num_tokens = self._num_rows = 0
            self.step_rows.append(row)
            self._on_step(row, len(self._factors))
        super().log(logs, *arguments, **options)


class _AppliedRate(TrainerCallback):  # type: ignore[misc]
    """Reads the learning rate from the optimizer just before it steps."""

    def __init__(self, trainer: _StepRecordingTrainer) -> None:
        self._trainer = trainer

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **objects: Any) -> None:
        self._trainer._applied = float(objects["optimizer"].param_groups[0]["lr"])


def step_recording_trainer(**arguments: Any) -> _StepRecordingTrainer:
    """A trainer ready for `train()`; its `step_rows` hold what was logged."""
    return _StepRecordingTrainer(**arguments)
