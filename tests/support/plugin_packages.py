"""Installed packages that add to halo-forge by entry points, made of a few files, and the command line beside them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path


def install(site: Path, name: str, entry_points: Mapping[str, Mapping[str, str]], modules: Mapping[str, str]) -> None:
    """Write what pip would leave in `site`, a folder for PYTHONPATH.

    Args:
        entry_points: Group -> name -> `module:object`.
        modules: File name -> source.
    """
    info = site / f"{name.replace('-', '_')}-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n", encoding="utf-8")
    sections = (
        f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in points.items())
        for group, points in entry_points.items()
    )
    (info / "entry_points.txt").write_text("\n".join(sections), encoding="utf-8")
    for file, source in modules.items():
        (site / file).write_text(source, encoding="utf-8")


def halo_forge(site: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The command line in a fresh interpreter that sees what is installed in `site`."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", "halo_forge", *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True)
