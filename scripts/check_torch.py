"""Reject a torch in this environment that halo-forge cannot use, before anything else is installed.

.venv/bin/python scripts/check_torch.py [--import]      # --import: also try to load it, which takes seconds
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

from packaging.requirements import Requirement

PYPROJECT = Path(__file__).parent.parent / "pyproject.toml"


def needed_torch(pyproject: Path) -> Requirement:
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    return next(each for each in map(Requirement, project["dependencies"]) if each.name == "torch")


def main() -> None:
    found, needed = version("torch"), needed_torch(PYPROJECT)
    # A nightly build of the next version is a pre-release; it was installed on purpose.
    if not needed.specifier.contains(found, prereleases=True):
        raise SystemExit(
            f"error: .venv has torch {found}, halo-forge needs {needed}\n"
            "  fix: install such a build for your GPU (docs/installation.md), or remove .venv and run this again:\n"
            "      then the CPU build is installed"
        )
    if "--import" in sys.argv[1:]:
        done = subprocess.run([sys.executable, "-c", "import torch"], capture_output=True, text=True)
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise SystemExit(
                f"error: torch {found} is installed in .venv, but cannot be imported: {last}\n"
                "  fix: install it again (an interrupted installation leaves it broken),\n"
                "      or a build that fits the GPU libraries of this machine"
            )


if __name__ == "__main__":
    main()
