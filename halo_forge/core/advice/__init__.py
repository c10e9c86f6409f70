"""Advice: what the numbers of a run or of a plan suggest, with evidence, and nothing if they are inconclusive.

One rule is one file in `after_cycle` (uses measurements) or `before_run` (uses the plan).  To add one,
write a `Spec` that extends `Rule` or `PlanRule`:

    class Spec(Rule):
        kind: Literal["truncation"] = "truncation"
        limit: float = 0.1

        def look(self, facts: RunFacts) -> Advice | None: ...

Thresholds are fields, so that a rule says what it compares with; docs/THEORY.md has the sources.
"""

from __future__ import annotations

from collections.abc import Sequence

from halo_forge.core.advice._facts import Advice, Advised, RunFacts
from halo_forge.core.advice._plan import PlanFacts
from halo_forge.core.advice._rule import PlanRule, Rule
from halo_forge.core.records import PolicyVersion
from halo_forge.core.registry import discover

__all__ = ["Advice", "Advised", "PlanFacts", "PlanRule", "Rule", "RunFacts", "advise", "advise_plan"]


def advise(versions: Sequence[PolicyVersion]) -> Advised:
    """The advice after the last of `versions` was measured, in the order of the rules' names.

    Args:
        versions: v_0 .. v_c.
    """
    facts = RunFacts(versions)
    found = []
    for kind in discover("halo_forge.core.advice.after_cycle").values():
        rule = kind()
        assert isinstance(rule, Rule)
        # Training cannot have caused anything if the learning rate was 0.
        if facts.has_trained or not rule.about_training:
            found.append(rule.look(facts))
    now = facts.now.number
    return Advised(now + 1, now, tuple(advice.to_row() for advice in found if advice is not None))


def advise_plan(facts: PlanFacts) -> tuple[Advice, ...]:
    """The advice before a run starts, in the order of the rules' names."""
    found = []
    for kind in discover("halo_forge.core.advice.before_run").values():
        rule = kind()
        assert isinstance(rule, PlanRule)
        found.append(rule.look(facts))
    return tuple(advice for advice in found if advice is not None)
