"""Training turns selected completions into the next policy version.

A trainer writes `adapter/` (a plain PEFT folder) into a scratch folder, hands over one row for every optimizer step
(step, learning_rate, loss, gradient_norm before clipping, num_tokens, num_rows: the lines of training_log.jsonl), and
returns the metrics of docs/metrics.md together with the adapter's digest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from halo_forge import within_cycle
from halo_forge.records import Completion, Prompt, Trained, TrainingSettings


@dataclass(frozen=True)
class TrainingRow:
    """One selected sample: what was asked and what was answered."""

    prompt: Prompt
    completion: Completion

    def to_row(self) -> dict[str, Any]:
        """A conversational prompt-completion row as TRL reads it, with the ids that say where it comes from."""
        return {
            "prompt": [dict(message) for message in self.prompt.messages],
            "completion": [{"role": "assistant", "content": self.completion.text}],
            "prompt_id": self.prompt.id,
            "index": self.completion.index,
            "policy_version": self.completion.policy_version,
        }


class SftSettings(Protocol):
    """The `training` section of the configuration, as far as plan and trainers read it."""

    @property
    def lr_scheduler_type(self) -> within_cycle.LrSchedulerType: ...
    @property
    def lr_scheduler_kwargs(self) -> dict[str, Any]: ...
    @property
    def warmup_steps(self) -> int: ...
    @property
    def per_device_train_batch_size(self) -> int: ...
    @property
    def max_tokens_per_pass(self) -> int | Literal["auto"]: ...
    @property
    def gradient_checkpointing(self) -> bool | Literal["auto"]: ...


def planned_factors(
    settings: SftSettings, num_rows: int, num_train_epochs: float, gradient_accumulation_steps: int
) -> list[float]:
    """The factor on the cycle's learning rate at each of its optimizer steps; the preview and the optimizer use it."""
    num_steps = within_cycle.num_optimizer_steps(
        num_rows, num_train_epochs, settings.per_device_train_batch_size, gradient_accumulation_steps
    )
    warmup_steps = within_cycle.clamp_warmup(settings.warmup_steps, num_steps)
    return within_cycle.learning_rate_factors(
        settings.lr_scheduler_type, num_steps, warmup_steps, **settings.lr_scheduler_kwargs
    )


class StepListener(Protocol):
    """Hears of every optimizer step as it is taken; `row` is a line of training_log.jsonl."""

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
            optimizer_state: What the optimizer ended with after the parent version, where `settings` carry it over.
        """
        ...
