"""TRL's SFTTrainer with our learning-rate shape and a record of every optimizer step."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback

from halo_forge.policy import threads
from halo_forge.supervisor import heartbeat
from halo_forge.training import StepListener
from halo_forge.training._loss import completion_loss
from halo_forge.training._step_batch import passes, step_batch
from halo_forge.training._without_wandb import without_wandb

with without_wandb():
    from trl.trainer.sft_trainer import SFTTrainer


class _StepRecordingTrainer(SFTTrainer):
    """Records one row per optimizer step: the values that were applied, not those that were planned."""

    def __init__(
        self,
        *,
        factors: list[float],
        on_step: StepListener,
        max_tokens: int,
        fused_head: bool,
        prepare_optimizer: Callable[[Optimizer, Any], None] | None = None,
        **arguments: Any,
    ) -> None:
        self._factors = factors
        self._fused_head = fused_head
        self._prepare_optimizer = prepare_optimizer
        self._on_step = on_step
        self._num_tokens = 0
        self._num_rows = 0
        self._applied = 0.0
        self.step_rows: list[dict[str, float]] = []
        collator = functools.partial(step_batch, max_tokens=max_tokens)
        model = arguments["model"]
        trained = {weight: weight.data for weight in model.parameters() if weight.requires_grad}
        super().__init__(callbacks=[_AtSteps(self)], data_collator=collator, **arguments)
        # On a base in 4 bits the library casts adapters to bfloat16, in which small updates are lost.
        for weight, value in trained.items():
            weight.data = value
        # Each loss is over the labels of the whole step already.
        self.loss_is_scaled_for_ga = True  # type: ignore[assignment]  # the library declares it as None
        self.remove_callback(PrinterCallback)  # it prints every log line to stdout

    def create_scheduler(self, num_training_steps: int, optimizer: Optimizer | None = None) -> LambdaLR:
        """Our learning-rate shape instead of the library's, whose warm-up starts at a learning rate of 0."""
        if num_training_steps != len(self._factors):
            raise RuntimeError(f"the plan says {len(self._factors)} optimizer steps, the trainer {num_training_steps}")
        last = len(self._factors) - 1
        scheduled = self.optimizer if optimizer is None else optimizer
        assert scheduled is not None, "the library makes the optimizer first"
        self.lr_scheduler = LambdaLR(scheduled, lambda step: self._factors[min(step, last)])
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """A forward and a backward pass for each part of the step that fits into memory; returns the summed loss."""
        parts = list(passes(inputs))
        num_items = sum(len(part.targets) for part in parts)
        # A tensor on the device: reading it here would make the host wait for the GPU.
        total = torch.zeros((), device=inputs["numbers"].device)
        for part in parts:
            threads.adjust()
            total += super().training_step(model, {"part": part}, num_items)  # type: ignore[no-untyped-call]  # by TRL
            self._num_rows += len(part.input_ids)
            heartbeat.beat()
        self._num_tokens += num_items
        return total

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Our loss, which does not compute the logits of the prompt; see `completion_loss`."""
        model = self.accelerator.unwrap_model(model)
        return completion_loss(model, inputs["part"], num_items_in_batch, self._fused_head)

    def log(self, logs: dict[str, float], *arguments: Any, **options: Any) -> None:
        """Called once per step (logging_steps=1), and once more at the end without a loss."""
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


class _AtSteps(TrainerCallback):
    """Hooks at points of the training loop that the trainer has no method for."""

    def __init__(self, trainer: _StepRecordingTrainer) -> None:
        self._trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **objects: Any) -> None:
        """Give the optimizer its initial state.

        Not earlier: accelerate wraps the optimizer and moves its whole state to the device, including the step counts,
        and AdamW without a fused kernel would read each of them back at every step.
        """
        if self._trainer._prepare_optimizer is not None:
            self._trainer._prepare_optimizer(objects["optimizer"], self._trainer.model)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **objects: Any) -> None:
        """Reads the learning rate from the optimizer just before it steps."""
        self._trainer._applied = float(objects["optimizer"].param_groups[0]["lr"])


def step_recording_trainer(**arguments: Any) -> _StepRecordingTrainer:
    """A trainer ready for `train()`; its `step_rows` hold what was logged."""
    return _StepRecordingTrainer(**arguments)
