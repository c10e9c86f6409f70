"""The run directory of one run: its identity, its events, and its stage folders."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self, TypeVar

from halo_forge.core.errors import RunDirError
from halo_forge.core.records import Record
from halo_forge.store.files import EDITED, GrowingFile, explained, read_json, write_json, write_text
from halo_forge.store.folder import StageFolder
from halo_forge.store.lock import RunLock

Value = TypeVar("Value", bound=Record)

SCHEMA_VERSION = 3
"""Version 1 stored the settings of selection in settings.json; version 2 called a version "improved" that was ahead."""

CONTINUE_ELSEWHERE = (
    "continue it with the version that started it (halo_forge_version and git_commit in run.json), or start a new run"
    " with another output_dir"
)
"""What fixes an error about a run of an earlier schema."""
BEFORE_IDENTITY = {
    "lock",
    "config.yaml",
    "config.resolved.yaml",
    ".config.yaml.tmp",
    ".config.resolved.yaml.tmp",
    ".run.json.tmp",
    "forked_from",
}
"""What a run directory may contain before its identity is written."""


FILE_PREFIX: Mapping[str, str] = {
    "train": "",
    "dev": "dev_",
    "further": "further_",
    "rollback": "rollback_",
    "confirm": "confirm_",
    "confirm_incumbent": "confirm_incumbent_",
    "test": "",
    "confirmation": "",
}
"""Set of samples -> what the names of its files begin with; those of `OWN_FOLDERS` do not lie in a cycle's folder."""

OWN_FOLDERS = ("test", "confirmation")
"""Sets that are sampled at the end: `<name>/v002` for each version; `confirmation` are dev prompts with new seeds."""


