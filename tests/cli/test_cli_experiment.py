"""`halo-forge experiment run` and `status`, `raft fork` and `--share-from`, as the command line has them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_calls import Cli, command_line
from scripted_runs import execute, read, steady_answers, verify_in_memory, write_inputs

SUPPORT = Path(__file__).parents[1] / "support"
FILE = """\
question: Does decay help?
base: inputs/run.yaml
arms: {constant: {training.learning_rate: 5e-5}, decay: {}}
seeds: [0]
primary: [{treatment: decay, control: constant, expect: higher}]
output_dir: OUT
"""


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Cli]:
    with command_line(monkeypatch, capsys) as run:
        yield run


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write_inputs(tmp_path / "inputs", answers=steady_answers, raft__num_cycles=1)
    path = tmp_path / "experiment.yaml"
    path.write_text(FILE.replace("OUT", str(tmp_path / "out")))
    return path


def test_an_experiment_from_its_file_to_its_end_under_supervision(file: Path, cli: Cli) -> None:
    before = cli("experiment", "status", file)
    assert before.code == 0
    assert before.out.count("not started") == 2
    assert "0 of 2 runs finished; the remaining time is unknown until a run is finished" in before.out
    command = [sys.executable, str(SUPPORT / "slow_run.py"), "none", "experiment", "run", str(file), "--supervised"]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [(run["arm"], run["seed"], run["state"]) for run in found["runs"]] == [
        ("constant", 0, "finished"),
        ("decay", 0, "finished"),
    ]
    assert found["saved"]["num_samples"] == found["runs"][1]["saved"]["num_samples"] > 0
    assert "decay, seed 0: started" in done.stderr and "2 of 2 runs finished" in done.stderr
    after = cli("experiment", "status", file)
    assert "shared between runs, so not done again: " in after.out and "2 of 2 runs finished" in after.out
    again = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert again.returncode == 3
    assert "this experiment was already started" in again.stderr and "fix: continue it with --resume" in again.stderr
    file.write_text(file.read_text().replace("5e-5", "6e-5"))
    changed = cli("experiment", "status", file)
    assert changed.code == 3
    assert "arms.constant: training.learning_rate: was 5e-05, is 6e-05" in changed.err


def test_wrong_use_says_what_is_wrong(file: Path, cli: Cli) -> None:
    assert cli("experiment", "run", file, "--parallel", "0").code == 2
    refused = cli("experiment", "run", file, "--stall-seconds", "9")
    assert refused.code == 2 and "--stall-seconds 9: the run is not supervised" in refused.err
    wrong = cli("experiment", "status", file, "--set", "seeds=[]")
    assert wrong.code == 2 and "seeds: found an empty list" in wrong.err
    missing = cli("experiment", "run", file.parent / "none.yaml")
    assert missing.code == 2 and "none.yaml: no such file" in missing.err
    assert "configuration file" not in missing.err and "fix: check the path" in missing.err
    assert not (file.parent / "out").exists()


def test_a_fork_from_the_command_line(file: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    verify_in_memory(monkeypatch)
    config, parent, fork = file.parent / "inputs/run.yaml", file.parent / "parent", file.parent / "fork"
    execute(config, parent)
    command = ("raft", "fork", parent, "--from-cycle", 1, "--output-dir", fork)
    refused = cli(*command, "--set", "engine.max_new_tokens=9")
    assert refused.code == 2
    assert "--set engine.max_new_tokens=9: engine.max_new_tokens: was 256, is 9" in refused.err
    assert "fix: change training, selection" in refused.err and not fork.exists()
    done = cli(*command, "--set", "training.learning_rate=2e-4", "--json")
    assert done.code == 0 and done.json["state"] == "finished"
    assert f"note: what {parent} has in common with this run is taken over from it" in done.err
    assert read(fork / "cycles/001/settings.json")["learning_rate"] == 2e-4
    assert cli(*command, "--set", "training.learning_rate=2e-4").code == 3
    assert cli(*command, "--set", "training.learning_rate=2e-4", "--resume").code == 0
    assert cli("raft", "resume", fork).code == 0
    nothing = cli("raft", "fork", file.parent / "nothing", "--from-cycle", 1, "--output-dir", fork)
    assert nothing.code == 3 and "not a run directory" in nothing.err


def test_what_is_shared_from_must_be_a_run(file: Path, cli: Cli) -> None:
    config, root = file.parent / "inputs/run.yaml", file.parent / "run"
    refused = cli("raft", "run", config, "--output-dir", root, "--share-from", file.parent / "nowhere")
    assert refused.code == 3 and "nowhere: not a run directory" in refused.err
    assert not root.exists()
