"""Ahead, worse, or statistically indistinguishable: screen on the dev samples, confirm on fresh samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from halo_forge.core.decisions._comparison import ROUNDING, Totals, VersionComparison, compare_totals
from halo_forge.core.decisions._settings import DecisionsSection
from halo_forge.core.records import Outcome


@dataclass(frozen=True, slots=True)
class Assessment:
    """How a version compares with the incumbent.

    Attributes:
        outcome: The verdict; "suspect" only before fresh samples are drawn.
        compared_with: The incumbent; None for the start model.
        screen: The comparison on the dev samples; None where there was nothing to compare.
        confirmation: The comparison on fresh samples of both; None where none were drawn.
        opposed: Other metric -> its comparison on the dev samples, if it moved the other way (see `opposed`).
    """

    outcome: Outcome | Literal["suspect"]
    compared_with: int | None
    screen: VersionComparison | None = None
    confirmation: VersionComparison | None = None
    opposed: Mapping[str, VersionComparison] = field(default_factory=dict)


def screen_totals(settings: DecisionsSection, incumbent: int, before: Totals, after: Totals) -> Assessment:
    """The first look: `before` are the incumbent's dev samples, `after` the candidate's.

    ahead: at least `min_improvement` and at least `screen_z` standard errors above.  suspect: at least `screen_z`
    standard errors below.  too_few_to_tell: one or the other, but the difference rests on a single prompt; or nothing
    passes in either version, which does not show that nothing improves.  underpowered: fewer prompts than
    `min_prompts`, or a standard error above `max_standard_error` with a difference that is smaller than its minimum
    detectable effect (equal differences on all prompts, such as none at all, have no error of their own).  held:
    everything else.
    """
    found = compare_totals(before, after, settings.scale)
    if found is None or found.num_prompts < settings.min_prompts:
        return Assessment("underpowered", incumbent, found)
    vague = found.standard_error > settings.max_standard_error and not found.uniform
    if vague and abs(found.difference) < found.minimum_detectable_effect:
        return Assessment("underpowered", incumbent, found)
    look = _look(settings, found)
    if found.all_zero or (look != "held" and found.rests_on_one_prompt):
        return Assessment("too_few_to_tell", incumbent, found)
    return Assessment(look, incumbent, found)


def confirm_totals(settings: DecisionsSection, assessment: Assessment, before: Totals, after: Totals) -> Assessment:
    """A suspect after the second look, at samples that nothing was chosen by.

    degraded: at most `confirm_z` standard errors.  Too few prompts left to compare confirm nothing.
    """
    found = compare_totals(before, after, settings.scale)
    fell = (
        found is not None
        and found.num_prompts >= settings.min_prompts
        and found.difference < 0.0
        and (found.z is None or found.z <= settings.confirm_z + ROUNDING)
    )
    outcome: Outcome = "degraded" if fell else "suspect_not_confirmed"
    return Assessment(outcome, assessment.compared_with, assessment.screen, found, assessment.opposed)


def is_improvement(settings: DecisionsSection, found: VersionComparison | None) -> bool:
    """Whether a comparison on samples that nothing was chosen by confirms a lead.

    At least `min_improvement`, and at least `-confirm_z` standard errors, whichever single prompt is left out: with 4
    prompts changed, all upwards, z is above 2, but chance does that once in 16 times (sign test).
    """
    if found is None or found.num_prompts < settings.min_prompts or found.rests_on_one_prompt:
        return False
    if found.difference < max(settings.min_improvement - ROUNDING, ROUNDING):
        return False
    return all(z is None or z >= -settings.confirm_z - ROUNDING for z in (found.z, found.z_without_one))


def opposed(
    settings: DecisionsSection, found: VersionComparison | None, others: Mapping[str, VersionComparison | None]
) -> dict[str, VersionComparison]:
    """Those of `others` that moved the other way than `found`, where both moved.

    By at least `screen_z` standard errors; what rests on a single prompt opposes nothing.

    Args:
        others: Metric -> comparison of the same samples.
    """

    def moved(each: VersionComparison) -> bool:
        return each.difference != 0.0 and (each.z is None or abs(each.z) >= settings.screen_z - ROUNDING)

    if found is None or not moved(found):
        return {}
    return {
        name: other
        for name, other in others.items()
        if other is not None
        and moved(other)
        and not other.rests_on_one_prompt
        and other.difference * found.difference < 0.0
    }


def _look(settings: DecisionsSection, found: VersionComparison) -> Literal["ahead", "suspect", "held"]:
    # On the scale of log-odds z may have another sign than the difference: then neither is clear.
    rises = found.z is None or found.z >= settings.screen_z - ROUNDING
    falls = found.z is None or found.z <= -settings.screen_z + ROUNDING
    if rises and found.difference >= max(settings.min_improvement - ROUNDING, ROUNDING):
        return "ahead"
    return "suspect" if falls and found.difference < -ROUNDING else "held"
