"""A run that is killed at any write point ends, once resumed, in the bytes of the run that nobody disturbed.

Here at every tenth of its 600 write points, for the sake of time; scripts/soak_kill.py tries each.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from killing import room_in_memory

DRIVER = Path(__file__).parents[1] / "support" / "kill_driver.py"


@pytest.mark.parametrize("what", ["in steps", "two rounds", "again and again", "going back", "a lead, in steps"])
def test_killed_and_resumed(what: str) -> None:
    with room_in_memory() as room:
        done = subprocess.run([sys.executable, str(DRIVER), what, str(room)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    if what == "in steps":
        print(done.stdout)
