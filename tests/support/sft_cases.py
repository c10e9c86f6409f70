"""What the training tests share: rows, settings, one call of the trainer, and the loss computed by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tiny_models import TrainingOptions, prompt

from halo_forge.core.records import Completion, Trained, TrainingRow, TrainingSettings

ANSWERS = [
    "int main(void) { return 0; }",
    "x",
    "for (int i = 0; i < n; i++) { sum += values[i]; }",
    "return a + b;",
    "the sum of values and the sum of values and the sum of values and so on",
    "if (x > 0) return x;",
    "int add(int a, int b) {\n    return a + b;\n}\n```",
]
ASKED = ["add two numbers", "a much longer question about the sum of all the values of a list", "why"]


def training_rows(policy: Any, num_rows: int = 7) -> list[TrainingRow]:
    """Rows of different lengths; the text begins with the policy's response prefix, the ids do not."""
    rows = []
    for number in range(num_rows):
        text = ANSWERS[number % len(ANSWERS)]
        ids = tuple(policy.tokenizer(text, add_special_tokens=False)["input_ids"])
        asked = prompt(number, ASKED[number % len(ASKED)])
        answer = Completion(asked.id, 0, policy.response_prefix + text, ids, "stop", number, policy.version)
        rows.append(TrainingRow(asked, answer))
    return rows


def training_settings(**values: Any) -> TrainingSettings:
    """Settings of cycle 1 unless `values` says otherwise."""
    defaults: dict[str, Any] = {
        "cycle": 1,
        "parent_version": 0,
        "learning_rate": 1e-3,
        "num_train_epochs": 1.0,
        "max_grad_norm": 1.0,
        "weight_decay": 0.0,
        "gradient_accumulation_steps": 1,
    }
    return TrainingSettings(**{**defaults, **values})


@dataclass
class Batches:
    """What the model really got: one entry for each forward pass of the training."""

    shapes: list[tuple[int, int]] = field(default_factory=list)
    input_ids: list[Any] = field(default_factory=list)
    labels: list[Any] = field(default_factory=list)
    masks: list[Any] = field(default_factory=list)

    def spy(self, monkeypatch: Any) -> Batches:
        """Listen to the trainer's loss."""
        import torch

        from halo_forge.training import _step_recorder

        completion_loss = _step_recorder.completion_loss

        def listening(model: Any, batch: Any, *arguments: Any) -> Any:
            labels = torch.full_like(batch.input_ids, -100)
            labels.view(-1)[batch.positions + 1] = batch.targets
            self.shapes.append(tuple(batch.input_ids.shape))
            self.input_ids.append(batch.input_ids.clone())
            self.labels.append(labels)
            # Every row ends with a label.
            ends = torch.tensor([int((row != -100).nonzero().max()) for row in labels])
            self.masks.append((torch.arange(labels.shape[1]) <= ends[:, None]).long())
            return completion_loss(model, batch, *arguments)

        monkeypatch.setattr(_step_recorder, "completion_loss", listening)
        return self


@dataclass
class Training:
    """One finished training."""

    trained: Trained
    log: list[dict[str, float]]
    num_steps: list[int]
    folder: Path


def train(
    policy: Any,
    folder: Path,
    *,
    rows: Sequence[TrainingRow] | None = None,
    options: TrainingOptions | None = None,
    seed: int = 0,
    keep_optimizer: bool = False,
    optimizer_state: Path | None = None,
    **settings: Any,
) -> Training:
    """Train one cycle into `folder`."""
    from halo_forge.training.lora_sft import LoraSftTrainer

    folder.mkdir(parents=True)
    options = TrainingOptions() if options is None else options
    log: list[dict[str, float]] = []
    num_steps: list[int] = []

    def on_step(row: Any, total: int) -> None:
        log.append(dict(row))
        num_steps.append(total)

    trainer = LoraSftTrainer(policy, options, seed=seed, keep_optimizer=keep_optimizer)
    wanted = training_settings(**{"cycle": policy.version + 1, "parent_version": policy.version, **settings})
    chosen = training_rows(policy) if rows is None else rows
    trained = trainer.train(chosen, wanted, folder, on_step, optimizer_state)
    return Training(trained, log, num_steps, folder)


def answer_loss(policy: Any, rows: Sequence[TrainingRow], *, end_of_turn: bool = True) -> Any:
    """Sum of -log p over the answers' tokens and the end of turn, one row at a time and without any padding.

    Returns:
        (the sum in nats, the number of tokens).
    """
    import torch

    total, num_tokens = torch.zeros(()), 0
    for row in rows:
        prompt_ids = policy.prompt_ids(row.prompt)
        answer = [*row.completion.token_ids, *([policy.end_of_turn_id] if end_of_turn else [])]
        logits = policy.model(input_ids=torch.tensor([prompt_ids + answer])).logits[0].float()
        log_probabilities = logits.log_softmax(dim=1)
        for position, token in enumerate(answer, start=len(prompt_ids)):
            total = total - log_probabilities[position - 1, token]
            num_tokens += 1
    return total, num_tokens
