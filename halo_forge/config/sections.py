"""The sections of a configuration, and `RaftConfig`, which contains them.

Names are those of transformers, TRL and PEFT.  A field marked "scheduled" takes a number or a schedule.
"""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from halo_forge.config.problems import raise_all
from halo_forge.config.rules import check_rules
from halo_forge.config.spellings import DEFAULT_KINDS, LEARNING_RATE, Normalised, normalised
from halo_forge.core.decisions import DecisionsSection
from halo_forge.core.lr_scheduler import LrSchedulerType
from halo_forge.core.paths import PathText, PlainPath, Text
from halo_forge.core.registry import Spec, tagged_union
from halo_forge.core.schedules import ScheduledNumber

if TYPE_CHECKING:
    from halo_forge.core.selection._spec import SelectionSpec as Selection
    from halo_forge.engines._spec import EngineSpec as Engine
    from halo_forge.verifiers.spec import ProgramSpec as Verifier
else:
    Engine = tagged_union("halo_forge.engines")
    Verifier = tagged_union("halo_forge.verifiers.languages")
    Selection = tagged_union("halo_forge.core.selection")


def _date(text: str) -> str:
    try:
        return datetime.date.fromisoformat(text).isoformat()
    except ValueError:
        raise ValueError(f"found {text!r}, allowed: a date such as 2026-11-30") from None


Date = Annotated[Text, AfterValidator(_date)]

Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
TrackerNames = Annotated[
    list[Literal["tensorboard", "wandb", "trackio", "mlflow"]],
    BeforeValidator(lambda found: [] if found in ("none", ["none"]) else found),
]
NotifyCommand = list[Text]


def default_section(name: str) -> Any:
    """The default of a section that has kinds: its default kind, with the defaults of that kind."""
    return Field({"kind": DEFAULT_KINDS[(name,)]}, validate_default=True)


class ModelSection(Spec):
    """Which model is trained."""

    model_name_or_path: PathText
    """A local folder or a hub id."""
    adapter: PathText | None = None
    """A PEFT adapter folder to start from; null starts from a new adapter."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format of the frozen base weights; auto is bfloat16 if the device computes it natively."""
    quantization: Literal["none", "4bit"] = "none"
    """Format in which the frozen linear layers are kept: 4bit is NF4 by bitsandbytes, computed in dtype."""
    attn_implementation: Literal[
        "auto", "eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"
    ] = "auto"
    """Attention kernel of transformers; auto leaves the choice to transformers."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model."""
    revision: Text | None = None
    """Branch, tag or commit of a hub id; null is the default branch."""


class PromptsSection(Spec):
    """Which prompts are used: `builtin:c/train`, a path ending in .jsonl or .parquet, or a data set id."""

    train: PlainPath = "builtin:c/train"
    """Prompts whose completions are trained on."""
    dev: PlainPath = "builtin:c/dev"
    """Prompts measured in every cycle; decisions use only these."""
    test: PlainPath = "builtin:c/test"
    """Prompts measured once, at the end."""
    train_limit: Count | None = None
    """Use at most this many train prompts, chosen by a hash of their ids; null uses all."""
    dev_limit: Count | None = None
    """The same for the dev prompts."""
    test_limit: Count | None = None
    """The same for the test prompts."""
    where: dict[str, list[str | int | bool]] = Field(default_factory=dict)
    """Use only prompts whose info has one of these values, such as {difficulty: [easy, medium]}; all three sets."""
    overlong: Literal["error", "drop"] = "error"
    """Prompts that leave no room for engine.max_new_tokens in the model's positions: refuse the run, or drop them."""
    system_prompt: str | None = None
    """Added to prompts that have no system message; null adds none."""
    response_prefix: str | None = None
    """Start of every completion, such as a code fence; part of its text, but not trained on."""
    date: Date | None = None
    """The date, such as 2026-11-30, that a chat template which reads the clock gets; null is the start of the run."""


class OptimizerSection(Spec):
    """What happens to the optimizer state between cycles."""

    across_cycles: Literal["reset", "carry", "carry_moments"] = "reset"
    """reset: fresh AdamW moments in every cycle; carry: keep moments and step count; carry_moments: moments only."""


