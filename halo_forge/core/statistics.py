"""Rates and comparisons with intervals clustered by prompt: samples of one prompt are not independent, prompts are.

numpy and scipy are imported inside the functions, so that the command line starts fast.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean

HALF_WIDTH = 1.96
"""Half the width of a 95 % interval, in standard errors."""
DETECTABLE = 2.8
"""The minimum detectable effect in standard errors: normal quantiles for 5 % two-sided error plus 80 % power."""

_NUM_DRAWS = 10_000
_DRAWS_AT_ONCE = 500
_MIN_PROMPTS_FOR_T = 100
_BISECTIONS = 45


@dataclass(frozen=True, slots=True)
class Rate:
    """The mean pass share over prompts.

    Attributes:
        mean: Mean over prompts of passed / total, in [0, 1].
        standard_error: Of the mean, clustered by prompt.
        low, high: Wilson interval at `effective_size`.
        num_prompts, num_samples: Prompts with at least one sample, and their samples.
        effective_size: The number of independent samples with this standard error; from `num_prompts` to
            `num_samples`.
    """

    mean: float
    standard_error: float
    low: float
    high: float
    num_prompts: int
    num_samples: int
    effective_size: float

    @property
    def design_effect(self) -> float:
        """The design effect (DEFF): `num_samples / effective_size`, at least 1."""
        return self.num_samples / self.effective_size


@dataclass(frozen=True, slots=True)
class Difference:
    """The mean over shared prompts of b - a.

    Attributes:
        low, high: Interval of the mean; width 0 if all differences are equal.
        minimum_detectable_effect: 2.8 standard errors: a true difference of this size is detected in 80 % of such
            comparisons at 5 % two-sided error.
    """

    mean: float
    standard_error: float
    low: float
    high: float
    num_prompts: int
    minimum_detectable_effect: float


def pass_at_k(num_samples: int, num_passed: int, k: int) -> float:
    """Unbiased estimate of the probability that at least one of k samples passes: `1 - C(n-c, k) / C(n, k)`.

    Source: Chen et al. 2021, arXiv 2107.03374.

    Raises:
        ValueError: Not `0 <= num_passed <= num_samples`, or not `1 <= k <= num_samples`.
    """
    if not 0 <= num_passed <= num_samples:
        raise ValueError(f"{num_passed} of {num_samples} samples passed; that is impossible")
    if not 1 <= k <= num_samples:
        raise ValueError(f"k is {k}; pass@k of {num_samples} samples needs k from 1 to {num_samples}")
    # Exact integers; comb is 0 if fewer than k samples failed.
    return 1.0 - math.comb(num_samples - num_passed, k) / math.comb(num_samples, k)


def wilson_interval(rate: float, num_effective: float, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a proportion; the sample size need not be a whole number.

    `(p + z^2/2n) / (1 + z^2/n)` plus and minus `z / (1 + z^2/n) * sqrt(p(1-p)/n + z^2/4n^2)`.
    Source: Wilson 1927; Newcombe 1998, method 3.

    Raises:
        ValueError: `rate` outside [0, 1], `num_effective` not above 0, or `confidence` outside (0, 1).
    """
    if not 0.0 <= rate <= 1.0:
        raise ValueError(f"rate is {rate}; it must be in [0, 1]")
    if not num_effective > 0.0:
        raise ValueError(f"num_effective is {num_effective}; it must be above 0")
    z = NormalDist().inv_cdf(1.0 - _tail(confidence))
    shrink = 1.0 + z * z / num_effective
    centre = (rate + z * z / (2.0 * num_effective)) / shrink
    half = z / shrink * math.sqrt(rate * (1.0 - rate) / num_effective + z * z / (4.0 * num_effective**2))
    # The interval reaches 0 or 1 exactly if the rate does; rounding must not change that.
    low = 0.0 if rate == 0.0 else max(0.0, centre - half)
    high = 1.0 if rate == 1.0 else min(1.0, centre + half)
    return low, high


