"""The difference between two versions on the same prompts, and the smallest difference that would be detected."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from halo_forge.core.statistics import DETECTABLE, HALF_WIDTH, interval_without_spread, mean_and_standard_error
from halo_forge.core.wording import counted

Totals = Mapping[str, tuple[float, int]]
"""Prompt id -> (sum over its judged samples of a value in [0, 1], such as 1 for a pass; their number, at least 1)."""

ROUNDING = 1e-9
"""0.42 - 0.415 is 0.00500000000000000x in floats, or a hair less: so close to a threshold reaches it."""

MIN_PROMPTS = 2
"""The standard error of a mean over prompts divides by their number minus 1."""


@dataclass(frozen=True, slots=True)
class VersionComparison:
    """The candidate minus the incumbent, paired by prompt.

    Attributes:
        difference: Mean over the shared prompts of the difference of their rates.
        standard_error: Of that mean.  Where every prompt differs by the same amount (both versions gave the same
            answers to the same seeds), that of two independent sets of samples with these rates; where they show no
            spread either (nothing passes, or everything), what so few prompts cannot exclude.
        z: Difference / standard error on the configured scale; None without a spread.
        num_prompts: Shared by both.
        uniform: Every prompt differs by the same amount.
        num_changed: Prompts whose rates differ.
        rests_on_one_prompt: Without some single prompt no difference in this direction is left.
        z_without_one: The z nearest to 0, or furthest beyond it, that leaving out a single prompt gives; None without
            a spread.
        all_zero: No sample of either version has a value above 0, such as a pass.
    """

    difference: float
    standard_error: float
    z: float | None
    num_prompts: int
    uniform: bool = False
    num_changed: int = 0
    rests_on_one_prompt: bool = False
    z_without_one: float | None = None
    all_zero: bool = False

    @property
    def minimum_detectable_effect(self) -> float:
        """2.8 standard errors: found in 80 % of such comparisons at 5 % two-sided error."""
        return DETECTABLE * self.standard_error

    def to_row(self) -> dict[str, float]:
        """As it is kept in a decision; `z` and `z_without_one` are absent where they are None."""
        row: dict[str, float | None] = {
            "difference": self.difference,
            "standard_error": self.standard_error,
            "minimum_detectable_effect": self.minimum_detectable_effect,
            "num_prompts": self.num_prompts,
            "num_changed": self.num_changed,
            "z": self.z,
            "z_without_one": self.z_without_one,
        }
        return {name: value for name, value in row.items() if value is not None}

    def in_words(self) -> str:
        """Such as "-0.081 (SE 0.021, z -3.86, detectable 0.059, 64 prompts, 40 changed)"."""
        z = "no spread" if self.z is None else f"z {self.z:.2f}"
        detectable = self.minimum_detectable_effect
        return (
            f"{self.difference:+.3f} (SE {self.standard_error:.3f}, {z}, detectable {detectable:.3f},"
            f" {counted(self.num_prompts, 'prompt')}, {self.num_changed} changed)"
        )


def compare_totals(before: Totals, after: Totals, scale: Literal["pp", "logit"] = "pp") -> VersionComparison | None:
    """`after` minus `before` over the prompts of both; None with fewer than two.

    With `scale` logit, z belongs to the differences of `ln((s + 0.5) / (n - s + 0.5))` of sum s and number n, which
    counts a fall from 0.95 to 0.90 as much as one from 0.10 to 0.05; difference and standard error stay rates.  The 0.5
    keeps the log-odds finite at 0 and n (the empirical logit; Haldane 1956, Anscombe 1956).
    """
    shared = sorted(before.keys() & after.keys())
    if len(shared) < MIN_PROMPTS:
        return None
    pairs = [(before[prompt_id], after[prompt_id]) for prompt_id in shared]
    differences = [
        after_sum / after_num - before_sum / before_num for (before_sum, before_num), (after_sum, after_num) in pairs
    ]
    mean, standard_error = mean_and_standard_error(differences)
    uniform = standard_error == 0.0
    if uniform:
        standard_error = _independent_error([one for one, _ in pairs], [other for _, other in pairs])
        if standard_error == 0.0:
            _, high = interval_without_spread(0.0, len(pairs), -1.0, 1.0)
            standard_error = high / HALF_WIDTH
    # Identical completions have no spread to measure a difference of 0 by.
    z = mean / standard_error if standard_error > 0.0 and not (uniform and mean == 0.0) else None
    steps = differences
    if scale == "logit" and z is not None:
        steps = [_log_odds(*other) - _log_odds(*one) for one, other in pairs]
        middle, spread = mean_and_standard_error(steps)
        z = middle / spread if spread > 0.0 else z
    rises = mean > 0.0
    return VersionComparison(
        mean,
        standard_error,
        z,
        len(shared),
        uniform,
        num_changed=sum(each != 0.0 for each in differences),
        rests_on_one_prompt=not uniform and _rests_on_one(differences, rises),
        z_without_one=z if z is None or uniform else _z_without_one(steps, rises),
        all_zero=not any(total for pair in pairs for total, _ in pair),
    )


def _rests_on_one(differences: Sequence[float], rises: bool) -> bool:
    """Whether leaving out the prompt that differs most in the direction of the mean leaves nothing in it."""
    total = math.fsum(differences)
    rest = total - max(differences) if rises else min(differences) - total
    return rest <= ROUNDING


def _z_without_one(steps: Sequence[float], rises: bool) -> float | None:
    """The least favourable z of all but one of `steps`; None where two are too few, or where no spread is ever left."""
    num, total = len(steps) - 1, math.fsum(steps)
    if num < MIN_PROMPTS:
        return None
    squares = math.fsum(each * each for each in steps)
    found = []
    for each in steps:
        mean = (total - each) / num
        spread = squares - each * each - num * mean * mean
        if spread > ROUNDING:
            found.append(mean / math.sqrt(spread / (num * (num - 1))))
        elif abs(mean) <= ROUNDING:
            found.append(0.0)
    return (min(found) if rises else max(found)) if found else None


def _independent_error(*sides: Sequence[tuple[float, int]]) -> float:
    """The standard error of the mean difference if the samples of both sides were drawn independently.

    With rate p of n samples the unbiased estimate of a prompt's variance is p (1 - p) / (n - 1), as for a binomial
    proportion; independent variances add.  A single sample has no variance of its own: it gets q (1 - q) with the
    side's mean rate q.

    Args:
        sides: One (sum, number of samples) per prompt, for each version.
    """
    variances = []
    for side in sides:
        middle = fmean(total / num for total, num in side)
        for total, num in side:
            rate = total / num
            variances.append(rate * (1.0 - rate) / (num - 1) if num > 1 else middle * (1.0 - middle))
    return math.sqrt(math.fsum(variances)) / len(sides[0])


def _log_odds(total: float, num: int) -> float:
    return math.log((total + 0.5) / (num - total + 0.5))
