"""The loss rises while the cycle trains."""

from __future__ import annotations

from typing import Literal

from halo_forge.core.advice._facts import Advice, RunFacts
from halo_forge.core.advice._rule import Rule
from halo_forge.core.wording import counted


class Spec(Rule):
    """The samples are the model's own, so a flat loss is normal; a rise that batches do not explain is not."""

    kind: Literal["divergence"] = "divergence"
    false_alarms: float = 0.005
    """One-sided error of the t test on the slope of a linear regression, with (steps - 2) degrees of freedom."""
    rise: float = 0.2
    """The fitted rise over the cycle that is large enough to report, as a share of the mean loss."""

    def look(self, facts: RunFacts) -> Advice | None:
        """Advise if a step was not finite, or the loss rose significantly over the cycle."""
        nonfinite = facts.trained("num_nonfinite_steps")
        slope, error = facts.trained("loss_slope"), facts.trained("loss_slope_error")
        num_steps, mean = facts.trained("optimizer_steps"), facts.trained("loss_mean")
        if nonfinite is not None and nonfinite > 0:
            evidence = f"{counted(nonfinite, 'step')} with an infinite or NaN loss or gradient"
        elif slope is None or error is None or num_steps is None or mean is None:
            return None
        elif slope <= self._most_by_chance(error, num_steps) or slope * (num_steps - 1) <= self.rise * mean:
            return None
        else:
            evidence = f"{slope:+.3g} nats/token per step (standard error {error:.2g}), mean {mean:.3f}"
        return Advice(
            kind=self.kind,
            symptom="the loss rises during training",
            evidence=evidence,
            cause="the learning rate is too high",
            action="halve the learning rate, or lengthen the warm-up",
            power="one cycle's steps; the standard error accounts for differences between batches",
        )

    def _most_by_chance(self, error: float, num_steps: float) -> float:
        from scipy.special import stdtrit  # type: ignore[import-untyped]

        return error * float(stdtrit(num_steps - 2, 1 - self.false_alarms))
