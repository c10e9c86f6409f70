"""The pictures of the documentation come from a script, and stay small."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def test_the_script_takes_every_picture_that_the_documents_show(root: Path, browser: Any, tmp_path: Path) -> None:
    command = [sys.executable, ROOT / "scripts/screenshots.py", root, "--folder", tmp_path / "images"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    taken = {path.name: path for path in (tmp_path / "images").iterdir()}
    pages = [ROOT / "README.md", ROOT / "docs/report.md"]
    shown = {name for page in pages for name in re.findall(r"images/([\w-]+\.png)\)", page.read_text("utf-8"))}
    assert set(taken) == shown == {path.name for path in (ROOT / "docs/images").iterdir()}
    for path in (*taken.values(), *(ROOT / "docs/images").iterdir()):
        assert path.read_bytes().startswith(b"\x89PNG") and 5_000 < path.stat().st_size < 200_000
