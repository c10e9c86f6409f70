"""Rates, intervals and comparisons against published and hand-computed numbers."""

from __future__ import annotations

import itertools
import math
import random
import subprocess
import sys
from typing import Any

import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from halo_forge.core.statistics import (
    bootstrap_interval,
    clustered_rate,
    holm,
    mean_and_standard_error,
    paired_difference,
    pass_at_k,
    prompts_needed,
    two_level_mean,
    wilson_interval,
)

COUNTS = st.integers(0, 8).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total)))


@pytest.mark.parametrize(
    ("num_samples", "num_passed", "k", "expected"),
    [
        (8, 1, 1, 0.125),
        (8, 1, 4, 0.5),
        (8, 2, 4, 0.785714),
        (8, 4, 4, 0.985714),
        (10, 3, 5, 0.916667),
        (10, 5, 2, 0.777778),
        (5, 1, 2, 0.4),
        (200, 10, 10, 0.408548),
        (200, 1, 100, 0.5),
        (8, 5, 4, 1.0),
        (8, 0, 8, 0.0),
        (8, 1, 8, 1.0),
        (1000, 1, 500, 0.5),
    ],
)
def test_pass_at_k(num_samples: int, num_passed: int, k: int, expected: float) -> None:
    assert pass_at_k(num_samples, num_passed, k) == pytest.approx(expected, abs=5e-7)


def test_pass_at_k_is_not_the_biased_estimate() -> None:
    for (num_samples, num_passed, k), biased in {(8, 1, 4): 0.413818, (8, 4, 4): 0.9375, (10, 3, 5): 0.831930}.items():
        assert 1 - (1 - num_passed / num_samples) ** k == pytest.approx(biased, abs=5e-7)
        assert pass_at_k(num_samples, num_passed, k) > biased + 0.04


@given(num_samples=st.integers(1, 60), data=st.data())
def test_pass_at_k_grows_with_k_and_is_the_rate_at_1(num_samples: int, data: st.DataObject) -> None:
    num_passed = data.draw(st.integers(0, num_samples))
    found = [pass_at_k(num_samples, num_passed, k) for k in range(1, num_samples + 1)]
    assert found[0] == pytest.approx(num_passed / num_samples)
    assert found == sorted(found)
    assert all(0.0 <= value <= 1.0 for value in found)


def test_pass_at_k_by_counting_every_draw() -> None:
    for num_samples, num_passed, k in itertools.product(range(1, 8), range(8), range(1, 8)):
        if num_passed <= num_samples and k <= num_samples:
            samples = [True] * num_passed + [False] * (num_samples - num_passed)
            draws = [any(draw) for draw in itertools.combinations(samples, k)]
            assert pass_at_k(num_samples, num_passed, k) == pytest.approx(sum(draws) / len(draws))


@pytest.mark.parametrize(("arguments"), [(8, 1, 9), (8, 1, 0), (8, 9, 1), (8, -1, 1), (0, 0, 1)])
def test_pass_at_k_refuses(arguments: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="samples"):
        pass_at_k(*arguments)


@pytest.mark.parametrize(
    ("num_passed", "num_samples", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (0, 8, 0.0, 0.3244),
        (8, 8, 0.6756, 1.0),
        (5, 10, 0.2366, 0.7634),
        (41, 128, 0.2457, 0.4054),
        (86, 128, 0.5866, 0.7472),
        (125, 128, 0.9334, 0.9920),
        (127, 128, 0.9571, 0.9986),
        (100, 200, 0.4314, 0.5686),
    ],
)
def test_wilson_interval(num_passed: int, num_samples: int, low: float, high: float) -> None:
    found = wilson_interval(num_passed / num_samples, num_samples)
    assert found == pytest.approx((low, high), abs=5e-5)
    assert (found[0] == 0.0) == (num_passed == 0)
    assert (found[1] == 1.0) == (num_passed == num_samples)


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_wilson_interval_equals_that_of_scipy(confidence: float) -> None:
    from scipy.stats import binomtest

    for num_passed, num_samples in [(0, 5), (3, 7), (50, 50), (17, 80)]:
        theirs = binomtest(num_passed, num_samples).proportion_ci(confidence, method="wilson")
        ours = wilson_interval(num_passed / num_samples, num_samples, confidence)
        assert ours == pytest.approx((theirs.low, theirs.high), abs=1e-12)