class TrainingSection(Spec):
    """Fine-tuning on the selected samples, once per cycle."""

    learning_rate: ScheduledNumber | None = Field(LEARNING_RATE, validate_default=True)
    """Peak learning rate of each cycle; null if learning_rate_mass is given; scheduled."""
    learning_rate_origin: dict[str, Text] = Field({})
    """Where numbers of learning_rate that were written as shares come from; written by halo-forge."""
    learning_rate_mass: ScheduledNumber | None = None
    """Sum of the learning rates of a cycle's steps, from which its peak follows; scheduled."""
    lr_scheduler_type: LrSchedulerType = "linear"
    """Shape of the learning rate over the optimizer steps of one cycle."""
    lr_scheduler_kwargs: dict[str, float] = Field({})
    """Parameters of that shape."""
    warmup_steps: Annotated[int, Field(ge=0)] = 1
    """Warm-up steps of each cycle; capped at a fifth of its steps, so none below 5 steps."""
    num_train_epochs: ScheduledNumber = Field(1.0, validate_default=True)
    """Passes over the selected samples; scheduled."""
    per_device_train_batch_size: Count = 2
    """With gradient_accumulation_steps: the product is the rows of one optimizer step."""
    gradient_accumulation_steps: ScheduledNumber = Field(8, validate_default=True)
    """See per_device_train_batch_size; rounded to the nearest whole number; scheduled."""
    max_tokens_per_pass: Literal["auto"] | Count = "auto"
    """Tokens of one forward pass, padding included; a step's rows are split by length; auto is what fits the device."""
    max_grad_norm: ScheduledNumber = Field(1.0, validate_default=True)
    """Gradients are scaled down to this norm; 0 turns clipping off; scheduled."""
    weight_decay: ScheduledNumber = Field(0.0, validate_default=True)
    """AdamW weight decay; scheduled."""
    gradient_checkpointing: Literal["auto"] | bool = "auto"
    """Recompute activations to save memory; auto turns it on for large models."""
    optimizer: OptimizerSection = OptimizerSection()
    start_from: Literal["previous", "base", "best", "average"] = "previous"
    """Which adapter cycle c trains: v_{c-1}, v_0, the best so far; average: v_{c-1}, and v_c is a mean of the two."""
    average_weight: ScheduledNumber = Field(0.5, validate_default=True)
    """start_from average: the weight of the trained adapter in v_c; scheduled."""


class ReplaySection(Spec):
    """Training again on samples that earlier cycles kept."""

    kind: Literal["none", "window", "accumulate"] = "none"
    """none: this cycle's samples only; window: also those of the last cycles; accumulate: of all earlier ones."""
    window: Count = 2
    """window: how many earlier cycles."""
    share: Annotated[float, Field(gt=0.0, lt=1.0, allow_inf_nan=False)] = 0.5
    """Replayed rows are at most this share of a cycle's training rows."""


class LoraSection(Spec):
    """Shape of the adapter, as in PEFT's LoraConfig."""

    r: Count = 16
    """Rank."""
    lora_alpha: Count = 32
    """The adapter's output is scaled by lora_alpha / r."""
    lora_dropout: Annotated[float, Field(ge=0.0, lt=1.0, allow_inf_nan=False)] = 0.0
    """Dropout before the adapter during training."""
    target_modules: Literal["all-linear"] | Annotated[list[Text], Field(min_length=1)] = "all-linear"
    """Names of the layers that get an adapter."""
    use_rslora: bool = False
    """Scale by lora_alpha / sqrt(r) instead."""


