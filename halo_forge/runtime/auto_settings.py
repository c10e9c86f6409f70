"""What every `auto` of a configuration becomes on a machine: shown by the dry run, recorded in run.json."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from halo_forge.config import RaftConfig
from halo_forge.hardware import ModelShape, ModelSize, Profile

Choices = dict[str, Any]
"""Dotted key of the configuration -> the value that is used, beside "profile", "why" and "num_parameters"."""


def verifier_workers(config: RaftConfig, profile: Profile) -> int:
    """Programs that are checked at the same time; `auto` leaves some processors to a GPU, which samples meanwhile."""
    workers = config.verifier.num_workers
    if config.verifier.workers != "auto" or not config.engine.needs_policy:
        return workers
    return max(1, workers - profile.spare_processors)


def hardware_choices(
    config: RaftConfig, profile: Profile, num_parameters: int | None, shape: ModelShape | None = None
) -> Choices:
    """Every value that follows the machine, the configuration's own where it gives one.

    Args:
        num_parameters: Of the model; None where it is unknown, and with it what depends on it.
        shape: Of the model; None where only its size is known.
    """
    found: Choices = {"profile": profile.name, "why": profile.why}
    if profile.gpu is not None:
        found["gpu"] = profile.gpu.name
    if not config.engine.needs_policy:
        return found
    model, training = config.model, config.training
    given: dict[str, Any] = {
        "model.dtype": model.dtype,
        "model.quantization": model.quantization,
        "model.attn_implementation": model.attn_implementation,
        "training.max_tokens_per_pass": training.max_tokens_per_pass,
        "training.gradient_checkpointing": training.gradient_checkpointing,
    }
    chosen: dict[str, Any] = {
        "model.dtype": profile.dtype(),
        "model.attn_implementation": profile.attention,
        "training.max_tokens_per_pass": None,
        "training.gradient_checkpointing": None,
    }
    if num_parameters is not None:
        dtype = profile.dtype() if model.dtype == "auto" else model.dtype
        size = ModelSize(num_parameters, shape, 4 if dtype == "float32" else 2)
        # Prompts count too, but are not long where answers are short.
        chosen["training.max_tokens_per_pass"], chosen["training.gradient_checkpointing"] = profile.training_pass(
            size, config.engine.max_new_tokens, checkpointing=training.gradient_checkpointing
        )
    if config.engine.kind == "transformers":
        given["engine.batch_size"] = config.engine.batch_size
        chosen["engine.batch_size"] = None if num_parameters is None else profile.rows_in_flight(num_parameters)
    return {
        **found,
        "num_parameters": num_parameters,
        **{key: chosen[key] if value == "auto" else value for key, value in given.items()},
        "verifier.workers": verifier_workers(config, profile),
        "hardware.memory_fraction": profile.memory_fraction,
        "hardware.optimizer": profile.optimizer,
        "hardware.pin_memory": profile.pin_memory,
        "hardware.fused_head": profile.takes_fused_head(),
        "environment": profile.environment_in_force(),
    }


def local_shape(config: RaftConfig) -> ModelShape | None:
    """The shape of a local model; None where its config.json cannot be read, or tells none."""
    path = Path(config.model.model_name_or_path).expanduser() / "config.json"
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None  # the loader will say what is wrong with the file
    return ModelShape.of(found) if isinstance(found, dict) else None


def estimated_parameters(config: RaftConfig) -> int | None:
    """Parameters of a Llama-like local model by its shape, else by the name (0.5B, 135M); None for neither."""
    shape = local_shape(config)
    if shape is not None:
        return shape.num_parameters
    name = Path(config.model.model_name_or_path).name.lower()
    sizes = re.findall(r"(?<![\w.])(\d+(?:\.\d+)?)([bm])(?![a-z0-9])", name)
    return max((int(float(number) * {"b": 1e9, "m": 1e6}[unit]) for number, unit in sizes), default=None)


def estimated_adapter_bytes(config: RaftConfig) -> int | None:
    """Size of a float32 adapter on all linear layers of a local Llama-like model; None where the shape is unknown."""
    shape = local_shape(config)
    if config.lora.target_modules != "all-linear" or shape is None:
        return None
    return 4 * config.lora.r * shape.adapter_rank_size
