"""The rules that apply to every policy, in the order in which they drop a sample.

verifier_error        the verifier failed: nothing is known about the sample
truncated             cut off by the length limit: it would teach the model never to stop
below_threshold       "pass": not a full success; a number: a lower reward
flagged               it has a hack flag (`records.HACK_FLAGS`), if `drop_flagged`
never_solved, always_solved        no judged sample of its prompt passes, or all do, if `drop_prompts` says so
duplicate             the program of another sample of the same prompt after normalisation, or exactly the program of
                      any other sample.  Two prompts may legitimately share a normalised program (it drops all names),
                      but not the exact text: that is a model that gives the same completion to everything.
over_cap, below_keep_fraction      the policy's choice (`take`)
flaky                 chosen, but the verdict of a second run differs: there is nothing to learn from luck.  The places
                      of flaky samples stay empty, because the next ones in rank were not run twice.
flaky_unknown         chosen, but the verifier failed in the second run, so it is unknown whether it was luck

Nothing depends on the order of the samples.  Policies that rank them prefer the higher reward, then the larger share of
passed checks, fewer warnings, the shorter completion (by powers of two of its tokens, because always preferring the
shorter of two would shrink completions from cycle to cycle), and a program that no earlier cycle kept; a hash of the
seed and the sample's id breaks the remaining ties.  (A stable sort of tied rewards would keep the first prompts of the
file and never train on the others.)
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from halo_forge.core.records import Completion, Key, Sample, Selection, Threshold, Verdict
from halo_forge.core.seeds import derive_seed

REASONS = (
    "verifier_error",
    "truncated",
    "below_threshold",
    "flagged",
    "never_solved",
    "always_solved",
    "duplicate",
    "over_cap",
    "below_keep_fraction",
    "flaky",
    "flaky_unknown",
)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A sample, and whether its program is new.

    Attributes:
        is_new: Whether no earlier cycle kept its program.
    """

    sample: Sample
    is_new: bool = True

    @property
    def completion(self) -> Completion:
        """The completion."""
        return self.sample.completion

    @property
    def verdict(self) -> Verdict:
        """Its verdict."""
        return self.sample.verdict

    @property
    def key(self) -> Key:
        """(prompt id, sample index)."""
        return self.sample.key

    def tie_break(self, seed: int) -> int:
        """A pseudo-random number that orders equal candidates, the same for the same seed."""
        return derive_seed(seed, "tie", *self.key)

    @property
    def merit(self) -> tuple[float, float, int, int, bool]:
        """The sort key by merit, smaller is better; see the top of this file."""
        verdict = self.verdict
        share = verdict.tests_passed / verdict.tests_total if verdict.tests_total > 0 else 0.0
        length = len(self.completion.token_ids).bit_length()
        return -verdict.reward, -share, verdict.warnings, length, not self.is_new

    def rank(self, seed: int) -> tuple[float, ...]:
        """The sort key of this candidate: smaller goes first, and no two are equal."""
        return (*self.merit, self.tie_break(seed))

    @property
    def identities(self) -> set[Hashable]:
        """Identities of a program: two programs are the same if they share one."""
        return identities(self.sample)


def identities(sample: Sample) -> set[Hashable]:
    """Identities of a sample's program: two samples have the same program if they share one."""
    verdict = sample.verdict
    # If no program was found, only the completion itself can be compared.
    exact = ("text", sample.completion.text) if verdict.source_digest is None else ("source", verdict.source_digest)
    if verdict.normal_digest is None:
        return {exact}
    return {exact, ("normal", verdict.prompt_id, verdict.normal_digest)}


@dataclass(frozen=True, slots=True)
class Chosen:
    """The choice of a policy: each candidate is in exactly one of the three."""

    kept: Sequence[Candidate]
    over_cap: Sequence[Candidate]
    below_keep_fraction: Sequence[Candidate]


def candidates_of(samples: Iterable[Sample], kept_before: Collection[Hashable] = ()) -> list[Candidate]:
    """The samples as candidates, sorted by key.

    Args:
        kept_before: Identities of the programs that earlier cycles kept.

    Raises:
        ValueError: A sample occurs twice.
    """
    known = set(kept_before)
    found = [Candidate(sample, known.isdisjoint(identities(sample))) for sample in samples]
    if len({candidate.key for candidate in found}) != len(found):
        raise ValueError("a sample occurs twice")
    return sorted(found, key=lambda candidate: candidate.key)


