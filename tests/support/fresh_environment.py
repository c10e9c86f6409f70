"""A virtual environment that holds given wheels, and sees the libraries of the one that runs the tests; no network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Sequence
from pathlib import Path

from docs_text import ROOT

_OFFLINE = ["--disable-pip-version-check", "--quiet", "--no-deps", "--no-index"]


def build_wheel(source: Path, folder: Path) -> Path:
    """The wheel of the project in `source`, built with the setuptools that is installed."""
    _pip("wheel", *_OFFLINE, "--no-build-isolation", "--wheel-dir", str(folder), str(source))
    (wheel,) = folder.glob("*.whl")
    return wheel


def halo_forge_wheel(folder: Path) -> Path:
    """The wheel of this checkout; built from a copy, because building writes beside the sources."""
    source = folder / "source"
    shutil.copytree(ROOT / "halo_forge", source / "halo_forge", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):  # what the links of halo_forge/manual lead to is copied
        shutil.copy(ROOT / name, source / name)
    return build_wheel(source, folder / "wheel")


class FreshEnvironment:
    """A virtual environment with `wheels` in `folder`.

    The libraries come by a .pth file, which is written last: pip never sees, let alone changes, what is installed
    there.  The checkout is not on the path.
    """

    def __init__(self, folder: Path, wheels: Sequence[Path]) -> None:
        self.folder = folder
        venv.create(folder, with_pip=False, symlinks=True)
        self.python = folder / "bin" / "python"
        _pip("--python", str(self.python), "install", *_OFFLINE, *map(str, wheels))
        (site,) = folder.glob("lib/python*/site-packages")
        libraries = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
        (site / "libraries.pth").write_text("".join(f"{path}\n" for path in libraries), encoding="utf-8")

    def run(self, *command: object, cwd: Path) -> subprocess.CompletedProcess[str]:
        """A command of this environment in `cwd`, which must not be in the checkout."""
        program, *arguments = map(str, command)
        return subprocess.run(
            [self.folder / "bin" / program, *arguments], cwd=cwd, env=_plain(), capture_output=True, text=True
        )

    def output(self, *command: object, cwd: Path) -> str:
        """What a command prints that must succeed."""
        done = self.run(*command, cwd=cwd)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def _pip(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", "pip", *arguments], env=_plain(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def _plain() -> dict[str, str]:
    # Without PYTHONPATH, which would make the checkout look installed.
    return {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
