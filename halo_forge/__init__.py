"""halo-forge: RAFT (reward-ranked fine-tuning) of code models whose programs a compiler checks.

    import halo_forge

    config = halo_forge.load_config("my_run.yaml")
    finished = halo_forge.run(config)
    finished.cycles()

docs/library.md describes the names below.  Importing this package costs nothing: they are loaded when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from halo_forge.api import (
        RunDirectory,
        SilentObserver,
        compare_runs,
        fork,
        preview,
        resume,
        run,
        verify_completions,
        verify_programs,
    )
    from halo_forge.config import LoadedConfig, load_config
    from halo_forge.core.errors import (
        ClaimError,
        ConfigError,
        HaloForgeError,
        LogitsNotFinite,
        ModelError,
        NoProgress,
        PluginError,
        RunDirError,
        StoppedByRule,
        TooFewSamples,
        ToolMissing,
        VerifierBroken,
    )
    from halo_forge.core.records import Verdict
    from halo_forge.runtime.effects import Observer
    from halo_forge.runtime.preview import CyclePlan, Preview

__all__ = [
    "ClaimError",
    "ConfigError",
    "CyclePlan",
    "HaloForgeError",
    "LoadedConfig",
    "LogitsNotFinite",
    "ModelError",
    "NoProgress",
    "Observer",
    "PluginError",
    "Preview",
    "RunDirError",
    "RunDirectory",
    "SilentObserver",
    "StoppedByRule",
    "TooFewSamples",
    "ToolMissing",
    "Verdict",
    "VerifierBroken",
    "compare_runs",
    "fork",
    "load_config",
    "preview",
    "resume",
    "run",
    "verify_completions",
    "verify_programs",
]

__version__ = "0.1.0"

_HOMES = {
    "LoadedConfig": "halo_forge.config",
    "load_config": "halo_forge.config",
    "Verdict": "halo_forge.core.records",
    "Observer": "halo_forge.runtime.effects",
    "CyclePlan": "halo_forge.runtime.preview",
    "Preview": "halo_forge.runtime.preview",
    **dict.fromkeys(
        (
            "RunDirectory",
            "SilentObserver",
            "compare_runs",
            "fork",
            "preview",
            "resume",
            "run",
            "verify_completions",
            "verify_programs",
        ),
        "halo_forge.api",
    ),
}
"""Where a name is defined; all others are errors."""

if not TYPE_CHECKING:  # to a type checker every name would seem to be one of ours

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(_HOMES.get(name, "halo_forge.core.errors")), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
