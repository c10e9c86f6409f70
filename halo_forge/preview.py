"""What a plan will do, before anything is loaded: one row a cycle, and the warnings that matter.

Nothing here imports torch, touches the network or writes a file.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from halo_forge import within_cycle
from halo_forge.config import RaftConfig
from halo_forge.training import planned_factors

FEW_STEPS = 5
LOW_MASS = 0.25
BYTES_PER_TOKEN = 12
"""Room of one sampled token in completions.jsonl: its text (about 4 bytes) and its id with a separator (about 8)."""


@dataclass(frozen=True)
class CyclePlan:
    """One row of the preview; a range where the value depends on results, None where it cannot be known yet.

    Attributes:
        learning_rate: The value, or the highest one where it depends on results.
        max_kept, max_optimizer_steps, learning_rate_mass: Bounds: as if every sample that may be kept were.
        disk_bytes: Rough size of the cycle's folder.
    """

    cycle: int
    policy_version: int
    learning_rate: float
    learning_rate_low: float
    learning_rate_high: float
    temperature: float
    top_p: float
    reward_threshold: float | str
    num_prompts: int | None
    samples_per_prompt: int
    samples: int | None
    max_kept: int | None
    max_optimizer_steps: int | None
    warmup_steps: int | None
    learning_rate_mass: float | None
    num_train_epochs: float
    disk_bytes: int | None


@dataclass(frozen=True)
class Preview:
    """All cycles and what to think about before starting."""

    cycles: tuple[CyclePlan, ...]
    warnings: tuple[str, ...]

    def to_row(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {"cycles": [dataclasses.asdict(cycle) for cycle in self.cycles], "warnings": list(self.warnings)}


def preview(config: RaftConfig, num_train_prompts: int | None, num_dev_prompts: int | None, has_tests: bool) -> Preview:
    """Preview every cycle.

    Args:
        num_train_prompts, num_dev_prompts: Sizes of the prompt sets, None where they are on a hub.
        has_tests: Some train prompt has tests, so that the verifier can give more than for compiling.
    """
    adapter_bytes = estimated_adapter_bytes(config)
    cycles = tuple(
        _cycle_plan(config, cycle, num_train_prompts, num_dev_prompts, adapter_bytes)
        for cycle in range(1, config.raft.num_cycles + 1)
    )
    return Preview(cycles, tuple(_warnings(config, cycles, has_tests)))


def _cycle_plan(
    config: RaftConfig, cycle: int, num_train: int | None, num_dev: int | None, adapter_bytes: int | None
) -> CyclePlan:
    at = cycle, config.raft.num_cycles
    low, high = config.training.learning_rate.bounds(*at)
    samples_per_prompt = round(config.raft.samples_per_prompt.bounds(*at)[1])
    keep_fraction = config.selection.keep_fraction.bounds(*at)[1]
    epochs = config.training.num_train_epochs.bounds(*at)[1]
    share = config.raft.prompts_per_cycle
    num_prompts = num_train if num_train is None or share is None else min(share, num_train)
    max_kept = (
        None if num_prompts is None else config.selection.max_kept(num_prompts, samples_per_prompt, keep_fraction)
    )
    factors = None if max_kept is None else planned_factors(config.training, max_kept, epochs)
    samples = None if num_prompts is None else num_prompts * samples_per_prompt
    disk_bytes = None
    if samples is not None and num_dev is not None and adapter_bytes is not None:
        num_answers = samples + num_dev * config.evaluation.samples_per_prompt
        disk_bytes = num_answers * config.engine.max_new_tokens * BYTES_PER_TOKEN + adapter_bytes
    return CyclePlan(
        cycle=cycle,
        policy_version=cycle - 1,
        learning_rate=high,
        learning_rate_low=low,
        learning_rate_high=high,
        temperature=config.engine.temperature.bounds(*at)[1],
        top_p=config.engine.top_p.bounds(*at)[1],
        reward_threshold=config.selection.reward_threshold.bounds(*at)[1],
        num_prompts=num_prompts,
        samples_per_prompt=samples_per_prompt,
        samples=samples,
        max_kept=max_kept,
        max_optimizer_steps=None if factors is None else len(factors),
        warmup_steps=None if factors is None else within_cycle.clamp_warmup(config.training.warmup_steps, len(factors)),
        learning_rate_mass=None if factors is None else within_cycle.learning_rate_mass(high, factors),
        num_train_epochs=epochs,
        disk_bytes=disk_bytes,
    )


def _warnings(config: RaftConfig, cycles: Sequence[CyclePlan], has_tests: bool) -> Iterator[str]:
    requested = config.training.warmup_steps
    eaten = [
        plan for plan in cycles if plan.max_optimizer_steps is not None and requested >= plan.max_optimizer_steps > 0
    ]
    if eaten:
        yield (
            f"{_cycles(eaten)}: training.warmup_steps ({requested}) is as long as the cycle (at most"
            f" {eaten[0].max_optimizer_steps} steps); it is cut to {eaten[0].warmup_steps}"
        )
    few = [plan for plan in cycles if plan.max_optimizer_steps is not None and plan.max_optimizer_steps < FEW_STEPS]
    if few:
        yield (
            f"{_cycles(few)}: at most {few[0].max_optimizer_steps} optimizer steps, too few to learn much: lower"
            " training.gradient_accumulation_steps or per_device_train_batch_size, or sample more"
        )
    low = [plan for plan in cycles if _nominal(plan) > 0 and plan.learning_rate_mass < LOW_MASS * _nominal(plan)]  # type: ignore[operator]
    if low:
        yield (
            f"{_cycles(low)}: the learning-rate mass is below a quarter of learning rate x steps: most steps hardly"
            " move; use a flatter training.lr_scheduler_type or a shorter warm-up"
        )
    floor = getattr(config.training.learning_rate, "min", None)
    stuck = [plan for plan in cycles if plan.cycle > 1 and floor is not None and plan.learning_rate_high <= floor]
    if stuck and floor is not None:
        yield f"{_cycles(stuck)}: the decayed learning rate is at its floor (min {floor:g})"
    zero = [plan for plan in cycles if plan.learning_rate_high == 0]
    if zero:
        yield f"{_cycles(zero)}: the learning rate is 0: nothing is learned"
    most = config.verifier.max_reward(has_tests)
    over = [plan for plan in cycles if plan.reward_threshold != "pass" and float(plan.reward_threshold) > most]
    if over:
        yield (
            f"{_cycles(over)}: selection.reward_threshold ({over[0].reward_threshold:g}) is above the highest reward"
            f" the verifier can give ({most:g}): nothing would ever be kept"
        )
    unknown = [plan for plan in cycles if plan.num_prompts is None]
    if unknown:
        yield "prompts.train is on a hub and is not read by a dry run: samples and steps are unknown"


def _nominal(plan: CyclePlan) -> float:
    return 0.0 if plan.max_optimizer_steps is None else plan.learning_rate * plan.max_optimizer_steps


def _cycles(plans: Sequence[CyclePlan]) -> str:
    numbers = [plan.cycle for plan in plans]
    if len(numbers) == 1:
        return f"cycle {numbers[0]}"
    if numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"cycles {numbers[0]} to {numbers[-1]}"
    return "cycles " + ", ".join(map(str, numbers))


def estimated_adapter_bytes(config: RaftConfig) -> int | None:
    """Size of a float32 adapter on all linear layers of a local Llama-like model; None where the shape is unknown."""
    path = Path(config.model.model_name_or_path).expanduser() / "config.json"
    if config.lora.target_modules != "all-linear" or not path.is_file():
        return None
    try:
        shape = json.loads(path.read_text(encoding="utf-8"))
        hidden, inner, layers = (shape[key] for key in ("hidden_size", "intermediate_size", "num_hidden_layers"))
        heads = shape["num_attention_heads"]
        key_heads = shape.get("num_key_value_heads", heads)
        head = shape.get("head_dim") if shape.get("head_dim") is not None else hidden // heads
    except (ValueError, KeyError, TypeError):
        return None  # not a shape this estimate knows; the loader will say what is wrong with the file, if anything
    ends = 2 * (hidden + heads * head) + 2 * (hidden + key_heads * head) + 3 * (hidden + inner)
    return int(4 * config.lora.r * ends * layers)
