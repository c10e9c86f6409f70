"""The section `decisions` of a configuration."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from halo_forge.core.registry import Spec

Share = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class DecisionsSection(Spec):
    """When a version counts as better or worse, what follows from a decline, and when to stop (docs/decisions.md)."""

    metric: Literal["dev/pass_rate", "dev/compile_rate", "dev/reward_mean"] = "dev/pass_rate"
    """The dev metric that versions are compared by, prompt by prompt; it names the adapter to keep."""
    scale: Literal["pp", "logit"] = "pp"
    """Where standard errors are counted: pp on the rates themselves, logit on their log-odds."""
    min_improvement: Share = 0.005
    """An improvement is at least this much, in units of the metric."""
    screen_z: Annotated[float, Field(gt=0.0, le=10.0)] = 1.0
    """Standard errors above the incumbent that improve on it, and below it that make a version suspect."""
    confirm_z: Annotated[float, Field(ge=-10.0, lt=0.0)] = -2.0
    """A suspect whose difference on fresh samples is at most this many standard errors has degraded."""
    min_prompts: Annotated[int, Field(ge=2)] = 20
    """With fewer shared dev prompts than this, nothing is decided."""
    max_standard_error: Annotated[float, Field(gt=0.0, le=1.0)] = 0.04
    """A difference less certain than this, and below its minimum detectable effect, decides nothing."""
    on_decline: Literal["rollback", "continue_lower", "from_base", "stop"] = "rollback"
    """What a confirmed decline leads to: back to the incumbent, on at a lower learning rate, from v0 on, or the end."""
    max_rollbacks: Annotated[int, Field(ge=0)] = 2
    """At most this many returns to an earlier version; the next confirmed decline stops the run."""
    learning_rate_factor: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5
    """Multiplies the learning rate after a confirmed decline, unless its schedule answers declines itself."""
    temperature_add: Annotated[float, Field(ge=0.0, le=1.0)] = 0.1
    """Added to the sampling temperature from each return to an earlier version on."""
    stop_patience: Count | None = 3
    """Stop after this many assessed versions in a row without improvement; null never does."""
    stop_at_floor: bool = True
    """Stop where a plateau schedule would lower the learning rate below its floor."""
    stop_on_collapse: bool = True
    """Stop where the diversity of the samples has fallen below half of v0's."""
    stop_below_loss: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 0.1
    """Stop where the loss of the kept samples before training is below this (nats per token); 0 never stops."""
