"""One arm against another over training seeds and prompts: the difference, its interval, and the verdict.

An arm is what its runs measured, one row of values per seed: prompt id -> value (a rate, or the fall of one).  Runs of
the same seed are paired, and so are their prompts.  docs/experiments.md ("Verdicts") has the rules.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from halo_forge.core.power import ERROR, MOST_PROMPTS, MOST_SEEDS, Design, Parts, prompts_for, seeds_for
from halo_forge.core.statistics import (
    holm,
    interval_without_spread,
    mean_and_standard_error,
    p_without_spread,
    two_level_mean,
)
from halo_forge.core.wording import counted

PromptValues = Mapping[str, float]
"""Prompt id -> what one run measured of it."""
Expect = Literal["higher", "lower", "different"]
Verdict = Literal["supported", "against", "cannot_tell"]

MIN_PROMPTS = 20
"""With fewer prompts a difference is shown, but nothing is concluded from it."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """The treatment minus the control.

    Attributes:
        treatment, control: Their means over seeds and the prompts of all runs.
        low, high: 95 % interval of the difference.  With one seed it is about these two runs alone.
        p_value: Two-sided; below 0.05 where the interval excludes 0.
        seeds: (seed of the treatment, seed of the control) of each pair of runs.
        num_prompts: Measured in every run.
        num_left_out: Prompts that were measured in some of the runs only.
        num_changed: Prompts on which the arms differ in any pair of runs.
        parts: Estimated variances of seeds, prompts and the rest; None with one seed.
    """

    treatment: float
    control: float
    difference: float
    standard_error: float
    low: float
    high: float
    p_value: float
    seeds: tuple[tuple[int, int], ...]
    num_prompts: int
    num_left_out: int
    num_changed: int
    parts: Parts | None

    @property
    def is_about_seeds(self) -> bool:
        """Whether it says anything about runs with other seeds."""
        return self.parts is not None


@dataclass(frozen=True, slots=True)
class Judgement:
    """What follows for one hypothesis.

    Attributes:
        p_adjusted: The p-value after Holm's correction for all hypotheses that are judged together.
        reason: The verdict in words, with its numbers.
        seeds_to_tell, prompts_to_tell: About how many seeds (on these prompts), or prompts (with these seeds), would
            find the difference that was seen, if it is the true one, 4 times in 5; None where it was found, and
            where no number up to `MOST_SEEDS` and `MOST_PROMPTS` is enough.
    """

    verdict: Verdict
    p_adjusted: float
    reason: str
    seeds_to_tell: int | None = None
    prompts_to_tell: int | None = None


def pairs_of_seeds(treatment: Sequence[int], control: Sequence[int]) -> list[tuple[int, int]]:
    """The pairs of runs: those of the same seed; if no seed is in both, in the order of their seeds.

    Any pairing of independent runs is valid; that of equal seeds also removes what the seed itself does.
    """
    shared = sorted(set(treatment) & set(control))
    if shared:
        return [(seed, seed) for seed in shared]
    return list(zip(sorted(treatment), sorted(control), strict=False))


def estimate(treatment: Mapping[int, PromptValues], control: Mapping[int, PromptValues]) -> Estimate:
    """The difference of two arms, each seed -> its values.

    Raises:
        ValueError: An arm has no run, or fewer than two prompts were measured in every run.
    """
    pairs = pairs_of_seeds(list(treatment), list(control))
    if not pairs:
        raise ValueError("no runs to compare")
    sides = [(treatment[one], control[other]) for one, other in pairs]
    measured = [set(values) for side in sides for values in side]
    shared = sorted(set.intersection(*measured))
    if len(shared) < 2:
        raise ValueError(f"a comparison needs at least 2 prompts that every run measured, found {len(shared)}")
    rows = [[one[prompt] - other[prompt] for prompt in shared] for one, other in sides]
    means = [sum(values[prompt] for values in runs for prompt in shared) for runs in zip(*sides, strict=True)]
    size = len(pairs) * len(shared)
    found = _over_seeds(rows) if len(rows) > 1 else _over_prompts(rows[0])
    difference, error, low, high, p_value, parts = found
    return Estimate(
        treatment=means[0] / size,
        control=means[1] / size,
        difference=difference,
        standard_error=error,
        low=low,
        high=high,
        p_value=p_value,
        seeds=tuple(pairs),
        num_prompts=len(shared),
        num_left_out=len(set.union(*measured)) - len(shared),
        num_changed=sum(any(column) for column in zip(*rows, strict=True)),
        parts=parts,
    )


def judge(
    family: Sequence[tuple[Estimate, Expect]], *, num_unmeasured: int = 0, one_seed_decides: bool = False
) -> list[Judgement]:
    """A verdict for each hypothesis; a family is judged together, so that 5 % of families have a wrong one at most.

    supported: the difference is the expected one, and its adjusted p-value is below 0.05.  against: it is the opposite
    one, below 0.05.  cannot_tell: all else, and always with one seed, with fewer than `MIN_PROMPTS` prompts, and where
    the arms differ on so few prompts that chance moves all of them the same way in 5 % of cases.

    Args:
        num_unmeasured: Further hypotheses of the family that nothing is known of yet; they count all the same.
        one_seed_decides: The question is about these runs, as in a fork of one run, not about runs with other seeds.
    """
    adjusted = holm([*(found.p_value for found, _ in family), *[1.0] * num_unmeasured])
    return [
        _judged(found, expect, p_value, len(adjusted), one_seed_decides)
        for (found, expect), p_value in zip(family, adjusted, strict=False)
    ]


def _judged(found: Estimate, expect: Expect, p_adjusted: float, size: int, one_seed_decides: bool) -> Judgement:
    words = _in_words(found, p_adjusted, size)
    if found.num_prompts < MIN_PROMPTS:
        few = counted(found.num_prompts, "prompt")
        return Judgement("cannot_tell", p_adjusted, f"{words}; {few}: at least {MIN_PROMPTS} are needed to conclude")
    if not found.is_about_seeds and not one_seed_decides:
        why = "one seed: the interval is about these two runs, and another seed may give another difference"
        return Judgement("cannot_tell", p_adjusted, f"{words}; {why}; at least 2 seeds are needed")
    verdict = verdict_of(found, expect, p_adjusted)
    if verdict != "cannot_tell" and (by_chance := 2.0 ** (1 - found.num_changed)) >= ERROR:
        few = f"the arms differ on {counted(found.num_changed, 'prompt')} only, and chance moves so few the same way"
        return Judgement(
            "cannot_tell", p_adjusted, f"{words}; too few passes to tell: {few} once in {1.0 / by_chance:.0f} times"
        )
    if verdict != "cannot_tell":
        return Judgement(verdict, p_adjusted, words)
    seeds, prompts = _enough(found, size)
    return Judgement("cannot_tell", p_adjusted, f"{words}; {_would_tell(found, seeds, prompts)}", seeds, prompts)


def verdict_of(found: Estimate, expect: Expect, p_adjusted: float) -> Verdict:
    """The verdict where there are seeds and prompts enough: by the adjusted p-value and the sign of the difference."""
    if p_adjusted >= ERROR or found.difference == 0.0:
        return "cannot_tell"
    is_expected = expect == "different" or (found.difference > 0.0) == (expect == "higher")
    return "supported" if is_expected else "against"


def _enough(found: Estimate, size: int) -> tuple[int | None, int | None]:
    """Seeds and prompts with which the difference that was seen would be found."""
    if found.parts is None or found.difference == 0.0 or found.parts == Parts(0.0, 0.0, 0.0):
        return None, None
    design, error = Design(len(found.seeds), found.num_prompts), ERROR / size
    return (
        seeds_for(found.difference, design, found.parts, error),
        prompts_for(found.difference, design, found.parts, error),
    )


def _in_words(found: Estimate, p_adjusted: float, size: int) -> str:
    """Such as "+0.051 (95% interval +0.011 to +0.091, p 0.014; 3 seeds, 64 prompts)"."""
    corrected = f", corrected for {size} comparisons {p_adjusted:.2g} (Holm)" if size > 1 else ""
    scope = f"{counted(len(found.seeds), 'seed')}, {counted(found.num_prompts, 'prompt')}"
    interval = f"95% interval {found.low:+.3f} to {found.high:+.3f}, p {found.p_value:.2g}{corrected}"
    return f"{found.difference:+.3f} ({interval}; {scope})"


def _would_tell(found: Estimate, seeds: int | None, prompts: int | None) -> str:
    if found.difference == 0.0:
        return "no difference was seen: no number of seeds or prompts is known to tell"
    if found.parts is None or found.parts == Parts(0.0, 0.0, 0.0):
        return "more prompts would tell"
    by_seeds = None if seeds is None else f"about {counted(seeds, 'seed')} on these prompts"
    by_prompts = None if prompts is None else f"about {counted(prompts, 'prompt')} with these seeds"
    if ways := [way for way in (by_seeds, by_prompts) if way is not None]:
        alone = "" if len(ways) == 2 else f" ({'more seeds' if seeds is None else 'more prompts'} alone would not)"
        return f"if this is the true difference, {', or '.join(ways)} would find it{alone}"
    return f"a difference this small takes more than {MOST_SEEDS} seeds or {MOST_PROMPTS:,} prompts to find"


def _over_seeds(rows: Sequence[Sequence[float]]) -> tuple[float, float, float, float, float, Parts]:
    found = two_level_mean(rows)
    parts = Parts(found.seed_variance, found.prompt_variance, found.rest_variance)
    if found.standard_error == 0.0:
        return *_alike(found.mean, found.num_prompts), parts
    return found.mean, found.standard_error, *found.interval(), found.p_value(), parts


def _over_prompts(row: Sequence[float]) -> tuple[float, float, float, float, float, None]:
    """Student's t over the prompts of one pair of runs."""
    from scipy.special import stdtr, stdtrit  # type: ignore[import-untyped]

    mean, error = mean_and_standard_error(row)
    if error == 0.0:
        return *_alike(mean, len(row)), None
    freedom = len(row) - 1
    half = float(stdtrit(freedom, 0.975)) * error
    return mean, error, mean - half, mean + half, 2.0 * float(stdtr(freedom, -abs(mean) / error)), None


def _alike(difference: float, num_prompts: int) -> tuple[float, float, float, float, float]:
    """The same where all prompts have one difference, mostly none at all: an interval of no width would be a claim."""
    low, high = interval_without_spread(difference, num_prompts, -1.0, 1.0)
    return difference, 0.0, low, high, p_without_spread(difference, num_prompts)