def clustered_rate(
    counts: Sequence[tuple[int, int]], confidence: float = 0.95, *, num_samples: int | None = None
) -> Rate:
    """The pass rate over prompts, with `counts` the (passed, total) samples of each prompt.

    With N prompts of pass share p_i: `SE = sqrt(sum (p_i - p)^2 / (N (N-1)))`, the Wilson interval at
    `p(1-p) / SE^2` samples, clamped between N and the number of samples; N if p is 0 or 1 (no spread to estimate from)
    and if N is 1.  With one sample per prompt this is the plain Wilson interval.  For a single prompt the
    standard error is that of one sample.  Source: Miller 2024, arXiv 2411.00640, section 2.2; Kish's effective size.

    Prompts with a total of 0 are left out.

    Args:
        num_samples: The number of independent samples, if it is not the sum of the totals.

    Raises:
        ValueError: No prompt has a sample, a count is negative, or more samples passed than there are.
    """
    for passed, total in counts:
        if not 0 <= passed <= total:
            raise ValueError(f"{passed} of {total} samples passed; that is impossible")
    shares = [passed / total for passed, total in counts if total > 0]
    if not shares:
        raise ValueError("a rate needs at least one prompt with a sample, found none")
    num_prompts = len(shares)
    num_samples = sum(total for _, total in counts) if num_samples is None else num_samples
    mean = fmean(shares)
    variance = mean * (1.0 - mean)
    if num_prompts == 1:
        standard_error = math.sqrt(variance)
    else:
        squares = math.fsum((share - mean) ** 2 for share in shares)
        standard_error = math.sqrt(squares / (num_prompts * (num_prompts - 1)))
    effective_size = _effective_size(variance, standard_error, num_prompts, num_samples)
    low, high = wilson_interval(mean, effective_size, confidence)
    return Rate(mean, standard_error, low, high, num_prompts, num_samples, effective_size)


def paired_difference(
    a: Mapping[str, float], b: Mapping[str, float], seed: int = 0, confidence: float = 0.95
) -> Difference:
    """The mean of b - a over the prompt ids that both have; each value is the rate of one prompt.

    The interval is Student's t with N - 1 degrees of freedom for N >= 100 prompts, otherwise the seeded bootstrap
    over prompts (`bootstrap_interval`).  If all differences are equal there is no spread to estimate from: the standard
    error is 0 and the interval has no width, which with few prompts is overconfident.  The order of the ids does not
    matter.

    Raises:
        ValueError: Fewer than two shared ids, so the spread is unknown.
    """
    shared = sorted(a.keys() & b.keys())
    if len(shared) < 2:
        raise ValueError(f"a paired difference needs at least 2 shared prompt ids, found {len(shared)}")
    differences = [b[prompt_id] - a[prompt_id] for prompt_id in shared]
    count = len(differences)
    mean, standard_error = mean_and_standard_error(differences)
    if count >= _MIN_PROMPTS_FOR_T:
        from scipy.special import stdtrit  # type: ignore[import-untyped]

        half = float(stdtrit(count - 1, 1.0 - _tail(confidence))) * standard_error
        low, high = mean - half, mean + half
    else:
        low, high = bootstrap_interval(differences, seed, confidence)
    return Difference(mean, standard_error, low, high, count, DETECTABLE * standard_error)


