"""How different the programs of one prompt are: what narrows when a model trains on its own samples.

Programs are equal if their normalised digests are; a sample without a program, or of status "error", is left out.
Each number is computed per prompt and averaged over prompts, so many programs for one prompt do not hide that another
has only one.  `diversity/passing/...` counts only the programs that pass: broken ones differ in many ways.  In the
formulas, n_j are the group sizes of one prompt, n = sum n_j, q_j = n_j / n.
"""

from __future__ import annotations

import gzip
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from halo_forge.core.metrics._facts import MetricInfo, SetFacts
from halo_forge.core.records import Verdict

SCOPE = "set"
GZIP_BYTES = 16_384
RAREFIED_SIZE = 4
_FROM_TWO = "Prompts with fewer than 2 programs are left out."
_NAMED: dict[str, tuple[str, str, str]] = {
    "exact_unique_fraction": ("rate", "up", f"Programs that differ in at least one character / programs. {_FROM_TWO}"),
    "unique_fraction": ("rate", "up", f"Distinct programs / programs. {_FROM_TWO}"),
    f"distinct@{RAREFIED_SIZE}": (
        "count",
        "up",
        "Expected distinct programs among 4 of the n: sum_j 1 - C(n-n_j,4)/C(n,4) (rarefaction, Hurlbert 1971). "
        "Prompts with fewer than 4 programs are left out.",
    ),
    "duplicate_probability": (
        "rate",
        "down",
        f"Probability that 2 programs are equal: sum_j n_j(n_j-1) / (n(n-1)) (Simpson 1949). {_FROM_TWO}",
    ),
    "effective_number": (
        "count",
        "up",
        f"exp(-sum_j q_j ln q_j): this many equally frequent programs have that entropy (Hill 1973). {_FROM_TWO}",
    ),
    "inverse_simpson": (
        "count",
        "up",
        f"1 / sum_j q_j^2: this many equally frequent programs are equal as often (Hill 1973). {_FROM_TWO}",
    ),
}
CATALOGUE = {
    **{
        f"{prefix}/{name}": MetricInfo(unit, direction, doc, bare_on_train=True)  # type: ignore[arg-type]
        for prefix in ("diversity", "diversity/passing")
        for name, (unit, direction, doc) in _NAMED.items()
    },
    "diversity/gzip_ratio": MetricInfo(
        "ratio",
        "down",
        f"Raw / compressed size of the first {GZIP_BYTES} bytes of the completions, taken from each prompt in turn "
        "(Shaib et al. 2024, arXiv:2403.00553).",
        bare_on_train=True,
    ),
}

FEWEST = {
    f"{prefix}/{name}": RAREFIED_SIZE if name == f"distinct@{RAREFIED_SIZE}" else 2
    for prefix in ("diversity", "diversity/passing")
    for name in _NAMED
}
"""Metric -> the fewest programs per prompt; a prompt with fewer is left out."""


def measure(facts: SetFacts) -> dict[str, float]:
    """The metrics of `CATALOGUE`; those for which no prompt has enough programs are absent."""
    judged = list(facts.judged().values())
    passing = [[verdict for verdict in verdicts if verdict.passed] for verdicts in judged]
    found = _groups("diversity", judged) | _groups("diversity/passing", passing)
    ratio = gzip_ratio(facts)
    return found if ratio is None else found | {"diversity/gzip_ratio": ratio}


def _groups(prefix: str, verdicts_of: Sequence[Sequence[Verdict]]) -> dict[str, float]:
    """The metrics of `_NAMED`, averaged over prompts; the arguments are the verdicts of each prompt."""
    normal = [_sizes(each.normal_digest for each in verdicts) for verdicts in verdicts_of]
    exact = [_sizes(each.source_digest for each in verdicts) for verdicts in verdicts_of]
    formulas: tuple[tuple[str, int, Callable[[Sequence[int]], float], Sequence[Sequence[int]]], ...] = (
        ("exact_unique_fraction", 2, _unique_fraction, exact),
        ("unique_fraction", 2, _unique_fraction, normal),
        (f"distinct@{RAREFIED_SIZE}", RAREFIED_SIZE, lambda sizes: distinct_at(sizes, RAREFIED_SIZE), normal),
        ("duplicate_probability", 2, duplicate_probability, normal),
        ("effective_number", 2, effective_number, normal),
        ("inverse_simpson", 2, inverse_simpson, normal),
    )
    found: dict[str, float] = {}
    for name, least, formula, groups in formulas:
        values = [formula(sizes) for sizes in groups if sum(sizes) >= least]
        if values:
            found[f"{prefix}/{name}"] = math.fsum(values) / len(values)
    return found


def _sizes(digests: Iterable[str | None]) -> list[int]:
    return sorted(Counter(digest for digest in digests if digest is not None).values())


def _unique_fraction(sizes: Sequence[int]) -> float:
    return len(sizes) / sum(sizes)


def distinct_at(sizes: Sequence[int], num_drawn: int) -> float:
    """Expected number of groups among `num_drawn` items drawn without replacement, in [1, num_drawn].

    Raises:
        ValueError: There are fewer items.
    """
    total = sum(sizes)
    if total < num_drawn:
        raise ValueError(f"{num_drawn} items cannot be drawn from {total}")
    draws = math.comb(total, num_drawn)
    return math.fsum(1 - math.comb(total - size, num_drawn) / draws for size in sizes)


def duplicate_probability(sizes: Sequence[int]) -> float:
    """Probability that two different items belong to the same group, in [0, 1].

    Raises:
        ValueError: There are fewer than two items.
    """
    total = sum(sizes)
    if total < 2:
        raise ValueError(f"2 items cannot be drawn from {total}")
    return sum(size * (size - 1) for size in sizes) / (total * (total - 1))


def effective_number(sizes: Sequence[int]) -> float:
    """The exponential of the entropy of the group sizes, in [1, number of groups]."""
    total = sum(sizes)
    return math.exp(-math.fsum(size / total * math.log(size / total) for size in sizes))


def inverse_simpson(sizes: Sequence[int]) -> float:
    """1 over the probability that two draws with replacement hit the same group, in [1, number of groups]."""
    total = sum(sizes)
    return total**2 / sum(size**2 for size in sizes)


def gzip_ratio(facts: SetFacts) -> float | None:
    """Raw over compressed size of exactly `GZIP_BYTES` bytes; None if the completions have fewer.

    The size is fixed because the ratio grows with the length; it is half of the compressor's window, so all prompts can
    match each other.  The order is the first completion of each prompt, then the second of each ...
    """
    place = {prompt_id: number for number, prompt_id in enumerate(facts.prompt_ids)}
    in_turns = sorted(facts.completions, key=lambda each: (each.index, place[each.prompt_id]))
    data = b"\n".join(each.text.encode("utf-8", errors="replace") for each in in_turns)[:GZIP_BYTES]
    if len(data) < GZIP_BYTES:
        return None
    return GZIP_BYTES / len(gzip.compress(data, compresslevel=9, mtime=0))
