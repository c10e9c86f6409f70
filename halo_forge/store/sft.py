"""The run directory of an SFT run, and what a later run reads of it.

It is a run directory like that of RAFT, with `segments/001` ... in place of cycles: segment k trains v_k from v_{k-1}.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from halo_forge.config.yaml_io import load_document
from halo_forge.core.errors import RunDirError
from halo_forge.store.files import as_written, read_json, read_jsonl
from halo_forge.store.folder import StageFolder
from halo_forge.store.run import Run, read_identity

KIND = "sft"
"""`kind` in run.json; a RAFT run has none."""
ROWS = "rows.jsonl"
"""One line for each row that was read: where it is from, what became of it, and the digest of its prompt."""


class SftRun(Run):
    """The open, locked run directory of an SFT run."""

    def segment(self, number: int) -> StageFolder:
        """The folder of one segment; that of 0 holds what was measured before the training."""
        return self.cycle(number)

    def cycle_path(self, cycle: int) -> Path:
        """Where the folder of one segment is."""
        return segment_folder(self.root, cycle)


def segment_folder(root: Path, number: int) -> Path:
    """`<root>/segments/001`; segment 0 holds what was measured before the training."""
    return root / "segments" / f"{number:03d}"


def segment_folders(root: Path) -> list[Path]:
    """The folders of all segments that were started, by number."""
    return sorted((root / "segments").glob("[0-9]*"), key=lambda folder: int(folder.name))


def is_sft_run(root: Path) -> bool:
    """Whether a folder is the run directory of an SFT run, of whatever version.

    Raises:
        RunDirError: Its run.json is not JSON.
    """
    path = root / "run.json"
    return path.is_file() and read_json(path).get("kind") == KIND


@dataclass(frozen=True)
class SftSource:
    """An SFT run that a RAFT configuration names.

    Attributes:
        root: Its run directory.
        learning_rate: Its peak learning rate.
        settings: Its resolved configuration.
        result: The content of result.json; None while it is not finished.
    """

    root: Path
    learning_rate: float
    settings: Mapping[str, Any]
    start_model: Mapping[str, str]
    result: Mapping[str, Any] | None

    def version_of(self, adapter: Path) -> tuple[int, float | None]:
        """Which version an adapter of this stage is, and its held-out loss, where one was measured.

        Raises:
            RunDirError: It is not the adapter of a version that was measured.
        """
        folder = adapter.expanduser().resolve().parent
        path = folder / "evaluation.json"
        if folder.parent != self.root / "segments" or not path.is_file():
            raise RunDirError(
                f"{adapter}: not an adapter of the SFT run in {self.root}",
                f"name {self.root}/best, or segments/NNN/adapter there",
            )
        with as_written(path):
            loss = read_json(path)["held_out_loss"]
            return int(folder.name), None if loss is None else float(loss)

    def trained_prompts(self) -> set[str]:
        """Digests of the prompts of all rows that were trained on, and of those that chose the version.

        Raises:
            RunDirError: The list cannot be read.
        """
        path = self.root / ROWS
        rows = read_jsonl(path)
        with as_written(path):
            return {row["prompt_sha256"] for row in rows if row["used_as"] != "dropped"}


def sft_source(path: Path) -> SftSource | None:
    """The SFT run whose run directory is `path`, or around it; None where there is none.

    Raises:
        RunDirError: There is one, but of another version, or its files cannot be read.
    """
    place = path.expanduser().resolve()
    for root in (place, *place.parents):
        if (root / "run.json").is_file():
            return _read(root) if is_sft_run(root) else None
    return None


def _read(root: Path) -> SftSource:
    identity = read_identity(root)
    result = root / "result.json"
    with as_written(root / "run.json"):
        return SftSource(
            root,
            float(identity["learning_rate"]),
            load_document(root / "config.resolved.yaml").data,
            dict(identity["start_model"]),
            read_json(result) if result.is_file() else None,
        )


def sft_identity(root: Path) -> dict[str, Any]:
    """The content of run.json of an SFT run.

    Raises:
        RunDirError: The folder holds no such run.
    """
    if not (root / "run.json").is_file():
        raise RunDirError(f"{root}: not a run directory of halo-forge", "name the output_dir of `halo-forge sft run`")
    if not is_sft_run(root):
        raise RunDirError(f"{root}: a RAFT run, not an SFT run", f"look at it with `halo-forge raft status {root}`")
    return read_identity(root)
