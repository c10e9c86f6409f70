"""The loss rises while the cycle trains."""

from __future__ import annotations

from typing import Literal

from halo_forge.advice._facts import Advice, Facts
from halo_forge.advice._rule import Rule


class Spec(Rule):
    """A flat loss is what to expect (the samples are the model's own); a rise beyond what batches do is not."""

    kind: Literal["divergence"] = "divergence"
    errors: float = 2.0
    """Standard errors of the slope."""
    rise: float = 0.2
    """Over the cycle, as a share of the mean loss."""

    def look(self, facts: Facts) -> Advice | None:
        """See the module."""
        nonfinite = facts.trained("num_nonfinite_steps")
        slope, error = facts.trained("loss_slope"), facts.trained("loss_slope_error")
        num_steps, mean = facts.trained("optimizer_steps"), facts.trained("loss_mean")
        if nonfinite is not None and nonfinite > 0:
            evidence = f"{nonfinite:.0f} steps whose loss or gradient is infinite or no number"
        elif slope is None or error is None or num_steps is None or mean is None:
            return None
        elif slope <= self.errors * error or slope * (num_steps - 1) <= self.rise * mean:
            return None
        else:
            evidence = f"{slope:+.3g} nats/token a step (standard error {error:.2g}), mean {mean:.3f}"
        return Advice(
            kind=self.kind,
            symptom="the loss rises while training",
            evidence=evidence,
            cause="the learning rate is too high",
            action="half the learning rate, or a longer warm-up",
            power="one cycle's steps; batches differ, which the standard error counts",
        )