@pytest.mark.parametrize(
    "arguments", [(-0.1, 10), (1.1, 10), (math.nan, 10), (0.5, 0), (0.5, math.nan), (0.5, 10, 1.0)]
)
def test_wilson_interval_refuses(arguments: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="must be"):
        wilson_interval(*arguments)


def test_clustered_rate_by_hand() -> None:
    """Shares 0, 0.25, 0.75, 1: SE^2 = 0.625 / 12, and p(1-p) / SE^2 = 4.8 of the 16 samples."""
    rate = clustered_rate([(0, 4), (1, 4), (3, 4), (4, 4)])
    assert (rate.mean, rate.num_prompts, rate.num_samples) == (0.5, 4, 16)
    assert rate.standard_error == pytest.approx(math.sqrt(0.625 / 12))
    assert rate.effective_size == pytest.approx(4.8)
    assert rate.design_effect == pytest.approx(16 / 4.8)
    assert (rate.low, rate.high) == wilson_interval(0.5, rate.effective_size)


@pytest.mark.parametrize(
    ("num_passed", "num_samples", "percent"), [(3275, 5000, 0.67), (137, 164, 2.89), (1883, 2500, 0.86)]
)
def test_standard_error_of_one_sample_per_prompt(num_passed: int, num_samples: int, percent: float) -> None:
    """The models of Miller 2024, where each question has one answer; the paper divides by n, an estimate by n - 1."""
    rate = clustered_rate([(int(i < num_passed), 1) for i in range(num_samples)])
    assert 100 * rate.standard_error * math.sqrt(1 - 1 / num_samples) == pytest.approx(percent, abs=0.01)
    assert rate.effective_size == num_samples
    assert (rate.low, rate.high) == wilson_interval(rate.mean, num_samples)


def test_effective_size_stays_between_prompts_and_samples() -> None:
    alike = clustered_rate([(2, 4)] * 5)
    assert (alike.standard_error, alike.effective_size, alike.design_effect) == (0.0, 20.0, 1.0)
    apart = clustered_rate([(0, 4), (4, 4), (0, 4), (4, 4)])
    assert (apart.effective_size, apart.design_effect) == (4.0, 4.0)
    assert apart.standard_error == pytest.approx(math.sqrt(1 / 12))


@pytest.mark.parametrize(("num_passed", "interval"), [(0, (0.0, 0.3244)), (4, (0.6756, 1.0))])
def test_all_or_nothing_counts_each_prompt_once(num_passed: int, interval: tuple[float, float]) -> None:
    rate = clustered_rate([(num_passed, 4)] * 8)
    assert (rate.standard_error, rate.effective_size) == (0.0, 8.0)
    assert (rate.low, rate.high) == pytest.approx(interval, abs=5e-5)


def test_one_prompt_counts_as_one_sample() -> None:
    rate = clustered_rate([(2, 8)])
    assert (rate.mean, rate.standard_error, rate.effective_size) == (0.25, math.sqrt(0.1875), 1.0)
    assert rate.high - rate.low > 0.7


@pytest.mark.parametrize(("num_per_prompt", "expected"), [(4, 1.9), (8, 3.1)])
def test_design_effect_of_prompts_that_differ(num_per_prompt: int, expected: float) -> None:
    """1 + (k-1) * 0.3, drawn from prompts whose difficulty is Beta(7/6, 7/6): intra-class correlation 0.3."""
    generator = random.Random(0)
    difficulties = [generator.betavariate(7 / 6, 7 / 6) for _ in range(20_000)]
    counts = [
        (sum(generator.random() < share for _ in range(num_per_prompt)), num_per_prompt) for share in difficulties
    ]
    assert clustered_rate(counts).design_effect == pytest.approx(expected, rel=0.03)


