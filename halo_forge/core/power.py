"""What a comparison can see before it is made: the detectable effect, and the seeds, prompts and samples it takes.

One arithmetic for two questions: two versions of one run on the same prompts (`between_versions`), and two arms of an
experiment over seeds and prompts (`detectable`, `seeds_for` ...), judged by `core.statistics.TwoLevelMean`.

Of prompt i in the run with seed s, the two arms differ by `effect + seed_s + prompt_i + rest_si`.  `Variation` says how
much each part varies: seed_sd, effect_sd, and the sampling noise of both arms, `2 (1 - icc) rate (1 - rate) / samples`.

numpy and scipy are imported inside the functions, so that the command line starts fast.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from halo_forge.core.statistics import DETECTABLE, Rate, prompts_needed

POWER = 0.8
"""The share of experiments that find a true effect of the detectable size."""
ERROR = 0.05
"""The share of experiments that find one where there is none, two-sided."""
MOST_SEEDS, MOST_PROMPTS, MOST_SAMPLES = 100, 100_000, 1024
"""More of one than this is not a plan: the answer is then None."""
_SEED_POINTS, _PROMPT_POINTS = 400, 15
_LARGEST_EFFECT = 64.0
"""Far above any difference of two rates: a design that needs more than 1 cannot see anything."""


@dataclass(frozen=True, slots=True)
class Parts:
    """Variances of the parts of a difference: of one seed, of one prompt, and of one prompt in the run of one seed.

    Raises:
        ValueError: One of them is below 0, or not a number.
    """

    seed: float
    prompt: float
    rest: float

    def __post_init__(self) -> None:
        if not all(each >= 0.0 for each in (self.seed, self.prompt, self.rest)):
            raise ValueError(f"{self}: a variance is never below 0")


@dataclass(frozen=True, slots=True)
class Variation:
    """How much results vary, measured or assumed.

    Attributes:
        rate: Mean pass rate of the prompts, in [0, 1].
        intraclass_correlation: The share of the variance of single samples that lies between prompts, in [0, 1].
        effect_sd: Standard deviation over prompts of the true difference between the two that are compared.
        seed_sd: Standard deviation over training seeds of the true difference between the two.

    Raises:
        ValueError: A value is out of its range.
    """

    rate: float = 0.5
    intraclass_correlation: float = 0.3
    effect_sd: float = 0.1
    seed_sd: float = 0.02

    def __post_init__(self) -> None:
        if not (0.0 <= self.rate <= 1.0 and 0.0 <= self.intraclass_correlation <= 1.0):
            raise ValueError(f"rate {self.rate}, intraclass correlation {self.intraclass_correlation}: not in [0, 1]")
        if not (self.effect_sd >= 0.0 and self.seed_sd >= 0.0):
            raise ValueError(f"standard deviations {self.effect_sd} and {self.seed_sd}: below 0")

    @property
    def within(self) -> float:
        """Variance of a single sample of a prompt, mean over prompts: `(1 - icc) rate (1 - rate)`."""
        return (1.0 - self.intraclass_correlation) * self.rate * (1.0 - self.rate)

    def parts(self, num_samples: int, sides: int = 2) -> Parts:
        """The parts, with `num_samples` samples of each prompt.

        Args:
            sides: Sets of samples of a prompt that the difference is made of: 2, or 4 where each side is a difference.

        Raises:
            ValueError: `num_samples` is below 1.
        """
        if num_samples < 1:
            raise ValueError(f"{num_samples} samples per prompt, at least 1 is needed")
        return Parts(self.seed_sd**2, self.effect_sd**2, sides * self.within / num_samples)


@dataclass(frozen=True, slots=True)
class Design:
    """The size of an experiment: every arm has `num_seeds` runs, each measured on the same prompts.

    Raises:
        ValueError: A number is below 1.
    """

    num_seeds: int
    num_prompts: int

    def __post_init__(self) -> None:
        if min(self.num_seeds, self.num_prompts) < 1:
            raise ValueError(f"{self}: every number must be at least 1")


@dataclass(frozen=True, slots=True)
class BetweenVersions:
    """What the comparison of two versions of one run can see.

    Attributes:
        standard_error: Expected, of the mean difference.
        detectable: 2.8 standard errors: found in 80 % of comparisons at 5 % two-sided error.
    """

    standard_error: float
    detectable: float


def between_versions(num_prompts: int, num_samples: int, variation: Variation | None = None) -> BetweenVersions:
    """What `num_prompts` prompts with `num_samples` samples each can see of a difference between two versions.

    `SE = sqrt((effect_sd^2 + 2 (1 - icc) rate (1 - rate) / samples) / prompts)`: paired by prompt, so the difficulty
    of the prompts drops out.  Source: Miller 2024, arXiv 2411.00640, section 5.

    Raises:
        ValueError: A number is below 1.
    """
    parts = (Variation() if variation is None else variation).parts(num_samples)
    error = math.sqrt((parts.prompt + parts.rest) / Design(1, num_prompts).num_prompts)
    return BetweenVersions(error, DETECTABLE * error)


def prompts_between_versions(effect: float, num_samples: int, variation: Variation | None = None) -> int:
    """The prompts with which a difference of `effect` between two versions of one run is detectable.

    Raises:
        ValueError: `effect` is 0, or `num_samples` is below 1.
    """
    found = Variation() if variation is None else variation
    return prompts_needed(effect, found.effect_sd**2, (found.within, found.within), (num_samples, num_samples))


def intraclass_correlation(rate: Rate) -> float | None:
    """`(DEFF - 1) / (n - 1)` of a rate with n samples per prompt; None with one sample, or where all have one outcome.

    Source: Kish 1965.  The design effect is kept between 1 and n, so it is in [0, 1].
    """
    per_prompt = rate.num_samples / rate.num_prompts
    if per_prompt <= 1.0 or rate.mean in (0.0, 1.0):
        return None
    return (rate.design_effect - 1.0) / (per_prompt - 1.0)


def chance_to_find(effect: float, design: Design, parts: Parts, error: float = ERROR) -> float:
    """The share of experiments of this design whose interval excludes 0 if the true mean difference is `effect`.

    The normal probabilities are averaged over the estimates of the seeds' and the prompts' variances (chi-square
    quantiles).  0 with one seed, which says nothing about other seeds, and with one prompt.
    """
    if design.num_seeds < 2 or design.num_prompts < 2:
        return 0.0
    halves, spread = _half_widths(design, parts, error)
    return _chance(effect, halves, spread)


def detectable(design: Design, parts: Parts, error: float = ERROR) -> float | None:
    """The smallest true mean difference that 80 % of experiments find; None with fewer than two seeds or prompts."""
    if design.num_seeds < 2 or design.num_prompts < 2:
        return None
    halves, spread = _half_widths(design, parts, error)
    if spread == 0.0:
        return 0.0
    low, high = 0.0, _LARGEST_EFFECT
    for _ in range(50):
        middle = (low + high) / 2.0
        low, high = (middle, high) if _chance(middle, halves, spread) < POWER else (low, middle)
    return high


def seeds_for(effect: float, design: Design, parts: Parts, error: float = ERROR) -> int | None:
    """The fewest seeds with which `effect` is detectable on these prompts; None if `MOST_SEEDS` are too few."""
    return _fewest(lambda num: chance_to_find(effect, replace(design, num_seeds=num), parts, error), 2, MOST_SEEDS)


def prompts_for(effect: float, design: Design, parts: Parts, error: float = ERROR) -> int | None:
    """The fewest prompts with which `effect` is detectable with these seeds; None if `MOST_PROMPTS` are too few."""
    return _fewest(lambda num: chance_to_find(effect, replace(design, num_prompts=num), parts, error), 2, MOST_PROMPTS)


def samples_for(effect: float, design: Design, parts: Callable[[int], Parts], error: float = ERROR) -> int | None:
    """The fewest samples per prompt with which `effect` is detectable; None if `MOST_SAMPLES` are too few.

    Args:
        parts: Number of samples per prompt -> variances, such as `Variation.parts`.
    """
    return _fewest(lambda num: chance_to_find(effect, design, parts(num), error), 1, MOST_SAMPLES)


def _fewest(power: Callable[[int], float], least: int, most: int) -> int | None:
    """The smallest number with enough power, by bisection: power grows with it."""
    if power(most) < POWER:
        return None
    low, high = least - 1, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(middle) >= POWER else (middle, high)
    return high


def _half_widths(design: Design, parts: Parts, error: float) -> tuple[Any, float]:
    """Half widths of the interval at equally likely estimates of its variance, and the true standard error.

    The estimates behind `TwoLevelMean`: its seed part is chi-square distributed around its true value, its prompt part
    is the difference of two mean squares, of which the second, with far more degrees of freedom, is taken as exact.
    """
    import numpy as np
    from scipy.special import chdtri, stdtrit  # type: ignore[import-untyped]

    seeds, prompts = design.num_seeds, design.num_prompts
    size, rest = seeds * prompts, parts.rest

    def estimates(freedom: int, points: int) -> Any:
        return chdtri(freedom, 1.0 - (np.arange(points) + 0.5) / points) / freedom

    of_seeds = ((prompts * parts.seed + rest) * estimates(seeds - 1, _SEED_POINTS) / size)[:, None]
    by_prompt = (seeds * parts.prompt + rest) * estimates(prompts - 1, _PROMPT_POINTS)
    of_prompts = (np.maximum(0.0, by_prompt - rest) / size)[None, :]
    of_rest = np.maximum(0.0, rest / size - of_seeds - of_prompts)
    squares, weighted = of_seeds + of_prompts + of_rest, 0.0
    freedoms = (seeds - 1, prompts - 1, (seeds - 1) * (prompts - 1))
    for part, freedom in zip((of_seeds, of_prompts, of_rest), freedoms, strict=True):
        weighted = weighted + part * float(stdtrit(freedom, 1.0 - error / 2.0))
    true = math.sqrt(parts.seed / seeds + parts.prompt / prompts + rest / size)
    return np.divide(weighted, np.sqrt(squares), out=np.zeros_like(squares), where=squares > 0.0), true


def _chance(effect: float, halves: Any, spread: float) -> float:
    from scipy.special import ndtr

    if spread == 0.0:
        return float(effect != 0.0)
    return float((ndtr((effect - halves) / spread) + ndtr((-effect - halves) / spread)).mean())
