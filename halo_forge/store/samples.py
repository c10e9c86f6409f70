"""The samples of a run directory: each completion with its verdict, and what became of it.

Only sealed stages are read: what a running attempt is still writing appears when its stage is done.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from halo_forge.core.records import Completion, Key, Verdict
from halo_forge.store.files import as_written, read_json, read_jsonl
from halo_forge.store.run import FILE_PREFIX, OWN_FOLDERS, cycle_folders, version_folders

_SELECTED_FROM = ("train", "further")
_SELECTED_FROM_AFTER_ROLLBACK = ("rollback", "further")


@dataclass(frozen=True, slots=True)
class StoredSample:
    """One completion in a run directory.

    Attributes:
        cycle: The cycle in whose folder it lies; None for a sample of the comparisons at the end.
        set_name: A name of `FILE_PREFIX`: "train", "dev", "test", "further", "rollback", "confirm" ...
        verdict: None while the stage is not sealed.
        second_verdict: That of the second run of a selected program; None where it was not run again.
        kept: Whether it is trained on; None where nothing is selected from its set, or not yet.
        dropped_for: The first rule that dropped it; None where none did.
    """

    cycle: int | None
    set_name: str
    completion: Completion
    verdict: Verdict | None
    second_verdict: Verdict | None = None
    kept: bool | None = None
    dropped_for: str | None = None

    @property
    def key(self) -> Key:
        """(prompt id, sample index)."""
        return self.completion.key

    @property
    def is_judged(self) -> bool:
        """Whether its verdict says something about the model: it is there, and the verifier did not fail."""
        return self.verdict is not None and self.verdict.status != "error"


def stored_samples(
    root: Path, *, version: int | None = None, sets: Collection[str] | None = None
) -> Iterator[StoredSample]:
    """Samples in the order of the files: cycle by cycle, then those of the comparisons at the end.

    Args:
        version: Only those that this policy version generated.
        sets: Only these sets, names of `FILE_PREFIX`; None for all.

    Raises:
        RunDirError: A file cannot be read, or is not what halo-forge wrote.
    """
    wanted = frozenset(FILE_PREFIX if sets is None else sets)
    for folder in cycle_folders(root):
        cycle = int(folder.name)
        # Resamples of an earlier version lie in the folder of the cycle that compared or replaced it.
        others = {"rollback", "confirm_incumbent"}
        names = [
            name
            for name in FILE_PREFIX
            if name in wanted and name not in OWN_FOLDERS and (version in (None, cycle - 1) or name in others)
        ]
        if names:
            yield from _of_cycle(folder, cycle, names, version)
    for name in OWN_FOLDERS:
        for folder in version_folders(root, name) if name in wanted else ():
            if version in (None, int(folder.name[1:])):
                yield from _joined(folder, name, None)


def _of_cycle(folder: Path, cycle: int, names: list[str], version: int | None) -> Iterator[StoredSample]:
    selected_from = _selected_sets(folder)
    fates: Mapping[Key, str | None] = {}
    again: Mapping[Key, Verdict] = {}
    if set(names) & set(selected_from):
        fates, again = _read_fates(folder), _verdicts(folder / "second_verdicts.jsonl")
    for name in names:
        known = name in selected_from
        for sample in _joined(folder, name, cycle, fates if known else {}, again if known else {}):
            if version in (None, sample.completion.policy_version):
                yield sample


def _selected_sets(folder: Path) -> tuple[str, ...]:
    """The sets that the selection of a cycle's folder chose from."""
    after_rollback = (folder / "rollback_completions.jsonl").is_file()
    return _SELECTED_FROM_AFTER_ROLLBACK if after_rollback else _SELECTED_FROM


def _read_fates(folder: Path) -> dict[Key, str | None]:
    """Key of a sample -> why the cycle dropped it, None where it was kept; empty while nothing is selected.

    Raises:
        RunDirError: selection.json cannot be read, or is not what halo-forge wrote.
    """
    path = folder / "selection.json"
    if not path.is_file():
        return {}
    selection = read_json(path)
    with as_written(path):
        kept: dict[Key, str | None] = {(prompt_id, index): None for prompt_id, index in selection["kept"]}
        for reason, keys in selection["dropped"].items():
            kept |= {(prompt_id, index): reason for prompt_id, index in keys}
    return kept


def _joined(
    folder: Path,
    set_name: str,
    cycle: int | None,
    fates: Mapping[Key, str | None] | None = None,
    again: Mapping[Key, Verdict] | None = None,
) -> Iterator[StoredSample]:
    fates, again = fates if fates is not None else {}, again if again is not None else {}
    prefix = FILE_PREFIX[set_name]
    path = folder / f"{prefix}completions.jsonl"
    verdicts = _verdicts(folder / f"{prefix}verdicts.jsonl")
    for row in read_jsonl(path) if path.is_file() else ():
        with as_written(path):
            completion = Completion.from_row(row)
        key = completion.key
        yield StoredSample(
            cycle=cycle,
            set_name=set_name,
            completion=completion,
            verdict=verdicts.get(key),
            second_verdict=again.get(key),
            kept=fates[key] is None if key in fates else None,
            dropped_for=fates.get(key),
        )


def _verdicts(path: Path) -> dict[Key, Verdict]:
    found = {}
    for row in read_jsonl(path) if path.is_file() else ():
        with as_written(path):
            verdict = Verdict.from_row(row)
        found[verdict.key] = verdict
    return found
