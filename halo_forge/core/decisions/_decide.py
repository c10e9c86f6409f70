"""Turns an assessment into a decision: the last step of a state machine whose state is the decisions so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from halo_forge.core.decisions._assessment import Assessment
from halo_forge.core.decisions._comparison import VersionComparison
from halo_forge.core.decisions._settings import DecisionsSection
from halo_forge.core.decisions._stopping import History, stop
from halo_forge.core.records import Action, Decision, Ending

_OUTCOME_IN_WORDS = {
    "baseline": "the start model",
    "ahead": "ahead",
    "held": "statistically indistinguishable",
    "suspect_not_confirmed": "the decline was not confirmed",
    "degraded": "degraded",
    "underpowered": "underpowered: the estimate is too imprecise to judge",
}
_PASSES = {"pass_rate": "passes", "compile_rate": "compilations", "reward_mean": "rewards"}


def incumbent(earlier: Sequence[Decision]) -> int:
    """The version to compare the next one with: the last that was ahead, v_0 at first."""
    return earlier[-1].best_version if earlier else 0


def decide(
    settings: DecisionsSection,
    earlier: Sequence[Decision],
    assessment: Assessment,
    history: History,
    num_cycles: int,
    *,
    at_floor: bool = False,
    start_from: str = "previous",
) -> Decision:
    """The decision of the cycle after `earlier`.

    Args:
        earlier: The decisions of all cycles before, in order; they are the whole state.
        assessment: Of v_{cycle-1}; a suspect was confirmed or cleared before.
        history: The metrics of v_0 .. v_{cycle-1}.
        at_floor: See `stop`.
        start_from: `training.start_from`, which says where a cycle is trained from when nothing declined.

    Raises:
        ValueError: The assessment is still "suspect".
    """
    outcome = assessment.outcome
    if outcome == "suspect":
        raise ValueError("a suspect must be confirmed or cleared before a decision")
    version = len(earlier)
    best = version if outcome == "ahead" else incumbent(earlier)
    ending = stop(settings, earlier, assessment, history, at_floor) if version > 0 else None
    is_last = version >= num_cycles
    if is_last and ending is None:
        ending = _all_done(assessment, best)
    action, ends_as, why = _action(settings, assessment, ending, is_last)
    ends = action in ("stop", "finish")
    state = _state(earlier)
    follow = {} if ends or action == "continue" else _consequences(settings, state, action, best)
    train_from = version if ends else _train_from(start_from, action, version, best)
    return Decision(
        cycle=version + 1,
        outcome=outcome,
        action=action,
        best_version=best,
        reason="; ".join(
            part for part in (_found(settings, version, assessment), why, _follow_up(follow, train_from)) if part
        ),
        compared_with=assessment.compared_with,
        screen={} if assessment.screen is None else assessment.screen.to_row(),
        confirmation={} if assessment.confirmation is None else assessment.confirmation.to_row(),
        opposed={name: other.to_row() for name, other in assessment.opposed.items()},
        ending=ends_as,
        train_from=train_from,
        **{"sample_from": version, **state, **follow},
    )


def _all_done(assessment: Assessment, best: int) -> tuple[Ending, str]:
    """How a run ends that completed all its cycles, and why."""
    if best == 0 and assessment.outcome == "degraded":
        return "declined", "no version was ahead of the start model, and the last one declined"
    return "completed", ""


def _action(
    settings: DecisionsSection, assessment: Assessment, ending: tuple[Ending, str] | None, is_last: bool
) -> tuple[Action, Ending | None, str]:
    """The action, and for a run that ends its ending and the reason."""
    if ending is not None:
        ends_as, why = ending
        done = "all cycles completed" + (f"; {why}" if why else "")
        return ("finish", ends_as, done) if is_last else ("stop", ends_as, f"stop: {why}")
    return settings.on_decline if assessment.outcome == "degraded" else "continue", None, ""


def _state(earlier: Sequence[Decision]) -> dict[str, Any]:
    """The changes by earlier declines that remain in force."""
    if not earlier:
        return {}
    last = earlier[-1]
    names = ("learning_rate_factor", "temperature_add", "num_rollbacks")
    return {name: getattr(last, name) for name in names}


def _train_from(start_from: str, action: Action, version: int, best: int) -> int:
    if action == "from_base" or start_from == "base":
        return 0
    return best if action == "rollback" or start_from == "best" else version


def _consequences(settings: DecisionsSection, state: Mapping[str, Any], action: Action, best: int) -> dict[str, Any]:
    """The fields of a decision that respond to a decline."""
    lowered = {"learning_rate_factor": state.get("learning_rate_factor", 1.0) * settings.learning_rate_factor}
    if action == "continue_lower":
        return lowered
    return {
        **lowered,
        "sample_from": best,
        "seed_tag": "rollback",
        "temperature_add": state.get("temperature_add", 0.0) + settings.temperature_add,
        "num_rollbacks": state.get("num_rollbacks", 0) + 1,
    }


def _found(settings: DecisionsSection, version: int, assessment: Assessment) -> str:
    if assessment.outcome == "too_few_to_tell":
        why = "there are none" if assessment.screen is not None and assessment.screen.all_zero else "one prompt decides"
        words = f"too few {_PASSES[settings.metric.removeprefix('dev/')]} to tell: {why}"
    else:
        words = _OUTCOME_IN_WORDS[assessment.outcome]
    if assessment.compared_with is None:
        return f"v{version}: {words}"
    if assessment.screen is None:
        return f"v{version}: fewer than 2 dev prompts to compare; {words}"
    fresh = assessment.confirmation
    again = "" if fresh is None else f"; resampled {fresh.in_words()}"
    compared = f"v{version} against v{assessment.compared_with} on {settings.metric}"
    return f"{compared}: {assessment.screen.in_words()}{again}: {words}{against(assessment.opposed)}"


def against(opposed: Mapping[str, VersionComparison]) -> str:
    """The other metrics that moved the other way, such as ", but compile_rate fell by 0.094 (z -1.60)"."""
    parts = []
    for name, other in opposed.items():
        z = "" if other.z is None else f" (z {other.z:.2f})"
        parts.append(f"{name} {'fell' if other.difference < 0.0 else 'rose'} by {abs(other.difference):.3f}{z}")
    return f", but {' and '.join(parts)}" if parts else ""


def _follow_up(follow: Mapping[str, Any], train_from: int) -> str:
    if not follow:
        return ""
    factor = follow["learning_rate_factor"]
    rate = f"learning rate x {factor:g} from now on" if factor != 1.0 else "learning rate follows its schedule"
    if "sample_from" not in follow:
        return f"train from v{train_from}, {rate}"
    return (
        f"rollback {follow['num_rollbacks']}: train from v{train_from} on samples of v{follow['sample_from']},"
        f" {rate}, temperature + {follow['temperature_add']:g}"
    )