class EvaluationSection(Spec):
    """How dev and test prompts are measured; the same in every cycle, so that cycles are comparable."""

    samples_per_prompt: Count = 4
    """Samples of each dev and test prompt."""
    temperature: Annotated[float, Field(ge=0.0, le=10.0, allow_inf_nan=False)] = 0.7
    """Sampling temperature; 0 is greedy."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0, allow_inf_nan=False)] = 1.0
    """Nucleus sampling."""
    num_drift_samples: Annotated[int, Field(ge=0)] = 64
    """Completions by the start model on which entropy and divergences are measured; 0 measures none."""
    test_at_end: bool = True
    """Measure the test prompts once: for the chosen version, the start model and the last version."""


class RaftSection(Spec):
    """The loop."""

    num_cycles: Annotated[int, Field(ge=1, le=1000)] = 6
    """Cycles of sample, verify, select, train; a final evaluation measures the last model."""
    samples_per_prompt: ScheduledNumber = Field(8, validate_default=True)
    """Samples per train prompt; a schedule's value is rounded to the nearest whole number; scheduled."""
    prompts_per_cycle: Count | None = None
    """Train prompts per cycle, from a seeded shuffle that continues where the last cycle stopped; null uses all."""
    prompt_weights: Literal["uniform", "learnable"] = "uniform"
    """learnable: prompts are weighted by p(1-p), p their pass rate when last sampled; most always-solved prompts are
    skipped, never-solved ones are sampled every second cycle."""
    anchor_fraction: Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)] = 0.15
    """prompt_weights learnable: the share of the always-solved prompts that is still sampled."""
    curriculum_fraction: ScheduledNumber = Field(1.0, validate_default=True)
    """The share of the train prompts, easiest first, that a cycle may sample; rounded up; scheduled."""
    curriculum_by: Literal["pass_rate", "difficulty"] = "pass_rate"
    """What makes a prompt easy: the pass rate measured in earlier cycles, or the difficulty in its info."""
    sampling: Literal["uniform", "budgeted"] = "uniform"
    """budgeted: half of the samples go to all prompts, the rest to prompts where some passed and some did not."""
    min_selected: Count = 8
    """The run stops when a cycle selects fewer samples (exit code 5)."""


class HardwareSection(Spec):
    """What every `auto` depends on, and hardware values without a key elsewhere."""

    profile: Literal["auto", "gfx1151", "rocm", "cuda", "cpu"] = "auto"
    """The kind of machine; auto detects it before torch is imported."""
    memory_fraction: Literal["auto"] | Annotated[float, Field(gt=0.0, le=1.0, allow_inf_nan=False)] = "auto"
    """The share of the available memory that a run may use."""
    optimizer: Literal["auto", "adamw_torch", "adamw_torch_fused"] = "auto"
    """The implementation of AdamW; both compute the same."""
    pin_memory: Literal["auto"] | bool = "auto"
    """Copy training batches to the device from page-locked memory."""
    fused_head: Literal["auto"] | bool = "auto"
    """Compute the training loss over tiles of the vocabulary, with TRL's kernel; auto: where a GPU has Triton."""


class TrackingSection(Spec):
    """Where the trackers of `report_to` show the run."""

    project: Text = "halo-forge"
    """Project of wandb and trackio, experiment of mlflow."""
    group: Text | None = None
    """Runs that belong together, such as an arm's seeds: group of wandb and trackio, tag of mlflow."""


class RaftConfig(Spec):
    """The whole configuration of a run."""

    model: ModelSection
    prompts: PromptsSection = PromptsSection()
    engine: Engine = default_section("engine")
    verifier: Verifier = default_section("verifier")
    selection: Selection = default_section("selection")
    training: TrainingSection = TrainingSection()
    replay: ReplaySection = ReplaySection()
    lora: LoraSection = LoraSection()
    evaluation: EvaluationSection = EvaluationSection()
    decisions: DecisionsSection = DecisionsSection()
    raft: RaftSection = RaftSection()
    hardware: HardwareSection = HardwareSection()
    tracking: TrackingSection = TrackingSection()
    seed: Seed = 0
    """Every random draw of the run is derived from it."""
    report_to: TrackerNames = Field([])
    """Trackers that receive every metric, in addition to the run directory; none is an empty list."""
    notify_command: NotifyCommand = Field([])
    """Program and arguments, run without a shell when the run has ended; how it ended is JSON on standard input."""
    output_dir: PathText
    """The run directory; by default runs/<name of the configuration file>."""

    @model_validator(mode="before")
    @classmethod
    def _spellings(cls, data: Any) -> Any:
        if not isinstance(data, dict | Normalised):
            return data
        found = data if isinstance(data, Normalised) else normalised(data)
        raise_all(found.problems)
        return found.data

    @model_validator(mode="after")
    def _rules(self) -> RaftConfig:
        check_rules(self)
        return self
