"""One writer for a directory, whatever becomes of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from halo_forge.core.errors import RunDirError
from halo_forge.store.lock import RunLock

HOLD = """
import sys, time
from pathlib import Path
from halo_forge.store.lock import RunLock
lock = RunLock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            with pytest.raises(RunDirError, match=rf"another process .*\(process {holder.pid}\)") as caught:
                RunLock(tmp_path)
            assert caught.value.exit_code == 3
            assert "another output_dir" in caught.value.hint
        finally:
            holder.send_signal(signal.SIGKILL)
    assert holder.wait() == -signal.SIGKILL
    # The file with the dead process's id is still there, and is no obstacle.
    assert (tmp_path / "lock").read_text() == f"{holder.pid}\n"
    lock = RunLock(tmp_path)
    assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"
    lock.release()


def test_a_released_lock_is_free_and_names_nobody(tmp_path: Path) -> None:
    RunLock(tmp_path).release()
    assert (tmp_path / "lock").read_text() == ""
    RunLock(tmp_path).release()


def test_two_locks_in_one_process_are_two_writers(tmp_path: Path) -> None:
    lock = RunLock(tmp_path)
    with pytest.raises(RunDirError, match=f"process {os.getpid()}"):
        RunLock(tmp_path)
    lock.release()


def test_programs_that_a_run_starts_do_not_hold_its_lock(tmp_path: Path) -> None:
    lock = RunLock(tmp_path)
    with subprocess.Popen(["sleep", "30"], close_fds=False) as child:
        try:
            time.sleep(0.05)
            lock.release()
            RunLock(tmp_path).release()
        finally:
            child.kill()
