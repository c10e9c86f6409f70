"""What earlier attempts of a run left in its directory, for starting the next one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from halo_forge.store.files import read_jsonl
from halo_forge.store.run import OWN_FOLDERS, Run


@dataclass(frozen=True)
class Attempts:
    """The attempts of the run in `root`, which need not exist yet."""

    root: Path

    def finished_work(self) -> frozenset[tuple[str, int]]:
        """The files (name, size) that a resumed run builds on, without those of an unfinished training."""
        found = set()
        for name in ("cycles", "segments", *OWN_FOLDERS, "result.json"):
            for path in [self.root / name, *(self.root / name).rglob("*")]:
                parts = path.relative_to(self.root).parts
                if path.is_file() and "training.part" not in parts and not path.name.startswith("."):
                    found.add(("/".join(parts), path.stat().st_size))
        return frozenset(found)

    def num_started(self) -> int:
        """How many attempts got as far as loading everything."""
        path = self.root / "events.jsonl"
        return sum(row["event"] == "attempt_started" for row in read_jsonl(path)) if path.is_file() else 0

    def note(self, event: str, **fields: Any) -> None:
        """Append to events.jsonl; does nothing for a run that was never started.

        Raises:
            RunDirError: Another process writes to the run.
        """
        if (self.root / "run.json").is_file():
            with Run(self.root) as run:
                run.event(event, **fields)
