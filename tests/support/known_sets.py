"""HumanEval and MBPP as published, where a folder with them is named; they are never copied into this repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

VARIABLE = "HALO_FORGE_TEST_DATA"


def known_set(name: str) -> Path:
    """The file `name`; skips the test where no folder is named, and fails where the folder lacks the file."""
    folder = os.environ.get(VARIABLE)
    if not folder:
        pytest.skip(f"set {VARIABLE} to a folder that holds {name} to run this test")
    path = Path(folder, name)
    assert path.is_file(), f"{VARIABLE} is {folder!r}, but there is no file {path}"
    return path
