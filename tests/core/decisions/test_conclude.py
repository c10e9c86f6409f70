"""What a run that has ended allows to conclude: nothing improved that fresh samples do not confirm."""

from __future__ import annotations

from typing import Any

import pytest

from halo_forge.core.decisions import Confirmation, DecisionsSection, VersionComparison, conclude
from halo_forge.core.records import Decision

SETTINGS = DecisionsSection()


def by(z: float, num_prompts: int = 64, without_one: float | None = None) -> VersionComparison:
    rest = z * 0.98 if without_one is None else without_one
    return VersionComparison(0.02 * z, 0.02, z, num_prompts, num_changed=30, z_without_one=rest)


def ended(outcome: Any, best: int, last: int, against: int, ending: Any = "completed") -> Decision:
    return Decision(last + 1, outcome, "finish", best, "done", compared_with=against, ending=ending)


CLEAR, VAGUE = by(3.0), by(1.5)
HELD = ended("held", best=2, last=3, against=2)
FIRST = ended("ahead", best=1, last=1, against=0)
AHEAD = ended("ahead", best=3, last=3, against=2)


@pytest.mark.parametrize(
    ("decision", "lead", "step", "conclusion", "improved"),
    [
        (HELD, CLEAR, None, "improved", True),
        (HELD, VAGUE, None, "inconclusive", False),
        (HELD, None, None, "inconclusive", False),
        (FIRST, CLEAR, None, "still_improving", True),
        (FIRST, VAGUE, None, "inconclusive", False),
        (AHEAD, CLEAR, CLEAR, "still_improving", True),
        (AHEAD, CLEAR, VAGUE, "improved", True),
        (AHEAD, CLEAR, None, "improved", True),
        (AHEAD, VAGUE, CLEAR, "inconclusive", False),
        (ended("held", 2, 3, 2, "collapsed"), CLEAR, None, "collapsed", True),
        (ended("held", 2, 3, 2, "converged"), VAGUE, None, "converged", False),
        (ended("degraded", 2, 3, 2, "declined"), CLEAR, None, "declined", True),
    ],
)
def test_conclusions(
    decision: Decision,
    lead: VersionComparison | None,
    step: VersionComparison | None,
    conclusion: str,
    improved: bool,
) -> None:
    found = conclude(SETTINGS, decision, Confirmation("test", lead, step))
    assert (found.conclusion, found.improved) == (conclusion, improved)
    assert ("not confirmed" in found.reason) is (not improved or step is VAGUE)


def test_without_a_lead_there_is_nothing_to_confirm() -> None:
    found = conclude(SETTINGS, ended("held", 0, 3, 0), None)
    assert (found.conclusion, found.improved) == ("inconclusive", None)
    assert "does not mean that training has converged" in found.reason
    assert conclude(SETTINGS, ended("held", 0, 3, 0, "converged"), None).conclusion == "converged"


def test_a_run_that_goes_on_concludes_nothing() -> None:
    with pytest.raises(ValueError, match="goes on"):
        conclude(SETTINGS, Decision(2, "ahead", "continue", 1, "", compared_with=0), None)


def test_the_reason_says_where_it_was_measured_what_is_missing_and_what_fell() -> None:
    fell = {"compile_rate": VersionComparison(-0.094, 0.03, -3.13, 64)}
    confirmed = conclude(SETTINGS, HELD, Confirmation("test", CLEAR, opposed=fell)).reason
    assert confirmed.startswith(
        "v2 against v0 in pass_rate on test: +0.060 (SE 0.020, z 3.00, detectable 0.056, 64 prom"
    )
    assert confirmed.endswith(": improved, but compile_rate fell by 0.094 (z -3.13)")
    fresh = conclude(SETTINGS, HELD, Confirmation("dev", by(2.1, without_one=1.8))).reason
    assert "on fresh samples of dev" in fresh and fresh.endswith("not confirmed as an improvement (one prompt decides)")
    few = conclude(SETTINGS, HELD, Confirmation("dev", by(3.0, num_prompts=19))).reason
    assert few.endswith("(fewer prompts than decisions.min_prompts, 20)")