@given(counts=st.lists(COUNTS, min_size=1, max_size=30))
def test_clustered_rate_properties(counts: list[tuple[int, int]]) -> None:
    judged = [pair for pair in counts if pair[1] > 0]
    if not judged:
        with pytest.raises(ValueError, match="at least one prompt"):
            clustered_rate(counts)
        return
    rate = clustered_rate(counts)
    assert rate == clustered_rate(judged), "prompts without a sample do not count"
    assert 0.0 <= rate.low <= rate.mean <= rate.high <= 1.0
    assert rate.low < rate.high
    assert rate.num_prompts <= rate.effective_size <= rate.num_samples
    if all(total == 1 for _, total in judged):
        assert (rate.low, rate.high) == wilson_interval(rate.mean, len(judged))


@pytest.mark.parametrize("counts", [[], [(0, 0)], [(2, 1)], [(-1, 1)]])
def test_clustered_rate_refuses(counts: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match=r"at least one prompt|impossible"):
        clustered_rate(counts)


def rates(values: list[float]) -> dict[str, float]:
    return {f"task-{i:03d}": value for i, value in enumerate(values)}


def test_paired_difference_uses_shared_prompts_only() -> None:
    found = paired_difference({"x": 0.5, "y": 0.25, "only-a": 1.0}, {"y": 0.75, "x": 0.5, "only-b": 0.0})
    assert (found.mean, found.num_prompts) == (0.25, 2)
    assert found.standard_error == pytest.approx(0.25)
    assert found.minimum_detectable_effect == pytest.approx(2.8 * 0.25)
    assert (found.low, found.high) == (0.0, 0.5)


def test_paired_difference_of_many_prompts_is_student_t() -> None:
    """Differences 0 and 0.2, half each: mean 0.1, sd 0.1 * sqrt(100/99), t(0.975, 99) = 1.98422."""
    found = paired_difference(rates([0.5] * 100), rates([0.5, 0.7] * 50))
    standard_error = 0.1 / math.sqrt(99)
    assert found.mean == pytest.approx(0.1)
    assert found.standard_error == pytest.approx(standard_error)
    assert (found.low, found.high) == pytest.approx(
        (0.1 - 1.984217 * standard_error, 0.1 + 1.984217 * standard_error), abs=1e-7
    )


def test_paired_difference_of_few_prompts_is_a_seeded_bootstrap() -> None:
    generator = random.Random(1)
    before = [generator.random() / 2 for _ in range(60)]
    after = [value + generator.gauss(0.1, 0.2) for value in before]
    found = paired_difference(rates(before), rates(after), seed=7)
    assert found == paired_difference(rates(before), rates(after), seed=7)
    assert found != paired_difference(rates(before), rates(after), seed=8)
    shuffled = dict(reversed(rates(after).items()))
    assert found == paired_difference(rates(before), shuffled, seed=7), "the order of the ids plays no part"
    half = (found.high - found.low) / 2
    assert half == pytest.approx(1.96 * found.standard_error, rel=0.05)
    assert (found.low + found.high) / 2 == pytest.approx(found.mean, abs=0.1 * found.standard_error)


@pytest.mark.parametrize("num_prompts", [2, 99, 100, 150])
def test_equal_differences_have_an_interval_without_width(num_prompts: int) -> None:
    before = rates([0.25, 0.5] * num_prompts)
    found = paired_difference(before, {key: value + 0.25 for key, value in before.items()})
    assert (found.mean, found.low, found.high) == (0.25, 0.25, 0.25)
    assert (found.standard_error, found.minimum_detectable_effect) == (0.0, 0.0)


def test_the_sign_is_b_minus_a() -> None:
    a, b = rates([0.1, 0.2, 0.3, 0.9]), rates([0.4, 0.4, 0.6, 0.9])
    assert paired_difference(a, b).mean == pytest.approx(0.2)
    assert paired_difference(b, a).mean == pytest.approx(-0.2)