def mean_and_standard_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean of independent values and `sqrt(sum (x - mean)^2 / (N (N-1)))`; exactly 0 if all are equal.

    Raises:
        ValueError: Fewer than two values, so the spread is unknown.
    """
    if len(values) < 2:
        raise ValueError(f"a standard error needs at least 2 values, found {len(values)}")
    mean, count = fmean(values), len(values)
    if max(values) == min(values):
        return mean, 0.0
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count * (count - 1)))


def prompts_needed(
    effect: float, between: float, within: tuple[float, float] = (0.0, 0.0), samples: tuple[int, int] = (1, 1)
) -> int:
    """Number of prompts that detect a true difference `effect` in 80 % of paired comparisons at 5 % two-sided error.

    `((1.96 + 0.84) / effect)^2 * (between + within_a / samples_a + within_b / samples_b)`, rounded up.
    Source: Miller 2024, arXiv 2411.00640, section 5.

    Args:
        between: Variance over prompts of the true differences.
        within: Variance of one sample of a prompt, mean over prompts, for each of the two versions.
        samples: Samples per prompt, for each of the two versions.

    Raises:
        ValueError: `effect` is 0, a variance is negative, or a number of samples is below 1.
    """
    if effect == 0.0 or min(between, *within) < 0.0 or min(samples) < 1:
        raise ValueError(
            f"effect {effect}, variances {between} and {within}, samples {samples}: not a valid comparison"
        )
    variance = between + sum(each / num for each, num in zip(within, samples, strict=True))
    quantiles = NormalDist().inv_cdf(0.975) + NormalDist().inv_cdf(0.8)
    return math.ceil((quantiles / effect) ** 2 * variance)


@dataclass(frozen=True, slots=True)
class TwoLevelMean:
    """A mean over training seeds and prompts, where every seed has the same prompts.

    The model is `value[s][i] = mean + seed_s + prompt_i + rest_si` with independent, normal parts (a crossed
    two-way layout with one value per cell); the variances are estimated from the mean squares.

    Attributes:
        num_seeds, num_prompts: Rows and columns, at least 2 of each.
        seed_variance, prompt_variance, rest_variance: Estimates of the variances of the three parts, at least 0.
        seed_square: Square of the standard error, as far as the means of the seeds show it: seeds and rest.
        prompt_square: What the prompts add to it.
        rest_square: What is missing from both to what the rest alone gives; 0 unless the means agree by chance.
    """

    mean: float
    num_seeds: int
    num_prompts: int
    seed_variance: float
    prompt_variance: float
    rest_variance: float
    seed_square: float
    prompt_square: float
    rest_square: float

    @property
    def standard_error(self) -> float:
        """Of the mean."""
        return math.sqrt(self.seed_square + self.prompt_square + self.rest_square)

    def half_width(self, confidence: float = 0.95) -> float:
        """Half the width of the interval: Student's t of each part, weighted by its square, times the standard error.

        Each part has its own degrees of freedom: seeds - 1, prompts - 1, and their product for the rest.  So few seeds
        count by what the seeds are found to differ.  Source: Cochran 1964, Biometrics 20, 191 (the approximate t of
        Cochran and Cox).  Coverage by simulation: docs/experiments.md.
        """
        return self._half_width(_tail(confidence))

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Lowest and highest mean that are not excluded; no width if all values are equal."""
        half = self.half_width(confidence)
        return self.mean - half, self.mean + half

    def p_value(self) -> float:
        """Two-sided, against a mean of 0: 1 - the confidence at which the interval reaches 0.

        Without any spread it is 1 if the mean is 0 and 0 if it is not.
        """
        if self.mean == 0.0:
            return 1.0
        if self.standard_error == 0.0:
            return 0.0
        low, high = 0.0, 0.5  # of the tail: the half width falls with it, from infinity to 0
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2.0
            low, high = (low, middle) if self._half_width(middle) < abs(self.mean) else (middle, high)
        return low + high

    def _half_width(self, tail: float) -> float:
        from scipy.special import stdtrit

        seeds, prompts = self.num_seeds - 1, self.num_prompts - 1
        squares = (self.seed_square, self.prompt_square, self.rest_square)
        if sum(squares) == 0.0:
            return 0.0
        quantiles = stdtrit((seeds, prompts, seeds * prompts), 1.0 - tail).tolist()
        weighted = sum(square * quantile for square, quantile in zip(squares, quantiles, strict=True))
        return float(weighted / math.sqrt(sum(squares)))


