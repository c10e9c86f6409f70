"""Better, worse, or statistically indistinguishable: hand-made counts on both sides of every threshold."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halo_forge.core.decisions import (
    Assessment,
    DecisionsSection,
    Totals,
    VersionComparison,
    compare_totals,
    confirm_totals,
    is_improvement,
    opposed,
    screen_totals,
)

SETTINGS = DecisionsSection()


def counts(*passed: float, num: int = 8) -> Totals:
    return {f"p{number:03d}": (each, num) for number, each in enumerate(passed)}


def spread(base: int, steps: list[int], num: int = 8) -> tuple[Totals, Totals]:
    """Every prompt at `base` passes of `num`, and each moved by its step."""
    return counts(*[base] * len(steps), num=num), counts(*(base + step for step in steps), num=num)


def settings(**values: Any) -> DecisionsSection:
    return DecisionsSection(**values)


def test_a_comparison_by_hand() -> None:
    before, after = counts(4, 4, 4, 4), counts(4, 6, 8, 6)
    found = compare_totals(before, after)
    assert found is not None
    # Differences 0, 1/4, 1/2, 1/4: mean 1/4, sum of squares 1/8, so SE = sqrt(1/8 / 12).
    assert found.difference == pytest.approx(0.25)
    assert found.standard_error == pytest.approx(math.sqrt(1 / 96))
    assert found.z == pytest.approx(0.25 * math.sqrt(96))
    assert found.minimum_detectable_effect == pytest.approx(2.8 * math.sqrt(1 / 96))
    assert found.num_prompts == 4
    assert found.to_row()["z"] == found.z


def test_only_prompts_of_both_sides_count_and_one_is_too_few() -> None:
    before, after = counts(0, 8, 4), {"p001": (0, 8), "p002": (4, 4), "other": (8, 8)}
    found = compare_totals(before, after)
    assert found is not None
    assert (found.num_prompts, found.difference) == (2, pytest.approx((-1.0 + 0.5) / 2))
    assert compare_totals(before, {"p001": (0, 8)}) is None


def test_equal_answers_have_the_spread_of_independent_ones() -> None:
    """Learning rate 0: the same seeds give the same answers, which is no proof of infinite precision."""
    same = counts(*[4] * 50)
    found = compare_totals(same, same)
    assert found is not None
    assert (found.difference, found.z) == (0.0, None)
    assert found.standard_error == pytest.approx(math.sqrt(2 * 0.25 / 7 / 50))
    single = counts(*[1] * 10, *[0] * 10, num=1)
    found = compare_totals(single, single)
    assert found is not None
    assert found.standard_error == pytest.approx(math.sqrt(2 * 0.25 / 20))


def test_where_nothing_passes_or_everything_the_error_is_what_so_few_prompts_cannot_exclude() -> None:
    """An error of 0 would say that any difference, however small, would have been detected."""
    error = (1.0 - 0.025 ** (1.0 / 30.0)) / 1.96
    for num in (0, 8):
        found = compare_totals(counts(*[num] * 30), counts(*[num] * 30))
        assert found is not None and (found.difference, found.z) == (0.0, None)
        assert found.standard_error == pytest.approx(error)
        assert "z" not in found.to_row()  # so it is no evidence that nothing changes
    collapse = compare_totals(counts(*[8] * 30), counts(*[0] * 30))
    assert collapse is not None and collapse.z == pytest.approx(-1.0 / error)


def test_a_gain_in_points_that_is_a_loss_in_log_odds_is_neither() -> None:
    """17 prompts fall from 4 of 4 to 3, 9 rise from 1 of 4 to 3: the mean rate rises, the mean log-odds fall."""
    before, after = counts(*[4] * 17, *[1] * 9, *[2] * 14, num=4), counts(*[3] * 17, *[3] * 9, *[2] * 14, num=4)
    settings = DecisionsSection(scale="logit", max_standard_error=1.0)
    found = screen_totals(settings, 0, before, after)
    assert found.screen is not None and found.screen.z is not None
    assert found.screen.difference > 0.005 and found.screen.z < 0.0
    assert screen_totals(settings.model_copy(update={"screen_z": -found.screen.z}), 0, before, after).outcome == "held"


def test_logit_counts_what_happens_at_the_ceiling() -> None:
    """A fall from 100 % is small in points and large in log-odds; difference and error stay rates."""
    before = counts(*[8] * 20, *[4] * 20)
    after = counts(*[7] * 20, *[4, 4, 4, 5, 3] * 4)
    plain, logit = compare_totals(before, after), compare_totals(before, after, "logit")
    assert plain is not None and logit is not None
    assert (plain.difference, plain.standard_error) == (logit.difference, logit.standard_error)
    assert plain.z is not None and logit.z is not None
    assert logit.z != pytest.approx(plain.z, rel=0.01)
    steps = [math.log(7.5 / 1.5) - math.log(8.5 / 0.5)] * 20 + [0.0] * 12
    steps += [math.log(5.5 / 3.5)] * 4 + [math.log(3.5 / 5.5)] * 4
    mean = sum(steps) / 40
    error = math.sqrt(sum((step - mean) ** 2 for step in steps) / (40 * 39))
    assert logit.z == pytest.approx(mean / error)


@pytest.mark.parametrize(
    ("steps", "outcome"),
    [
        ([1] * 12 + [-1] * 12, "held"),  # nothing at all
        ([1] * 24 + [0] * 8, "ahead"),
        ([-1] * 24 + [0] * 8, "suspect"),
        ([1, 1, 0, -1] * 8, "ahead"),  # +1/32 = 0.031, SE 0.0183: 1.7 of them
        ([-1, -1, 0, 1] * 8, "suspect"),
        ([1, 0, 0, -1] * 7 + [1, 0, 0, 0], "held"),  # half a standard error
        ([-1, 0, 0, 1] * 7 + [-1, 0, 0, 0], "held"),
        ([0] * 32, "held"),
    ],
)
def test_the_screen(steps: list[int], outcome: str) -> None:
    found = screen_totals(SETTINGS, 3, *spread(4, steps))
    assert found.screen is not None
    assert (found.outcome, found.compared_with) == (outcome, 3)
    assert found.confirmation is None


def test_the_smallest_improvement() -> None:
    """0.005 is reached by 0.005, however little noise there is."""
    before = counts(*[500] * 40, num=1000)
    below, at = counts(*[504, 505] * 20, num=1000), counts(*[505, 505] * 20, num=1000)
    loose = settings(max_standard_error=1.0)
    assert screen_totals(loose, 0, before, below).outcome == "held"
    # All differences equal: SE is that of independent samples, 0.0035, and 0.005 is 1.4 of them.
    assert screen_totals(loose, 0, before, at).outcome == "ahead"


@pytest.mark.parametrize(
    ("num_prompts", "changes", "outcome"),
    [(19, {}, "underpowered"), (20, {}, "ahead"), (19, {"min_prompts": 19}, "ahead"), (1, {}, "underpowered")],
)
def test_too_few_prompts(num_prompts: int, changes: dict[str, Any], outcome: str) -> None:
    steps = [1] * (num_prompts - 1) + [0]
    assert screen_totals(settings(**changes), 0, *spread(4, steps)).outcome == outcome


def test_too_vague_to_tell_unless_the_difference_is_larger_than_what_could_be_missed() -> None:
    # +-4 of 8 on 64 prompts: SE 0.063, detectable 0.176.
    noise = [4, -4] * 32
    vague = screen_totals(SETTINGS, 0, *spread(4, noise))
    assert vague.screen is not None and vague.screen.standard_error > 0.04
    assert vague.outcome == "underpowered"
    assert screen_totals(settings(max_standard_error=0.1), 0, *spread(4, noise)).outcome == "held"
    before, after = counts(*[6] * 30), counts(*[6, 2, 0] * 10)  # -0.417, SE 0.06
    clear = screen_totals(SETTINGS, 0, before, after)
    assert clear.screen is not None and clear.screen.standard_error > 0.04
    assert clear.outcome == "suspect"
    assert screen_totals(SETTINGS, 0, after, before).outcome == "ahead"


@pytest.mark.parametrize(
    ("steps", "outcome"),
    [
        ([1] + [0] * 31, "too_few_to_tell"),  # z 1.00: HumanEval, 32 prompts, one passes that did not
        ([-1] + [0] * 31, "too_few_to_tell"),
        ([1, 1] + [0] * 30, "ahead"),
        ([1, 1, 1, -1] + [0] * 28, "ahead"),  # z 1.00 too, and without any one of them it is above 0
    ],
)
def test_one_prompt_is_too_few_to_tell(steps: list[int], outcome: str) -> None:
    before, after = spread(1, steps, num=2)
    found = screen_totals(SETTINGS, 0, before, after)
    assert found.screen is not None and found.screen.z is not None
    assert abs(found.screen.z) >= 1.0 - 1e-9
    assert found.outcome == outcome
    assert found.screen.num_changed == sum(step != 0 for step in steps)


@pytest.mark.parametrize(("base", "outcome"), [(0, "too_few_to_tell"), (4, "held"), (8, "held")])
def test_where_nothing_passes_in_either_version_there_is_too_little_to_tell(base: int, outcome: str) -> None:
    before, after = spread(base, [0] * 64)
    found = screen_totals(SETTINGS, 0, before, after)
    assert (found.outcome, found.screen and found.screen.num_changed) == (outcome, 0)


def test_without_one_prompt_by_hand() -> None:
    """Without the last prompt the differences are 0.5, 0.5, 0.25: mean 5/12, sum of squares around it 1/24."""
    found = compare_totals(counts(0, 0, 0, 0, num=4), counts(2, 2, 1, 4, num=4))
    assert found is not None
    # z of each three of the four; the lowest leaves out one of the two halves: 0.5, 0.25, 1.
    mean, squares = (0.5 + 0.25 + 1.0) / 3, 0.25 + 0.0625 + 1.0
    expected = mean / math.sqrt((squares - 3 * mean * mean) / 6)
    assert found.z_without_one == pytest.approx(expected)
    down = compare_totals(counts(2, 2, 1, 4, num=4), counts(0, 0, 0, 0, num=4))
    assert down is not None and down.z_without_one == pytest.approx(-expected)
    assert not found.rests_on_one_prompt and found.num_changed == 4


@given(st.lists(st.integers(-4, 4), min_size=4, max_size=30))
def test_what_is_left_without_one_prompt_is_what_a_comparison_without_it_says(steps: list[int]) -> None:
    one, other = spread(4, steps)
    found = compare_totals(one, other)
    assert found is not None
    fewer = [{name: value for name, value in one.items() if name != left_out} for left_out in one]
    rest = [compare_totals(each, other) for each in fewer]
    sign = 1.0 if found.difference > 0.0 else -1.0
    if not found.uniform:
        left = [sign * each.difference for each in rest if each is not None]
        assert found.rests_on_one_prompt == (min(left) <= 1e-9)
    zs = [each.z for each in rest if each is not None and each.z is not None and not each.uniform]
    if found.z_without_one is not None and zs and not found.uniform and not any(each.uniform for each in rest if each):
        assert found.z_without_one == pytest.approx(min(sign * z for z in zs) * sign, abs=1e-6)


@pytest.mark.parametrize(
    ("steps", "confirmed"),
    [
        ([1] * 5 + [0] * 27, True),  # all five upwards: 1 in 32 by chance
        ([1] * 4 + [0] * 28, False),  # z 2.1, but 1.8 without one of them: 1 in 16 by chance
        ([1] * 24 + [0] * 8, True),
        ([1] * 20, True),  # every prompt alike
        ([1] * 19, False),  # fewer than min_prompts
        ([1, 1, 0, -1] * 8, False),  # z 1.7
        ([-1] * 24 + [0] * 8, False),
        ([0] * 32, False),
    ],
)
def test_an_improvement_is_confirmed_by_fresh_samples_without_any_one_prompt(steps: list[int], confirmed: bool) -> None:
    found = compare_totals(*spread(4, steps))
    assert is_improvement(SETTINGS, found) is confirmed
    assert not is_improvement(settings(min_improvement=1.0), found)


def test_four_prompts_are_significant_and_confirm_nothing() -> None:
    found = compare_totals(*spread(4, [1] * 4 + [0] * 28))
    assert found is not None and found.z is not None and found.z_without_one is not None
    assert found.z > 2.0 > found.z_without_one
    assert not is_improvement(SETTINGS, found) and not is_improvement(SETTINGS, None)
    assert is_improvement(settings(confirm_z=-1.645), found)


def test_only_what_moved_the_other_way_by_more_than_chance_is_opposed() -> None:
    def moved(difference: float, error: float) -> VersionComparison:
        return VersionComparison(difference, error, difference / error, 32)

    others = {"a": moved(-0.09, 0.06), "b": moved(-0.05, 0.06), "c": moved(0.09, 0.06), "d": None}
    assert list(opposed(SETTINGS, moved(0.03, 0.03), others)) == ["a"]
    assert list(opposed(SETTINGS, moved(-0.03, 0.03), others)) == ["c"]
    assert opposed(SETTINGS, None, others) == opposed(SETTINGS, moved(0.0, 0.03), others) == {}
    # Where the compared metric did not move, or the other one in a single prompt, nothing is opposed.
    assert opposed(SETTINGS, moved(0.01, 0.03), others) == {}
    single = VersionComparison(-0.03, 0.03, -1.0, 32, rests_on_one_prompt=True)
    assert opposed(SETTINGS, moved(0.03, 0.03), {"a": single}) == {}


@pytest.mark.parametrize(
    ("steps", "outcome"),
    [
        ([-1, -1, 0, 1] * 8, "suspect_not_confirmed"),  # z -1.7
        ([-1, -1, 0, 0] * 8, "degraded"),
        ([1, 1, 0, 0] * 8, "suspect_not_confirmed"),
        ([0] * 32, "suspect_not_confirmed"),
        ([-1, -1, 0, 0], "suspect_not_confirmed"),  # too few left
        ([-1], "suspect_not_confirmed"),
    ],
)
def test_the_confirmation(steps: list[int], outcome: str) -> None:
    suspect = screen_totals(SETTINGS, 2, *spread(4, [-1] * 24 + [0] * 8))
    found = confirm_totals(SETTINGS, suspect, *spread(4, steps))
    assert (found.outcome, found.compared_with, found.screen) == (outcome, 2, suspect.screen)


def test_a_total_collapse_is_confirmed_without_a_spread() -> None:
    before, after = counts(*[8] * 30), counts(*[0] * 30)
    suspect = screen_totals(SETTINGS, 0, before, after)
    assert suspect.outcome == "suspect"
    assert confirm_totals(SETTINGS, suspect, before, after).outcome == "degraded"


@given(st.lists(st.integers(-4, 4), min_size=20, max_size=60))
def test_up_and_down_are_mirror_images_and_the_order_of_prompts_plays_no_part(steps: list[int]) -> None:
    loose = settings(max_standard_error=1.0)
    one, other = spread(4, steps)
    up, down = screen_totals(loose, 0, one, other), screen_totals(loose, 0, other, one)
    if up.outcome == "ahead":
        assert down.outcome == "suspect"
    shuffled: Assessment = screen_totals(loose, 0, dict(reversed(list(one.items()))), other)
    assert shuffled == up
