"""From a judgement to what is done: the last step of the state machine, whose state is the decisions so far."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from halo_forge.decisions._decision import Action, Conclusion, Decision
from halo_forge.decisions._judgement import Judgement
from halo_forge.decisions._settings import DecisionsSection
from halo_forge.decisions._stopping import History, stop

_OUTCOME_IN_WORDS = {
    "baseline": "the start model",
    "improved": "improved",
    "held": "no difference that can be told",
    "suspect_not_confirmed": "the fall was not confirmed",
    "degraded": "degraded",
    "underpowered": "underpowered: this tells nothing",
}


def incumbent(earlier: Sequence[Decision]) -> int:
    """The version to compare the next one with: the last that improved, v_0 at first."""
    return earlier[-1].best_version if earlier else 0


def decide(
    settings: DecisionsSection,
    earlier: Sequence[Decision],
    judgement: Judgement,
    history: History,
    num_cycles: int,
    at_floor: bool = False,
) -> Decision:
    """The decision of the lap after `earlier`.

    Args:
        earlier: The decisions of all laps before, in order; they are the whole state.
        judgement: Of v_{cycle-1}; a suspect was confirmed or cleared before.
        history: The metrics of v_0 .. v_{cycle-1}.
        at_floor: See `stop`.

    Raises:
        ValueError: The judgement is still "suspect".
    """
    outcome = judgement.outcome
    if outcome == "suspect":
        raise ValueError("a suspect must be confirmed or cleared before a decision")
    version = len(earlier)
    best = version if outcome == "improved" else incumbent(earlier)
    ending = stop(settings, earlier, judgement, history, at_floor) if version > 0 else None
    is_last = version >= num_cycles
    if is_last and ending is None:
        ending = _all_done(judgement, best)
    action, conclusion, why = _action(settings, judgement, ending, is_last)
    ends = action in ("stop", "finish")
    follow = {} if ends else _consequences(settings, earlier, action, best)
    kept = _state(earlier)
    return Decision(
        cycle=version + 1,
        outcome=outcome,
        action=action,
        best_version=best,
        reason="; ".join(part for part in (_found(settings, version, judgement), why, _follow_up(follow)) if part),
        compared_with=judgement.compared_with,
        screen={} if judgement.screen is None else judgement.screen.to_row(),
        confirmation={} if judgement.confirmation is None else judgement.confirmation.to_row(),
        conclusion=conclusion,
        **{"train_from": version, "sample_from": version, **kept, **follow},
    )


def _all_done(judgement: Judgement, best: int) -> tuple[Conclusion, str]:
    """What may be said of a run that used up its cycles: never that it converged."""
    if judgement.outcome == "improved":
        return "still_improving", "the last version is the best so far: more cycles may help"
    if judgement.outcome == "degraded":
        return "declined", "the last version fell"
    if best > 0:
        return "improved", f"v{best} improved, nothing after it did"
    return "inconclusive", "no version improved; that alone does not say that training has converged"


def _action(
    settings: DecisionsSection, judgement: Judgement, ending: tuple[Conclusion, str] | None, is_last: bool
) -> tuple[Action, Conclusion | None, str]:
    """What is done, the conclusion of a run that ends, and why it ends."""
    if ending is not None:
        conclusion, why = ending
        return (
            ("finish", conclusion, f"all cycles are done; {why}") if is_last else ("stop", conclusion, f"stop: {why}")
        )
    return settings.on_decline if judgement.outcome == "degraded" else "continue", None, ""


def _state(earlier: Sequence[Decision]) -> dict[str, Any]:
    """What earlier declines still change."""
    if not earlier:
        return {}
    last = earlier[-1]
    names = ("learning_rate_factor", "temperature_add", "num_rollbacks")
    return {name: getattr(last, name) for name in names}


def _consequences(settings: DecisionsSection, earlier: Sequence[Decision], action: Action, best: int) -> dict[str, Any]:
    """The fields of a decision that answer a decline; none where there was none."""
    if action == "continue":
        return {}
    last = earlier[-1]
    lowered = {"learning_rate_factor": last.learning_rate_factor * settings.learning_rate_factor}
    if action == "continue_lower":
        return lowered
    return {
        **lowered,
        "train_from": 0 if action == "from_base" else best,
        "sample_from": best,
        "seed_tag": "rollback",
        "temperature_add": last.temperature_add + settings.temperature_add,
        "num_rollbacks": last.num_rollbacks + 1,
    }


def _found(settings: DecisionsSection, version: int, judgement: Judgement) -> str:
    words = _OUTCOME_IN_WORDS[judgement.outcome]
    if judgement.compared_with is None:
        return f"v{version}: {words}"
    if judgement.screen is None:
        return f"v{version}: fewer than 2 dev prompts to compare; {words}"
    fresh = judgement.confirmation
    again = "" if fresh is None else f"; drawn anew {fresh.in_words()}"
    compared = f"v{version} against v{judgement.compared_with} on {settings.metric}"
    return f"{compared}: {judgement.screen.in_words()}{again}: {words}"


def _follow_up(follow: dict[str, Any]) -> str:
    if not follow:
        return ""
    rate = f"learning rate x {follow['learning_rate_factor']:g} from here on"
    if "train_from" not in follow:
        return f"on from here, {rate}"
    return (
        f"return {follow['num_rollbacks']}: train from v{follow['train_from']} on samples of v{follow['sample_from']},"
        f" {rate}, temperature + {follow['temperature_add']:g}"
    )
