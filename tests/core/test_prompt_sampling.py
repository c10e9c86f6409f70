"""Which prompts are asked, and how often, against small tables and long-run shares."""

from __future__ import annotations

import math
from collections import Counter
from itertools import product

import pytest

from halo_forge.core.prompt_sampling import (
    NEW,
    PromptStats,
    difficulty,
    easiest,
    first_round,
    learnable,
    second_round,
)
from halo_forge.core.records import Prompt


def prompts(*names: str, **difficulties: object) -> list[Prompt]:
    infos = {name: {} for name in names} | {name: {"difficulty": value} for name, value in difficulties.items()}
    return [Prompt(name, ({"role": "user", "content": "write"},), info=info) for name, info in infos.items()]


def ids(found: list[Prompt]) -> list[str]:
    return [prompt.id for prompt in found]


def test_the_chance_is_drawn_to_the_middle() -> None:
    assert [asked.chance for asked in (NEW, PromptStats(1, 0, 8), PromptStats(1, 8, 8), PromptStats(1, 4, 8))] == [
        0.5,
        0.1,
        0.9,
        0.5,
    ]
    assert (NEW.always, NEW.never) == (False, False)  # nothing judged says nothing


@pytest.mark.parametrize(
    ("value", "number"),
    [("easy", 1), ("Medium", 2), ("hard", 3), (7, 7), (0, 0), (2.5, 2.5), ("odd", math.inf), (True, math.inf)],
)
def test_difficulty(value: object, number: float) -> None:
    assert difficulty(prompts(a=value)[0]) == number
    assert difficulty(prompts("a")[0]) == math.inf


def test_the_easiest_by_stated_difficulty_keep_their_order() -> None:
    four = prompts(h="hard", e="easy", m="medium") + prompts("x")
    for by in ("difficulty", "pass_rate"):  # before anything is measured, both go by what is stated
        assert [ids(easiest(four, share, by, {}, 0)) for share in (0.25, 0.5, 0.75, 1.0)] == [
            ["e"],
            ["e", "m"],
            ["h", "e", "m"],
            ["h", "e", "m", "x"],
        ]
    assert ids(easiest(four, 0.26, "difficulty", {}, 0)) == ["e", "m"]  # rounded up


def test_the_easiest_by_what_was_measured() -> None:
    four = prompts(h="hard", e="easy", m="medium", n="easy")
    memory = {
        "h": PromptStats(1, 4, 4),
        "e": PromptStats(1, 0, 4),
        "m": PromptStats(1, 3, 4),
    }  # p: 5/6, 1/6, 4/6, and 1/2 for n
    assert [ids(easiest(four, share, "pass_rate", memory, 0)) for share in (0.25, 0.5, 0.75)] == [
        ["h"],
        ["h", "m"],
        ["h", "m", "n"],
    ]
    assert ids(easiest(four, 0.5, "difficulty", memory, 0)) == ["e", "n"]


def test_equal_prompts_are_chosen_by_the_seed_not_by_the_file() -> None:
    ten = prompts(*"abcdefghij")
    chosen = {tuple(ids(easiest(ten, 0.3, "pass_rate", {}, seed))) for seed in range(20)}
    assert len(chosen) > 5
    assert sorted(ids(easiest(ten, 0.3, "pass_rate", {}, 1))) == sorted(
        ids(easiest(ten[::-1], 0.3, "pass_rate", {}, 1))
    )


def test_never_solved_prompts_rest_for_one_cycle() -> None:
    memory = {"never": PromptStats(1, 0, 4), "some": PromptStats(1, 2, 4)}
    asked = [ids(learnable(prompts("never", "some", "new"), None, memory, cycle, 0.15, 0)) for cycle in (2, 3)]
    assert asked == [["some", "new"], ["never", "some", "new"]]
    # Where nothing is due, everything is asked: a run does not stop because its prompts rest.
    assert ids(learnable(prompts("never"), None, memory, 2, 0.15, 0)) == ["never"]


def test_anchors_of_the_always_solved_change_from_cycle_to_cycle() -> None:
    names = [f"p{number}" for number in range(20)]
    memory = {name: PromptStats(1, 4, 4) for name in names}
    cycles = [ids(learnable(prompts(*names, "new"), None, memory, cycle, 0.15, 0)) for cycle in range(2, 42)]
    assert {len(asked) for asked in cycles} == {4}  # 3 of 20, and the new one
    assert len({name for asked in cycles for name in asked}) > 15
    assert ids(learnable(prompts(*names, "new"), None, memory, 2, 0.0, 0)) == ["new"]
    assert len(learnable(prompts(*names), None, memory, 2, 1.0, 0)) == 20


