"""The configuration of a run: composes the settings of all families, and every rule between keys."""

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
