"""One folder of stages: a sealed stage is read, any other is computed and sealed."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from halo_forge.core.errors import RunDirError
from halo_forge.core.records import Key, Record
from halo_forge.store.files import (
    EDITED,
    GrowingFile,
    explained,
    read_json,
    read_jsonl,
    sync_folder,
    write_json,
    write_jsonl,
)

Value = TypeVar("Value", bound=Record)
Note = Callable[..., None]

ORDER = (
    "sampling", "completions", "dev_completions", "verdicts", "dev_verdicts", "drift", "measurement",
    "confirm_completions", "confirm_verdicts", "confirm_incumbent_completions", "confirm_incumbent_verdicts",
    "decision", "rollback_sampling", "rollback_completions", "rollback_verdicts", "further_completions",
    "further_verdicts", "selection_settings", "second_verdicts", "selection", "settings", "trained", "report",
)  # fmt: skip
"""The stages that later ones are made from, by the names of their files, in the order in which they are sealed."""
TOGETHER = {"completions": "dev_completions", "verdicts": "dev_verdicts"}
"""Stages of one rollout: where another run has made the second one already, it is there before the first."""
LOST = (
    "restore it from a copy of the run, or redo the cycle with `halo-forge raft resume RUN --from-cycle N`; if it was"
    " moved and linked, make the link lead to it"
)


@dataclass(frozen=True)
class StreamForm(Generic[Value]):
    """How the records of a stream are stored.

    Attributes:
        sealed: The reproducible part of a record, which is written.
        is_final: False for a record that is computed again when the stage is resumed.
        cost: The cost of the records of this attempt, for events.jsonl.
        check: Raises if the stage must not be sealed.
    """

    sealed: Callable[[Value], Value] = lambda record: record
    is_final: Callable[[Value], bool] = lambda record: True
    cost: Callable[[Sequence[Value]], Mapping[str, float]] = lambda records: {}
    check: Callable[[Sequence[Value]], None] = lambda records: None


class StageFolder:
    """A cycle's folder (or a test folder): its stages, sealed one after the other.

    Args:
        path: The folder; created when the first stage is written.
        note: Called with (event name, **fields) when a stage starts from nothing or is sealed.
        next_path: The folder that is made when this one is complete.
    """

    def __init__(self, path: Path, note: Note, next_path: Path | None = None) -> None:
        self.path = path
        self.note = note
        self._next_path = next_path

    def stage(self, name: str, kind: type[Value], make: Callable[[], Value]) -> Value:
        """The single value of a stage, in `<name>.json`."""
        sealed = self.path / f"{name}.json"
        if self._is_sealed(sealed):
            return _read(kind, read_json(sealed), sealed)
        with self._timed(name):
            value = make()
            self._make_folder()
            write_json(sealed, value.to_row())
        return value

    def streams(
        self,
        stage: str,
        kind: type[Value],
        orders: Mapping[str, Sequence[Key]],
        make: Callable[[Sequence[Key]], Iterator[Value]],
        form: StreamForm[Value],
    ) -> list[list[Value]]:
        """The records of a stage, in one `<name>.jsonl` per name of `orders`: one record per key, in that order.

        `make` gets the missing keys of all files, and yields their records in any order; each record is on disk before
        the next is requested, so a kill loses none that was finished.
        """
        self._make_folder()
        found = {name: self._sealed_stream(name, kind, order) for name, order in orders.items()}
        growing = {name: order for name, order in orders.items() if found[name] is None}
        if growing:
            with self._timed(stage) as cost:
                done = self._grow(growing, kind, make, form, cost)
                for name, order in growing.items():
                    records = [done[key] for key in order]
                    form.check(records)
                    write_jsonl(self.path / f"{name}.jsonl", [record.to_row() for record in records])
                    self._part(name).unlink()
                    found[name] = records
        return [records for records in found.values() if records is not None]

    def _grow(
        self,
        orders: Mapping[str, Sequence[Key]],
        kind: type[Value],
        make: Callable[[Sequence[Key]], Iterator[Value]],
        form: StreamForm[Value],
        cost: dict[str, float],
    ) -> dict[Key, Value]:
        """All records of unsealed files: those in their part files, and those that are computed now."""
        file_of = {key: name for name, order in orders.items() for key in order}
        with ExitStack() as stack:
            parts = {name: stack.enter_context(GrowingFile(self._part(name))) for name in orders}
            rows = [(row, self._part(name)) for name in orders for row in read_jsonl(self._part(name))]
            done = {_key(record): record for record in (_read(kind, row, path) for row, path in rows)}
            missing = [key for key in file_of if key not in done]
            made: list[Value] = []
            try:
                for record in make(missing) if missing else ():
                    key = _key(record)
                    if key in done:
                        raise RuntimeError(f"{file_of[key]}: {key} was made twice")
                    made.append(record)
                    done[key] = form.sealed(record)
                    if form.is_final(record):
                        parts[file_of[key]].append(done[key].to_row())
            finally:
                cost.update(form.cost(made))
        return done

    def _sealed_stream(self, name: str, kind: type[Value], order: Sequence[Key]) -> list[Value] | None:
        sealed = self.path / f"{name}.jsonl"
        if not self._is_sealed(sealed):
            return None
        self._part(name).unlink(missing_ok=True)
        found = [_read(kind, row, sealed) for row in read_jsonl(sealed)]
        if [_key(record) for record in found] != list(order):
            raise RunDirError(f"{sealed}: {len(found)} records, not the {len(order)} that were requested", EDITED)
        return found

    def _is_sealed(self, path: Path) -> bool:
        """Whether a stage's file is there; one that was sealed and is lost is never computed again.

        What is sampled again may differ from what was lost, and everything after it was made from that.

        Raises:
            RunDirError: It is a link to nothing, or not there although a stage after it is.
        """
        if path.exists():
            return True
        if path.is_symlink():
            raise RunDirError(f"{path}: a link that leads nowhere", LOST)
        if path.stem in ORDER:
            after = [name for name in ORDER[ORDER.index(path.stem) + 1 :] if name != TOGETHER.get(path.stem)]
            later = [self.path / f"{name}{ending}" for name in after for ending in (".json", ".jsonl")]
            made = next((each for each in (*later, self._next_path) if each is not None and each.exists()), None)
            if made is not None:
                raise RunDirError(f"{path}: lost: {made.name}, which was made after it, is there", LOST)
        return False

    def _part(self, name: str) -> Path:
        return self.path / f"{name}.jsonl.part"

    def training(self, kind: type[Value], make: Callable[[Path, Callable[[Mapping[str, Any]], None]], Value]) -> Value:
        """The stage `trained`, with `adapter/`, `training_log.jsonl` and optionally `optimizer.safetensors`.

        `make(scratch folder, record)` writes `adapter/` (and `optimizer.safetensors`, if it is kept) into the scratch
        folder and passes every log row to `record`.
        """
        sealed = self.path / "trained.json"
        if self._is_sealed(sealed):
            return _read(kind, read_json(sealed), sealed)
        self._make_folder()
        scratch = self.path / "training.part"
        with self._timed("trained"), explained(scratch):
            # Without trained.json, nothing that an earlier attempt left is a result.
            for leftover in (scratch, self.path / "adapter"):
                if leftover.exists():
                    shutil.rmtree(leftover)
            scratch.mkdir()
            with GrowingFile(scratch / "training_log.jsonl") as log:
                value = make(scratch, log.append)
            for name in ("training_log.jsonl", "adapter", "optimizer.safetensors"):
                if not (scratch / name).exists():
                    continue  # an optimizer that is reset in every cycle is not stored
                _sync_tree(scratch / name)
                os.replace(scratch / name, self.path / name)
            shutil.rmtree(scratch)
            sync_folder(self.path)
            write_json(sealed, value.to_row())
        return value

    def write_rows(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """A derived JSONL file for other programs; an existing one is not changed."""
        if not (self.path / name).exists():
            self._make_folder()
            write_jsonl(self.path / name, [dict(row) for row in rows])

    def _make_folder(self) -> None:
        with explained(self.path):
            self.path.mkdir(parents=True, exist_ok=True)

    def _timed(self, name: str) -> AbstractContextManager[dict[str, float]]:
        return _timed(self.note, self.path.name, name)


@contextmanager
def _timed(note: Note, folder: str, stage: str) -> Iterator[dict[str, float]]:
    note("stage_started", folder=folder, stage=stage)
    cost: dict[str, float] = {}
    start = time.monotonic()
    finished = False
    try:
        yield cost
        finished = True
    finally:
        seconds = round(time.monotonic() - start, 3)
        event = "stage_sealed" if finished else "stage_interrupted"
        note(event, folder=folder, stage=stage, seconds=seconds, **cost)


def _key(record: Any) -> Key:
    return record.prompt_id, record.index


def _read(kind: type[Value], row: Mapping[str, Any], path: Path) -> Value:
    try:
        return kind.from_row(row)
    except (TypeError, ValueError, AttributeError) as error:
        raise RunDirError(f"{path}: not a {kind.__name__}: {error}", EDITED) from error


def _sync_tree(path: Path) -> None:
    for item in [path, *path.rglob("*")]:
        descriptor = os.open(item, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
