"""The command line: what it prints, where, and with which exit code it leaves."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest
from cli_calls import Cli, command_line
from scripted_runs import MemoryVerifier, differences, read, rows, tree, write_inputs, write_rows
from terminal import tables

import halo_forge
from halo_forge.cli import app
from halo_forge.policy import Policy
from halo_forge.store.lock import RunLock

SUPPORT = Path(__file__).parents[1] / "support"


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Iterator[Cli]:
    """`main()` with these arguments, in a folder of its own, and without a traceback whatever happens."""
    monkeypatch.chdir(tmp_path)
    with command_line(monkeypatch, capsys) as run:
        yield run


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A verifier in memory in the place of the compiler."""
    monkeypatch.setattr("halo_forge.verifiers.verifier.ThreadedVerifier", lambda spec: MemoryVerifier())


# --- light commands


def test_help_of_the_program() -> None:
    done = subprocess.run([sys.executable, "-m", "halo_forge", "--help"], capture_output=True, text=True, check=True)
    assert "RAFT fine-tuning" in done.stdout


LIGHT = [
    ("--help",),
    ("raft", "run", "--help"),
    ("config", "check", "CONFIG"),
    ("config", "show", "CONFIG"),
    ("config", "schema"),
    ("raft", "run", "CONFIG", "--dry-run"),
    ("raft", "run", "CONFIG", "--dry-run", "--json"),
]


