"""The sampling settings that every engine has."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from halo_forge.core.registry import Spec
from halo_forge.core.schedules import ScheduledNumber


class EngineSpec(Spec):
    """Sampling settings shared by all engines; a kind adds `kind` and its own."""

    if TYPE_CHECKING:

        @property
        def kind(self) -> str:
            """What the engine is called; each kind declares it as a field."""

    max_new_tokens: int = Field(256, ge=1)
    """Length limit of a completion in tokens; what is cut off there is never trained on."""
    temperature: ScheduledNumber = Field(1.0, validate_default=True)
    """Sampling temperature; 0 is greedy."""
    top_p: ScheduledNumber = Field(1.0, validate_default=True)
    """Nucleus sampling: the smallest set of tokens whose probabilities sum to at least this."""
    min_p: ScheduledNumber = Field(0.0, validate_default=True)
    """Only tokens whose probability is at least this share of the most likely token's; 0 allows all."""
    top_k: int | None = Field(None, ge=1)
    """Only the k most likely tokens; null allows all."""
    stop: list[str] = Field(default_factory=list)
    """Strings that end a completion, such as a closing code fence; the string stays in the text."""
    batch_size: int | Literal["auto"] = "auto"
    """Rows sampled together."""

    @property
    def needs_policy(self) -> bool:
        """Whether a model is loaded and trained."""
        return True

    @property
    def max_temperature(self) -> float:
        """The highest temperature that this kind can sample at."""
        return math.inf

    def check(self) -> None:
        """Check what this kind needs outside the configuration, before a model is loaded.

        Raises:
            ConfigError: A setting cannot work here.
            ToolMissing: A program or package is missing.
        """

    def inputs(self) -> dict[str, str]:
        """What a run of this engine starts from besides the model: names and digests, for run.json."""
        return {}
