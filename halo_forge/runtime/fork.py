"""A run that continues another one under other settings, from a cycle on; everything before is that other run's.

The cycles before are linked into the new run directory, with the configuration that made them.  So the new run is
complete in itself: it is resumed, moved and read like any other, and the loop plans its early cycles as they were.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from halo_forge.config import LoadedConfig, RaftConfig, differing_keys
from halo_forge.config.load import influential
from halo_forge.core.errors import ConfigError, RunDirError
from halo_forge.core.wording import counted
from halo_forge.runtime.sharing import SCHEDULED_SAMPLING, seconds_of_folder
from halo_forge.store.files import explained, link_or_copy, read_jsonl, sync_folder, write_text
from halo_forge.store.run import Run, cycle_folder, read_identity

FOLDER = "forked_from"
"""Holds the configurations of the cycles before: `003.yaml` is that of the cycles before cycle 3."""
MAY_CHANGE = ("training", "selection", "replay", "decisions", "raft")
"""Sections that decide nothing about samples which are there already; of `engine`, what is scheduled too."""


@dataclass(frozen=True)
class ForkPoint:
    """Where a run continues another one.

    Attributes:
        run: The run directory of the other one.
        from_cycle: The first cycle of its own.
    """

    run: Path
    from_cycle: int

    def record(self) -> dict[str, Any]:
        """What run.json says of it."""
        identity = read_identity(self.run)
        return {"run": str(self.run), "config_digest": identity["config_digest"], "from_cycle": self.from_cycle}


def check_fork(point: ForkPoint, parent: RaftConfig, loaded: LoadedConfig) -> None:
    """Whether the cycles before are there, and mean the same under the new configuration.

    Args:
        parent: The configuration of the run that is continued.

    Raises:
        ConfigError: They are not done, or a key would change what they are: each with both values.
    """
    num_done = next(
        number
        for number in range(parent.raft.num_cycles + 1)
        if not (cycle_folder(point.run, number + 1) / "report.json").is_file()
    )
    if not 1 <= point.from_cycle <= num_done + 1:
        raise ConfigError(
            f"from_cycle is {point.from_cycle}, but {point.run} has {counted(num_done, 'finished cycle')}",
            f"name a cycle from 1 to {num_done + 1}",
        )
    if point.from_cycle > loaded.config.raft.num_cycles:
        raise ConfigError(
            f"from_cycle is {point.from_cycle}, but raft.num_cycles is {loaded.config.raft.num_cycles}"
            f" ({loaded.document.where(('raft', 'num_cycles'))})",
            f"continue for more cycles: --set raft.num_cycles={point.from_cycle} or more",
        )
    lines = [
        f"{loaded.document.where(tuple(key.split('.')))}: {key}: was {old!r}, is {new!r}"
        for key, old, new in differing_keys(influential(parent), influential(loaded.config))
        if not _may_change(key)
    ]
    if lines:
        raise ConfigError(
            "\n".join([f"{point.run} cannot be continued under settings that its samples were not made with:", *lines]),
            f"change {', '.join(MAY_CHANGE)}, or engine.{', engine.'.join(SCHEDULED_SAMPLING)}; for other changes start"
            " a new run",
        )


def _may_change(key: str) -> bool:
    section, _, rest = key.partition(".")
    return section in MAY_CHANGE or (section == "engine" and rest.partition(".")[0] in SCHEDULED_SAMPLING)


def stage_fork(root: Path, point: ForkPoint) -> None:
    """Link what the new run has from the other one into a folder beside its cycles; before run.json is written."""
    folder = root / FOLDER
    with explained(folder):
        if folder.exists():  # of an attempt that was killed
            shutil.rmtree(folder)
        (folder / "cycles").mkdir(parents=True)
    for path in sorted((point.run / FOLDER).glob("[0-9]*.yaml")):
        if int(path.stem) < point.from_cycle:
            link_or_copy(path, folder / path.name)
    text = (point.run / "config.resolved.yaml").read_text(encoding="utf-8")
    write_text(folder / f"{point.from_cycle:03d}.yaml", text)
    for cycle in range(1, point.from_cycle):
        source = cycle_folder(point.run, cycle)
        for path in sorted(source.rglob("*")):
            parts = path.relative_to(source).parts
            if path.is_file() and path.suffix != ".part" and not any(_is_temporary(part) for part in parts):
                link_or_copy(path, folder / "cycles" / source.name / path.relative_to(source))


def _is_temporary(name: str) -> bool:
    return name.startswith(".") or name == "training.part"


def complete_fork(run: Run) -> None:
    """Move the linked cycles to their place, once; after run.json is written."""
    staged = run.root / FOLDER / "cycles"
    if not staged.is_dir():
        return
    parent = Path(run.identity()["fork"]["run"])
    for folder in sorted(staged.iterdir()):
        completions = [row for path in folder.glob("*completions.jsonl") for row in read_jsonl(path)]
        run.event(
            "shared",
            of=folder.name,
            file="*",
            source=str(parent),
            num_samples=len(completions),
            num_tokens=sum(len(row["token_ids"]) for row in completions),
            num_verdicts=sum(len(read_jsonl(path)) for path in folder.glob("*verdicts.jsonl")),
            seconds_saved=round(seconds_of_folder(parent, folder.name), 3),
        )
    with explained(staged):
        os.replace(staged, run.root / "cycles")
        sync_folder(run.root)


def check_same_fork(run: Run, fork: Mapping[str, Any]) -> None:
    """Whether the run in this directory continues what it is to continue.

    Raises:
        RunDirError: It continues something else, or nothing.
    """
    stored = run.identity().get("fork")
    keys = ("config_digest", "from_cycle")
    if stored is None or any(stored.get(key) != fork[key] for key in keys):
        was = "is no fork" if stored is None else f"continues {stored.get('run')} from cycle {stored.get('from_cycle')}"
        raise RunDirError(
            f"{run.root}: this run {was}, not {fork['run']} from cycle {fork['from_cycle']}",
            "choose another output_dir",
        )
