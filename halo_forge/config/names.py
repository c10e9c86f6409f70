"""The keys of the configuration, and their names in other tools."""

from __future__ import annotations

import difflib
import functools
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from halo_forge.config.problems import dotted
from halo_forge.config.sections import RaftConfig
from halo_forge.config.yaml_io import KeyPath
from halo_forge.core.schedules import Schedule

_SAMPLES = ("raft.samples_per_prompt", "evaluation.samples_per_prompt")
FOREIGN: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("num_generations", "n", "num_return_sequences", "num_samples", "best_of", "k"), _SAMPLES),
    "batch_size": ("engine.batch_size", "training.per_device_train_batch_size"),
    **dict.fromkeys(("generation_batch_size", "gen_batch_size"), ("engine.batch_size",)),
    **dict.fromkeys(
        ("micro_batch_size", "train_batch_size", "per_device_batch_size"), ("training.per_device_train_batch_size",)
    ),
    **dict.fromkeys(("gradient_accumulation", "grad_accum"), ("training.gradient_accumulation_steps",)),
    **dict.fromkeys(("lora_r", "lora_rank", "rank"), ("lora.r",)),
    "alpha": ("lora.lora_alpha",),
    "dropout": ("lora.lora_dropout",),
    **dict.fromkeys(("lr", "base_lr"), ("training.learning_rate",)),
    **dict.fromkeys(("lr_decay_per_cycle", "decay_factor", "lr_decay"), ("training.lr_decay_factor",)),
    "min_learning_rate": ("training.min_lr",),
    **dict.fromkeys(("epochs", "num_epochs", "epochs_per_cycle"), ("training.num_train_epochs",)),
    **dict.fromkeys(("scheduler", "lr_scheduler"), ("training.lr_scheduler_type",)),
    **dict.fromkeys(("warmup", "warmup_ratio"), ("training.warmup_steps",)),
    **dict.fromkeys(("grad_clip", "clip_grad_norm", "gradient_clipping"), ("training.max_grad_norm",)),
    "optim": ("training.optimizer",),
    **dict.fromkeys(("max_tokens", "max_completion_length", "max_length"), ("engine.max_new_tokens",)),
    "temp": ("engine.temperature", "evaluation.temperature"),
    **dict.fromkeys(("stop_strings", "stop_sequences"), ("engine.stop",)),
    **dict.fromkeys(("keep_top_percent", "keep_percent", "top_percent"), ("selection.keep_fraction",)),
    **dict.fromkeys(("threshold", "min_reward"), ("selection.reward_threshold",)),
    **dict.fromkeys(("min_samples", "min_samples_per_cycle"), ("raft.min_selected",)),
    **dict.fromkeys(("cycles", "n_cycles", "iterations", "num_iterations"), ("raft.num_cycles",)),
    "num_prompts": ("raft.prompts_per_cycle", "prompts.train_limit"),
    **dict.fromkeys(("base_model", "model_name", "pretrained_model_name_or_path"), ("model.model_name_or_path",)),
    **dict.fromkeys(("torch_dtype", "precision", "bf16", "fp16"), ("model.dtype",)),
    **dict.fromkeys(("load_in_4bit", "quantization_config"), ("model.quantization",)),
    **dict.fromkeys(("checkpoint", "adapter_path", "lora_path"), ("model.adapter",)),
    **dict.fromkeys(("dataset", "dataset_name", "data", "train_file", "train_dataset"), ("prompts.train",)),
    **dict.fromkeys(("eval_dataset", "eval_prompts", "validation"), ("prompts.dev",)),
    "timeout": ("verifier.timeout_seconds",),
    **dict.fromkeys(("memory_limit", "memory_limit_mb"), ("verifier.memory_limit_bytes",)),
    **dict.fromkeys(("best_metric", "metric_for_best_model", "choose_by"), ("decisions.metric",)),
    **dict.fromkeys(("random_seed", "data_seed"), ("seed",)),
    **dict.fromkeys(("output", "out_dir", "run_dir", "logging_dir"), ("output_dir",)),
    **dict.fromkeys(("logger", "tracker", "trackers", "wandb"), ("report_to",)),
    **dict.fromkeys(("project", "project_name", "wandb_project", "experiment_name"), ("tracking.project",)),
    **dict.fromkeys(("notify", "notification", "on_finish", "callback_command"), ("notify_command",)),
    **dict.fromkeys(("run_group", "wandb_group"), ("tracking.group",)),
}
"""Names used by TRL, transformers, PEFT, verl, axolotl and earlier versions of halo-forge -> ours."""

