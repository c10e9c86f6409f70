"""How similar the completions of one prompt are, word by word: what programs that all differ may still share.

A word is a name, a number or a sign in the completion.  Each number is computed per prompt, over its first 4
completions (by sample index), and averaged: all three depend on the number of completions, so it is always 4.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

from halo_forge.core.metrics._facts import MetricInfo, SetFacts
from halo_forge.core.records import Sample

SCOPE = "set"
NUM_ANSWERS = 4
MAX_ORDER = 4
VOCABULARY = 50_000
"""Vocabulary size V of `ead@2`; a constant, so that all runs are comparable."""
_WORD = re.compile(r"\w+|[^\w\s]")
_FEWER = "Prompts with fewer than 4 completions are left out."
_NAMED: dict[str, tuple[str, str, str]] = {
    "ead@2": (
        "ratio",
        "up",
        "Distinct word pairs / those expected in as many uniform draws, V (1 - (1 - 1/V)^C) with V = 50,000 "
        f"(expectation-adjusted distinct, Liu et al. 2022). {_FEWER}",
    ),
    "self_bleu": (
        "rate",
        "down",
        f"Mean BLEU-4 of each completion against the other three (Zhu et al. 2018). {_FEWER}",
    ),
    "vendi": (
        "count",
        "up",
        "exp(-sum l ln l), l the eigenvalues of K/4, K the cosine similarity of n-gram counts, n = 1 to 4 "
        f"(Friedman and Dieng 2023). {_FEWER}",
    ),
}
CATALOGUE = {
    f"{prefix}/{name}": MetricInfo(unit, direction, doc, bare_on_train=True)  # type: ignore[arg-type]
    for prefix in ("diversity", "diversity/passing")
    for name, (unit, direction, doc) in _NAMED.items()
}

Words = tuple[str, ...]
Grams = Counter[Words]


def measure(facts: SetFacts) -> dict[str, float]:
    """The metrics of `CATALOGUE`; those for which no prompt has enough completions are absent."""
    judged = [sample for sample in facts.samples if sample.verdict.status != "error"]
    passed = [sample for sample in judged if sample.verdict.passed]
    return _alike(judged, "diversity") | _alike(passed, "diversity/passing")


def _alike(samples: Sequence[Sample], prefix: str) -> dict[str, float]:
    answers: defaultdict[str, list[Words]] = defaultdict(list)
    for sample in sorted(samples, key=lambda each: each.key):
        if len(answers[sample.prompt_id]) < NUM_ANSWERS:
            answers[sample.prompt_id].append(words(sample.completion.text))
    full = [found for found in answers.values() if len(found) == NUM_ANSWERS and all(found)]
    formulas: tuple[tuple[str, Callable[[Sequence[Words]], float]], ...] = (
        ("ead@2", expectation_adjusted_distinct),
        ("self_bleu", self_bleu),
        ("vendi", vendi),
    )
    return {
        f"{prefix}/{name}": math.fsum(map(formula, full)) / len(full) for name, formula in formulas if len(full) > 0
    }


def words(text: str) -> Words:
    """Names, numbers and single signs, in order."""
    return tuple(_WORD.findall(text))


def grams(answer: Words, order: int) -> Grams:
    """How often each run of `order` words occurs."""
    return Counter(zip(*(answer[start:] for start in range(order)), strict=False))


def expectation_adjusted_distinct(answers: Sequence[Words]) -> float:
    """Distinct word pairs over the number expected from uniform draws; 0 without a pair."""
    pairs = sum((grams(answer, 2) for answer in answers), Grams())
    expected = -VOCABULARY * math.expm1(pairs.total() * math.log1p(-1 / VOCABULARY))
    return len(pairs) / expected if pairs else 0.0


def self_bleu(answers: Sequence[Words]) -> float:
    """Mean BLEU-4 of each completion against all others, in [0, 1]; 1 if all are equal."""
    return math.fsum(
        bleu(answer, [other for place, other in enumerate(answers) if place != number])
        for number, answer in enumerate(answers)
    ) / len(answers)


def bleu(answer: Words, references: Sequence[Words]) -> float:
    """Geometric mean of the clipped precisions of 1 to 4 words, times the brevity penalty (Papineni et al. 2002).

    Orders longer than the completion are left out; an order without a match makes the result 0.
    """
    logs = []
    for order in range(1, min(MAX_ORDER, len(answer)) + 1):
        mine = grams(answer, order)
        most = Grams()
        for reference in references:
            most |= grams(reference, order)
        matched = (mine & most).total()
        if matched == 0:
            return 0.0
        logs.append(math.log(matched / mine.total()))
    closest = min((abs(len(each) - len(answer)), len(each)) for each in references)[1]
    return math.exp(min(0.0, 1 - closest / len(answer)) + math.fsum(logs) / len(logs))


def vendi(answers: Sequence[Words]) -> float:
    """The effective number of distinct completions, from 1 (all equal) to their number (no word shared)."""
    import numpy

    counts = [sum((grams(answer, order) for order in range(1, MAX_ORDER + 1)), Grams()) for answer in answers]
    norms = [math.sqrt(sum(count**2 for count in each.values())) for each in counts]
    kernel = [
        [sum(count * other[gram] for gram, count in each.items()) / (norm * other_norm) for other, other_norm in pairs]
        for each, norm in zip(counts, norms, strict=True)
        for pairs in [list(zip(counts, norms, strict=True))]
    ]
    shares = numpy.linalg.eigvalsh(numpy.array(kernel) / len(answers))
    return math.exp(-math.fsum(share * math.log(share) for share in shares.tolist() if share > 0))
