"""Comparisons of two arms over seeds and prompts, and what is concluded from them."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import scipy.stats

from halo_forge.core.comparison import Estimate, estimate, judge, pairs_of_seeds
from halo_forge.core.power import Design, chance_to_find
from halo_forge.core.statistics import interval_without_spread, two_level_mean

Arm = dict[int, dict[str, float]]


def arm(rows: Sequence[Sequence[float]], seeds: Sequence[int] = (0, 1, 2, 3, 4)) -> Arm:
    return {
        seed: {f"prompt{at}": value for at, value in enumerate(row)} for seed, row in zip(seeds, rows, strict=False)
    }


def shifted(by: float, num_seeds: int, noise: float = 0.02, num_prompts: int = 40) -> Estimate:
    """An arm that is `by` above another one, give or take noise of every seed and prompt."""
    generator = random.Random(0)
    control = [[generator.random() for _ in range(num_prompts)] for _ in range(num_seeds)]
    treatment = [[value + by + generator.gauss(0.0, noise) for value in row] for row in control]
    return estimate(arm(treatment), arm(control))


def test_the_difference_is_that_of_the_same_seeds_and_prompts() -> None:
    control = arm([[0.1, 0.5, 0.9], [0.2, 0.4, 0.8]])
    treatment = arm([[0.2, 0.5, 1.0], [0.4, 0.5, 0.8]])
    found = estimate(treatment, control)
    wanted = two_level_mean([[0.1, 0.0, 0.1], [0.2, 0.1, 0.0]])
    assert found.seeds == ((0, 0), (1, 1))
    assert found.difference == pytest.approx(0.5 / 6)
    assert (found.treatment, found.control) == pytest.approx((3.4 / 6, 2.9 / 6))
    assert (found.low, found.high) == pytest.approx(wanted.interval())
    assert found.p_value == pytest.approx(wanted.p_value())


def test_the_order_of_seeds_and_prompts_does_not_matter() -> None:
    control, treatment = arm([[0.1, 0.5, 0.9], [0.2, 0.4, 0.8]]), arm([[0.2, 0.5, 1.0], [0.4, 0.5, 0.8]])
    turned = {seed: dict(reversed(treatment[seed].items())) for seed in (1, 0)}
    assert estimate(turned, control) == estimate(treatment, control)


def test_prompts_that_some_run_did_not_measure_are_left_out_and_counted() -> None:
    control, treatment = arm([[0.1, 0.5, 0.9, 0.3], [0.2, 0.4, 0.8, 0.3]]), arm([[0.2, 0.5, 1.0], [0.4, 0.5, 0.8]])
    found = estimate(treatment, control)
    assert (found.num_prompts, found.num_left_out) == (3, 1)
    assert found.difference == pytest.approx(0.5 / 6)


def test_seeds_are_paired_by_number_or_else_in_order() -> None:
    assert pairs_of_seeds([2, 0, 1], [1, 2, 7]) == [(1, 1), (2, 2)]
    assert pairs_of_seeds([5, 3], [1, 2, 0]) == [(3, 0), (5, 1)]
    assert pairs_of_seeds([], [1]) == []


def test_one_seed_is_compared_over_its_prompts_alone() -> None:
    control, treatment = [[0.1, 0.5, 0.9, 0.3]], [[0.3, 0.6, 0.9, 0.2]]
    found = estimate(arm(treatment), arm(control))
    wanted = scipy.stats.ttest_rel(treatment[0], control[0])
    assert (found.low, found.high) == pytest.approx(tuple(wanted.confidence_interval(0.95)))
    assert found.p_value == pytest.approx(wanted.pvalue)
    assert not found.is_about_seeds


@pytest.mark.parametrize("num_seeds", [1, 3])
def test_an_arm_against_itself_differs_by_nothing(num_seeds: int) -> None:
    same = arm([[0.1, 0.5, 0.9]] * num_seeds)
    found = estimate(same, same)
    assert (found.difference, found.p_value) == (0.0, 1.0) and found.low == -found.high < 0.0


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [({}, {}, "no runs"), (arm([[0.1, 0.2]]), {0: {"another": 0.3, "prompt0": 0.1}}, "at least 2 prompts")],
)
def test_what_cannot_be_compared_is_refused(one: Arm, other: Arm, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        estimate(one, other)


def test_a_clear_difference_supports_what_was_expected_and_speaks_against_its_opposite() -> None:
    found = shifted(0.2, 3)
    verdicts = [judge([(found, expect)])[0].verdict for expect in ("higher", "lower", "different")]
    assert verdicts == ["supported", "against", "supported"]
    assert "95% interval" in judge([(found, "higher")])[0].reason


def test_one_seed_tells_nothing_about_others_unless_the_question_is_about_these_runs() -> None:
    found = shifted(0.2, 1)
    (judged,) = judge([(found, "higher")])
    assert judged.verdict == "cannot_tell" and "another seed may give another" in judged.reason
    assert judge([(found, "higher")], one_seed_decides=True)[0].verdict == "supported"


def test_few_prompts_conclude_nothing() -> None:
    (judged,) = judge([(shifted(0.2, 3, num_prompts=19), "higher")])
    assert judged.verdict == "cannot_tell" and "at least 20" in judged.reason
    assert judge([(shifted(0.2, 3, num_prompts=20), "higher")])[0].verdict == "supported"


def test_what_would_tell_is_a_design_that_finds_the_difference_seen() -> None:
    found = shifted(0.04, 3, noise=0.4, num_prompts=80)
    (judged,) = judge([(found, "higher")])
    assert judged.verdict == "cannot_tell"
    assert judged.seeds_to_tell is not None and judged.prompts_to_tell is not None and found.parts is not None
    assert chance_to_find(found.difference, Design(judged.seeds_to_tell, 80), found.parts) >= 0.8
    assert chance_to_find(found.difference, Design(judged.seeds_to_tell - 1, 80), found.parts) < 0.8
    assert f"about {judged.seeds_to_tell} seeds on these prompts" in judged.reason
    assert f"about {judged.prompts_to_tell} prompts with these seeds" in judged.reason


def test_a_larger_family_takes_more_to_tell() -> None:
    found = shifted(0.04, 3, noise=0.4, num_prompts=80)
    alone, of_three = judge([(found, "higher")])[0], judge([(found, "higher")], num_unmeasured=2)[0]
    assert alone.prompts_to_tell is not None and of_three.prompts_to_tell is not None
    assert of_three.prompts_to_tell > alone.prompts_to_tell


def test_no_difference_at_all_names_no_number() -> None:
    same = arm([[0.1 * at for at in range(30)]] * 3)
    (judged,) = judge([(estimate(same, same), "higher")])
    assert (judged.verdict, judged.seeds_to_tell, judged.prompts_to_tell) == ("cannot_tell", None, None)
    assert "no difference was seen" in judged.reason


def test_a_family_is_corrected_together() -> None:
    """Alone it is significant; as one of 20 comparisons it is not."""
    generator = random.Random(4)
    found = next(
        each
        for each in (shifted(generator.uniform(0.01, 0.2), 3, noise=0.3) for _ in range(200))
        if 0.01 < each.p_value < 0.04
    )
    nothing = shifted(0.0, 3, noise=0.3)
    assert judge([(found, "higher")])[0].verdict == "supported"
    family = judge([(found, "higher"), *[(nothing, "different")] * 19])
    assert family[0].verdict == "cannot_tell"
    assert family[0].p_adjusted == pytest.approx(min(1.0, 20 * found.p_value))
    assert "corrected for 20 comparisons" in family[0].reason
    (early,) = judge([(found, "higher")], num_unmeasured=19)
    assert early == family[0]


def test_where_no_prompt_differs_the_interval_is_what_so_few_prompts_cannot_exclude() -> None:
    """Two arms that pass nothing are not known to be equal to the last digit."""
    for num_seeds in (1, 3):
        nothing = arm([[0.0] * 24] * num_seeds)
        found = estimate(nothing, nothing)
        share = 1.0 - 0.025 ** (1.0 / 24.0)
        assert (found.low, found.high, found.p_value) == (pytest.approx(-share), pytest.approx(share), 1.0)
        assert (1.0 - share) ** 24 == pytest.approx(0.025)  # a share that is then seen nowhere


@pytest.mark.parametrize("step", [0.1, 0.5, 1.0])
def test_an_equal_difference_on_every_prompt_has_an_interval_that_fits_its_p_value(step: float) -> None:
    found = estimate(arm([[step] * 24] * 2), arm([[0.0] * 24] * 2))
    assert found.low < found.difference <= found.high <= 1.0
    assert (found.p_value < 0.05) == (found.low > 0.0)
    low, _ = interval_without_spread(step, 24, -1.0, 1.0, 1.0 - found.p_value)
    assert low == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(("num_changed", "verdict"), [(4, "cannot_tell"), (5, "cannot_tell"), (6, "supported")])
def test_few_prompts_that_differ_conclude_nothing(num_changed: int, verdict: str) -> None:
    """Chance moves 5 prompts the same way once in 16 times, though Student's t calls it 0.02."""
    treatment = [[1.0] * num_changed + [0.0] * (32 - num_changed)] * 2
    found = estimate(arm(treatment), arm([[0.0] * 32] * 2))
    assert found.p_value < 0.05 and found.num_changed == num_changed
    (judged,) = judge([(found, "higher")])
    assert judged.verdict == verdict
    assert ("too few passes to tell" in judged.reason) == (verdict == "cannot_tell")