def test_draws_follow_the_weights() -> None:
    """One of two prompts: the share of each is its weight p (1 - p) over the sum of both."""
    memory = {"middle": PromptStats(1, 4, 8), "rare": PromptStats(1, 1, 8)}  # p = .5 and .2, weights .25 and .16
    drawn = Counter(ids(learnable(prompts("middle", "rare"), 1, memory, cycle, 0.15, 3))[0] for cycle in range(3, 2003))
    # Binomial with mean 2000 * .25 / .41 = 1220 and standard deviation 21.8.
    assert drawn["middle"] == pytest.approx(1220, abs=88)


def test_what_is_not_due_fills_up_only() -> None:
    memory = {"never": PromptStats(1, 0, 4), **{f"s{number}": PromptStats(1, 2, 4) for number in range(3)}}
    names = [*memory]
    for seed in range(30):
        assert "never" not in ids(learnable(prompts(*names), 3, memory, 2, 0.15, seed))
        assert len(learnable(prompts(*names), 4, memory, 2, 0.15, seed)) == 4


def test_a_later_asking_is_never_changed_by_the_order_of_the_file() -> None:
    names = [f"p{number}" for number in range(12)]
    memory = {name: PromptStats(1, number % 5, 4) for number, name in enumerate(names)}
    one, other = (learnable(each, 5, memory, 2, 0.15, 7) for each in (prompts(*names), prompts(*names)[::-1]))
    assert sorted(ids(one)) == sorted(ids(other))


@pytest.mark.parametrize(("samples", "first"), [(4, 2), (5, 3), (8, 4)])
def test_first_round(samples: int, first: int) -> None:
    assert first_round(samples) == first


@pytest.mark.parametrize(
    ("outcomes", "further"),
    [
        # 4 prompts of 4 samples: 8 are left after the first round, all for the one in between.
        ({"in": (1, 2), "no": (0, 2), "yes": (2, 2), "yes2": (2, 2)}, {"in": 8, "no": 0, "yes": 0, "yes2": 0}),
        # None in between: the never-solved get up to 14 each, and here all 6.
        ({"no": (0, 2), "yes": (2, 2), "yes2": (2, 2)}, {"no": 6, "yes": 0, "yes2": 0}),
        # All solved: everyone gets the same, as in uniform sampling.
        ({"a": (2, 2), "b": (2, 2)}, {"a": 2, "b": 2}),
        # Our own errors judge nothing: such a prompt is asked again like one that never passed.
        ({"lost": (0, 0), "yes": (2, 2)}, {"lost": 4, "yes": 0}),
        ({}, {}),
    ],
)
def test_second_round(outcomes: dict[str, tuple[int, int]], further: dict[str, int]) -> None:
    assert second_round(outcomes, 4, 0) == further


def test_one_prompt_does_not_get_everything() -> None:
    outcomes = {"in": (1, 2), **{f"no{number}": (0, 2) for number in range(19)}}
    further = second_round(outcomes, 4, 0)
    assert further["in"] == 14  # 16 samples in all, 4 times what a prompt gets on average
    assert sum(further.values()) == 20 * 2
    assert {further[f"no{number}"] for number in range(19)} == {1, 2}


def test_the_budget_is_used_up_exactly() -> None:
    for in_between, never, always, samples in product((0, 1, 3), (0, 2), (0, 5), (4, 5, 8)):
        first = first_round(samples)
        outcomes = {
            **{f"in{number}": (1, first) for number in range(in_between)},
            **{f"no{number}": (0, first) for number in range(never)},
            **{f"yes{number}": (first, first) for number in range(always)},
        }
        further = second_round(outcomes, samples, 1)
        assert sum(further.values()) + first * len(outcomes) == samples * len(outcomes)
        assert all(first + more <= 4 * samples for more in further.values())


def test_only_the_first_round_measures_without_bias() -> None:
    """Why rates come from the first round: exact expectations over all outcomes of 2 + 6 samples at p = 0.2.

    Further samples that depend on the first ones change what the pooled share expects.
    """
    chance, first, more = 0.2, 2, 6
    expected_first = expected_pooled = 0.0
    for passed in range(first + 1):
        weight = math.comb(first, passed) * chance**passed * (1 - chance) ** (first - passed)
        further = more if 0 < passed < first else 0
        expected_first += weight * passed / first
        expected_pooled += weight * (passed + further * chance) / (first + further)
    assert expected_first == pytest.approx(chance)
    assert expected_pooled < chance - 0.05
