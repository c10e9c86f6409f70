"""What a run took from other runs, read from its events."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from halo_forge.core.wording import counted, duration
from halo_forge.store.files import as_written, read_jsonl


@dataclass(frozen=True)
class Saved:
    """What was not done again, because another run had done it (the events `shared`).

    Attributes:
        seconds: What it took the run that did it.
    """

    num_samples: int = 0
    num_tokens: int = 0
    num_verdicts: int = 0
    seconds: float = 0.0

    def __add__(self, other: Saved) -> Saved:
        return Saved(
            self.num_samples + other.num_samples,
            self.num_tokens + other.num_tokens,
            self.num_verdicts + other.num_verdicts,
            self.seconds + other.seconds,
        )

    def __str__(self) -> str:
        return (
            f"{counted(self.num_samples, 'sample')} ({counted(self.num_tokens, 'token')}) and"
            f" {counted(self.num_verdicts, 'verdict')}, {duration(self.seconds)} where they were made"
        )


def read_saved(root: Path) -> Saved:
    """What the run in `root` took from others.

    Raises:
        RunDirError: events.jsonl cannot be read.
    """
    path = root / "events.jsonl"
    with as_written(path):
        return saved_by(read_jsonl(path) if path.is_file() else ())


def saved_by(events: Iterable[Mapping[str, Any]]) -> Saved:
    """The same of events; a file that was taken twice, because a kill came between, counts once."""
    taken = {(event["of"], event["file"]): event for event in events if event["event"] == "shared"}
    keys = ("num_samples", "num_tokens", "num_verdicts", "seconds_saved")
    return sum((Saved(*(event.get(key, 0) for key in keys)) for event in taken.values()), Saved())
