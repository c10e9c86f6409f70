"""The rules that end a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from halo_forge.core.decisions._assessment import Assessment
from halo_forge.core.decisions._settings import DecisionsSection
from halo_forge.core.records import MASS, OUTCOME_NUMBER, Decision, Ending
from halo_forge.core.wording import counted

History = Sequence[Mapping[str, float]]
"""The metrics of v_0 .. v_{cycle-1}."""

LOSS_OF_KEPT = "kept/nll_before"
"""Metric: loss of the kept samples before they are trained on, nats per token."""

SIGNS_OF_COLLAPSE: Mapping[str, float] = {
    "dev/diversity/distinct@4": 0.5,
    "dev/diversity/duplicate_probability": 2.0,
    "probe/entropy": 0.5,
}
"""Metric -> the multiple of v_0's value beyond which it is a sign of collapse; above 1 means that it rises.

On dev, whose prompts and temperature are the same for all versions.
"""


def stop(
    settings: DecisionsSection, earlier: Sequence[Decision], assessment: Assessment, history: History, at_floor: bool
) -> tuple[Ending, str] | None:
    """The first rule that ends the run, and its reason; None where none does.

    Args:
        at_floor: The learning rate's schedule would lower it once more, and is at its floor.
    """
    return next(_rules(settings, earlier, assessment, history, at_floor), None)


def _rules(
    settings: DecisionsSection, earlier: Sequence[Decision], assessment: Assessment, history: History, at_floor: bool
) -> Iterator[tuple[Ending, str]]:
    if assessment.outcome == "degraded":
        num_rollbacks = earlier[-1].num_rollbacks
        goes_back = settings.on_decline in ("rollback", "from_base")
        if settings.on_decline == "stop":
            yield "declined", "decisions.on_decline is stop"
        elif goes_back and num_rollbacks >= settings.max_rollbacks:
            returns = counted(num_rollbacks, "return")
            yield "declined", f"decisions.max_rollbacks is used up ({returns} to an earlier version)"
        return  # the response to the decline must have its chance
    if settings.stop_on_collapse and (signs := signs_of_collapse(history)):
        yield "collapsed", "; ".join(signs)
    loss = history[-1].get(LOSS_OF_KEPT)
    if loss is not None and loss < settings.stop_below_loss:
        yield "exhausted", f"the kept samples had a loss of {loss:.3f} before training: there is little left to learn"
    if at_floor and settings.stop_at_floor:
        yield "converged", "no improvement with the learning rate at its floor"
    if settings.stop_patience is not None and (
        reason := _patience(settings.stop_patience, earlier, assessment, history)
    ):
        yield "converged", reason


def _patience(patience: int, earlier: Sequence[Decision], assessment: Assessment, history: History) -> str | None:
    """The reason to stop if the last `patience` versions were all judged and all held; None otherwise.

    Not counted as evidence: an underpowered version; a decline, to which the run has yet to respond; and a version that
    could not show a gain, because it was trained at learning rate 0 or gave the incumbent's completions (no z).
    """
    if any(row.get(MASS) == 0.0 for row in history[-patience:]):
        return None
    screen = assessment.screen.to_row() if assessment.screen is not None else {}
    recent = [*((each.outcome, each.screen) for each in earlier), (assessment.outcome, screen)][-patience:]
    if len(recent) < patience or any(OUTCOME_NUMBER.get(outcome) != 0.0 or "z" not in row for outcome, row in recent):
        return None
    detectable = max(row["minimum_detectable_effect"] for _, row in recent)
    return (
        f"{counted(patience, 'version')} in a row without improvement, where a gain of {detectable:.3f} would have been"
        " detected"
    )


def signs_of_collapse(history: History) -> list[str]:
    """One sentence per sign, if at least two were measured and all measured ones indicate a collapse; otherwise none.

    A single sign is often an effect of the cycle's prompts, or of success: on easy prompts equal programs are correct.
    """
    first, last = history[0], history[-1]
    signs, num_measured = [], 0
    for name, multiple in SIGNS_OF_COLLAPSE.items():
        if name not in first or name not in last:
            continue
        num_measured += 1
        limit = multiple * first[name]
        if last[name] < limit if multiple < 1.0 else last[name] > limit:
            signs.append(f"{name} is {last[name]:.3g}, v0 had {first[name]:.3g}")
    return signs if num_measured >= 2 and len(signs) == num_measured else []
