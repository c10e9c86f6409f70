"""How fast a cycle's training is, against a bare PyTorch LoRA step on the same batches.

Useful tokens per second (prompts and completions, without padding) of our trainer on a generated selection, and of a
plain loop over batches of as many rows: the PEFT model's forward pass with its own loss, backward pass, clipping and
AdamW.  Alternately, in one run; both from the same adapter.

    python scripts/bench_training.py [--rows 32] [--batch 8] [--repeats 3]

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from _bench import Figure, alternately

from halo_forge.config.sections import LoraSection, ModelSection, TrainingSection
from halo_forge.core.records import Completion, TrainingRow, TrainingSettings
from halo_forge.policy import Policy
from halo_forge.prompts import load_prompts
from halo_forge.training.lora_sft import LoraSftTrainer

MODEL = "models/smollm2-135m-instruct"
TARGET = 0.9


def make_rows(policy: Policy, num_rows: int) -> list[TrainingRow]:
    """Reference solutions instead of sampled completions: realistic lengths and text."""
    prompts = [prompt for prompt in load_prompts("builtin:c/train", language="c") if "reference" in prompt.info]
    rows = []
    for number in range(num_rows):
        prompt = prompts[number % len(prompts)]
        text = "```c\n" + str(prompt.info["reference"]) + "```"
        ids = tuple(policy.tokenizer(text, add_special_tokens=False)["input_ids"])
        rows.append(TrainingRow(prompt, Completion(prompt.id, number, text, ids, "stop", 0, 0)))
    return rows


def tokenized(policy: Policy, row: TrainingRow) -> tuple[list[int], list[int]]:
    """Input ids and labels of one row."""
    prompt = policy.prompt_ids(row.prompt)
    answer = [*row.completion.token_ids, policy.end_of_turn_id]
    return prompt + answer, [-100] * len(prompt) + answer


def trainer_rate(policy: Policy, settings: TrainingSection, rows: Sequence[TrainingRow], num_tokens: int) -> float:
    """Useful tokens per second of our trainer, from the start adapter, including writing the adapter files."""
    policy.load_adapter(None, 0)
    values = TrainingSettings(
        cycle=1,
        parent_version=0,
        learning_rate=1e-4,
        num_train_epochs=1.0,
        max_grad_norm=1.0,
        weight_decay=0.0,
        gradient_accumulation_steps=1,
    )
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        LoraSftTrainer(policy, settings, seed=0).train(rows, values, Path(folder), lambda row, num_steps: None)
        return num_tokens / (time.perf_counter() - started)


def bare_rate(policy: Policy, settings: TrainingSection, rows: Sequence[TrainingRow], num_tokens: int) -> float:
    """Useful tokens per second of a plain loop over batches of the same number of rows."""
    import torch

    policy.load_adapter(None, 0)
    model, size = policy.model, settings.per_device_train_batch_size
    model.train()
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    started = time.perf_counter()
    optimizer = torch.optim.AdamW(weights, lr=1e-4)
    data = [tokenized(policy, row) for row in rows]
    order = torch.randperm(len(data)).tolist()
    for first in range(0, len(data), size):
        batch = [data[number] for number in order[first : first + size]]
        longest = max(len(ids) for ids, _ in batch)
        inputs = torch.tensor([ids + [0] * (longest - len(ids)) for ids, _ in batch], device=policy.device)
        mask = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids, _ in batch], device=policy.device)
        labels = torch.tensor([marks + [-100] * (longest - len(marks)) for _, marks in batch], device=policy.device)
        model(input_ids=inputs, attention_mask=mask, labels=labels, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return num_tokens / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=MODEL, help=f"folder or hub id (default {MODEL})")
    parser.add_argument("--rows", type=int, default=32, help="rows of the selection (default 32)")
    parser.add_argument("--batch", type=int, default=8, help="rows per batch (default 8)")
    parser.add_argument("--repeats", type=int, default=3, help="alternations of both sides (default 3)")
    arguments = parser.parse_args()
    if min(arguments.rows, arguments.batch, arguments.repeats) < 1:
        parser.error("--rows, --batch and --repeats must be at least 1")
    if not Path(arguments.model).exists() and arguments.model == MODEL:
        sys.exit(f"error: {MODEL} is missing\n  fix: make model")
    policy = Policy.load(ModelSection(model_name_or_path=arguments.model), LoraSection(), seed=0)
    settings = TrainingSection(per_device_train_batch_size=arguments.batch)
    rows = make_rows(policy, arguments.rows)
    num_tokens = sum(len(tokenized(policy, row)[0]) for row in rows)
    trainer_rate(policy, settings, rows[: arguments.batch], num_tokens)  # imports, and the first call of everything
    bare_rate(policy, settings, rows[: arguments.batch], num_tokens)
    pairs = alternately(
        arguments.repeats,
        lambda: bare_rate(policy, settings, rows, num_tokens),
        lambda: trainer_rate(policy, settings, rows, num_tokens),
    )
    name = f"training, {Path(arguments.model).name}, {arguments.rows} rows in batches of {arguments.batch}"
    Figure(name, *pairs, "useful tokens/s", TARGET).show()


if __name__ == "__main__":
    main()
