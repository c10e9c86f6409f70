"""`notify_command`: run once when a run has ended, in whatever way but a kill, and never in the way of the run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_calls import Cli, command_line
from scripted_runs import read, rows, verify_in_memory, write_inputs

from halo_forge.runtime import notify

SUPPORT = Path(__file__).parents[1] / "support"
NOTES = """
import json, os, sys
row = {**json.load(sys.stdin), "variable": os.environ["HALO_FORGE_RUN_DIRECTORY"], "arguments": sys.argv[1:]}
with open("told.jsonl", "a") as file:
    file.write(json.dumps(row) + "\\n")
print("said by the command")
"""


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Iterator[Cli]:
    monkeypatch.chdir(tmp_path)
    verify_in_memory(monkeypatch)
    with command_line(monkeypatch, capsys) as run:
        yield run


def notes(*arguments: str) -> list[str]:
    """A command that writes down what it is told."""
    Path("notes.py").write_text(NOTES, encoding="utf-8")
    return [sys.executable, "notes.py", *arguments]


def told() -> list[dict[str, Any]]:
    return rows(Path("told.jsonl")) if Path("told.jsonl").exists() else []


def test_a_finished_run_tells_its_result(cli: Cli, tmp_path: Path) -> None:
    config = write_inputs(tmp_path, notify_command=notes("$HOME", "; rm -rf *", "two words"))
    assert cli("raft", "run", config, "--output-dir", "out").code == 0
    (row,) = told()
    assert (row["state"], row["error"]) == ("finished", None)
    assert row["result"] == read(tmp_path / "out/result.json")
    assert row["run_directory"] == row["variable"] == str(tmp_path / "out")
    assert row["arguments"] == ["$HOME", "; rm -rf *", "two words"], "no shell reads them"
    # A run that is finished already does not end again, and a dry run does not end.
    assert cli("raft", "run", config, "--output-dir", "out", "--resume").code == 0
    assert cli("raft", "run", config, "--output-dir", "other", "--dry-run").code == 0
    assert len(told()) == 1


def test_what_the_command_prints_is_not_in_the_result(tmp_path: Path) -> None:
    Path(tmp_path / "notes.py").write_text(NOTES, encoding="utf-8")
    config = write_inputs(tmp_path, notify_command=[sys.executable, "notes.py"])
    done = slow("none", tmp_path, "raft", "run", config, "--output-dir", "out", "--json")
    out, err = done.communicate(timeout=60)
    assert done.returncode == 0, err
    assert json.loads(out)["state"] == "finished"
    assert "said by the command" in err


def test_a_run_that_a_rule_stops_tells_the_error_and_its_fix(cli: Cli, tmp_path: Path) -> None:
    config = write_inputs(tmp_path, notify_command=notes(), raft__min_selected=7)
    done = cli("raft", "run", config, "--output-dir", "out")
    assert done.code == 5
    (row,) = told()
    assert (row["state"], row["result"], row["error"]["kind"]) == ("stopped", None, "TooFewSamples")
    assert f"error: {row['error']['message']}\n  fix: {row['error']['fix']}\n" in done.err


def test_a_run_that_is_refused_tells_that_it_failed(cli: Cli, tmp_path: Path) -> None:
    config = write_inputs(tmp_path, notify_command=notes(), prompts={"train": str(tmp_path / "missing.jsonl")})
    assert cli("raft", "run", config, "--output-dir", "out").code == 2
    (row,) = told()
    assert (row["state"], row["error"]["kind"]) == ("failed", "ConfigError")
    assert "missing.jsonl" in row["error"]["message"]


def test_a_bug_is_told_too(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("halo_forge.loop.train_next", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli("raft", "run", write_inputs(tmp_path, notify_command=notes()), "--output-dir", "out")
    (row,) = told()
    assert row["state"] == "failed"
    assert row["error"] == {"kind": "ZeroDivisionError", "message": "division by zero", "fix": None}


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["no-such-program-anywhere"], "no-such-program-anywhere: No such file or directory"),
        (["/etc/passwd"], "/etc/passwd: Permission denied"),
        ([sys.executable, "-c", "raise SystemExit(3)"], f"{sys.executable}: exit code 3"),
        ([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], f"{sys.executable}: ended by SIGKILL"),
        ([sys.executable, "-c", "import time; time.sleep(60)"], f"{sys.executable}: not done after 1 s, and killed"),
        (["echo", "a\0b"], "echo: embedded null byte"),
        (["sh", "-c", "sleep 61 & wait"], "sh: not done after 1 s, and killed"),
    ],
)
def test_a_command_that_fails_is_said_and_changes_no_exit_code(
    command: list[str], said: str, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "LIMIT_SECONDS", 1.0)
    done = cli("raft", "run", write_inputs(tmp_path, notify_command=command), "--output-dir", "out")
    assert (done.code, f"warning: notify_command: {said}\n" in done.err) == (0, True)
    early = "no such program; nothing will be run at the end"
    assert (early in done.err) == (command[0] in ("no-such-program-anywhere", "/etc/passwd"))
    assert not any(command_line_of(pid) == ["sleep", "61"] for pid in Path("/proc").glob("[0-9]*"))


def command_line_of(process: Path) -> list[str]:
    try:
        return (process / "cmdline").read_bytes().decode().split("\0")[:-1]
    except OSError:  # it has ended
        return []


def slow(stage: str, folder: Path, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(SUPPORT / "slow_run.py"), stage, *map(str, arguments)],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("supervised", [[], ["--supervised"]])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupt_is_told_once_and_a_kill_never(
    number: signal.Signals, supervised: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = write_inputs(tmp_path, notify_command=notes())
    process = slow("trained", tmp_path, "raft", "run", config, "--output-dir", "out", *supervised)
    try:
        wait_for(tmp_path / "out/cycles/001/training.part/training_log.jsonl", process)
        if number == signal.SIGINT:
            os.killpg(process.pid, number)  # a terminal tells the whole process group
        else:
            process.send_signal(number)
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
    if number == signal.SIGKILL:
        assert (process.returncode, told()) == (-signal.SIGKILL, [])
        return
    assert process.returncode == 130, err
    (row,) = told()
    assert (row["state"], row["result"]) == ("interrupted", None)


@pytest.mark.parametrize(
    ("trouble", "times", "state", "kind"),
    [("wait", 1, "finished", None), ("die", 9, "stopped", "NoProgress")],
    ids=["stalled, restarted and finished", "killed until it is given up"],
)
def test_a_supervised_run_tells_its_one_end_and_not_those_of_attempts(
    trouble: str, times: int, state: str, kind: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = write_inputs(tmp_path, notify_command=notes())
    folder = tmp_path / "attempts"
    folder.mkdir()
    program = [sys.executable, SUPPORT / "troubled_run.py", trouble, 0, times, folder, "raft", "run", config]
    more = ["--supervised", "--max-restarts", 1, "--stall-seconds", 2, "--output-dir", "out"]
    done = subprocess.run([*map(str, [*program, *more])], capture_output=True, text=True, check=False, timeout=120)
    assert "restart 1 of at most 1" in done.stderr
    (row,) = told()
    assert (row["state"], row["error"] and row["error"]["kind"]) == (state, kind), done.stderr


EXPERIMENT = """\
question: Does a low rate help?
base: run.yaml
arms: {{low: {{training.learning_rate: 1e-5}}, high: {{training.learning_rate: 1e-4}}}}
seeds: [0]
set: {{raft.num_cycles: 1, raft.min_selected: {least}, selection.drop_flagged: false}}
output_dir: out{least}
"""


@pytest.mark.parametrize(("least", "code"), [(1, 0), (99, 1)])
def test_an_experiment_tells_its_end_once_and_its_runs_tell_nothing(least: int, code: int, tmp_path: Path) -> None:
    program = "```c\n// {}\nint main(void) {{ return 0; }}\n```"
    told_to = str(tmp_path / "told.jsonl")
    command = [sys.executable, "-c", NOTES.replace("told.jsonl", told_to)]
    write_inputs(tmp_path, answers=lambda prompt_id: [program.format(prompt_id)], notify_command=command)
    (tmp_path / "experiment.yaml").write_text(EXPERIMENT.format(least=least))
    words = [sys.executable, "-m", "halo_forge", "experiment", "run", "experiment.yaml"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode != 0) == (code != 0), done.stderr
    (row,) = rows(Path(told_to))
    assert row["run_directory"] == str(tmp_path / f"out{least}")
    assert [run["arm"] for run in row["result"]["runs"]] == ["low", "high"]
    if code == 0:
        assert (row["state"], row["error"]) == ("finished", None)
        assert [run["state"] for run in row["result"]["runs"]] == ["finished", "finished"]
    else:
        assert row["state"] == "failed"
        assert row["error"]["message"] == "failed: low with seed 0, high with seed 0"