def solved(passed: int, judged: int) -> Literal["never_solved", "always_solved"] | None:
    """`never_solved` or `always_solved`; None if some samples pass and some do not, or none was judged."""
    if judged == 0 or 0 < passed < judged:
        return None
    return "always_solved" if passed else "never_solved"


def reason_to_drop(candidate: Candidate, threshold: Threshold, drop_flagged: bool) -> str | None:
    """The first rule that drops this sample regardless of the others, None if none does."""
    if candidate.verdict.status == "error":
        return "verifier_error"
    if candidate.completion.finish == "length":
        return "truncated"
    clears = candidate.verdict.passed if threshold == "pass" else candidate.verdict.reward >= threshold
    if not clears:
        return "below_threshold"
    return "flagged" if drop_flagged and candidate.verdict.hacks else None


def without_duplicates(candidates: Sequence[Candidate], seed: int) -> tuple[list[Candidate], list[Candidate]]:
    """(survivors, duplicates); of equal programs the first in rank survives."""
    survivors: list[Candidate] = []
    duplicates: list[Candidate] = []
    seen: set[Hashable] = set()
    for candidate in sorted(candidates, key=lambda each: each.rank(seed)):
        identities = candidate.identities
        if seen.isdisjoint(identities):
            seen |= identities
            survivors.append(candidate)
        else:
            duplicates.append(candidate)
    return survivors, duplicates


def quota(num_candidates: int, keep_fraction: float) -> int:
    """How many candidates `keep_fraction` keeps: rounded up, so at least one if there are any.

    Raises:
        ValueError: `keep_fraction` is not in (0, 1].
    """
    if not 0 < keep_fraction <= 1:
        raise ValueError(f"keep_fraction is {keep_fraction}; a number in (0, 1] is needed")
    # 0.1 * 30 is slightly above 3 in floating point, but means 3.
    return math.ceil(round(num_candidates * keep_fraction, 9))


def take(ranked: Sequence[Candidate], *, quota: int, cap: int | None) -> Chosen:
    """The first `quota` of the ranked candidates, at most `cap` per prompt; the next in rank replaces a capped one."""
    kept: list[Candidate] = []
    over_cap: list[Candidate] = []
    below: list[Candidate] = []
    num_seen: Counter[str] = Counter()
    for candidate in ranked:
        prompt_id = candidate.sample.prompt_id
        if cap is not None and num_seen[prompt_id] >= cap:
            over_cap.append(candidate)
            continue
        num_seen[prompt_id] += 1
        (kept if len(kept) < quota else below).append(candidate)
    return Chosen(kept, over_cap, below)


def by_prompt(candidates: Sequence[Candidate]) -> dict[str, list[Candidate]]:
    """Prompt id -> its candidates, in the order given."""
    groups: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        groups.setdefault(candidate.sample.prompt_id, []).append(candidate)
    return groups


def merged(parts: Sequence[Chosen]) -> Chosen:
    """The choices per prompt combined into one."""
    return Chosen(
        [each for part in parts for each in part.kept],
        [each for part in parts for each in part.over_cap],
        [each for part in parts for each in part.below_keep_fraction],
    )


def to_selection(
    kept: Sequence[Candidate], dropped: dict[str, Sequence[Candidate]], threshold: Threshold, seed: int
) -> Selection:
    """The kept samples shuffled by `seed`, so that batches mix prompts; every reason is a key of `dropped`."""
    order = sorted(kept, key=lambda each: derive_seed(seed, "order", *each.key))
    return Selection(
        kept=tuple(each.key for each in order),
        dropped={reason: tuple(sorted(each.key for each in dropped.get(reason, ()))) for reason in REASONS},
        threshold=threshold,
    )


def without_flaky(selection: Selection, samples: Iterable[Sample], again: Iterable[Verdict]) -> Selection:
    """The selection without samples whose second verdict differs from the first, or is unknown.

    Args:
        again: Second verdicts of the kept samples that were run again.
    """
    first = {sample.key: sample.verdict for sample in samples}
    second = {verdict.key: verdict for verdict in again}
    unknown = {key for key, verdict in second.items() if verdict.status == "error"}
    flaky = {key for key, verdict in second.items() if _found(verdict) != _found(first[key])} - unknown
    return dataclasses.replace(
        selection,
        kept=tuple(key for key in selection.kept if key not in flaky | unknown),
        dropped={**selection.dropped, "flaky": tuple(sorted(flaky)), "flaky_unknown": tuple(sorted(unknown))},
    )


def _found(verdict: Verdict) -> tuple[str, str, int]:
    return verdict.stage, verdict.status, verdict.tests_passed
