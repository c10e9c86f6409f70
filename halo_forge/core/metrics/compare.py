"""Totals per prompt, for paired comparisons of two policy versions on the same prompts."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Literal

from halo_forge.core.records import Sample, Verdict

What = Literal["compiled", "passed", "reward"]

_VALUES: dict[What, Callable[[Verdict], float]] = {
    "compiled": lambda verdict: float(verdict.compiled),
    "passed": lambda verdict: float(verdict.passed),
    "reward": lambda verdict: verdict.reward,
}


def are_tested(samples: Iterable[Sample]) -> bool:
    """Whether some verdict is about more than compiling; where none is, a pass is a compilation."""
    return verdicts_are_tested(sample.verdict for sample in samples)


def verdicts_are_tested(verdicts: Iterable[Verdict]) -> bool:
    """The same of verdicts alone."""
    return any(
        verdict.tests_total > 0 or verdict.stage in ("run", "tests")
        for verdict in verdicts
        if verdict.status != "error"
    )


def prompt_totals(samples: Iterable[Sample], what: What = "passed") -> dict[str, tuple[float, int]]:
    """Prompt id -> (sum over its judged samples, their number), sorted by id; for `passed` the pass counts.

    Verdicts of status "error" are left out; a prompt with no other verdict is absent.
    """
    return verdict_totals((sample.verdict for sample in samples), what)


def verdict_totals(verdicts: Iterable[Verdict], what: What = "passed") -> dict[str, tuple[float, int]]:
    """The same of verdicts alone."""
    value = _VALUES[what]
    groups: defaultdict[str, list[float]] = defaultdict(list)
    for verdict in verdicts:
        if verdict.status != "error":
            groups[verdict.prompt_id].append(value(verdict))
    return {prompt_id: (math.fsum(values), len(values)) for prompt_id, values in sorted(groups.items())}
