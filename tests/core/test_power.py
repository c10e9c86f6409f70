"""Detectable effects against published tables, closed forms and each other."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import scipy.stats

from halo_forge.core.power import (
    MOST_SEEDS,
    Design,
    Parts,
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

SIZE, PARTS = Design(3, 64), Variation().parts(8)


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
    """Without prompts and noise a t-test of the seeds is left: the noncentral t distribution."""
    quantile = scipy.stats.t.ppf(0.975, num_seeds - 1)
    for effect in (0.0, 0.02, 0.06):
        shift = effect / (0.02 / math.sqrt(num_seeds))
        above = scipy.stats.nct.sf(quantile, num_seeds - 1, shift)
        below = scipy.stats.nct.cdf(-quantile, num_seeds - 1, shift)
        found = chance_to_find(effect, Design(num_seeds, 50), Parts(0.02**2, 0.0, 0.0))
        assert found == pytest.approx(above + below, abs=0.004)


def test_the_detectable_effect_is_found_by_four_experiments_in_five() -> None:
    found = detectable(SIZE, PARTS)
    assert found is not None
    assert chance_to_find(found, SIZE, PARTS) == pytest.approx(0.8, abs=1e-6)
    assert chance_to_find(-found, SIZE, PARTS) == pytest.approx(0.8, abs=1e-6)
    assert chance_to_find(0.0, SIZE, PARTS) < 0.05


@pytest.mark.parametrize(
    ("design", "num_samples"),
    [(Design(4, 64), 8), (Design(3, 128), 8), (SIZE, 16)],
    ids=["seeds", "prompts", "samples"],
)
def test_more_of_everything_detects_smaller_effects(design: Design, num_samples: int) -> None:
    first, second = detectable(SIZE, PARTS), detectable(design, Variation().parts(num_samples))
    assert first is not None and second is not None
    assert second < first


def test_the_table_of_the_documentation() -> None:
    page = (Path(__file__).parents[2] / "docs" / "experiments.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) prompts x (\d+) samples \| (.*) \|$", page, re.MULTILINE)
    assert len(rows) == 4
    for num_prompts, num_samples, cells in rows:
        parts = Variation().parts(int(num_samples))
        found = [detectable(Design(num_seeds, int(num_prompts)), parts) for num_seeds in (2, 3, 5, 10)]
        assert [f"{each:.3f}" for each in found] == cells.split(" | ")


def test_a_difference_of_differences_needs_a_larger_effect() -> None:
    one, four = detectable(SIZE, PARTS), detectable(SIZE, Variation().parts(8, sides=4))
    assert one is not None and four is not None
    assert four > one


def test_a_stricter_error_detects_only_larger_effects() -> None:
    one, of_three = detectable(SIZE, PARTS), detectable(SIZE, PARTS, 0.05 / 3)
    assert one is not None and of_three is not None
    assert of_three > one


def test_one_seed_cannot_answer_a_question_about_seeds() -> None:
    assert detectable(Design(1, 200), PARTS) is None
    assert chance_to_find(0.9, Design(1, 200), PARTS) == 0.0


def test_the_fewest_that_are_enough() -> None:
    num_seeds, num_prompts = seeds_for(0.06, SIZE, PARTS), prompts_for(0.09, SIZE, PARTS)
    num_samples = samples_for(0.11, SIZE, Variation().parts)
    assert num_seeds is not None and num_prompts is not None and num_samples is not None
    assert chance_to_find(0.06, Design(num_seeds, 64), PARTS) >= 0.8
    assert chance_to_find(0.06, Design(num_seeds - 1, 64), PARTS) < 0.8
    assert chance_to_find(0.09, Design(3, num_prompts), PARTS) >= 0.8
    assert chance_to_find(0.09, Design(3, num_prompts - 1), PARTS) < 0.8
    assert chance_to_find(0.11, SIZE, Variation().parts(num_samples)) >= 0.8
    assert chance_to_find(0.11, SIZE, Variation().parts(num_samples - 1)) < 0.8


def test_prompts_and_samples_cannot_make_up_for_seeds_that_differ() -> None:
    """With a standard deviation of 0.02 over 3 seeds alone, the t-test detects 0.065 or more."""
    assert prompts_for(0.05, SIZE, PARTS) is None
    assert samples_for(0.05, SIZE, Variation().parts) is None
    assert seeds_for(0.0001, SIZE, PARTS) is None
    assert (seeds_for(0.05, SIZE, PARTS) or MOST_SEEDS) < 12


def test_without_any_spread_every_difference_is_found() -> None:
    nothing = Parts(0.0, 0.0, 0.0)
    assert detectable(SIZE, nothing) == 0.0
    assert (chance_to_find(0.01, SIZE, nothing), chance_to_find(0.0, SIZE, nothing)) == (1.0, 0.0)


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
        (Design, {"num_seeds": 0, "num_prompts": 3}),
        (Parts, {"seed": 0.1, "prompt": -0.1, "rest": 0.1}),
        (Parts, {"seed": 0.1, "prompt": 0.1, "rest": math.nan}),
        (Variation().parts, {"num_samples": 0}),
    ],
)
def test_impossible_values_are_refused(kind: Any, arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"not in|below 0|at least 1|is needed"):
        kind(**arguments)
