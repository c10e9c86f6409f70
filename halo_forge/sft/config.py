"""The configuration of an SFT run: sections of a RAFT configuration, and what is trained on."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from halo_forge.config.explain import problems_of
from halo_forge.config.load import as_error, digest_of, influential_data, is_sft, overridden, written_schema
from halo_forge.config.problems import Problem, raise_all
from halo_forge.config.sections import (
    Count,
    Date,
    HardwareSection,
    LoraSection,
    ModelSection,
    NotifyCommand,
    Seed,
    TrackerNames,
    TrackingSection,
    default_section,
)
from halo_forge.config.spellings import DEFAULT_KINDS, Normalised
from halo_forge.config.yaml_io import Document, load_document
from halo_forge.core.errors import ConfigError
from halo_forge.core.lr_scheduler import LrSchedulerType, learning_rate_factors
from halo_forge.core.paths import PathText, PlainPath
from halo_forge.core.registry import Spec, tagged_union

if TYPE_CHECKING:
    from halo_forge.verifiers.spec import ProgramSpec as Verifier
else:
    Verifier = tagged_union("halo_forge.verifiers.languages")

_HINT = "correct these keys; `halo-forge docs sft` describes every key"


class DataSection(Spec):
    """What is trained on: `builtin:c/train`, a path ending in .jsonl or .parquet, or a data set id."""

    train: PlainPath
    """Rows with a prompt and a completion, conversations (`messages`), or prompts with a reference solution."""
    held_out: PlainPath | None = None
    """Rows on which the loss is measured and nothing is trained; null takes held_out_fraction of the train rows."""
    held_out_fraction: Annotated[float, Field(ge=0.0, lt=1.0, allow_inf_nan=False)] = 0.1
    """The share of the prompts, chosen by a hash of their text, whose rows are held out; 0 holds out none."""
    where: dict[str, list[str | int | bool]] = Field(default_factory=dict)
    """Use only rows whose info has one of these values, such as {difficulty: [easy, medium]}."""
    limit: Count | None = None
    """Use at most this many train rows, chosen by a hash of their ids; null uses all."""
    filter: Literal["none", "compiles", "passes"] = "none"
    """Train only on rows whose program compiles, or passes its tests, by the verifier section."""
    unusable: Literal["error", "drop"] = "error"
    """Rows without a completion, too long, or with another start than response_prefix: refuse the run, or drop them."""
    max_length: Count | None = None
    """Longest row in tokens, prompt and completion together; null is what the model has positions for."""
    system_prompt: str | None = None
    """Added to prompts that have no system message; null adds none."""
    response_prefix: str | None = None
    """Start of every completion, as prompts.response_prefix of a RAFT configuration; not trained on."""
    date: Date | None = None
    """The date that a chat template which reads the clock gets; null is the start of the run."""


class EarlyStoppingSection(Spec):
    """When to stop before all epochs are done."""

    patience: Count | None = 3
    """Stop after this many measurements in a row without an improvement; null never stops early."""
    min_delta: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 0.0
    """A held-out loss that is lower by more than this, in nats per token, is an improvement."""


class SftTrainingSection(Spec):
    """Optimizer and learning rate; one schedule over the whole training."""

    learning_rate: Annotated[float, Field(gt=0.0, le=1.0, allow_inf_nan=False)] = 2e-4
    """Peak learning rate."""
    lr_scheduler_type: LrSchedulerType = "cosine"
    """Shape of the learning rate over all optimizer steps."""
    lr_scheduler_kwargs: dict[str, float] = Field({})
    """Parameters of that shape."""
    warmup_steps: Annotated[int, Field(ge=0)] = 10
    """Warm-up steps; capped at a fifth of all steps."""
    num_train_epochs: Annotated[float, Field(gt=0.0, le=1000.0, allow_inf_nan=False)] = 3.0
    """Passes over the train rows; the last one may be a part."""
    per_device_train_batch_size: Count = 2
    """With gradient_accumulation_steps: the product is the rows of one optimizer step."""
    gradient_accumulation_steps: Count = 8
    """See per_device_train_batch_size."""
    eval_steps: Count | None = None
    """Optimizer steps between two measurements of the held-out loss; null is about one epoch."""
    max_tokens_per_pass: Literal["auto"] | Count = "auto"
    """Tokens of one forward pass, padding included; a step's rows are split by length; auto is what fits the device."""
    max_grad_norm: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 1.0
    """Gradients are scaled down to this norm; 0 turns clipping off."""
    weight_decay: Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)] = 0.0
    """AdamW weight decay."""
    gradient_checkpointing: Literal["auto"] | bool = "auto"
    """Recompute activations to save memory; auto turns it on for large models."""
    early_stopping: EarlyStoppingSection = EarlyStoppingSection()


