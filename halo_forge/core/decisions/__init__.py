"""Decisions: is a version ahead of, worse than, or indistinguishable from the best so far, and what follows.

`screen_totals` compares the dev samples, `confirm_totals` fresh samples of a suspect, and `decide` says what is done.
`conclude` says, once the run has ended, whether the version to keep is an improvement, by samples that nothing was
chosen by.  All are pure, and the decisions made so far are the whole state, so a resumed run decides the same.
docs/decisions.md has the rules, their error rates, and what they cannot tell.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from halo_forge.core.decisions._assessment import (
    Assessment,
    confirm_totals,
    is_improvement,
    opposed,
    screen_totals,
)
from halo_forge.core.decisions._comparison import Totals, VersionComparison, compare_totals
from halo_forge.core.decisions._conclude import Confirmation, Finding, conclude
from halo_forge.core.decisions._decide import decide, incumbent
from halo_forge.core.decisions._settings import DecisionsSection
from halo_forge.core.decisions._stopping import signs_of_collapse
from halo_forge.core.records import Decision

__all__ = [
    "Assessment",
    "Confirmation",
    "DecisionsSection",
    "Finding",
    "Totals",
    "VersionComparison",
    "compare_totals",
    "conclude",
    "confirm_totals",
    "decide",
    "dropped_cycles",
    "incumbent",
    "is_improvement",
    "opposed",
    "screen_totals",
    "signs_of_collapse",
]


def dropped_cycles(decisions: Sequence[Decision]) -> Collection[int]:
    """The cycles whose training was undone by a return to an earlier version: what they kept counts as not kept."""
    return {decision.policy_version for decision in decisions if decision.action in ("rollback", "from_base")}
