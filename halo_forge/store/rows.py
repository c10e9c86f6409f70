"""A run directory as rows: one plain dict for each sample, optimizer step or decision.

Only sealed stages are read: what a running attempt is still writing appears when its stage is done.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from halo_forge.core.records import COST, Verdict
from halo_forge.store.files import read_json, read_jsonl
from halo_forge.store.run import cycle_folders
from halo_forge.store.samples import StoredSample, stored_samples

_ID = ("prompt_id", "index", "policy_version")
_COMPARISONS = ("screen", "confirmation", "opposed")
"""Fields of decision.json that are null where nothing was compared."""
_VERDICT = tuple(field.name for field in fields(Verdict) if field.name not in (*_ID, *COST))


def sample_rows(root: Path) -> Iterator[dict[str, Any]]:
    """Every completion with its verdict, cycle by cycle, then those of the comparisons at the end.

    Keys: `cycle` (None for those), `set`, `prompt_id`, `index`, `policy_version`, `text`, `finish`, `num_tokens`, the
    fields of `Verdict` (None while the stage is not done), `kept` (whether it is trained on; None where nothing is
    selected from its set) and `dropped_for`, the first rule that dropped it.

    Raises:
        RunDirError: A file cannot be read.
    """
    return map(sample_row, stored_samples(root))


def sample_row(sample: StoredSample) -> dict[str, Any]:
    """One row of `sample_rows`."""
    completion = sample.completion
    verdict = {} if sample.verdict is None else sample.verdict.to_row()
    return {
        "cycle": sample.cycle,
        "set": sample.set_name,
        "prompt_id": completion.prompt_id,
        "index": completion.index,
        "policy_version": completion.policy_version,
        "text": completion.text,
        "finish": completion.finish,
        "num_tokens": len(completion.token_ids),
        **{name: verdict.get(name) for name in _VERDICT},
        "kept": sample.kept,
        "dropped_for": sample.dropped_for,
    }


def step_rows(root: Path) -> Iterator[dict[str, Any]]:
    """Every optimizer step: `cycle`, and what training_log.jsonl holds (`step`, `learning_rate`, `loss` ...).

    Raises:
        RunDirError: A file cannot be read.
    """
    for folder in cycle_folders(root):
        path = folder / "training_log.jsonl"
        for row in read_jsonl(path) if path.is_file() else ():
            yield {"cycle": int(folder.name), **row}


def decision_rows(root: Path) -> Iterator[dict[str, Any]]:
    """Every decision: the fields of decision.json, those of the comparisons made for it as `screen/z` ...

    Raises:
        RunDirError: A file cannot be read.
    """
    for folder in cycle_folders(root):
        path = folder / "decision.json"
        if path.is_file():
            yield _flat(read_json(path))


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, Mapping):
            found |= {f"{key}/{name}": item for name, item in _flat(value).items()}
        elif key not in _COMPARISONS:
            found[key] = value
    return found