class SftConfig(Spec):
    """The whole configuration of an SFT run."""

    model: ModelSection
    data: DataSection
    training: SftTrainingSection = SftTrainingSection()
    lora: LoraSection = LoraSection()
    verifier: Verifier = default_section("verifier")
    hardware: HardwareSection = HardwareSection()
    tracking: TrackingSection = TrackingSection()
    seed: Seed = 0
    """The adapter's first weights and the order of the rows are derived from it."""
    report_to: TrackerNames = Field([])
    """Trackers that receive every metric, in addition to the run directory; none is an empty list."""
    notify_command: NotifyCommand = Field([])
    """Program and arguments, run without a shell when the run has ended; how it ended is JSON on standard input."""
    output_dir: PathText
    """The run directory; by default runs/<name of the configuration file>."""

    @model_validator(mode="after")
    def _rules(self) -> SftConfig:
        raise_all(list(_broken_rules(self)))
        return self

    @property
    def batch_size(self) -> int:
        """Rows of one optimizer step."""
        return self.training.per_device_train_batch_size * self.training.gradient_accumulation_steps

    @property
    def holds_out(self) -> bool:
        """Whether a held-out loss is measured."""
        return self.data.held_out is not None or self.data.held_out_fraction > 0


def _broken_rules(config: SftConfig) -> Iterator[Problem]:
    data, training = config.data, config.training
    if data.held_out == data.train:
        text = "what is trained on cannot be held out; name another file or split, or use held_out_fraction"
        yield Problem(("data", "held_out"), text, data.held_out, ((("data", "train"), data.train),))
    if training.early_stopping.patience is not None and not config.holds_out:
        text = "without held-out rows nothing is measured that could stop it; hold out some, or set patience to null"
        other = ((("data", "held_out_fraction"), data.held_out_fraction),)
        yield Problem(("training", "early_stopping", "patience"), text, training.early_stopping.patience, other)
    if data.filter == "passes" and (not config.verifier.runs_programs or config.verifier.stages == ["compile"]):
        text = "the verifier runs no tests, so nothing can pass them; set filter to compiles"
        yield Problem(("data", "filter"), text, "passes", ((("verifier", "kind"), config.verifier.language),))
    try:
        learning_rate_factors(training.lr_scheduler_type, 10, 0, **training.lr_scheduler_kwargs)
    except ValueError as error:
        yield Problem(("training", "lr_scheduler_kwargs"), str(error))


@dataclass(frozen=True)
class LoadedSft:
    """A checked configuration and the document it came from."""

    config: SftConfig
    document: Document


def load_sft_config(source: Path, overrides: Iterable[str] = ()) -> LoadedSft:
    """Read, override and check a configuration; its `output_dir` defaults to `runs/<file name>`.

    Raises:
        ConfigError: All problems, one line per key, as for a RAFT configuration.
    """
    document = overridden(load_document(source), overrides)
    if not is_sft(document) and "prompts" in document.data:
        raise ConfigError(
            f"{source}: this is a RAFT configuration: it has the section `prompts`, and none named `data`",
            f"run it with `halo-forge raft run {source}`, or write what to train on as data.train",
        )
    data = {"output_dir": f"runs/{source.stem}", **copy.deepcopy(document.data)}
    verifier = data.get("verifier")
    if isinstance(verifier, Mapping) and "kind" not in verifier:
        data["verifier"] = {"kind": DEFAULT_KINDS[("verifier",)], **verifier}
    try:
        return LoadedSft(SftConfig.model_validate(data), document)
    except ValidationError as error:
        raise as_error(problems_of(error, data, SftConfig), Normalised(data), document, _HINT) from error


def resolved_sft(config: SftConfig) -> dict[str, Any]:
    """Every value, defaults included, as plain JSON data that `SftConfig.model_validate` accepts."""
    plain: dict[str, Any] = config.model_dump(mode="json", by_alias=True)
    return plain


def sft_schema() -> dict[str, Any]:
    """JSON schema of a configuration file, for editors."""
    return written_schema(SftConfig)


def sft_digest(config: SftConfig) -> str:
    """SHA-256 of everything that results depend on."""
    return digest_of(influential_data(resolved_sft(config)))
