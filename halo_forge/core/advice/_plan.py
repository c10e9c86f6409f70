"""The data for the rules before a run."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PlanFacts:
    """A plan, as far as it is known before anything is loaded.

    Attributes:
        learning_rates: Highest peak learning rate of each cycle; None if it follows from results.
        optimizer_steps: The most that each cycle can have; None if the prompts were not read.
        temperatures: Highest sampling temperature of each cycle.
        requested_warmup_steps: As configured, before it is capped.
        effective_batch_size: Rows of one optimizer step in the first cycle.
        rank, alpha, use_rslora: Of the adapter.
        model_name: A folder or a hub id.
    """

    learning_rates: Sequence[float | None]
    optimizer_steps: Sequence[int | None]
    temperatures: Sequence[float]
    requested_warmup_steps: int
    effective_batch_size: int
    rank: int
    alpha: float
    use_rslora: bool
    model_name: str

    @property
    def learning_rate(self) -> float | None:
        """The highest peak of the run; None if no cycle's is known."""
        known = [rate for rate in self.learning_rates if rate is not None]
        return max(known, default=None)

    @property
    def scale(self) -> float:
        """The factor on the adapter's output."""
        return self.alpha / (math.sqrt(self.rank) if self.use_rslora else self.rank)

    @property
    def num_parameters(self) -> float | None:
        """The number of parameters according to the model's name ("135M", "1.5B"); None if it does not say."""
        found = re.search(r"(?<![\w.])(\d+(?:\.\d+)?)([MB])(?![a-zA-Z0-9])", self.model_name, re.IGNORECASE)
        return None if found is None else float(found[1]) * (1e6 if found[2] in "mM" else 1e9)
