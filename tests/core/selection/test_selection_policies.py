"""What each policy makes of candidates that cleared the rules."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from policy_versions import samples_of
from selection_samples import verdict

from halo_forge.core.records import Selection, Verdict
from halo_forge.core.selection import SelectionSpec
from halo_forge.core.selection.best_per_prompt import BestPerPrompt
from halo_forge.core.selection.threshold import KeepThreshold
from halo_forge.core.selection.top_fraction import TopFraction

REWARDS = {"easy": [1.0, 1.0, 1.0, 0.9, 0.9, 0.8], "hard": [0.7, 0.6, 0.5, 0.4], "rare": [0.3]}
SAMPLES = [
    verdict(prompt, index, reward) for prompt, rewards in REWARDS.items() for index, reward in enumerate(rewards)
]


def select(policy: SelectionSpec, verdicts: list[Verdict] = SAMPLES, **options: Any) -> Selection:
    arguments: dict[str, Any] = {"threshold": 0.0, "keep_fraction": 1.0, "seed": 0} | options
    return policy.select(samples_of(verdicts), **arguments)


def rewards(selection: Selection) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for prompt_id, index in sorted(selection.kept):
        found.setdefault(prompt_id, []).append(REWARDS[prompt_id][index])
    return {prompt_id: sorted(values, reverse=True) for prompt_id, values in found.items()}


def sizes(selection: Selection) -> dict[str, int]:
    return {reason: len(keys) for reason, keys in selection.dropped.items() if keys}


def test_threshold_keeps_everything() -> None:
    selection = select(KeepThreshold())
    assert len(selection.kept) == 11 and sizes(selection) == {}


def test_threshold_keeps_a_random_share_of_each_prompt() -> None:
    seen: Counter[tuple[str, int]] = Counter()
    for seed in range(200):
        selection = select(KeepThreshold(), keep_fraction=0.5, seed=seed)
        assert Counter(prompt_id for prompt_id, _ in selection.kept) == {"easy": 3, "hard": 2, "rare": 1}
        seen.update(selection.kept)
    # Each of the 6 easy ones is kept in half of 200 draws; 4.5 standard deviations are 32.
    assert all(68 <= seen["easy", index] <= 132 for index in range(6))


def test_threshold_can_cap() -> None:
    selection = select(KeepThreshold(per_prompt_cap=2))
    assert Counter(prompt_id for prompt_id, _ in selection.kept) == {"easy": 2, "hard": 2, "rare": 1}
    assert sizes(selection) == {"over_cap": 6}


def test_best_per_prompt_keeps_the_best_of_each() -> None:
    selection = select(BestPerPrompt(per_prompt_cap=2))
    assert rewards(selection) == {"easy": [1.0, 1.0], "hard": [0.7, 0.6], "rare": [0.3]}
    assert sizes(selection) == {"over_cap": 6}


@pytest.mark.parametrize(
    ("fraction", "cap", "num_kept", "reasons"),
    [
        # Half of 6, 4 and 1, rounded up: 3 + 2 + 1.
        (0.5, None, 6, {"below_keep_fraction": 5}),
        (0.5, 4, 6, {"over_cap": 2, "below_keep_fraction": 3}),
        (0.5, 2, 5, {"over_cap": 6}),
        (0.125, 4, 3, {"over_cap": 2, "below_keep_fraction": 6}),
    ],
)
def test_best_per_prompt_fraction_counts_before_the_cap(
    fraction: float, cap: int | None, num_kept: int, reasons: dict[str, int]
) -> None:
    selection = select(BestPerPrompt(per_prompt_cap=cap), keep_fraction=fraction)
    assert len(selection.kept) == num_kept
    assert sizes(selection) == reasons


def test_top_fraction_goes_over_all_prompts() -> None:
    selection = select(TopFraction(per_prompt_cap=None), keep_fraction=0.5)
    # 6 of 11, all of them easy.
    assert rewards(selection) == {"easy": [1.0, 1.0, 1.0, 0.9, 0.9, 0.8]}
    assert sizes(selection) == {"below_keep_fraction": 5}


def test_top_fraction_gives_the_places_over_the_cap_to_the_next() -> None:
    selection = select(TopFraction(per_prompt_cap=3), keep_fraction=0.5)
    assert rewards(selection) == {"easy": [1.0, 1.0, 1.0], "hard": [0.7, 0.6, 0.5]}
    assert sizes(selection) == {"over_cap": 4, "below_keep_fraction": 1}


def test_top_fraction_of_tied_rewards_takes_from_the_whole_file() -> None:
    # A stable sort would keep the samples of the first 50 prompts and none of the other 50.
    verdicts = [verdict(f"p{prompt:03d}", index, 0.5) for prompt in range(100) for index in range(8)]
    selection = select(TopFraction(per_prompt_cap=None), verdicts, keep_fraction=0.5)
    assert len(selection.kept) == 400
    from_first_half = sum(prompt_id < "p050" for prompt_id, _ in selection.kept)
    # Hypergeometric with mean 200 and standard deviation 7.1.
    assert 165 <= from_first_half <= 235
    assert len({prompt_id for prompt_id, _ in selection.kept}) > 95


@pytest.mark.parametrize(
    ("policy", "fraction", "most"),
    [
        (KeepThreshold(), 1.0, 80),
        (KeepThreshold(), 0.3, 30),
        (BestPerPrompt(), 1.0, 40),
        (BestPerPrompt(per_prompt_cap=2), 0.3, 20),
        (BestPerPrompt(per_prompt_cap=None), 0.3, 30),
        (TopFraction(), 1.0, 40),
        (TopFraction(), 0.3, 24),
        (TopFraction(per_prompt_cap=None), 0.9, 72),
    ],
)
def test_max_kept_is_reached_when_all_pass(policy: SelectionSpec, fraction: float, most: int) -> None:
    verdicts = [verdict(f"p{prompt}", index) for prompt in range(10) for index in range(8)]
    assert policy.max_kept(10, 8, fraction) == most
    assert len(select(policy, verdicts, keep_fraction=fraction).kept) == most