@pytest.mark.parametrize("num_shared", [0, 1])
def test_paired_difference_needs_two_prompts(num_shared: int) -> None:
    with pytest.raises(ValueError, match=f"at least 2 shared prompt ids, found {num_shared}"):
        paired_difference(rates([0.5] * 3), {"other": 1.0, **rates([0.5] * num_shared)})


def test_bootstrap_interval_covers_the_mean_as_often_as_it_says() -> None:
    generator = random.Random(3)
    hits = 0
    for seed in range(200):
        low, high = bootstrap_interval([generator.gauss(0.0, 1.0) for _ in range(40)], seed, confidence=0.9)
        hits += low <= 0.0 <= high
    assert 165 <= hits <= 192


def test_bootstrap_interval_by_hand() -> None:
    """Three values, 27 equally likely draws: the mean is 0 in 1 of 27 and 1 in 1 of 27, so 95 % reaches both."""
    assert bootstrap_interval([0.0, 0.0, 1.0], seed=0) == (0.0, 1.0)
    assert bootstrap_interval([0.0, 0.0, 1.0], seed=0, confidence=0.3) == (pytest.approx(1 / 3), pytest.approx(1 / 3))
    assert bootstrap_interval([0.3], seed=0) == (0.3, 0.3)
    assert bootstrap_interval([0.1] * 7, seed=0) == (0.1, 0.1)


@pytest.mark.parametrize("values", [[], [0.5, math.nan], [0.5, math.inf]])
def test_bootstrap_interval_refuses(values: list[float]) -> None:
    with pytest.raises(ValueError, match="finite values"):
        bootstrap_interval(values, seed=0)


def test_a_two_level_mean_by_hand() -> None:
    """Two seeds, three prompts: seeds are 0.1 apart, prompts 0.1 and 0.3, and what is left is +-0.05."""
    found = two_level_mean([[0.0, 0.1, 0.3], [0.1, 0.3, 0.3]])
    # Means of the seeds 0.4/3 and 0.7/3; of the prompts 0.05, 0.2, 0.3; the whole 1.1/6.
    by_seed = 3 * 2 * 0.05**2 / 1
    by_prompt = 2 * ((0.05 - 1.1 / 6) ** 2 + (0.2 - 1.1 / 6) ** 2 + (0.3 - 1.1 / 6) ** 2) / 2
    by_rest = 2 * (0.0**2 + 0.05**2 + 0.05**2) / 2
    assert found.mean == pytest.approx(1.1 / 6)
    assert found.rest_variance == pytest.approx(by_rest)
    assert found.seed_variance == pytest.approx((by_seed - by_rest) / 3)
    assert found.prompt_variance == pytest.approx((by_prompt - by_rest) / 2)
    assert found.standard_error == pytest.approx(math.sqrt((by_seed + by_prompt - by_rest) / 6))
    # Student's t at 97.5 %: 12.706 with 1 degree of freedom, 4.303 with 2.
    weighted = (12.7062 * by_seed + 4.30265 * (by_prompt - by_rest)) / 6
    assert found.half_width() == pytest.approx(weighted / found.standard_error, rel=1e-4)


def test_where_only_seeds_differ_the_interval_is_students_over_seeds() -> None:
    seeds = [0.02, 0.05, 0.11, 0.04]
    found = two_level_mean([[value] * 30 for value in seeds])
    wanted = scipy.stats.ttest_1samp(seeds, 0.0)
    assert found.interval() == pytest.approx(tuple(wanted.confidence_interval(0.95)))
    assert found.p_value() == pytest.approx(wanted.pvalue)


def test_where_only_prompts_differ_the_interval_is_students_over_prompts() -> None:
    prompts = [number / 20 - 0.4 for number in range(20)]
    found = two_level_mean([prompts] * 3)
    wanted = scipy.stats.ttest_1samp(prompts, 0.0)
    assert found.interval(0.9) == pytest.approx(tuple(wanted.confidence_interval(0.9)))
    assert found.p_value() == pytest.approx(wanted.pvalue)
    assert (found.seed_variance, found.rest_variance) == (0.0, 0.0)


