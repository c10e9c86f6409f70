"""The configuration of a run: the settings of every family in one place, and all rules between keys."""

from __future__ import annotations

from halo_forge.config.load import (
    LoadedConfig,
    config_digest,
    differing_keys,
    json_schema,
    load_config,
    resolved,
)
from halo_forge.config.sections import (
    EvaluationSection,
    LoraSection,
    ModelSection,
    PromptsSection,
    RaftConfig,
    RaftSection,
    TrainingSection,
)

__all__ = [
    "EvaluationSection",
    "LoadedConfig",
    "LoraSection",
    "ModelSection",
    "PromptsSection",
    "RaftConfig",
    "RaftSection",
    "TrainingSection",
    "config_digest",
    "differing_keys",
    "json_schema",
    "load_config",
    "resolved",
]
