"""Two versions of a run on the same prompts, sample by sample: for `raft samples` and the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from halo_forge.core.records import Verdict
from halo_forge.store.samples import StoredSample, stored_samples
from halo_forge.store.status import Status

Reached = Literal["no program", "does not compile", "compiles", "runs", "passes", "not judged"]
REACHED: tuple[Reached, ...] = ("no program", "does not compile", "compiles", "runs", "passes", "not judged")
"""How far a completion came, from nothing to everything; "not judged" where the verifier failed or has no verdict."""
Change = Literal["gained", "lost", "same"]
FLAKY = ("flaky", "flaky_unknown")
"""Reasons of samples whose second run did not confirm the first."""


def reached(verdict: Verdict | None) -> Reached:
    """How far the program of a completion came; passing is passing the last stage that its prompt has."""
    if verdict is None or verdict.status == "error":
        return "not judged"
    if verdict.passed:
        return "passes"
    if verdict.stage == "extract":
        return "no program"
    if verdict.stage == "compile":
        return "does not compile"
    return "runs" if verdict.stage == "tests" else "compiles"


@dataclass(frozen=True, slots=True)
class ComparedPrompt:
    """The samples of two versions on one prompt, in the order of their index; a version may have none."""

    prompt_id: str
    start: tuple[StoredSample, ...]
    other: tuple[StoredSample, ...]

    @property
    def samples(self) -> tuple[StoredSample, ...]:
        """Those of both versions."""
        return self.start + self.other

    @property
    def change(self) -> Change | None:
        """Whether a larger or smaller share of the judged samples passes; None where a version has none."""
        shares = [_share_passed(samples) for samples in (self.start, self.other)]
        if shares[0] is None or shares[1] is None:
            return None
        return "same" if shares[0] == shares[1] else "gained" if shares[1] > shares[0] else "lost"

    @property
    def marks(self) -> frozenset[str]:
        """Of "flagged" (a hack flag), "flaky" (a second run disagreed), "cut off" (by the length limit)."""
        found = set()
        for sample in self.samples:
            if sample.verdict is not None and sample.verdict.hacks:
                found.add("flagged")
            if sample.dropped_for in FLAKY:
                found.add("flaky")
            if sample.completion.finish == "length":
                found.add("cut off")
        return frozenset(found)


def num_passed(samples: Sequence[StoredSample]) -> tuple[int, int]:
    """(passed, judged) samples."""
    judged = [sample.verdict for sample in samples if sample.is_judged and sample.verdict is not None]
    return sum(verdict.passed for verdict in judged), len(judged)


def _share_passed(samples: Sequence[StoredSample]) -> float | None:
    passed, judged = num_passed(samples)
    return passed / judged if judged else None


def compared_prompts(root: Path, set_name: str, other: int, *, start: int = 0) -> list[ComparedPrompt]:
    """The prompts of a set that one of the two versions answered, in the order of their first appearance.

    Args:
        set_name: "train", "dev" or "test".
        other: The version to compare with `start`.

    Raises:
        RunDirError: A file cannot be read.
    """
    found: dict[str, tuple[list[StoredSample], list[StoredSample]]] = {}
    for at, version in enumerate((start, other)):
        for sample in stored_samples(root, version=version, sets=[set_name]):
            found.setdefault(sample.completion.prompt_id, ([], []))[at].append(sample)
    return [
        ComparedPrompt(prompt_id, *(tuple(sorted(each, key=lambda sample: sample.completion.index)) for each in both))
        for prompt_id, both in found.items()
    ]


def compared_version(status: Status) -> tuple[int, str] | None:
    """The version to show beside v_0, and what it is: the chosen one, or the latest measured one; None before v_0 is.

    Where nothing is better than v_0, the latest version is what there is to look at.
    """
    measured = [row.policy_version for row in status.cycles if row.decision]
    if not measured:
        return None
    if status.best_version:
        return status.best_version, "chosen on dev" if status.result is not None else "best on dev so far"
    return measured[-1], "the latest one; no version is better than v0 on dev"
