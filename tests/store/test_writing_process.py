"""Who is working on a run is seen without taking its lock."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from halo_forge.store.lock import RunLock, writing_process


def test_the_process_that_has_the_lock(tmp_path: Path) -> None:
    assert writing_process(tmp_path) is None
    lock = RunLock(tmp_path)
    assert writing_process(tmp_path) == os.getpid()
    lock.release()
    assert writing_process(tmp_path) is None


def test_a_killed_process_no_longer_works_on_the_run(tmp_path: Path) -> None:
    program = "import os, pathlib, sys; from halo_forge.store.lock import RunLock; RunLock(pathlib.Path(sys.argv[1])); "
    subprocess.run([sys.executable, "-c", program + "os._exit(9)", str(tmp_path)], check=False)
    assert (tmp_path / "lock").read_text().strip().isdigit()
    assert writing_process(tmp_path) is None


def test_a_number_that_another_process_got_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text(f"{os.getpid()}\n")
    assert writing_process(tmp_path) is None
