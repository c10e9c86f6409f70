"""Fixtures of the tests of experiments."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

DRIVER = Path(__file__).parents[1] / "support" / "experiment_driver.py"


@pytest.fixture
def drive() -> Callable[..., str]:
    """Runs cases of experiment_driver.py in a process of its own, and returns what it printed."""

    def run(*cases: str) -> str:
        command = [sys.executable, str(DRIVER), *cases]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run
