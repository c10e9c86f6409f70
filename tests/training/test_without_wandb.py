"""Training imports TRL without Weights & Biases, and leaves it importable for everybody else."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
if importlib.util.find_spec("wandb") is None:
    pytest.skip("wandb is not installed", allow_module_level=True)

PROGRAM = """
import sys
import halo_forge.training._step_recorder
assert "wandb" not in sys.modules
import wandb
assert wandb.run is None
"""


def test_trl_is_imported_without_wandb_and_without_its_folders(tmp_path: Path) -> None:
    folder = tmp_path / "tmp"
    folder.mkdir()
    program = PROGRAM.replace(
        "import wandb\n",
        f"import os\nassert not [each for each in os.listdir({str(folder)!r}) if 'wandb' in each]\nimport wandb\n",
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "TMPDIR": str(folder)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
