"""Better, worse, or statistically indistinguishable: screen on the dev samples, confirm a fall on fresh samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from halo_forge.core.decisions._comparison import Totals, VersionComparison, compare_totals
from halo_forge.core.decisions._settings import DecisionsSection
from halo_forge.core.records import Outcome

# 0.42 - 0.415 is 0.00500000000000000x in floats, or a hair less: so close to a threshold reaches it.
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Assessment:
    """How a version compares with the incumbent.

    Attributes:
        outcome: The verdict; "suspect" only before fresh samples are drawn.
        compared_with: The incumbent; None for the start model.
        screen: The comparison on the dev samples; None where there was nothing to compare.
        confirmation: The comparison on fresh samples of both; None where none were drawn.
    """

    outcome: Outcome | Literal["suspect"]
    compared_with: int | None
    screen: VersionComparison | None = None
    confirmation: VersionComparison | None = None


def screen_totals(settings: DecisionsSection, incumbent: int, before: Totals, after: Totals) -> Assessment:
    """The first look: `before` are the incumbent's dev samples, `after` the candidate's.

    improved: at least `min_improvement` and at least `screen_z` standard errors above.  suspect: at least `screen_z`
    standard errors below.  underpowered: fewer prompts than `min_prompts`, or a standard error above
    `max_standard_error` with a difference that is smaller than its minimum detectable effect (equal differences on
    all prompts, such as none at all, have no error of their own).  held: everything else.
    """
    found = compare_totals(before, after, settings.scale)
    if found is None or found.num_prompts < settings.min_prompts:
        return Assessment("underpowered", incumbent, found)
    vague = found.standard_error > settings.max_standard_error and not found.uniform
    if vague and abs(found.difference) < found.minimum_detectable_effect:
        return Assessment("underpowered", incumbent, found)
    return Assessment(_look(settings, found), incumbent, found)


def confirm_totals(settings: DecisionsSection, assessment: Assessment, before: Totals, after: Totals) -> Assessment:
    """A suspect after the second look, at samples that nothing was chosen by.

    degraded: at most `confirm_z` standard errors.  Too few prompts left to compare confirm nothing.
    """
    found = compare_totals(before, after, settings.scale)
    fell = (
        found is not None
        and found.num_prompts >= settings.min_prompts
        and found.difference < 0.0
        and (found.z is None or found.z <= settings.confirm_z + _ROUNDING)
    )
    outcome: Outcome = "degraded" if fell else "suspect_not_confirmed"
    return Assessment(outcome, assessment.compared_with, assessment.screen, found)


def _look(settings: DecisionsSection, found: VersionComparison) -> Literal["improved", "suspect", "held"]:
    # On the scale of log-odds z may have another sign than the difference: then neither is clear.
    rises = found.z is None or found.z >= settings.screen_z - _ROUNDING
    falls = found.z is None or found.z <= -settings.screen_z + _ROUNDING
    if rises and found.difference >= max(settings.min_improvement - _ROUNDING, _ROUNDING):
        return "improved"
    return "suspect" if falls and found.difference < -_ROUNDING else "held"
