"""The packaged prompt sets: `builtin:c/train` is the train split of `halo_forge/prompts/tasks/c.jsonl`."""

from __future__ import annotations

import importlib.resources
from collections.abc import Iterator
from pathlib import Path

from halo_forge.core.errors import ConfigError
from halo_forge.prompts import jsonl
from halo_forge.prompts._row import Row, did_you_mean
from halo_forge.prompts.split import SPLITS, Split

PREFIX = "builtin:"


def names() -> list[str]:
    """Every name that `builtin:` accepts: `c/train`, `c/dev`, `c/test`, `c/all` ..."""
    return [f"{path.stem}/{part}" for path in _files() for part in (*SPLITS, "all")]


def read(spec: str) -> tuple[Iterator[Row], Split | None]:
    """The rows of the set that `spec` (`builtin:NAME`) names, and the split to use; None uses all rows.

    Raises:
        ConfigError: No packaged set has that name.
    """
    name = spec.removeprefix(PREFIX)
    for path in _files():
        for part in SPLITS:
            if name == f"{path.stem}/{part}":
                return jsonl.read(path, f"{PREFIX}{path.stem}"), part
        if name == f"{path.stem}/all":
            return jsonl.read(path, f"{PREFIX}{path.stem}"), None
    allowed = [PREFIX + each for each in names()]
    listed = ", ".join(allowed) if allowed else "none, because no set is packaged"
    raise ConfigError(
        f"no packaged prompt set {spec!r}; allowed: {listed}{did_you_mean(spec, allowed)}",
        "use one of these names, or give a file: a path ending in .jsonl or .parquet",
    )


def _files() -> list[Path]:
    folder = Path(str(importlib.resources.files("halo_forge.prompts"))) / "tasks"
    return sorted(folder.glob("*.jsonl"))
