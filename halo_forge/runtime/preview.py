"""What a plan will do, before anything is loaded: one row per cycle, and the warnings that matter.

Nothing here imports torch, touches the network or writes a file.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from halo_forge.config import RaftConfig
from halo_forge.config.problems import dotted
from halo_forge.config.rules import SCHEDULED, bounds, value_at
from halo_forge.core import lr_scheduler
from halo_forge.core.advice import Advice, PlanFacts, advise_plan
from halo_forge.core.errors import HaloForgeError
from halo_forge.core.lr_scheduler import planned_factors
from halo_forge.core.prompt_sampling import num_easiest
from halo_forge.core.schedules import Schedule
from halo_forge.core.schedules.cosine_restarts import CosineRestarts
from halo_forge.core.selection import most_replayed
from halo_forge.core.wording import counted
from halo_forge.hardware import Profile, choose, detect
from halo_forge.policy import check_local, check_quantization
from halo_forge.prompts.summary import SetSummary
from halo_forge.runtime.auto_settings import (
    estimated_adapter_bytes,
    estimated_parameters,
    hardware_choices,
    local_shape,
)
from halo_forge.runtime.sensitivity import Sensitivity, sensitivity, sensitivity_warnings
from halo_forge.store.run import check_root

FEW_STEPS = 5
LOW_MASS = 0.25
BYTES_PER_TOKEN = 12
"""Room of one sampled token in completions.jsonl: its text (about 4 bytes) and its id with a separator (about 8)."""

Bounds = Mapping[str, tuple[Any, Any]]
_MASS = "training.learning_rate_mass"


@dataclass(frozen=True)
class CyclePlan:
    """One row of the preview; a range where the value depends on results, None where it cannot be known yet.

    Attributes:
        learning_rate: The value, or the highest one where it depends on results.
        max_kept, max_optimizer_steps, learning_rate_mass: Bounds: as if every sample that may be kept were.
        disk_bytes: Rough size of the cycle's folder.
        scheduled: Key of every scheduled setting that is not null -> its lowest and its highest value.
    """

    cycle: int
    policy_version: int
    learning_rate: float | None
    learning_rate_low: float | None
    learning_rate_high: float | None
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
    scheduled: Mapping[str, tuple[Any, Any]]


@dataclass(frozen=True)
class Preview:
    """All cycles, and what to consider before starting.

    Attributes:
        hardware: What every `auto` becomes on this machine, and "memory_budget_bytes", which changes from one
            moment to the next; None for what cannot be known yet.
        prompts: Name of a prompt set ("train", "dev", "test") -> how it is checked; none of sets on a hub.
        metric: What decisions compare versions by.
        sensitivity: What they can see; nothing of sets on a hub.
        notes: What the run starts from, where that is not the plain model.
    """

    cycles: tuple[CyclePlan, ...]
    warnings: tuple[str, ...]
    advice: tuple[Advice, ...] = ()
    hardware: Mapping[str, Any] = field(default_factory=dict)
    prompts: Mapping[str, SetSummary] = field(default_factory=dict)
    metric: str = "dev/pass_rate"
    sensitivity: tuple[Sensitivity, ...] = ()
    notes: tuple[str, ...] = ()

    def moving(self) -> list[str]:
        """Keys of the settings that change from cycle to cycle or depend on results, in the order of the sections."""
        first = self.cycles[0].scheduled
        return [
            key
            for key, (low, high) in first.items()
            if low != high or any(plan.scheduled[key] != (low, high) for plan in self.cycles)
        ]

    def to_row(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return dataclasses.asdict(self)


def preview(
    config: RaftConfig,
    num_train_prompts: int | None,
    num_dev_prompts: int | None,
    has_tests: bool,
    num_test_prompts: int | None = None,
) -> Preview:
    """Preview every cycle.

    Args:
        num_train_prompts, num_dev_prompts, num_test_prompts: Sizes of the prompt sets, None where they are on a hub.
        has_tests: Some train prompt has tests, so that the verifier can give more than for compiling.
    """
    adapter_bytes = estimated_adapter_bytes(config)
    cycles = tuple(
        _cycle_plan(config, cycle, num_train_prompts, num_dev_prompts, adapter_bytes)
        for cycle in range(1, config.raft.num_cycles + 1)
    )
    batch = config.training.per_device_train_batch_size
    facts = PlanFacts(
        learning_rates=[plan.learning_rate_high for plan in cycles],
        optimizer_steps=[plan.max_optimizer_steps for plan in cycles],
        temperatures=[plan.temperature for plan in cycles],
        requested_warmup_steps=config.training.warmup_steps,
        effective_batch_size=batch * cycles[0].scheduled["training.gradient_accumulation_steps"][1],
        rank=config.lora.r,
        alpha=config.lora.lora_alpha,
        use_rslora=config.lora.use_rslora,
        model_name=config.model.model_name_or_path,
    )
    profile = choose(config.hardware)
    hardware = hardware_choices(config, profile, estimated_parameters(config), local_shape(config))
    hardware["memory_budget_bytes"] = profile.memory_budget_bytes()
    seen = sensitivity(config, {"dev": num_dev_prompts, "test": num_test_prompts})
    warnings = (
        *_machine_warnings(config, profile),
        *_warnings(config, cycles, has_tests),
        *sensitivity_warnings(config, seen),
    )
    if num_train_prompts is not None:
        warnings += tuple(cut_prompts(config, num_train_prompts))
    return Preview(cycles, warnings, advise_plan(facts), hardware, metric=config.decisions.metric, sensitivity=seen)


def _cycle_plan(
    config: RaftConfig, cycle: int, num_train: int | None, num_dev: int | None, adapter_bytes: int | None
) -> CyclePlan:
    scheduled = {dotted(path): bounds(config, path, cycle) for path in SCHEDULED if value_at(config, path) is not None}
    samples_per_prompt = scheduled["raft.samples_per_prompt"][1]
    num_prompts = _max_prompts(config, num_train, scheduled["raft.curriculum_fraction"][1])
    max_kept = None
    if num_prompts is not None:
        # Where prompts have unlike numbers of samples, a fraction of each, rounded up, has no bound below all of them.
        fraction = 1.0 if config.raft.sampling == "budgeted" else scheduled["selection.keep_fraction"][1]
        max_kept = config.selection.max_kept(num_prompts, samples_per_prompt, fraction)
    most_rows = None if max_kept is None else _max_rows(config, cycle, max_kept)
    factors = None if most_rows is None else _factors(config, scheduled, most_rows)
    low, high = _peaks(config, scheduled, factors)
    samples = None if num_prompts is None else num_prompts * samples_per_prompt
    disk_bytes = None
    if samples is not None and num_dev is not None and adapter_bytes is not None:
        num_completions = samples + num_dev * config.evaluation.samples_per_prompt
        disk_bytes = num_completions * config.engine.max_new_tokens * BYTES_PER_TOKEN + adapter_bytes
    return CyclePlan(
        cycle=cycle,
        policy_version=cycle - 1,
        learning_rate=high,
        learning_rate_low=low,
        learning_rate_high=high,
        temperature=scheduled["engine.temperature"][1],
        top_p=scheduled["engine.top_p"][1],
        reward_threshold=scheduled["selection.reward_threshold"][1],
        num_prompts=num_prompts,
        samples_per_prompt=samples_per_prompt,
        samples=samples,
        max_kept=max_kept,
        max_optimizer_steps=None if factors is None else len(factors),
        warmup_steps=None if factors is None else lr_scheduler.clamp_warmup(config.training.warmup_steps, len(factors)),
        learning_rate_mass=_spent(scheduled, factors),
        num_train_epochs=scheduled["training.num_train_epochs"][1],
        disk_bytes=disk_bytes,
        scheduled=scheduled,
    )


def cut_prompts(config: RaftConfig, num_train_prompts: int) -> Iterator[str]:
    """That a cycle cannot have as many prompts as were asked for."""
    asked = config.raft.prompts_per_cycle
    if asked is not None and asked > num_train_prompts:
        yield (
            f"raft.prompts_per_cycle is {asked}, but prompts.train has {counted(num_train_prompts, 'prompt')}:"
            f" every cycle samples at most {num_train_prompts}"
        )


def _max_prompts(config: RaftConfig, num_train: int | None, curriculum_fraction: float) -> int | None:
    if num_train is None:
        return None
    allowed = num_easiest(num_train, curriculum_fraction)
    return allowed if config.raft.prompts_per_cycle is None else min(config.raft.prompts_per_cycle, allowed)


def _max_rows(config: RaftConfig, cycle: int, num_kept: int) -> int:
    """The kept rows and those that may be replayed beside them, as after a return to v_0 they always are."""
    if cycle == 1 or (config.replay.kind == "none" and config.decisions.on_decline != "from_base"):
        return num_kept
    return num_kept + most_replayed(num_kept, config.replay.share)


def _factors(config: RaftConfig, scheduled: Bounds, num_rows: int, *, fewest: bool = False) -> list[float]:
    """The factors of the most steps that so many rows can give, or of the fewest."""
    epochs, accumulation = scheduled["training.num_train_epochs"], scheduled["training.gradient_accumulation_steps"]
    most, least = (0, 1) if fewest else (1, 0)
    return planned_factors(config.training, num_rows, epochs[most], accumulation[least])


def _peaks(
    config: RaftConfig, scheduled: Bounds, factors: Sequence[float] | None
) -> tuple[float, float] | tuple[None, None]:
    """The lowest and the highest peak; with a mass: that of all rows, and that of as few as may be trained on."""
    if _MASS not in scheduled:
        low, high = scheduled["training.learning_rate"]
        return low, high
    if factors is None:
        return None, None
    fewest = _factors(config, scheduled, config.raft.min_selected, fewest=True)
    low, high = scheduled[_MASS]
    # A run whose prompts cannot give min_selected rows is refused elsewhere; here its range is one value.
    lowest = lr_scheduler.peak_of_mass(low, factors)
    return lowest, max(lowest, lr_scheduler.peak_of_mass(high, fewest))


def _spent(scheduled: Bounds, factors: Sequence[float] | None) -> float | None:
    if _MASS in scheduled:
        return float(scheduled[_MASS][1])
    return None if factors is None else lr_scheduler.learning_rate_mass(scheduled["training.learning_rate"][1], factors)


def _machine_warnings(config: RaftConfig, profile: Profile) -> Iterator[str]:
    """What a run on this machine would refuse before it loads anything, or would ignore."""
    model = config.model
    checks: list[Callable[[], None]] = [config.engine.check, lambda: check_root(Path(config.output_dir))]
    if config.engine.needs_policy:
        checks += [lambda: check_local(model), lambda: check_quantization(model.quantization)]
    for check in checks:
        try:
            check()
        except HaloForgeError as error:
            yield f"a run on this machine would be refused: {error.message} (fix: {error.hint})"
    if not config.engine.needs_policy:
        return
    if profile.given and profile.device == "cuda" and (found := detect(profile.machine)).device == "cpu":
        yield (
            f"a run on this machine would be refused unless torch finds a GPU: hardware.profile is {profile.name}, but"
            f" {found.why} (fix: hardware.profile: auto)"
        )
    if getattr(config.engine, "cuda_graphs", False) and profile.name != "cuda":
        yield f"engine.cuda_graphs is ignored here: the profile is {profile.name}, and graphs need an NVIDIA GPU"


def _warnings(config: RaftConfig, cycles: Sequence[CyclePlan], has_tests: bool) -> Iterator[str]:
    requested = config.training.warmup_steps
    known = [(plan, plan.max_optimizer_steps) for plan in cycles if plan.max_optimizer_steps is not None]
    eaten = [(plan, steps) for plan, steps in known if requested >= steps > 0]
    if eaten:
        first, steps = eaten[0]
        yield (
            f"{_cycles([plan for plan, _ in eaten])}: training.warmup_steps ({requested}) is as long as the cycle (at"
            f" most {counted(steps, 'step')}); it is reduced to {first.warmup_steps}"
        )
    few = [(plan, steps) for plan, steps in known if steps < FEW_STEPS]
    if few:
        yield (
            f"{_cycles([plan for plan, _ in few])}: at most {counted(few[0][1], 'optimizer step')}, too few to learn"
            " much: lower training.gradient_accumulation_steps or per_device_train_batch_size, or sample more"
        )
    low = [plan for plan in cycles if _nominal(plan) > 0 and plan.learning_rate_mass < LOW_MASS * _nominal(plan)]  # type: ignore[operator]
    if low and config.training.learning_rate_mass is None:
        yield (
            f"{_cycles(low)}: the learning-rate mass is below a quarter of learning rate x steps: most steps barely"
            " train; use a flatter training.lr_scheduler_type or a shorter warm-up"
        )
    floor = getattr(config.training.learning_rate, "min", None)
    stuck = [plan for plan in cycles if plan.cycle > 1 and floor is not None and _high(plan) <= floor]
    if stuck and floor is not None:
        yield f"{_cycles(stuck)}: the decayed learning rate is at its floor (min {floor:g})"
    rate = config.training.learning_rate
    restarts = [plan for plan in cycles[1:] if rate is not None and _restarts(rate, plan.cycle)]
    if restarts and config.training.start_from != "base":
        yield (
            f"{_cycles(restarts)}: cosine_restarts raises the learning rate again on an adapter that keeps training:"
            " later versions may forget what earlier ones learned; use restarts with training.start_from: base"
        )
    if (
        not restarts
        and config.training.start_from == "base"
        and len({(plan.learning_rate_low, _high(plan)) for plan in cycles}) > 1
    ):
        yield (
            "training.start_from is base: every cycle starts from the start model, so a learning rate that changes from"
            " cycle to cycle only makes later versions weaker or stronger; use a constant learning rate, and replay"
        )
    if config.selection.is_control:
        yield (
            f"selection.kind is {config.selection.kind}: a control arm that trains on samples regardless of their"
            " verdicts; its gain is what a run gains without a verifier"
        )
    zero = [plan for plan in cycles if _high(plan) == 0]
    if zero:
        yield f"{_cycles(zero)}: the learning rate is 0: nothing is learned"
    most = config.verifier.max_reward(has_tests)
    over = [plan for plan in cycles if plan.reward_threshold != "pass" and float(plan.reward_threshold) > most]
    if over:
        yield (
            f"{_cycles(over)}: selection.reward_threshold ({over[0].reward_threshold:g}) is above the highest reward"
            f" the verifier can give ({most:g}): nothing would ever be kept"
        )
    if getattr(config.engine, "adapter", None) == "none":
        yield "engine.adapter is none: the run will fail after cycle 1, when v1 has to be sampled"
    unknown = [plan for plan in cycles if plan.num_prompts is None]
    if unknown:
        yield "prompts.train is on the Hub, which a dry run does not read: samples and steps are unknown"


def _restarts(schedule: Schedule, cycle: int) -> bool:
    return isinstance(schedule, CosineRestarts) and (cycle - 1) % schedule.period == 0


def _nominal(plan: CyclePlan) -> float:
    return 0.0 if plan.max_optimizer_steps is None else _high(plan) * plan.max_optimizer_steps


def _high(plan: CyclePlan) -> float:
    """The highest learning rate; infinite where it follows from a number of rows that is not known."""
    return math.inf if plan.learning_rate_high is None else plan.learning_rate_high


def _cycles(plans: Sequence[CyclePlan]) -> str:
    numbers = [plan.cycle for plan in plans]
    if len(numbers) == 1:
        return f"cycle {numbers[0]}"
    if numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"cycles {numbers[0]} to {numbers[-1]}"
    return "cycles " + ", ".join(map(str, numbers))
