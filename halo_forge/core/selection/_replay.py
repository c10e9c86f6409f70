"""What earlier cycles leave to later ones: how often each prompt passed, and what was kept."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from halo_forge.core.records import Completion, Selection, Verdict
from halo_forge.core.seeds import derive_seed
from halo_forge.core.selection._rules import Candidate, pair, pass_counts


@dataclass(frozen=True, slots=True)
class PastCycle:
    """A cycle that is done, as its sealed files tell.

    Attributes:
        pass_counts: Prompt id -> (passed, judged) of its samples.
        kept: The samples of its own that it trained on, in training order; not those it replayed itself.
    """

    cycle: int
    pass_counts: Mapping[str, tuple[int, int]]
    kept: tuple[Candidate, ...]

    @classmethod
    def of(
        cls, cycle: int, completions: Sequence[Completion], verdicts: Sequence[Verdict], selection: Selection
    ) -> PastCycle:
        """What is worth remembering of a cycle's train samples."""
        return cls(cycle, pass_counts(verdicts), kept_candidates(completions, verdicts, selection))


def kept_candidates(
    completions: Sequence[Completion], verdicts: Sequence[Verdict], selection: Selection
) -> tuple[Candidate, ...]:
    """The samples that a selection keeps, in its order."""
    by_key = {candidate.key: candidate for candidate in pair(completions, verdicts)}
    return tuple(by_key[key] for key in selection.kept)


def kept_before(past: Sequence[PastCycle]) -> set[Hashable]:
    """Identities of all programs that earlier cycles kept."""
    return {identity for cycle in past for candidate in cycle.kept for identity in candidate.identities}


def most_replayed(num_kept: int, share: float) -> int:
    """How many rows may join `num_kept` so that they are at most `share` of all; `share` is in (0, 1).

    The bound is `floor(num_kept * share / (1 - share))`.
    """
    # 4 * 0.2 / 0.8 is a hair below 1 in floating point, and means 1.
    return math.floor(round(num_kept * share / (1.0 - share), 9))


def replay(
    past: Sequence[PastCycle], kept: Sequence[Candidate], *, share: float, cap: int | None, seed: int
) -> tuple[tuple[int, str, int], ...]:
    """(cycle, prompt id, sample index) of the earlier samples to train on once more.

    Of equal programs the newest is taken, and none that this cycle kept itself.  A prompt has at most `cap` rows,
    those of this cycle included.  Places go first to the prompts with the fewest rows, so that what this cycle did not
    solve is not forgotten; the rest is decided by merit within a prompt, whatever the cycle, and by `seed`.
    """
    room = most_replayed(len(kept), share)
    num_rows = Counter(candidate.completion.prompt_id for candidate in kept)
    seen = {identity for candidate in kept for identity in candidate.identities}
    waiting: defaultdict[str, list[tuple[tuple[float, ...], int, tuple[int, str, int]]]] = defaultdict(list)
    for cycle in sorted(past, key=lambda each: -each.cycle):
        for candidate in sorted(cycle.kept, key=lambda each: each.rank(seed)):
            if seen.isdisjoint(candidate.identities):
                seen |= candidate.identities
                draw = derive_seed(seed, "replay", cycle.cycle, *candidate.key)
                # The novelty of its own time, the last of the merits, says nothing now.
                entry = candidate.merit[:-1], draw, (cycle.cycle, *candidate.key)
                waiting[candidate.completion.prompt_id].append(entry)
    places = []
    for prompt_id, group in waiting.items():
        for place, (_, draw, row) in enumerate(sorted(group), start=num_rows[prompt_id]):
            if cap is None or place < cap:
                places.append((place, draw, row))
    return tuple(row for _, _, row in sorted(places)[:room])