class Run:
    """An open, locked run directory.

    Args:
        root: The directory; created if it does not exist.

    Raises:
        RunDirError: It is in use, not writable, or contains something that is not a run.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        check_root(root)
        with explained(root):
            self._is_made_here = not root.exists()
            root.mkdir(parents=True, exist_ok=True)
            names = {item.name for item in root.iterdir()}
        # A kill before run.json is written leaves these; the lock, which is created first, shows that they are ours.
        foreign = sorted(names - (BEFORE_IDENTITY if "lock" in names else set()))
        if foreign and not (root / "run.json").exists():
            raise RunDirError(
                f"{root}: not empty, and not a run directory of halo-forge (holds {', '.join(foreign[:3])})",
                "choose another output_dir, or empty this one",
            )
        self._lock = RunLock(root)
        self._events: GrowingFile | None = None

    @property
    def is_new(self) -> bool:
        """Whether nothing has been started here yet."""
        return not (self.root / "run.json").exists()

    def identity(self) -> dict[str, Any]:
        """The content of run.json.

        Raises:
            RunDirError: It is not what `start` of this version wrote.
        """
        return read_identity(self.root)

    def start(self, identity: Mapping[str, Any], *, given: str, resolved: str) -> None:
        """Write the run's identity, once; run.json comes last, so a directory without it was never started."""
        write_text(self.root / "config.yaml", given)
        write_text(self.root / "config.resolved.yaml", resolved)
        write_json(self.root / "run.json", {"schema_version": SCHEMA_VERSION, **identity})

    def cycle(self, cycle: int) -> StageFolder:
        """The folder of one cycle."""
        return StageFolder(self.cycle_path(cycle), self.event, self.cycle_path(cycle + 1))

    def cycle_path(self, cycle: int) -> Path:
        """Where the folder of one cycle is."""
        return cycle_folder(self.root, cycle)

    def test(self, version: int) -> StageFolder:
        """The folder with the test measurement of one policy version."""
        return StageFolder(self.root / "test" / f"v{version:03d}", self.event)

    def confirmation(self, version: int) -> StageFolder:
        """The folder with the samples of one policy version that confirm a lead, where test does not."""
        return StageFolder(self.root / "confirmation" / f"v{version:03d}", self.event)

    def result(self) -> StageFolder:
        """The run directory itself, for `result.json`."""
        return StageFolder(self.root, self.event)

    def adapter(self, version: int) -> Path | None:
        """The adapter folder of a version; None for the start model."""
        return None if version == 0 else self.cycle_path(version) / "adapter"

    def event(self, event: str, **fields: Any) -> None:
        """Append to events.jsonl, the only file with wall-clock times."""
        if self._events is None:
            self._events = GrowingFile(self.root / "events.jsonl")
        self._events.append({"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **fields})

    def announced(self, event: str, value: Value) -> Value:
        """`value`, after writing its fields to events.jsonl; they are written twice if a kill precedes the sealing."""
        self.event(event, **value.to_row())
        return value

    def point(self, name: str, version: int, *, cycle: int) -> None:
        """Point the link `best` or `latest` to a version's adapter; the start model has no adapter and no link.

        Calls from cycles before the newest one are ignored: a resumed run must not move its links back.
        """
        if self.cycle_path(cycle + 1).exists():
            return
        link, target = self.root / name, self.adapter(version)
        with explained(link):
            if target is None:
                link.unlink(missing_ok=True)
                return
            temporary = self.root / f".{name}.tmp"
            temporary.unlink(missing_ok=True)
            temporary.symlink_to(target.relative_to(self.root))
            os.replace(temporary, link)

    def supersede(self, from_cycle: int) -> Path | None:
        """Move everything from `from_cycle` on to superseded/<time>/; nothing is deleted.

        The latest cycle moves first, so a kill in between leaves a run that is consistent up to some cycle.

        Returns:
            The new location, None if there was nothing to move.
        """
        cycles = cycle_folders(self.root)[::-1]
        # A tracker cannot take back what it was told: the rest of the run is reported as another one, as a whole.
        parts = [self.root / name for name in ("result.json", *OWN_FOLDERS, "trackers", "tensorboard")]
        parts += [folder for folder in cycles if int(folder.name) >= from_cycle]
        parts = [part for part in parts if part.exists()]
        if not parts:
            return None
        # Microseconds, so that doing this twice within a second does not collide.
        target = self.root / "superseded" / datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        with explained(target):
            (target / "cycles").mkdir(parents=True)
            for part in parts:
                shutil.move(part, target / part.relative_to(self.root))
        latest = max((int(folder.name) for folder in cycles if int(folder.name) < from_cycle), default=0)
        self.point("latest", latest, cycle=latest)
        self.point("best", 0, cycle=latest)
        self.event("superseded", from_cycle=from_cycle, moved_to=str(target.relative_to(self.root)))
        return target

    def close(self) -> None:
        """Release the lock; a directory that was made for a run which never started is removed again."""
        if self._events is not None:
            self._events.close()
        abandoned = (
            self._is_made_here and self.root.is_dir() and {each.name for each in self.root.iterdir()} == {"lock"}
        )
        if abandoned:
            (self.root / "lock").unlink()
        self._lock.release()
        if abandoned:
            with contextlib.suppress(OSError):  # not empty: another process has opened a run here meanwhile
                self.root.rmdir()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def read_identity(root: Path) -> dict[str, Any]:
    """The content of run.json in `root`.

    Raises:
        RunDirError: It is not what `Run.start` of this version wrote.
    """
    path = root / "run.json"
    found = read_json(path)
    version = found.get("schema_version")
    if is_earlier(version):
        raise RunDirError(
            f"{root}: made by an earlier halo-forge (schema_version {version}, this one continues {SCHEMA_VERSION})",
            f"look at it with `halo-forge raft status {root}`, {CONTINUE_ELSEWHERE}",
        )
    if version != SCHEMA_VERSION:
        raise RunDirError(f"{path}: schema_version is {version!r}, this halo-forge knows {SCHEMA_VERSION}", EDITED)
    return found


def is_earlier(schema_version: object) -> bool:
    """Whether a run of this schema is one of an earlier halo-forge, which is shown but not continued."""
    return schema_version in range(1, SCHEMA_VERSION)


def cycle_folders(root: Path) -> list[Path]:
    """The folders of all cycles that were started, by number: as text, 1000 would precede 999."""
    return sorted((root / "cycles").glob("[0-9]*"), key=lambda folder: int(folder.name))


def version_folders(root: Path, name: str) -> list[Path]:
    """The folders of all versions in one of `OWN_FOLDERS`, in order."""
    return sorted((root / name).glob("v[0-9]*"), key=lambda folder: int(folder.name[1:]))


def check_root(root: Path) -> None:
    """Whether a directory is there or can be made.

    Raises:
        RunDirError: Something on the way is no directory, or may not be written to.
    """
    with explained(root):
        there = next(each for each in (root.absolute(), *root.absolute().parents) if os.path.lexists(each))
        # A link to nothing exists as a link; links in a circle are an error of `stat`.
        if not there.is_dir():
            what = "is a file" if there.exists() else "is a link that leads nowhere"
            raise RunDirError(
                f"output_dir: {there} {what}, allowed: a folder, or a new one", "choose another output_dir"
            )
        if not os.access(there, os.W_OK | os.X_OK):
            raise RunDirError(f"output_dir: {there} cannot be written to", "choose another output_dir")


def cycle_folder(root: Path, cycle: int) -> Path:
    """`<root>/cycles/001`."""
    return root / "cycles" / f"{cycle:03d}"
