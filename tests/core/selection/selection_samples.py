"""Completions and verdicts for the tests, by the few fields that selection looks at."""

from __future__ import annotations

from collections.abc import Sequence

from halo_forge.core.records import Completion, Finish, Sample, Status, Verdict


def completion(prompt_id: str, index: int, *, finish: Finish = "stop", text: str = "code") -> Completion:
    return Completion(prompt_id, index, text, (1, 2), finish, seed=index, policy_version=0)


def paired(completions: Sequence[Completion], verdicts: Sequence[Verdict]) -> list[Sample]:
    """Each completion with the verdict at the same place."""
    return [Sample(*pair) for pair in zip(completions, verdicts, strict=True)]


def verdict(
    prompt_id: str,
    index: int,
    reward: float = 1.0,
    *,
    status: Status | None = None,
    warnings: int = 0,
    source: str | None = "",
    normal: str | None = "",
    flags: tuple[str, ...] = (),
) -> Verdict:
    """A verdict whose program is its own unless digests are given."""
    own = f"{prompt_id}#{index}"
    return Verdict(
        prompt_id=prompt_id,
        index=index,
        stage="tests",
        status=("passed" if reward == 1.0 else "failed") if status is None else status,
        reward=reward,
        warnings=warnings,
        flags=flags,
        source_digest=own if source == "" else source,
        normal_digest=own if normal == "" else normal,
    )
