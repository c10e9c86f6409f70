"""Detectable effects against published tables, closed forms and each other."""

from __future__ import annotations

import math
from typing import Any

import pytest
import scipy.stats

from halo_forge.core.power import (
    MOST_SEEDS,
    Design,
    Variation,
    between_versions,
    chance_to_find,
    detectable,
    intraclass_correlation,
    prompts_between_versions,
    prompts_for,
    samples_for,
    seeds_for,
)
from halo_forge.core.statistics import clustered_rate

SIZE = Design(3, 64, 8)


@pytest.mark.parametrize(
    ("num_prompts", "num_samples", "expected"),
    [(24, 4, 0.178), (40, 4, 0.138), (64, 8, 0.081), (200, 8, 0.046), (500, 8, 0.029)],
)
def test_what_two_versions_of_one_run_must_differ_by(num_prompts: int, num_samples: int, expected: float) -> None:
    """Rate 0.5, intraclass correlation 0.3, effect sd 0.1: 2.8 sqrt((0.01 + 0.35 / samples) / prompts), by hand."""
    assert between_versions(num_prompts, num_samples).detectable == pytest.approx(expected, abs=5e-4)


def test_prompts_for_two_versions_and_what_they_detect_are_inverse() -> None:
    num = prompts_between_versions(0.05, 8)
    assert between_versions(num, 8).detectable == pytest.approx(0.05, rel=0.01)
    assert between_versions(num * 4, 8).detectable == pytest.approx(0.025, rel=0.01)


@pytest.mark.parametrize("num_seeds", [2, 3, 5])
def test_where_only_seeds_vary_the_power_is_that_of_students_test(num_seeds: int) -> None:
    """Rates of 0 or 1 have no sampling noise; what is left is a t-test of the seeds: the noncentral t distribution."""
    variation = Variation(rate=1.0, effect_sd=0.0, seed_sd=0.02)
    quantile = scipy.stats.t.ppf(0.975, num_seeds - 1)
    for effect in (0.0, 0.02, 0.06):
        shift = effect / (0.02 / math.sqrt(num_seeds))
        wanted = scipy.stats.nct.sf(quantile, num_seeds - 1, shift) + scipy.stats.nct.cdf(
            -quantile, num_seeds - 1, shift
        )
        found = chance_to_find(effect, Design(num_seeds, 50, 4), variation)
        assert found == pytest.approx(wanted, abs=0.004)


def test_the_detectable_effect_is_found_by_four_experiments_in_five() -> None:
    found = detectable(SIZE, Variation())
    assert found is not None
    assert chance_to_find(found, SIZE, Variation()) == pytest.approx(0.8, abs=1e-6)
    assert chance_to_find(-found, SIZE, Variation()) == pytest.approx(0.8, abs=1e-6)
    assert chance_to_find(0.0, SIZE, Variation()) < 0.05


@pytest.mark.parametrize(
    "other", [Design(4, 64, 8), Design(3, 128, 8), Design(3, 64, 16)], ids=["seeds", "prompts", "samples"]
)
def test_more_of_everything_detects_smaller_effects(other: Design) -> None:
    first, second = detectable(SIZE, Variation()), detectable(other, Variation())
    assert first is not None and second is not None
    assert second < first


def test_a_stricter_error_detects_only_larger_effects() -> None:
    one, of_three = detectable(SIZE, Variation()), detectable(SIZE, Variation(), 0.05 / 3)
    assert one is not None and of_three is not None
    assert of_three > one


def test_one_seed_cannot_answer_a_question_about_seeds() -> None:
    alone = Design(1, 200, 8)
    assert detectable(alone, Variation()) is None
    assert chance_to_find(0.9, alone, Variation()) == 0.0


def test_the_fewest_that_are_enough() -> None:
    effect = 0.06
    num_seeds = seeds_for(effect, SIZE, Variation())
    assert num_seeds is not None
    assert chance_to_find(effect, Design(num_seeds, 64, 8), Variation()) >= 0.8
    assert chance_to_find(effect, Design(num_seeds - 1, 64, 8), Variation()) < 0.8
    num_prompts = prompts_for(0.09, SIZE, Variation())
    assert num_prompts is not None
    assert chance_to_find(0.09, Design(3, num_prompts, 8), Variation()) >= 0.8
    assert chance_to_find(0.09, Design(3, num_prompts - 1, 8), Variation()) < 0.8


def test_prompts_and_samples_cannot_make_up_for_seeds_that_differ() -> None:
    """With a standard deviation of 0.02 over 3 seeds alone, the t-test detects 0.065 or more."""
    assert prompts_for(0.05, SIZE, Variation()) is None
    assert samples_for(0.05, SIZE, Variation()) is None
    assert seeds_for(0.0001, SIZE, Variation()) is None
    assert (seeds_for(0.05, SIZE, Variation()) or MOST_SEEDS) < 12


@pytest.mark.parametrize(("num_per_prompt", "correlation"), [(4, 1.0), (4, 0.0), (2, 0.5)])
def test_intraclass_correlation_from_a_rate(num_per_prompt: int, correlation: float) -> None:
    if correlation == 1.0:
        counts = [(0, num_per_prompt), (num_per_prompt, num_per_prompt)] * 50
    elif correlation == 0.0:
        counts = [(num_per_prompt // 2, num_per_prompt)] * 100
    else:  # two samples that agree in 3 of 4 prompts correlate by 2 * 0.75 - 1
        counts = [(0, 2), (2, 2), (0, 2), (2, 2), (0, 2), (2, 2), (1, 2), (1, 2)] * 25
    assert intraclass_correlation(clustered_rate(counts)) == pytest.approx(correlation, abs=0.03)


@pytest.mark.parametrize("counts", [[(1, 1), (0, 1), (1, 1)], [(4, 4)] * 5, [(0, 4)] * 5])
def test_no_intraclass_correlation_without_spread_within_prompts(counts: list[tuple[int, int]]) -> None:
    assert intraclass_correlation(clustered_rate(counts)) is None


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (Variation, {"rate": 1.5}),
        (Variation, {"intraclass_correlation": -0.1}),
        (Variation, {"seed_sd": math.nan}),
        (Design, {"num_seeds": 0, "num_prompts": 3, "num_samples": 1}),
    ],
)
def test_impossible_values_are_refused(kind: Any, arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"not in|below 0|at least 1"):
        kind(**arguments)
