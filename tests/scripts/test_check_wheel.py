"""scripts/check_wheel.py: a new user gets everything from the wheel, and what goes wrong is noticed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import benchmarks
import pytest
from benchmarks import SCRIPTS


def test_the_wheel_is_enough_in_an_empty_folder(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPTS / "check_wheel.py"), "--folder", str(tmp_path / "check")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("\n0 commands failed\n") and done.stdout.count("\n$ ") >= 15


def test_a_command_that_fails_or_says_something_else_is_noticed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with benchmarks.script("check_wheel") as script:
        transcript = script.Transcript(tmp_path, {"PATH": "/usr/bin:/bin"})
        assert transcript.run("echo right", "right") == "right\n"
        assert transcript.run("sh -c 'echo no; exit 3'", "no", exit_code=3) == "no\n"
        assert transcript.failed == []
        transcript.run("echo wrong", "right")
        transcript.run("false")
        assert transcript.failed == ["echo wrong", "false"]
    assert "FAILED: exit code 1" in capsys.readouterr().out
