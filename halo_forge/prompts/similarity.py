"""Near-duplicate search: statements in different splits that differ in a word or a number measure memory, not skill."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Sequence

from halo_forge.core.records import Prompt

_WORD = re.compile(r"\w+")
_NUMBER = re.compile(r"\d+")


def messages_digest(prompt: Prompt) -> str:
    """SHA-256 of what a prompt says without its system message: the same whatever its id, its tests and its set."""
    messages = [[each["role"], each["content"]] for each in prompt.messages if each["role"] != "system"]
    return hashlib.sha256(json.dumps(messages, ensure_ascii=True).encode()).hexdigest()


def shingles(text: str, num_words: int = 3) -> frozenset[tuple[str, ...]]:
    """All runs of `num_words` words of a text, in lower case, numbers read as 0; a shorter text is a single run."""
    words = _WORD.findall(_NUMBER.sub("0", text.lower()))
    return frozenset(tuple(words[i : i + num_words]) for i in range(max(1, len(words) - num_words + 1)))


def near_duplicates(prompts: Sequence[Prompt], threshold: float) -> list[tuple[str, str, float]]:
    """Pairs of prompts with similar texts: (id, id, similarity in [threshold, 1]), the most similar first.

    The similarity is the Jaccard index of the sets of word shingles (Broder 1997): intersection size / union size.
    Prompts without a common shingle are never compared.

    Raises:
        ValueError: `threshold` is not in (0, 1].
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold is {threshold}; a number in (0, 1] is needed")
    sets = [shingles(prompt.text) for prompt in prompts]
    holders: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    shared: Counter[tuple[int, int]] = Counter()
    for position, own in enumerate(sets):
        for shingle in own:
            shared.update((other, position) for other in holders[shingle])
            holders[shingle].append(position)
    pairs = [
        (prompts[a].id, prompts[b].id, num_shared / (len(sets[a]) + len(sets[b]) - num_shared))
        for (a, b), num_shared in shared.items()
    ]
    return sorted((pair for pair in pairs if pair[2] >= threshold), key=lambda pair: (-pair[2], pair[0], pair[1]))
