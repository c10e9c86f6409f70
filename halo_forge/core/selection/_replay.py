"""Samples that earlier cycles kept, and which of them later cycles train on again."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence

from halo_forge.core.records import Sample, Selection, Training
from halo_forge.core.seeds import derive_seed
from halo_forge.core.selection._rules import Candidate, identities


def kept_samples(samples: Iterable[Sample], selection: Selection) -> tuple[Sample, ...]:
    """The samples that a selection keeps, in its order."""
    by_key = {sample.key: sample for sample in samples}
    return tuple(by_key[key] for key in selection.kept)


def kept_before(past: Iterable[Training]) -> set[Hashable]:
    """Identities of all programs that earlier cycles kept."""
    return {identity for training in past for sample in training.kept for identity in identities(sample)}


def most_replayed(num_kept: int, share: float) -> int:
    """How many replayed rows can be added to `num_kept` so that they are at most `share` of all; `share` is in (0, 1).

    The bound is `floor(num_kept * share / (1 - share))`.
    """
    # 4 * 0.2 / 0.8 is slightly below 1 in floating point, but means 1.
    return math.floor(round(num_kept * share / (1.0 - share), 9))


def replay(
    past: Iterable[Training], kept: Sequence[Sample], *, share: float, cap: int | None, seed: int
) -> tuple[tuple[int, str, int], ...]:
    """(cycle, prompt id, sample index) of the earlier samples to train on again.

    Of equal programs the newest is used, and none that this cycle kept itself.  A prompt has at most `cap` rows,
    including those of this cycle.  Prompts with the fewest rows come first, so that prompts which this cycle did not
    solve are not forgotten; then merit within a prompt decides, whatever the cycle, then `seed`.
    """
    room = most_replayed(len(kept), share)
    num_rows = Counter(sample.prompt_id for sample in kept)
    seen = {identity for sample in kept for identity in identities(sample)}
    waiting: defaultdict[str, list[tuple[tuple[float, ...], int, tuple[int, str, int]]]] = defaultdict(list)
    for training in sorted(past, key=lambda each: -each.cycle):
        for candidate in sorted(map(Candidate, training.kept), key=lambda each: each.rank(seed)):
            if seen.isdisjoint(candidate.identities):
                seen |= candidate.identities
                draw = derive_seed(seed, "replay", training.cycle, *candidate.key)
                # Novelty, the last criterion, is not known for the time when the sample was made.
                entry = candidate.merit[:-1], draw, (training.cycle, *candidate.key)
                waiting[candidate.sample.prompt_id].append(entry)
    places = []
    for prompt_id, group in waiting.items():
        for place, (_, draw, row) in enumerate(sorted(group), start=num_rows[prompt_id]):
            if cap is None or place < cap:
                places.append((place, draw, row))
    return tuple(row for _, _, row in sorted(places)[:room])
