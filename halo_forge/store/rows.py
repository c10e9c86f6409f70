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
from halo_forge.store.run import FILE_PREFIX, cycle_folder, cycle_folders, measured_folders

_SELECTED_FROM = ("train", "further")
_SELECTED_FROM_AFTER_ROLLBACK = ("rollback", "further")
_ID = ("prompt_id", "index", "policy_version")
_COMPARISONS = ("screen", "confirmation")
"""Fields of decision.json that are null where nothing was compared."""
_VERDICT = tuple(field.name for field in fields(Verdict) if field.name not in (*_ID, *COST))


def sample_rows(root: Path) -> Iterator[dict[str, Any]]:
    """Every completion with its verdict, cycle by cycle, then those of the test prompts.

    Keys: `cycle` (None for test), `set`, `prompt_id`, `index`, `policy_version`, `text`, `finish`, `num_tokens`, the
    fields of `Verdict` (None while the stage is not done), `kept` (whether it is trained on; None where nothing is
    selected from its set) and `dropped_for`, the first rule that dropped it.

    Raises:
        RunDirError: A file cannot be read.
    """
    for folder in cycle_folders(root):
        selection = folder / "selection.json"
        fates = _fates(read_json(selection)) if selection.is_file() else {}
        after_rollback = (folder / "rollback_completions.jsonl").is_file()
        selected_from = _SELECTED_FROM_AFTER_ROLLBACK if after_rollback else _SELECTED_FROM
        for name, prefix in FILE_PREFIX.items():
            if name == "test":
                continue
            known = fates if name in selected_from else {}
            yield from _samples(folder, prefix, {"cycle": int(folder.name), "set": name}, known)
    for folder in measured_folders(root):
        yield from _samples(folder, "", {"cycle": None, "set": "test"}, {})


def dev_samples(root: Path, version: int) -> Iterator[dict[str, Any]]:
    """The dev samples that a version is measured on, as rows of `sample_rows`.

    Raises:
        RunDirError: A file cannot be read.
    """
    cycle = version + 1
    yield from _samples(cycle_folder(root, cycle), FILE_PREFIX["dev"], {"cycle": cycle, "set": "dev"}, {})


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


def _samples(
    folder: Path, prefix: str, place: Mapping[str, Any], fates: Mapping[tuple[str, int], str | None]
) -> Iterator[dict[str, Any]]:
    completions, verdicts = folder / f"{prefix}completions.jsonl", folder / f"{prefix}verdicts.jsonl"
    if not completions.is_file():
        return
    found = {_key(row): row for row in (read_jsonl(verdicts) if verdicts.is_file() else ())}
    for row in read_jsonl(completions):
        key = _key(row)
        verdict = found.get(key, {})
        yield {
            **place,
            **{name: row[name] for name in _ID},
            "text": row["text"],
            "finish": row["finish"],
            "num_tokens": len(row["token_ids"]),
            **{name: verdict.get(name) for name in _VERDICT},
            "kept": fates[key] is None if key in fates else None,
            "dropped_for": fates.get(key),
        }


def _key(row: Mapping[str, Any]) -> tuple[str, int]:
    return row["prompt_id"], row["index"]


def _fates(selection: Mapping[str, Any]) -> dict[tuple[str, int], str | None]:
    """Key of a sample -> why it was dropped, None where it was kept."""
    kept: dict[tuple[str, int], str | None] = {(prompt_id, index): None for prompt_id, index in selection["kept"]}
    for reason, keys in selection["dropped"].items():
        kept |= {(prompt_id, index): reason for prompt_id, index in keys}
    return kept


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, Mapping):
            found |= {f"{key}/{name}": item for name, item in value.items()}
        elif key not in _COMPARISONS:
            found[key] = value
    return found
