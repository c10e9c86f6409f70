"""How likely the adapter finds what an export wrote: a much finer measure than what compiles or passes.

Completions of the adapter have some mean log-probability under the adapter itself.  Those of an export that samples
from the same distribution have the same one; those of a damaged export are less likely.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from halo_forge.core.errors import LogitsNotFinite
from halo_forge.core.records import Prompt, Sample
from halo_forge.core.statistics import Difference, paired_difference
from halo_forge.evaluations.ask import Settings
from halo_forge.evaluations.models import Models
from halo_forge.evaluations.subject import Subject
from halo_forge.policy.drift_probe import DriftProbe
from halo_forge.store.files import read_json, write_json

MAX_SURPRISE = 0.15
"""Nats per token by which an export may be less likely; docs/export.md has what intact exports differ by."""


def surprise(
    adapter: Subject,
    prompts: Sequence[Prompt],
    settings: Settings,
    date: datetime,
    sides: Mapping[str, Sequence[Sample]],
    place: Path,
) -> dict[str, dict[str, float]]:
    """Side -> prompt id -> minus the mean log-probability of its tokens under the adapter, in nats per token.

    Prompts whose completions are all empty are left out.  What is sealed at `place` is read.

    Raises:
        LogitsNotFinite: The adapter's probabilities are not finite.
        ModelError: The adapter cannot be loaded.
    """
    if place.is_file():
        return read_json(place)
    policy = Models().policy(
        adapter,
        prompts,
        hardware=settings.hardware,
        response_prefix=settings.response_prefix,
        date=date,
        reasoning_marks=settings.verifier.own_marks,
    )
    given = {prompt.id: policy.prompt_ids(prompt) for prompt in prompts}
    probe = DriftProbe(policy, {})
    found: dict[str, dict[str, float]] = {}
    for name, samples in sides.items():
        written = [each.completion for each in samples if each.completion.token_ids]
        rows = [[*given[each.prompt_id], *each.token_ids] for each in written]
        logs, _, _ = probe.log_probabilities(rows, [len(given[each.prompt_id]) for each in written])
        values: dict[str, list[float]] = {}
        for each, tokens in zip(written, logs, strict=True):
            values.setdefault(each.prompt_id, []).extend(tokens)
        found[name] = {prompt_id: -math.fsum(tokens) / len(tokens) for prompt_id, tokens in values.items()}
        if not all(map(math.isfinite, found[name].values())):
            raise LogitsNotFinite(
                "the adapter gives tokens of the proof probabilities that are not finite",
                "--set model.dtype=float32, or model.attn_implementation=eager",
            )
    write_json(place, found)
    return found


def surprise_difference(found: Mapping[str, Mapping[str, float]]) -> Difference | None:
    """Exported minus adapter, paired by prompt; None with fewer than two shared prompts."""
    before, after = found["adapter"], found["exported"]
    return paired_difference(before, after) if len(before.keys() & after.keys()) > 1 else None


def is_surprising(found: Difference | None) -> bool:
    """Whether the export is less likely than is allowed, beyond chance."""
    return found is not None and found.mean > MAX_SURPRISE and found.low > 0.0
