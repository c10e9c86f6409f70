"""The settings of engines whose completions come from a server."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import Field

from halo_forge.core.errors import ConfigError
from halo_forge.core.paths import PathText
from halo_forge.engines._spec import EngineSpec

MAX_POLICY_GAP = 0.15
"""Three times the gap of another bfloat16 implementation of the same policy (docs/engines.md)."""
MAX_TEMPERATURE = 2.0
"""The limit of vLLM and of OpenAI's protocol; more is refused."""


class ServerSpec(EngineSpec):
    """Settings shared by the engines that use a server; a kind adds `kind` and its own."""

    max_in_flight: int = Field(64, ge=1)
    """Requests that wait for an answer at the same time."""
    timeout_seconds: float = Field(600.0, gt=0, allow_inf_nan=False)
    """The longest wait for one answer, its time in the server's queue included."""
    retry_seconds: float = Field(120.0, ge=0, allow_inf_nan=False)
    """How long a request that gets no answer is asked again."""
    exchange_folder: PathText | None = None
    """Where adapters and merged models are written for the server; null takes a temporary folder."""
    start_timeout_seconds: float = Field(600.0, gt=0, allow_inf_nan=False)
    """How long a started server may need until it is ready."""
    max_policy_gap: float | None = Field(MAX_POLICY_GAP, gt=0, allow_inf_nan=False)
    """How far the server's log-probabilities may be from ours, in nats per token; null skips the check."""

    def check(self) -> None:
        """Batch size and folder; see `EngineSpec`."""
        if self.batch_size != "auto":
            raise ConfigError(
                f"engine.batch_size: found {self.batch_size}, allowed for kind {self.kind}: auto",
                "set engine.max_in_flight instead",
            )
        if self.exchange_folder is not None:
            # Made later: a run directory that a refused run left behind would be in the way of the next one.
            folder = Path(self.exchange_folder).expanduser().absolute()
            there = next(each for each in (folder, *folder.parents) if each.exists())
            if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
                raise ConfigError(
                    f"engine.exchange_folder: {folder} cannot be created or written: {there} is not a writable folder",
                    "name a writable folder",
                )