def test_light_commands_import_no_heavy_library(tmp_path: Path) -> None:
    config = write_inputs(tmp_path, output_dir=str(tmp_path / "run"))
    program = """
import json, sys
from halo_forge.cli import app
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["halo-forge", *arguments]
    try:
        app.main()
    except SystemExit as left:
        assert left.code in (0, None), (arguments, left.code)
    heavy = {"torch", "transformers", "peft", "trl", "datasets"} & sys.modules.keys()
    assert not heavy, (arguments, heavy)
"""
    commands = [[str(config) if part == "CONFIG" else part for part in command] for command in LIGHT]
    done = subprocess.run([sys.executable, "-c", program, json.dumps(commands)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_version_and_usage(cli: Cli) -> None:
    assert cli("--version").out == f"halo-forge {halo_forge.__version__}\n"
    assert cli("-h").code == 0
    for wrong in (("raft", "run"), ("no-such-verb",), ("raft", "run", "x.yaml", "--learning-rate", "1")):
        assert cli(*wrong).code == 2


def test_a_reader_that_has_seen_enough(tmp_path: Path) -> None:
    command = f"{sys.executable} -m halo_forge config schema | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("{\n", "")


def test_config_commands(cli: Cli, tmp_path: Path) -> None:
    config = write_inputs(tmp_path)
    assert cli("config", "check", config).out.startswith(f"{config}: valid\n")
    shown = cli("config", "show", config, "--set", "raft.num_cycles=7").out
    assert "num_cycles: 7" in shown
    (tmp_path / "shown.yaml").write_text(shown)
    assert cli("config", "show", "shown.yaml").out == shown
    assert cli("config", "schema").json["properties"]["raft"]


# --- dry run


def test_a_dry_run_writes_nothing(cli: Cli, tmp_path: Path) -> None:
    config = write_inputs(tmp_path)
    before = tree(tmp_path)
    done = cli("raft", "run", config, "--dry-run", "--set", "training.per_device_train_batch_size=2")
    assert done.code == 0
    assert "v0" in done.out
    assert "5.00e-05" in done.out
    assert "4.25e-05" in done.out
    assert "warning: cycles 1 to 2" in done.out
    assert done.err == ""
    assert tree(tmp_path) == before


def test_the_json_of_a_dry_run(cli: Cli, tmp_path: Path) -> None:
    done = cli("raft", "run", write_inputs(tmp_path), "--dry-run", "--json")
    assert set(done.json) == {"cycles", "warnings", "advice", "hardware", "prompts", "metric", "sensitivity", "notes"}
    cycles = done.json["cycles"]
    assert [cycle["cycle"] for cycle in cycles] == [1, 2]
    assert [cycle["learning_rate"] for cycle in cycles] == pytest.approx([5e-5, 4.25e-5])
    assert (cycles[0]["temperature"], cycles[0]["samples"], cycles[0]["max_optimizer_steps"]) == (1.0, 6, 6)
    assert all(isinstance(warning, str) for warning in done.json["warnings"])


# --- runs


def test_a_run_from_start_to_end(cli: Cli, tmp_path: Path, memory: None) -> None:
    config = write_inputs(tmp_path, num_prompts=(3, 2, 2))
    done = cli("raft", "run", config, "--output-dir", "out")
    assert done.code == 0
    assert "out: finished" in done.out
    assert "paired by prompt" in done.out
    assert "keep: " in done.out
    # Progress is plain lines on standard error.
    for part in (
        "sample v0: 10 of 10",
        "verify: 10 of 10",
        "cycle 1: trained v1",
        "train: step 1 of",
        "v2: dev/compile_rate",
    ):
        assert part in done.err
    assert "sample v0" not in done.out
    assert read(tmp_path / "out/result.json")["chosen_version"] in (0, 1, 2)


def test_more_prompts_per_cycle_than_there_are_is_said(cli: Cli, tmp_path: Path, memory: None) -> None:
    config = write_inputs(tmp_path, raft__prompts_per_cycle=50)
    said = "raft.prompts_per_cycle is 50, but prompts.train has 3 prompts: every cycle samples at most 3"
    assert said in cli("raft", "run", config, "--output-dir", "out", "--dry-run", "--json").json["warnings"]
    assert f"warning: {said}" in cli("raft", "run", config, "--output-dir", "out").err.splitlines()


def test_the_json_of_a_run_and_of_its_status(cli: Cli, tmp_path: Path, memory: None) -> None:
    done = cli("raft", "run", write_inputs(tmp_path), "--output-dir", "out", "--json")
    found = done.json
    assert set(found) == {
        "root", "state", "process", "num_cycles", "cycles", "best_version", "best_adapter", "result", "num_overlong",
        "saved",
    }  # fmt: skip
    assert (found["state"], found["num_cycles"], len(found["cycles"])) == ("finished", 2, 3)
    assert found["result"] == read(tmp_path / "out/result.json")
    assert found["cycles"][0]["metrics"]["optimizer_steps"] > 0
    assert cli("raft", "status", "out", "--json").json == found
    # Resuming what is finished says the same again.
    assert cli("raft", "resume", "out", "--json").json == found


def test_on_a_terminal_there_is_a_live_table(
    cli: Cli, tmp_path: Path, memory: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write_inputs(tmp_path)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    done = cli("raft", "run", config, "--output-dir", "out")
    assert done.code == 0
    assert "out: finished" in done.out
    assert "dev compile" in done.err


@pytest.mark.parametrize("width", [80, 100, 120, 240])
def test_a_narrow_terminal_gets_fewer_columns_but_whole_numbers(
    cli: Cli, tmp_path: Path, memory: None, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    assert cli("raft", "run", write_inputs(tmp_path), "--output-dir", "out").code == 0
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("FORCE_COLOR", "1")  # which is what rich takes for a terminal
    table, _, note = cli("raft", "status", "out").out.partition("time: ")[0].partition("left out")
    assert "…" not in table
    assert all(name in table for name in ("dev", "compile", "learning", "rate"))
    assert ("tok/s" in table) != ("tok/s" in note)
    assert {80: "tok/s" in note, 240: note == ""}.get(width, True)


def test_a_directory_with_an_odd_name(cli: Cli, tmp_path: Path, memory: None) -> None:
    odd = 'an ä "quoted" #1: dir'
    assert cli("raft", "run", write_inputs(tmp_path), "--output-dir", odd).code == 0
    assert cli("raft", "status", odd).code == 0
    (tmp_path / odd).rename(tmp_path / "moved")
    shutil.rmtree(tmp_path / "moved/test")
    (tmp_path / "moved/result.json").unlink()
    assert cli("raft", "resume", "moved").code == 0
    assert (tmp_path / "moved/result.json").exists()
    assert not (tmp_path / odd).exists()


# --- status


def test_status_of_a_run_at_all_ages(cli: Cli, tmp_path: Path, memory: None, monkeypatch: pytest.MonkeyPatch) -> None:
    config = write_inputs(tmp_path)
    assert cli("raft", "status", "out").code == 3

    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("halo_forge.loop.run_raft", interrupted)
        assert cli("raft", "run", config, "--output-dir", "out").code == 130
    fresh = cli("raft", "status", "out")
    assert fresh.out == "out: not started\n"
    assert cli("raft", "status", "out", "--json").json["cycles"] == []

    with monkeypatch.context() as patch:
        patch.setattr("halo_forge.runtime.effects.Runtime.train", interrupted)
        assert cli("raft", "run", config, "--output-dir", "out", "--resume").code == 130
    partial = cli("raft", "status", "out")
    assert "out: cycle 1 of 2: " in partial.out
    assert "best on dev so far: v0 (the start model)" in partial.out
    (row,) = cli("raft", "status", "out", "--json").json["cycles"]
    assert row["num_kept"] > 0
    assert "dev/pass_rate" in row["metrics"]

    assert cli("raft", "resume", "out").code == 0
    finished = cli("raft", "status", "out")
    assert "out: finished" in finished.out
    (table, *_), _ = tables(finished.out)
    assert table["cycle"] == ["1", "2", "final"]
    assert table["model"] == ["v0", "v1", "v2"]


# --- going back


def test_going_back_to_a_cycle(cli: Cli, tmp_path: Path, memory: None) -> None:
    assert cli("raft", "run", write_inputs(tmp_path), "--output-dir", "out").code == 0
    before = tree(tmp_path / "out")
    assert cli("raft", "resume", "out", "--from-cycle", "2").code == 0
    (superseded,) = (tmp_path / "out/superseded").iterdir()
    assert sorted(path.name for path in (superseded / "cycles").iterdir()) == ["002", "003"]
    after = {name: data for name, data in tree(tmp_path / "out").items() if not name.startswith("superseded")}
    assert differences(before, after) == []


def test_a_cycle_that_the_run_does_not_have(cli: Cli, tmp_path: Path, memory: None) -> None:
    assert cli("raft", "run", write_inputs(tmp_path), "--output-dir", "out").code == 0
    before = tree(tmp_path / "out")
    done = cli("raft", "resume", "out", "--from-cycle", "4")
    assert (done.code, "the run has 2 cycles" in done.err) == (2, True)
    assert cli("raft", "resume", "out", "--from-cycle", "0").code == 2
    assert cli("raft", "resume", "nowhere", "--from-cycle", "1").code == 3
    assert tree(tmp_path / "out") == before


# --- exit code 2: configuration, model, prompts


def test_a_wrong_configuration(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("model: {model_name_or_path: a/b}\nraft:\n  num_cycle: 3\n")
    for command in (("raft", "run"), ("config", "check"), ("config", "show")):
        done = cli(*command, "run.yaml")
        assert done.code == 2
        assert "run.yaml:3: raft.num_cycle: unknown key; did you mean num_cycles?" in done.err
        assert "  fix: " in done.err
    assert cli("raft", "run", "missing.yaml").code == 2
    done = cli("config", "check", write_inputs(tmp_path), "--set", "raft.num_cycles=none")
    assert (done.code, "raft.num_cycles" in done.err) == (2, True)


TRANSFORMERS: dict[str, Any] = {"engine": {"kind": "transformers"}}


def test_a_missing_model_folder(cli: Cli, tmp_path: Path) -> None:
    config = write_inputs(tmp_path, **TRANSFORMERS, model__model_name_or_path="./no/model")
    done = cli("raft", "run", config, "--output-dir", "out")
    assert (done.code, "./no/model: no such folder" in done.err) == (2, True)
    (tmp_path / "no/model").mkdir(parents=True)
    done = cli("raft", "run", config, "--output-dir", "out")
    assert (done.code, "no config.json in this folder" in done.err) == (2, True)
    assert not (tmp_path / "out").exists()


def adapter(folder: Path, base: str) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base, "r": 16}))
    (folder / "adapter_model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    return folder


def test_an_adapter_that_cannot_be_used(cli: Cli, tmp_path: Path) -> None:
    other = adapter(tmp_path / "other", "someone/other-7b")
    (tmp_path / "model").mkdir()
    for name in ("tokenizer.json", "chat_template.jinja"):
        (tmp_path / "model" / name).write_text("{}")
    (tmp_path / "model/config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "model/model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    config = write_inputs(tmp_path, **TRANSFORMERS, model__model_name_or_path="./model", model__adapter=str(other))
    done = cli("raft", "run", config, "--output-dir", "out")
    assert done.code == 2
    assert "was trained on 'someone/other-7b', but model.model_name_or_path is './model'" in done.err
    (other / "adapter_config.json").write_text("{")
    done = cli("raft", "run", config, "--output-dir", "out")
    assert (done.code, "adapter_config.json is not JSON" in done.err) == (2, True)
    (other / "adapter_model.safetensors").unlink()
    done = cli("raft", "run", config, "--output-dir", "out")
    assert (done.code, "adapter_model.safetensors missing" in done.err) == (2, True)
    (other / "adapter_config.json").unlink()
    other.rmdir()
    done = cli("raft", "run", config, "--output-dir", "out")
    assert (done.code, "there is no such folder" in done.err) == (2, True) and "RUN/best" in done.err
    assert not (tmp_path / "out").exists()


def break_prompts(folder: Path, how: str) -> str:
    """Break a prompt file; what is said about it."""
    train = folder / "train.jsonl"
    first = {"id": "train1", "prompt": "write"}
    if how == "missing":
        train.unlink()
        return "train.jsonl cannot be read: No such file or directory"
    if how == "malformed":
        train.write_text(json.dumps(first) + "\n{'id': 'train2'}\n")
        return "train.jsonl:2: column 2: not valid JSON"
    if how == "no prompt":
        write_rows(train, [first, {"id": "train2", "question": "write"}])
        return "train.jsonl:2"
    if how == "twice":
        write_rows(train, [first, {"id": "other", "prompt": "x"}, first])
        return "train.jsonl:3"
    if how == "empty":
        train.write_text("\n")
        return "is empty"
    assert how == "in two sets"
    write_rows(folder / "dev.jsonl", [{"id": "dev1", "prompt": "write"}, first])
    return "prompt id 'train1' is in prompts.train and in prompts.dev"


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize("how", ["missing", "malformed", "no prompt", "twice", "empty", "in two sets"])
def test_wrong_prompts(cli: Cli, tmp_path: Path, how: str, dry_run: bool) -> None:
    config = write_inputs(tmp_path)
    said = break_prompts(tmp_path, how)
    done = cli("raft", "run", config, "--output-dir", "out", *(["--dry-run"] if dry_run else []))
    assert done.code == 2
    assert said in done.err
    assert not (tmp_path / "out").exists()


def test_wrong_answers(cli: Cli, tmp_path: Path, memory: None) -> None:
    config = write_inputs(tmp_path)
    (tmp_path / "answers.jsonl").write_text('{"prompt_id": "train1", "answers": ["pass"]}\n{"answers": []}\n')
    done = cli("raft", "run", config, "--output-dir", "out")
    assert (done.code, "answers.jsonl:2: not a scripted row" in done.err) == (2, True)
    (tmp_path / "answers.jsonl").unlink()
    done = cli("raft", "run", config, "--output-dir", "out")
    assert (done.code, "answers.jsonl: No such file" in done.err) == (2, True)
    assert not (tmp_path / "out/run.json").exists()
    # A refused start is no obstacle to the next one.
    write_inputs(tmp_path)
    assert cli("raft", "run", config, "--output-dir", "out").code == 0


# --- exit code 3: the run directory


def test_a_directory_that_belongs_to_something_else(cli: Cli, tmp_path: Path, memory: None) -> None:
    config = write_inputs(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.tex").write_text("mine")
    for more in ([], ["--resume"]):
        done = cli("raft", "run", config, "--output-dir", "out", *more)
        assert (done.code, "not a run directory of halo-forge (holds thesis.tex)" in done.err) == (3, True)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.tex"]


def test_a_run_says_that_there_are_fewer_prompts_than_a_cycle_was_to_have(
    cli: Cli, tmp_path: Path, memory: None
) -> None:
    done = cli("raft", "run", write_inputs(tmp_path), "--output-dir", "out", "--set", "raft.prompts_per_cycle=50")
    assert (done.code, "warning: raft.prompts_per_cycle is 50, but prompts.train has" in done.err) == (0, True)


def test_a_run_directory_that_is_a_file(cli: Cli, tmp_path: Path, memory: None) -> None:
    (tmp_path / "out").write_text("mine")
    done = cli("raft", "run", write_inputs(tmp_path), "--output-dir", "out")
    assert (done.code, "out is a file, allowed: a folder" in done.err) == (3, True)
    assert (tmp_path / "out").read_text() == "mine"


def test_a_directory_in_use(cli: Cli, tmp_path: Path, memory: None) -> None:
    config = write_inputs(tmp_path)
    assert cli("raft", "run", config, "--output-dir", "out").code == 0
    lock = RunLock(tmp_path / "out")
    for command in (
        ("run", config, "--output-dir", "out", "--resume"),
        ("resume", "out"),
        ("resume", "out", "--from-cycle", "1"),
    ):
        done = cli("raft", *command)
        assert (done.code, f"another process is writing to this run (process {os.getpid()})" in done.err) == (3, True)
    # Looking is allowed.
    assert cli("raft", "status", "out").code == 0
    lock.release()


def test_a_run_that_was_already_started(cli: Cli, tmp_path: Path, memory: None) -> None:
    config = write_inputs(tmp_path)
    assert cli("raft", "run", config, "--output-dir", "out").code == 0
    done = cli("raft", "run", config, "--output-dir", "out")
    assert (done.code, "already started" in done.err, "--resume" in done.err) == (3, True, True)


def test_the_run_of_another_configuration(cli: Cli, tmp_path: Path, memory: None) -> None:
    config = write_inputs(tmp_path)
    assert cli("raft", "run", config, "--output-dir", "out").code == 0
    before = tree(tmp_path / "out")
    changes = ["--set", "training.learning_rate.base=1e-4", "--set", "seed=7"]
    done = cli("raft", "run", config, "--output-dir", "out", "--resume", *changes)
    assert done.code == 3
    shown = [line.strip() for line in done.err.splitlines() if ": was " in line]
    assert sorted(shown) == ["seed: was 0, is 7", "training.learning_rate.base: was 5e-05, is 0.0001"]
    assert tree(tmp_path / "out") == before


def test_what_has_no_influence_may_change(cli: Cli, tmp_path: Path, memory: None) -> None:
    config = write_inputs(tmp_path)
    assert cli("raft", "run", config, "--output-dir", "out").code == 0
    (tmp_path / "out/result.json").unlink()
    assert cli("raft", "run", config, "--output-dir", "out", "--resume", "--set", "verifier.workers=1").code == 0


@pytest.mark.parametrize(
    ("name", "said"), [("train", "the prompts are not those"), ("answers", "the start model is not")]
)
def test_inputs_that_changed_under_a_run(cli: Cli, tmp_path: Path, memory: None, name: str, said: str) -> None:
    config = write_inputs(tmp_path)
    assert cli("raft", "run", config, "--output-dir", "out").code == 0
    (tmp_path / "out/result.json").unlink()
    path = tmp_path / f"{name}.jsonl"
    path.write_text(path.read_text().replace("train1", "train9"))
    done = cli("raft", "resume", "out")
    assert (done.code, said in done.err) == (3, True)
    assert f"({'train' if name == 'train' else 'answers'}" in done.err


def test_a_reader_that_is_gone(cli: Cli, tmp_path: Path, memory: None) -> None:
    assert cli("raft", "run", write_inputs(tmp_path), "--output-dir", "out").code == 0
    command = [sys.executable, "-m", "halo_forge", "raft", "status", str(tmp_path / "out")]
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        done = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("run.json", "{}", "schema_version is None"),
        ("run.json", "[]", "not a JSON object"),
        ("config.resolved.yaml", "model: 1\n", "not a configuration of this version"),
    ],
)
def test_a_run_directory_that_somebody_edited(
    cli: Cli, tmp_path: Path, memory: None, name: str, content: str, said: str
) -> None:
    assert cli("raft", "run", write_inputs(tmp_path), "--output-dir", "out").code == 0
    (tmp_path / "out/result.json").unlink()
    (tmp_path / "out" / name).write_text(content)
    done = cli("raft", "resume", "out")
    assert (done.code, said in done.err) == (3, True)


@pytest.mark.parametrize("num_written", [0, 7, 20])
def test_a_full_disk(cli: Cli, tmp_path: Path, memory: None, monkeypatch: pytest.MonkeyPatch, num_written: int) -> None:
    config = write_inputs(tmp_path)
    assert cli("raft", "run", config, "--output-dir", "undisturbed").code == 0
    replace, written = os.replace, []

    def full(old: Any, new: Any) -> None:
        written.append(new)
        if len(written) > num_written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(old, new)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        done = cli("raft", "run", config, "--output-dir", "out", "--resume")
    assert (done.code, "No space left on device" in done.err, "--resume" in done.err) == (3, True, True)
    assert cli("raft", "run", config, "--output-dir", "out", "--resume").code == 0
    assert differences(tree(tmp_path / "out"), tree(tmp_path / "undisturbed")) == ["config.resolved.yaml"]


# --- exit code 4: tools


@pytest.mark.parametrize("engine", ["scripted", "transformers"])
def test_a_compiler_that_is_not_installed(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    def load(*arguments: Any, **named: Any) -> None:
        raise AssertionError("the model is loaded before the compiler is looked for")

    monkeypatch.setattr(Policy, "load", load)
    changes: dict[str, Any] = {} if engine == "scripted" else TRANSFORMERS
    config = write_inputs(tmp_path, **changes, verifier={"kind": "c", "compiler": "no-such-cc"})
    done = cli("raft", "run", config, "--output-dir", "out")
    assert (done.code, "needs no-such-cc, not found in PATH" in done.err, "apt-get install" in done.err) == (
        4,
        True,
        True,
    )
    assert not (tmp_path / "out/run.json").exists()


def test_a_compiler_that_does_not_work(cli: Cli, tmp_path: Path) -> None:
    config = write_inputs(tmp_path, verifier={"kind": "c", "compiler": "true"})
    done = cli("raft", "run", config, "--output-dir", "out")
    assert (done.code, "fails a self-test" in done.err) == (4, True)


def test_a_tracker_that_is_not_installed(
    cli: Cli, tmp_path: Path, memory: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = importlib.util.find_spec

    def without(name: str, package: str | None = None) -> ModuleSpec | None:
        return None if name == "wandb" else find_spec(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    done = cli("raft", "run", write_inputs(tmp_path, report_to=["wandb"]), "--output-dir", "out")
    assert (done.code, "wandb is not installed" in done.err, "pip install wandb" in done.err) == (4, True, True)
    assert not (tmp_path / "out").exists()


def test_tensorboard_gets_every_metric(cli: Cli, tmp_path: Path, memory: None) -> None:
    pytest.importorskip("tensorboard", reason="the tracker's package is not installed")
    assert cli("raft", "run", write_inputs(tmp_path, report_to=["tensorboard"]), "--output-dir", "out").code == 0
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    written = EventAccumulator(str(tmp_path / "out/tensorboard"))
    written.Reload()
    rates = [(point.step, point.value) for point in written.Scalars("dev/pass_rate")]
    measured = [read(tmp_path / f"out/cycles/00{cycle}/measurement.json")["metrics"] for cycle in (1, 2, 3)]
    assert rates == [(version, pytest.approx(metrics["dev/pass_rate"])) for version, metrics in enumerate(measured)]
    assert [point.step for point in written.Scalars("learning_rate_mass")] == [1, 2]


# --- exit code 5: rules


def test_too_few_samples(cli: Cli, tmp_path: Path, memory: None) -> None:
    config = write_inputs(tmp_path, raft__min_selected=7)
    for more in ([], ["--resume"]):
        done = cli("raft", "run", config, "--output-dir", "out", *more)
        assert (done.code, "fewer than raft.min_selected (7)" in done.err) == (5, True)
    assert "out: cycle 1 of 2: selection_settings done" in cli("raft", "status", "out").out


def test_a_broken_verifier(cli: Cli, tmp_path: Path, memory: None) -> None:
    config = write_inputs(tmp_path, answers=lambda prompt_id: [f"error {prompt_id}"])
    done = cli("raft", "run", config, "--output-dir", "out")
    assert (done.code, "the verifier itself failed on 6 of 6 samples" in done.err) == (5, True)


# --- exit code 130: interrupted


def slow_answers(prompt_id: str) -> list[str]:
    """Programs that run for a minute, and are good in the eyes of the verifier in memory."""
    loop = "volatile unsigned long i; int main(void) { for (;;) i++; }"
    return [f"pass {number} {prompt_id}\n```c\n/* {number} {prompt_id} */ {loop}\n```" for number in (1, 2)]


def wait_for(there: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 60
    while not there():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end, "the stage is never reached"
        time.sleep(0.02)


def processes_below(pid: int) -> list[int]:
    """Children, their children, and so on."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it is gone
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found = [child for child, parent in parents.items() if parent == pid]
    return found + [process for child in found for process in processes_below(child)]


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()
    except OSError:
        return ""  # it is gone


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["raft", "run", "a.yaml"], "Interrupted. Completed work is saved; rerun with --resume."),
        (["raft", "resume", "out"], "Interrupted. Completed work is saved; run the same command again."),
        (
            ["raft", "resume", "out", "--from-cycle=2"],
            "Interrupted. Completed work is saved; run the same command again, but without --from-cycle.",
        ),
        (["doctor"], "Interrupted."),
    ],
)
def test_what_an_interrupt_says(monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str) -> None:
    monkeypatch.setattr(sys, "argv", ["halo-forge", *arguments])
    assert app._interrupted() == said


@pytest.mark.parametrize("stage", ["completions", "verdicts", "trained"])
@pytest.mark.parametrize("how", ["Ctrl-C", "SIGTERM"])
def test_interrupted(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, how: str) -> None:
    settings = {"kind": "c", "timeout_seconds": 60.0}
    tests = {"kind": "stdio", "cases": [{"stdin": "", "stdout": "never"}]}
    config = write_inputs(tmp_path, answers=slow_answers, tests=tests, verifier=settings)
    folder, scratch = tmp_path / "out/cycles/001", tmp_path / "scratch"
    scratch.mkdir()
    below: list[int] = []

    def reached() -> bool:
        below[:] = processes_below(process.pid)
        if stage == "verdicts":  # a program runs by now
            running = any(command_of(pid) == "./program" for pid in below)
            return (folder / "verdicts.jsonl.part").exists() and running
        path = folder / ("completions.jsonl.part" if stage == "completions" else "training.part/training_log.jsonl")
        return path.exists() and path.read_text().count("\n") >= 1

    command = [sys.executable, str(SUPPORT / "slow_run.py"), stage, "raft", "run", str(config), "--output-dir", "out"]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(scratch)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        wait_for(reached, process)
        if how == "Ctrl-C":
            os.killpg(process.pid, signal.SIGINT)  # a terminal tells the whole process group
        else:
            process.terminate()
        out, err = process.communicate(timeout=30)  # a step takes two minutes, an answer one
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert err.endswith("Interrupted. Completed work is saved; rerun with --resume.\n")
    assert "Traceback" not in err
    assert out == ""
    assert [pid for pid in below if Path(f"/proc/{pid}").exists()] == []
    assert list(scratch.iterdir()) == []

    # Resumed, it ends as the run that nobody interrupted; what was finished is not made again.
    finished = rows(folder / f"{stage}.jsonl.part") if stage == "completions" else []
    monkeypatch.setattr("halo_forge.verifiers.verifier.ThreadedVerifier", lambda spec: MemoryVerifier())
    assert cli("raft", "resume", "out").code == 0
    if finished:
        assert rows(folder / "completions.jsonl")[: len(finished)] == finished
    assert cli("raft", "run", config, "--output-dir", "undisturbed").code == 0
    # run.json holds the compiler, which the verifier in memory is not.
    changed = ["config.resolved.yaml", *(["run.json"] if stage == "verdicts" else [])]
    assert differences(tree(tmp_path / "out"), tree(tmp_path / "undisturbed")) == changed


def test_going_back_is_refused_before_anything_is_moved(cli: Cli, tmp_path: Path, memory: None) -> None:
    config = write_inputs(tmp_path)
    assert cli("raft", "run", config, "--output-dir", "out").code == 0
    before = sorted(path.name for path in (tmp_path / "out/cycles").iterdir())
    train = tmp_path / "train.jsonl"
    train.write_text(train.read_text() + '{"id": "new", "prompt": "another one"}\n')
    refused = cli("raft", "resume", "out", "--from-cycle", "1")
    assert refused.code == 3
    assert sorted(path.name for path in (tmp_path / "out/cycles").iterdir()) == before
    assert not (tmp_path / "out/superseded").exists()


def test_an_adapter_that_was_exchanged_is_refused(cli: Cli, tmp_path: Path) -> None:
    from halo_forge.core.errors import RunDirError
    from halo_forge.policy import adapter_digest
    from halo_forge.runtime.effects import Runtime

    adapter = tmp_path / "adapter"
    adapter.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (adapter / name).write_text(name)
    (tmp_path / "trained.json").write_text(json.dumps({"adapter_digest": adapter_digest(adapter)}))

    class Adapters:
        version = 0

        def load_adapter(self, folder: Path | None, version: int) -> None:
            self.version = version

    runtime = Runtime({}, None, None, None, Adapters(), None, 0.0)  # type: ignore[arg-type]
    runtime._ensure_loaded(1, adapter)
    assert runtime.adapters.version == 1
    (adapter / "adapter_model.safetensors").write_text("other weights")
    with pytest.raises(RunDirError, match="not the adapter that cycle 2 trained"):
        runtime._ensure_loaded(2, adapter)


def test_a_run_says_at_its_start_that_a_reference_reaches_a_limit(cli: Cli, tmp_path: Path) -> None:
    right = '#include <stdio.h>\nint main(void) { puts("1"); return 0; }\n'
    loop = right.replace("{ puts", "{ for (volatile int i = 0; i < 1; ) { } puts")
    tests = {"kind": "stdio", "cases": [{"stdin": "", "stdout": "1\n"}]}
    config = write_inputs(
        tmp_path,
        tests=tests,
        answers=lambda _: [f"```c\n{right}```\n"],
        verifier={"kind": "c", "timeout_seconds": 0.3, "workers": 2},
        raft__num_cycles=1,
    )
    rows = [
        {"id": name, "prompt": f"Write {name}.", "tests": tests, "reference": code}
        for name, code in (("train1", loop), ("train2", right))
    ]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    done = cli("raft", "run", config)
    said = "warning: the reference solution of 1 prompt reaches a limit on this machine ('train1'), so right programs"
    assert done.code == 0 and f"{said} may fail: raise verifier.timeout_seconds (now 0.3)" in done.err
