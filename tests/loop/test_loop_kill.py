"""A run that is killed at any write point ends, once resumed, in the bytes of the run that nobody disturbed."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

DRIVER = Path(__file__).parents[1] / "support" / "kill_driver.py"


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: hundreds of runs make tens of thousands of small files."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory, prefix="halo_forge_test_") as folder:
        yield Path(folder)


@pytest.mark.parametrize("what", ["everywhere", "two rounds", "again and again", "going back"])
def test_killed_and_resumed(room: Path, what: str) -> None:
    done = subprocess.run([sys.executable, str(DRIVER), what, str(room)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    if what == "everywhere":
        print(done.stdout)