def two_level_mean(values: Sequence[Sequence[float]]) -> TwoLevelMean:
    """The mean of `values[s][i]`: of prompt i (a rate, or a difference of two) in the run with seed s.

    Raises:
        ValueError: Fewer than two rows or columns, rows of unequal length, or a value that is not finite.
    """
    import numpy as np

    if len(values) < 2 or len(values[0]) < 2 or len({len(row) for row in values}) != 1:
        raise ValueError(
            f"a two-level mean needs at least 2 rows of equal length, of at least 2 values, found {values[:3]!r}"
        )
    table = np.asarray(values, dtype=np.float64)
    if not np.isfinite(table).all():
        raise ValueError("a two-level mean needs finite values")
    num_seeds, num_prompts = table.shape
    mean, of_seeds, of_prompts = float(table.mean()), table.mean(axis=1), table.mean(axis=0)
    rest = table - of_seeds[:, None] - of_prompts[None, :] + mean
    seeds, prompts = num_seeds - 1, num_prompts - 1
    # Values that are equal but for rounding have no spread.
    tiny = (np.finfo(np.float64).eps * max(1.0, float(np.abs(table).max()))) ** 2 * table.size
    squares = [
        num_prompts * float(((of_seeds - mean) ** 2).sum()) / seeds,
        num_seeds * float(((of_prompts - mean) ** 2).sum()) / prompts,
        float((rest**2).sum()) / (seeds * prompts),
    ]
    by_seed, by_prompt, by_rest = (square if square > tiny else 0.0 for square in squares)
    size = table.size
    seed_square, prompt_square = by_seed / size, max(0.0, by_prompt - by_rest) / size
    return TwoLevelMean(
        mean=mean,
        num_seeds=num_seeds,
        num_prompts=num_prompts,
        seed_variance=max(0.0, by_seed - by_rest) / num_prompts,
        prompt_variance=max(0.0, by_prompt - by_rest) / num_seeds,
        rest_variance=by_rest,
        seed_square=seed_square,
        prompt_square=prompt_square,
        rest_square=max(0.0, by_rest / size - seed_square - prompt_square),
    )


def interval_without_spread(
    mean: float, num_prompts: int, lowest: float, highest: float, confidence: float = 0.95
) -> tuple[float, float]:
    """Interval of a mean over prompts that all have this one value, which is in [lowest, highest].

    Equal values have no spread to estimate from, but so few prompts cannot exclude that others differ: a share of
    `1 - (tail)^(1 / prompts)` is still seen nowhere with the probability `tail` (Clopper and Pearson 1934; "3 in N"),
    and such prompts could be as far away as the range allows.
    """
    share = 1.0 - _tail(confidence) ** (1.0 / num_prompts)
    return mean - (mean - lowest) * share, mean + (highest - mean) * share


def p_without_spread(difference: float, num_prompts: int) -> float:
    """Two-sided p-value of a difference in [-1, 1] that all prompts have alike; fits `interval_without_spread`."""
    return min(1.0, 2.0 * (1.0 + abs(difference)) ** -num_prompts)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values adjusted for being a family: below 0.05, all of them are wrong in at most 5 % of families.

    The i-th smallest of m is multiplied by m - i + 1, and is at least the one before it and at most 1.
    Source: Holm 1979, Scand. J. Statist. 6, 65.

    Raises:
        ValueError: A value is outside [0, 1].
    """
    if not all(0.0 <= value <= 1.0 for value in p_values):
        raise ValueError(f"p-values are in [0, 1], found {list(p_values)}")
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for place, at in enumerate(sorted(range(len(p_values)), key=lambda each: p_values[each])):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[at]))
        adjusted[at] = highest
    return adjusted


def bootstrap_interval(values: Sequence[float], seed: int, confidence: float = 0.95) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of `values`: 10,000 draws with replacement, equal for equal seeds.

    Equal values give an interval of no width.  Source: Efron 1979.

    Raises:
        ValueError: No values, a value that is not finite, or `confidence` outside (0, 1).
    """
    tail = _tail(confidence)
    if not values or not all(math.isfinite(value) for value in values):
        raise ValueError(f"a bootstrap needs finite values, found {list(values)[:5]}")
    if max(values) == min(values):
        return values[0], values[0]
    import numpy as np

    generator = np.random.default_rng(seed)
    sample = np.asarray(values, dtype=np.float64)
    means = np.empty(_NUM_DRAWS)
    # In chunks, so that thousands of values do not need gigabytes.
    for start in range(0, _NUM_DRAWS, _DRAWS_AT_ONCE):
        drawn = generator.integers(0, len(values), size=(_DRAWS_AT_ONCE, len(values)))
        means[start : start + _DRAWS_AT_ONCE] = sample[drawn].mean(axis=1)
    low, high = np.quantile(means, [tail, 1.0 - tail])
    return float(low), float(high)


def _effective_size(variance: float, standard_error: float, num_prompts: int, num_samples: int) -> float:
    if variance == 0.0 or num_prompts == 1:
        return float(num_prompts)
    if standard_error == 0.0:
        return float(num_samples)
    return min(max(variance / standard_error**2, float(num_prompts)), float(num_samples))


def _tail(confidence: float) -> float:
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence is {confidence}; it must be between 0 and 1")
    return (1.0 - confidence) / 2.0
