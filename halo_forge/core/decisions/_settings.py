"""The section `decisions` of a configuration."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from halo_forge.core.registry import Spec

Share = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class DecisionsSection(Spec):
    """When a version counts as better or worse, what follows, and when to stop (`halo-forge docs decisions`)."""

    metric: Literal["dev/pass_rate", "dev/compile_rate", "dev/reward_mean"] = "dev/pass_rate"
    """The dev metric that versions are compared by, prompt by prompt; it names the adapter to keep."""
    scale: Literal["pp", "logit"] = "pp"
    """The scale of standard errors: the rates themselves, or their log-odds."""
    min_improvement: Share = 0.005
    """The smallest improvement that counts, in units of the metric."""
    screen_z: Annotated[float, Field(gt=0.0, le=10.0)] = 1.0
    """A version this many standard errors above the incumbent is ahead of it; this many below, it is suspect."""
    confirm_z: Annotated[float, Field(ge=-10.0, lt=0.0)] = -2.0
    """On fresh samples, a difference of at most this many standard errors confirms a decline; one of at least as many
    above 0 confirms an improvement."""
    min_prompts: Annotated[int, Field(ge=2)] = 20
    """With fewer shared dev prompts than this, versions are not compared (underpowered)."""
    max_standard_error: Annotated[float, Field(gt=0.0, le=1.0)] = 0.04
    """A difference with a larger standard error, and below its minimum detectable effect, is underpowered."""
    on_decline: Literal["rollback", "continue_lower", "from_base", "stop"] = "rollback"
    """After a confirmed decline: return to the incumbent; continue at a lower learning rate; restart from v_0; stop."""
    max_rollbacks: Annotated[int, Field(ge=0)] = 2
    """Returns to an earlier version that are allowed; the next confirmed decline stops the run."""
    learning_rate_factor: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5
    """The learning rate is multiplied by this from a confirmed decline on, unless its schedule lowers it by itself."""
    temperature_add: Annotated[float, Field(ge=0.0, le=1.0)] = 0.1
    """Added to the sampling temperature at each return to an earlier version."""
    stop_patience: Count | None = 3
    """Stop after this many compared versions in a row without improvement; null never stops."""
    stop_at_floor: bool = True
    """Stop when a plateau schedule would lower the learning rate below its floor."""
    stop_on_collapse: bool = True
    """Stop when all measured signs of collapse hold (at least two must be measured)."""
    stop_below_loss: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 0.1
    """Stop when the loss of the kept samples before training is below this, in nats per token; 0 never stops."""