@given(
    st.integers(2, 5).flatmap(
        lambda size: st.lists(st.lists(st.floats(-1, 1), min_size=size, max_size=size), min_size=2, max_size=5)
    )
)
def test_the_p_value_and_the_interval_of_a_two_level_mean_say_the_same(values: list[list[float]]) -> None:
    found = two_level_mean(values)
    p_value, (low, high) = found.p_value(), found.interval()
    assert low <= found.mean <= high and 0.0 <= p_value <= 1.0
    if abs(p_value - 0.05) > 1e-6:
        assert (p_value < 0.05) == (not low <= 0.0 <= high)


def test_seeds_that_agree_by_chance_do_not_hide_the_noise_of_their_samples() -> None:
    """The means of both seeds are 0.5, and so are those of all prompts; the values are not."""
    found = two_level_mean([[0.0, 1.0, 0.0, 1.0], [1.0, 0.0, 1.0, 0.0]])
    assert (found.seed_square, found.prompt_square) == (0.0, 0.0)
    assert found.standard_error == pytest.approx(math.sqrt(8 * 0.25 / 3 / 8))


@pytest.mark.parametrize("value", [0.0, 0.1, 0.3])
def test_a_two_level_mean_of_equal_values_has_no_width(value: float) -> None:
    found = two_level_mean([[value] * 7] * 3)
    assert found.interval() == pytest.approx((value, value), abs=1e-15)
    assert found.p_value() == (1.0 if value == 0.0 else 0.0)


@pytest.mark.parametrize("values", [[], [[], []], [[0.1, 0.2]], [[0.1], [0.2]], [[0.1, 0.2], [0.1]]])
def test_two_level_mean_refuses_a_single_row_or_column(values: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="rows of equal length"):
        two_level_mean(values)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_two_level_mean_refuses_what_is_not_a_number(bad: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        two_level_mean([[0.1, bad], [0.1, 0.2]])


def test_holm() -> None:
    """Four p-values, sorted 0.005, 0.01, 0.03, 0.04: times 4, 3, 2, 1, and never below the one before."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.2]) == [0.2]
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        holm([1.2])


@pytest.mark.parametrize(("within", "samples", "expected"), [(0.0, 1, 969), (1 / 6, 10, 1260), (1 / 6, 1, 3876)])
def test_prompts_needed(within: float, samples: int, expected: int) -> None:
    """Miller 2024, section 5: a difference of 3 points, omega^2 = 1/9; there z is rounded to 1.96 and 0.84."""
    found = prompts_needed(0.03, 1 / 9, (within, within), (samples, samples))
    assert found == pytest.approx(expected, rel=0.002)


def test_prompts_needed_and_what_is_detectable_are_inverse() -> None:
    num = prompts_needed(0.05, 0.04)
    assert 2.8 * math.sqrt(0.04 / num) == pytest.approx(0.05, rel=0.01)


@pytest.mark.parametrize(
    "arguments", [(0.0, 0.1), (0.1, -0.1), (0.1, 0.1, (-1.0, 0.0)), (0.1, 0.1, (1.0, 1.0), (0, 1))]
)
def test_prompts_needed_refuses(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match="not a valid comparison"):
        prompts_needed(*arguments)


def test_mean_and_standard_error() -> None:
    assert mean_and_standard_error([0.0, 1.0, 0.5, 0.5]) == pytest.approx((0.5, math.sqrt(0.5 / 12)))
    assert mean_and_standard_error([0.1] * 3) == (pytest.approx(0.1), 0.0)
    with pytest.raises(ValueError, match="at least 2"):
        mean_and_standard_error([0.5])


def test_import_is_light() -> None:
    code = "import sys, halo_forge.core.statistics; print([name for name in ('numpy', 'scipy') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