RENAMED_KINDS = {"everything": "unfiltered"}
"""A kind of an earlier halo-forge -> its name now."""

_NOTES = {
    "selection.keep_fraction": " (a share: 0.5 is 50 %)",
    "verifier.memory_limit_bytes": " (in bytes)",
    "training.warmup_steps": " (a number of steps)",
    "training.lr_decay_factor": " (with base_learning_rate; or learning_rate: {kind: exponential, ...})",
    "training.min_lr": " (with base_learning_rate and lr_decay_factor)",
}


def fields(model: type[BaseModel]) -> dict[str, Any]:
    """Key as written in a file -> pydantic's FieldInfo."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The settings classes that a type annotation mentions."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in typing.get_args(annotation) for model in models_in(part)]


def models_at(path: KeyPath, data: Any, root: type[BaseModel] = RaftConfig) -> list[type[BaseModel]]:
    """The classes that can describe the mapping at `path`: one, unless its `kind` in `data` is missing or unknown.

    Args:
        root: The class of the whole file.
    """
    models: list[type[BaseModel]] = [root]
    for part in path:
        data = inside(data, part)
        if isinstance(part, str):
            annotations = [fields(model)[part].annotation for model in models if part in fields(model)]
            models = [found for annotation in annotations for found in models_in(annotation)]
        kind = data.get("kind") if isinstance(data, Mapping) else None
        named = [model for model in models if kind is not None and kind == default_kind(model)]
        models = named or models
    return models


def default_kind(model: type[BaseModel]) -> str | None:
    """The kind of a settings class, None for a plain section."""
    return model.model_fields["kind"].default if "kind" in model.model_fields else None


@functools.cache
def all_keys() -> tuple[str, ...]:
    """Every dotted key of every kind, without the settings of schedules."""
    return tuple(dict.fromkeys(dotted(path) for path, _ in walk(RaftConfig)))


def walk(model: type[BaseModel], path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """(path, FieldInfo) of every field below a class that is not itself a section; schedules count as fields."""
    for key, field in fields(model).items():
        inner = models_in(field.annotation)
        if not inner or issubclass(inner[0], Schedule):
            yield (*path, key), field
        else:
            for each in inner:
                yield from walk(each, (*path, key))


def advice(path: KeyPath, data: Any, root: type[BaseModel] = RaftConfig) -> str:
    """What to write instead of the unknown key that ends `path`."""
    key, section = str(path[-1]), path[:-1]
    known = [name for model in models_at(section, data, root) for name in fields(model)]
    if root is not RaftConfig:
        near = difflib.get_close_matches(key, known, n=1)
        return f"did you mean {near[0]}?" if near else f"allowed here: {', '.join(dict.fromkeys(known))}"
    if key in FOREIGN:
        own = [name for name in FOREIGN[key] if name.rpartition(".")[0] == dotted(section)]
        return "halo-forge calls it " + " or ".join(name + _NOTES.get(name, "") for name in own or FOREIGN[key])
    if (whole := dotted(path)) in all_keys() and "." in key:
        inner, _, last = whole.rpartition(".")
        return f"names with dots are for --set; in a file write {last} in the section {inner}"
    near = difflib.get_close_matches(key, known, n=1)
    if near:
        return f"did you mean {near[0]}?"
    elsewhere = [name for name in all_keys() if name.rpartition(".")[2] == key]
    if dotted(path) in elsewhere:
        kinds = [
            repr(default_kind(model))
            for model in models_at(section, None)
            if key in fields(model) and default_kind(model) is not None
        ]
        return f"only {dotted(section)}.kind {' or '.join(kinds)} has this key"
    if elsewhere:
        return f"it belongs to another section: {' or '.join(elsewhere)}"
    distant = difflib.get_close_matches(key, [name.rpartition(".")[2] for name in all_keys()], n=1)
    if distant:
        return "did you mean " + " or ".join(n for n in all_keys() if n.rpartition(".")[2] == distant[0]) + "?"
    return f"allowed here: {', '.join(dict.fromkeys(known))}"


def inside(data: Any, part: str | int) -> Any:
    """The value of a key of a mapping or an index of a list; None where there is none."""
    if isinstance(data, Mapping):
        return data.get(part)
    return data[part] if isinstance(data, list) and isinstance(part, int) and part < len(data) else None
