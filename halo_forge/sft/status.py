"""How far an SFT run is, read from its directory: running, stopped or finished."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from halo_forge.core.records import Trained
from halo_forge.sft.config import SftConfig
from halo_forge.sft.open import stored_config, stored_result
from halo_forge.sft.plan import Evaluation, SftPlan, SftResult, best_version
from halo_forge.sft.run import own_hints
from halo_forge.store.files import as_written, read_json, read_jsonl
from halo_forge.store.lock import writing_process
from halo_forge.store.sft import ROWS, segment_folders, sft_identity


@dataclass(frozen=True)
class SegmentRow:
    """One version.

    Attributes:
        metrics: Of the training that made it, see docs/metrics.md; none of v_0.
        learning_rate_last: Of its last step.
    """

    evaluation: Evaluation
    metrics: dict[str, float]
    learning_rate_last: float | None


@dataclass(frozen=True)
class SftStatus:
    """The whole.

    Attributes:
        uses: What rows are used as -> how many; empty before they are judged.
        process: That writes to it now.
    """

    root: Path
    config: SftConfig
    state: Literal["finished", "running", "not finished"]
    process: int | None
    uses: dict[str, int]
    segments: tuple[SegmentRow, ...]
    num_segments: int | None
    num_steps: int | None
    best_version: int | None
    result: SftResult | None

    def to_row(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {
            "run_directory": str(self.root),
            "state": self.state,
            "process": self.process,
            "rows": self.uses,
            "num_segments": self.num_segments,
            "num_steps": self.num_steps,
            "best_version": self.best_version,
            "best_adapter": str(self.root / "best") if (self.root / "best").exists() else None,
            "learning_rate": self.config.training.learning_rate,
            "segments": [
                {**each.evaluation.to_row(), "learning_rate_last": each.learning_rate_last, "trained": each.metrics}
                for each in self.segments
            ],
            "result": None if self.result is None else self.result.to_row(),
        }


def read_sft_status(root: Path) -> SftStatus:
    """The status of the training in `root`; nothing is locked.

    Raises:
        RunDirError: It holds none, or a file of it cannot be read.
    """
    with own_hints():
        return _read_status(root)


def _read_status(root: Path) -> SftStatus:
    sft_identity(root)
    config, result, process = stored_config(root), stored_result(root), writing_process(root)
    uses: dict[str, int] = {}
    if (root / ROWS).is_file():
        for row in read_jsonl(root / ROWS):
            uses[row["used_as"]] = uses.get(row["used_as"], 0) + 1
    segments = tuple(_segments(root))
    plan = SftPlan(config, uses["train"]) if uses.get("train") else None
    return SftStatus(
        root=root,
        config=config,
        state="finished" if result is not None else "running" if process is not None else "not finished",
        process=process,
        uses=uses,
        segments=segments,
        num_segments=None if plan is None else plan.num_segments,
        num_steps=None if plan is None else plan.num_steps,
        best_version=best_version([each.evaluation for each in segments]) if segments else None,
        result=result,
    )


def _segments(root: Path) -> list[SegmentRow]:
    found = []
    for folder in segment_folders(root):
        path = folder / "evaluation.json"
        if not path.is_file():
            break
        with as_written(path):
            evaluation = Evaluation.from_row(read_json(path))
        metrics: dict[str, float] = {}
        last = None
        if (folder / "trained.json").is_file():
            with as_written(folder / "trained.json"):
                metrics = dict(Trained.from_row(read_json(folder / "trained.json")).metrics)
            steps = read_jsonl(folder / "training_log.jsonl")
            last = float(steps[-1]["learning_rate"]) if steps else None
        found.append(SegmentRow(evaluation, metrics, last))
    return found


def sft_steps(root: Path) -> list[dict[str, Any]]:
    """Every optimizer step of the segments that are done, as training_log.jsonl holds it."""
    found = []
    for folder in segment_folders(root):
        path = folder / "training_log.jsonl"
        if path.is_file():
            found += [{"segment": int(folder.name), **row} for row in read_jsonl(path)]
    return found


def described(result: SftResult) -> str:
    """How it ended, in one sentence."""
    losses = ""
    if result.held_out_loss is not None and result.start_loss is not None:
        losses = f"; held-out loss {result.start_loss:.4f} -> {result.held_out_loss:.4f}"
    return f"{result.ending.replace('_', ' ')}: v{result.best_version} is the best of {result.last_version}{losses}"
