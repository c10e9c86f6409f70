"""Which train prompts a cycle samples, and how often: a pure function of seed, cycle and the results of earlier cycles.

p is a prompt's pass rate when it was last sampled, shrunk towards 1/2: (passed + 1) / (judged + 2), so 1/2 before it
was sampled.  What a prompt can teach is proportional to p (1 - p): nothing is learned from prompts that always pass,
and nothing is kept from prompts that never do.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from halo_forge.core.records import Prompt
from halo_forge.core.seeds import derive_seed

MIN_BUDGETED = 4
"""The fewest samples per prompt with which half of them can distinguish sometimes from always and never."""
MOST_OF_BUDGET = 4
"""A prompt gets at most this many times the samples per prompt."""

_DIFFICULTIES = {"easy": 1, "introductory": 1, "medium": 2, "interview": 2, "hard": 3, "competition": 3}


@dataclass(frozen=True, slots=True)
class PromptStats:
    """How often a prompt passed in the last cycle that sampled it.

    Attributes:
        judged: Samples whose verdict is not an error of the verifier.
    """

    cycle: int
    passed: int
    judged: int

    @property
    def chance(self) -> float:
        """p, in (0, 1)."""
        return (self.passed + 1) / (self.judged + 2)

    @property
    def always(self) -> bool:
        """Whether all judged samples passed."""
        return 0 < self.judged == self.passed

    @property
    def never(self) -> bool:
        """Whether no judged sample passed."""
        return self.passed == 0 < self.judged


NEW = PromptStats(0, 0, 0)
"""A prompt that was not sampled yet."""

StatsByPrompt = Mapping[str, PromptStats]
"""Prompt id -> its statistics; prompts that were not sampled yet are absent."""


def next_in_turn(prompts: Sequence[Prompt], num: int, cycle: int, seed: int) -> list[Prompt]:
    """The next `num` of endless seeded shuffles of `prompts`, each at most once; all if there are no more."""
    if num >= len(prompts):
        return list(prompts)
    chosen: list[Prompt] = []
    for position in range((cycle - 1) * num, cycle * num):
        deck = sorted(prompts, key=lambda prompt: prompt.id)
        random.Random(derive_seed(seed, "prompts", position // len(deck))).shuffle(deck)
        chosen.append(deck[position % len(deck)])
    # A prompt may come twice where one shuffle ends and the next begins; it is sampled once.
    return list({prompt.id: prompt for prompt in chosen}.values())


def easiest(
    prompts: Sequence[Prompt], fraction: float, by: Literal["pass_rate", "difficulty"], stats: StatsByPrompt, seed: int
) -> list[Prompt]:
    """The easiest `fraction` of the prompts, rounded up, in the order given.

    By pass rate: the highest p first; ties, such as prompts not sampled yet, by difficulty.  Difficulty is
    `info["difficulty"]`, a number or easy, medium, hard; prompts without one come last.
    """
    num = num_easiest(len(prompts), fraction)

    def place(prompt: Prompt) -> tuple[float, float, int]:
        chance = stats.get(prompt.id, NEW).chance if by == "pass_rate" else 0.0
        return -chance, difficulty(prompt), derive_seed(seed, "easiest", prompt.id)

    chosen = {prompt.id for prompt in sorted(prompts, key=place)[:num]}
    return [prompt for prompt in prompts if prompt.id in chosen]


def num_easiest(num_prompts: int, fraction: float) -> int:
    """`fraction` of the prompts, rounded up; 0.07 of 100 is 7, although it is slightly more in floating point."""
    return math.ceil(round(num_prompts * fraction, 9))


def difficulty(prompt: Prompt) -> float:
    """A number that grows with the difficulty stated in the prompt's row; infinite if none is stated."""
    found = prompt.info.get("difficulty")
    if isinstance(found, bool):
        return math.inf
    if isinstance(found, int | float) and math.isfinite(found):
        return float(found)
    return float(_DIFFICULTIES.get(str(found).lower(), math.inf))


def learnable(
    prompts: Sequence[Prompt], num: int | None, stats: StatsByPrompt, cycle: int, anchor_fraction: float, seed: int
) -> list[Prompt]:
    """The prompts that are due, or `num` drawn without replacement with weights p (1 - p), in the order given.

    Due are prompts that sometimes pass or were not sampled yet; prompts that never passed, unless the last cycle
    sampled them; and `anchor_fraction` (rounded up) of those that always pass, different ones in each cycle.  Prompts
    that are not due are drawn only if too few are due; if `num` is None, all that are due are sampled, or all prompts
    if none is.
    """
    due = _due(prompts, stats, cycle, anchor_fraction, seed)
    if num is None:
        return [prompt for prompt in prompts if not due or prompt.id in due]

    def place(prompt: Prompt) -> tuple[bool, float]:
        chance = stats.get(prompt.id, NEW).chance
        # Sorting by exponential times at rate w draws without replacement (Efraimidis and Spirakis 2006).
        uniform = (derive_seed(seed, "weights", cycle, prompt.id) + 1) / (2**63 + 1)
        return prompt.id not in due, -math.log(uniform) / (chance * (1.0 - chance))

    chosen = {prompt.id for prompt in sorted(prompts, key=place)[:num]}
    return [prompt for prompt in prompts if prompt.id in chosen]


def _due(prompts: Sequence[Prompt], stats: StatsByPrompt, cycle: int, anchor_fraction: float, seed: int) -> set[str]:
    known = {prompt.id: stats.get(prompt.id, NEW) for prompt in prompts}
    solved = sorted(
        (prompt_id for prompt_id, last in known.items() if last.always),
        key=lambda prompt_id: derive_seed(seed, "anchors", cycle, prompt_id),
    )
    anchors = solved[: math.ceil(round(len(solved) * anchor_fraction, 9))]
    resting = {prompt_id for prompt_id, last in known.items() if last.never and last.cycle == cycle - 1}
    return (set(known) - set(solved) - resting) | set(anchors)


def first_round(samples_per_prompt: int) -> int:
    """Samples per prompt in the first round of budgeted sampling: half of them, rounded up."""
    return -(-samples_per_prompt // 2)


def second_round(outcomes: Mapping[str, tuple[int, int]], samples_per_prompt: int, seed: int) -> dict[str, int]:
    """Prompt id -> further samples, so that all prompts together have `samples_per_prompt` each on average.

    They go in equal parts to the prompts where some of the first samples passed and some did not, up to
    `MOST_OF_BUDGET` times `samples_per_prompt` each; the rest goes to those where none passed (or none could be
    judged), then to the others.  A remainder goes to prompts drawn by `seed`.

    Args:
        outcomes: Prompt id -> (passed, judged) of its `first_round(samples_per_prompt)` samples.
    """
    drawn = first_round(samples_per_prompt)
    budget = len(outcomes) * (samples_per_prompt - drawn)
    most = MOST_OF_BUDGET * samples_per_prompt - drawn
    groups: list[Callable[[int, int], bool]] = [
        lambda passed, judged: 0 < passed < judged,
        lambda passed, judged: passed == 0,
        lambda passed, judged: 0 < passed == judged,
    ]
    further: dict[str, int] = {}
    for belongs in groups:
        group = [prompt_id for prompt_id, counts in outcomes.items() if belongs(*counts)]
        group.sort(key=lambda prompt_id: derive_seed(seed, "budget", prompt_id))
        share, rest = divmod(min(budget, most * len(group)), len(group)) if group else (0, 0)
        for place, prompt_id in enumerate(group):
            further[prompt_id] = share + (place < rest)
            budget -= further[prompt_id]
    return {prompt_id: further[prompt_id] for prompt_id in outcomes}
