"""What a run that has ended allows to conclude, by samples that nothing was chosen by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from halo_forge.core.decisions._assessment import is_improvement
from halo_forge.core.decisions._comparison import VersionComparison
from halo_forge.core.decisions._decide import against
from halo_forge.core.decisions._settings import DecisionsSection
from halo_forge.core.records import Conclusion, Decision


@dataclass(frozen=True, slots=True)
class Confirmation:
    """Comparisons on samples that were drawn after all decisions were made.

    Attributes:
        set_name: The prompts: "test", or "dev" with other seeds.
        lead: The chosen version minus the start model; None with too few shared prompts.
        step: The last version minus the incumbent that it is ahead of; None where it is not.
        opposed: Other metrics that moved the other way than `lead`.
    """

    set_name: Literal["test", "dev"]
    lead: VersionComparison | None
    step: VersionComparison | None = None
    opposed: Mapping[str, VersionComparison] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Finding:
    """What is concluded.

    Attributes:
        improved: Whether the chosen version is confirmed to improve on the start model; None if that is the one chosen.
        reason: In words, with the numbers.
    """

    conclusion: Conclusion
    improved: bool | None
    reason: str


def conclude(settings: DecisionsSection, decision: Decision, confirmation: Confirmation | None) -> Finding:
    """The conclusion of a run whose last decision is `decision`.

    Args:
        confirmation: None where the start model is the version to keep.
    """
    ending = decision.ending
    if ending is None:
        raise ValueError("the run goes on: there is nothing to conclude yet")
    if confirmation is None:
        if ending != "completed":
            return Finding(ending, None, "")
        why = "no version was ahead of the start model; this alone does not mean that training has converged"
        return Finding("inconclusive", None, why)
    improved = is_improvement(settings, confirmation.lead)
    reason = _lead_in_words(settings, decision.best_version, confirmation, improved)
    if ending != "completed":
        return Finding(ending, improved, reason)
    if not improved:
        return Finding("inconclusive", False, reason)
    last_is_ahead = decision.outcome == "ahead" and decision.best_version == decision.policy_version
    if not last_is_ahead:
        return Finding("improved", True, reason)
    # From v_0 straight to the last version there is one comparison, and it is confirmed.
    previous = decision.compared_with
    goes_on = previous == 0 or is_improvement(settings, confirmation.step)
    if previous != 0 and confirmation.step is not None:
        said = "confirmed" if goes_on else "not confirmed"
        reason += f"; its lead over v{previous}: {confirmation.step.in_words()}: {said}"
    if not goes_on:
        return Finding("improved", True, reason)
    return Finding("still_improving", True, f"{reason}; the last version is the best: more cycles may improve further")


def _lead_in_words(settings: DecisionsSection, chosen: int, confirmation: Confirmation, improved: bool) -> str:
    metric = settings.metric.removeprefix("dev/")
    where = f"{metric} on test" if confirmation.set_name == "test" else f"{metric} on fresh samples of dev"
    found = confirmation.lead
    if found is None:
        return f"v{chosen} against v0 in {where}: fewer than 2 prompts to compare; not confirmed"
    words = "improved" if improved else f"not confirmed as an improvement{_why_not(settings, found)}"
    return f"v{chosen} against v0 in {where}: {found.in_words()}: {words}{against(confirmation.opposed)}"


def _why_not(settings: DecisionsSection, found: VersionComparison) -> str:
    """The reason where the difference alone does not show it."""
    if found.num_prompts < settings.min_prompts:
        return f" (fewer prompts than decisions.min_prompts, {settings.min_prompts})"
    if found.z is None or found.z < -settings.confirm_z or found.difference < settings.min_improvement:
        return ""
    return " (one prompt decides)"
