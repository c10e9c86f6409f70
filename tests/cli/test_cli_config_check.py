"""`config check`: what can be known without a model is checked, and the rest is named."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_calls import Cli, command_line
from scripted_runs import tree, write_rows
from tiny_models import CHATML, CLOCK, THINKING

MODEL_FILES = ("config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja")


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Iterator[Cli]:
    monkeypatch.chdir(tmp_path)
    model = tmp_path / "model"
    model.mkdir()
    for name in MODEL_FILES:
        (model / name).write_text('{"model_type": "llama"}' if name == "config.json" else "{}")
    (model / "chat_template.jinja").write_text(CHATML)
    (model / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    for name in ("train", "dev", "test"):
        write_rows(tmp_path / f"{name}.jsonl", [{"id": f"{name}-{at}", "prompt": f"{name} {at}"} for at in range(3)])
    (tmp_path / "run.yaml").write_text(
        "model: {model_name_or_path: ./model}\n"
        "prompts: {train: train.jsonl, dev: dev.jsonl, test: test.jsonl}\n"
        "raft: {num_cycles: 2, prompts_per_cycle: 2}\n"
    )
    with command_line(monkeypatch, capsys) as run:
        yield run


def test_what_was_checked_and_what_was_not(cli: Cli, tmp_path: Path) -> None:
    before = tree(tmp_path)
    done = cli("config", "check", "run.yaml")
    assert (done.code, done.err) == (0, "")
    first, *others = done.out.splitlines()
    assert first == "run.yaml: valid"
    checked = [line.removeprefix("checked: ") for line in others if line.startswith("checked: ")]
    assert "prompts: train 3, dev 3, test 3; no id is in two sets" in checked
    assert "./model: a model folder with settings, weights, a tokenizer and a chat template" in checked
    assert "the chat template renders the prompts" in checked
    assert "not checked: whether ./model loads, fits into the memory, and leaves room for the prompts" in others
    assert tree(tmp_path) == before


def test_hub_ids_are_named_as_not_checked(cli: Cli) -> None:
    done = cli("config", "check", "run.yaml", "--set", "model.model_name_or_path=a/b", "--set", "prompts.dev=c/d:dev")
    assert done.code == 0
    assert "checked: prompts: train 3, test 3; no id is in two sets" in done.out
    assert "not checked: prompts.dev: c/d:dev is on the Hub; only a run reads it" in done.out
    assert "not checked: whether a/b exists on the Hub, has a chat template, loads" in done.out


def test_everything_that_is_missing_is_told_at_once(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_text("{\n")
    changes = ("prompts.dev=none.jsonl", "model.model_name_or_path=./none", "output_dir=run.yaml/out")
    done = cli("config", "check", "run.yaml", *(word for change in changes for word in ("--set", change)))
    assert (done.code, done.out) == (2, "")
    said = (
        "prompts.dev: prompt file none.jsonl cannot be read",
        "prompts.test: test.jsonl:1",
        "./none: no such folder",
        "run.yaml is a file, allowed: a f",
    )
    assert [each for each in said if each not in done.err] == []
    assert done.err.count("fix: ") == 4


def test_what_can_be_no_hub_id_is_refused(cli: Cli) -> None:
    for change, said in {
        "prompts.train=http://x/y": "'http://x/y' is none of `id`",
        "prompts.train=a b": "'a b' is none of `id`",
        "prompts.train=a/b:c:d:e": "is none of `id`",
        "model.model_name_or_path=a b": "a b: neither a folder nor a Hub id",
        "engine={kind: scripted, answers: none.jsonl}": "none.jsonl: No such file or directory",
        "engine={kind: scripted, answers: $HOME/x}": "engine.answers: found $HOME in it",
    }.items():
        done = cli("config", "check", "run.yaml", "--set", change)
        assert (done.code, said in done.err) == (2, True), done.err


def test_a_prompt_in_two_sets(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "copy.jsonl").write_bytes((tmp_path / "train.jsonl").read_bytes())
    done = cli("config", "check", "run.yaml", "--set", "prompts.dev=copy.jsonl")
    assert (done.code, "prompt id 'train-0' is in prompts.train and in prompts.dev" in done.err) == (2, True)


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("config.json", "no config.json in this folder"),
        ("model.safetensors", "no weights (*.safetensors or *.bin) in this folder"),
        ("tokenizer.json", "no tokenizer ("),
        ("chat_template.jinja", "its tokenizer has no chat template"),
    ],
)
def test_a_model_folder_that_lacks_a_part(cli: Cli, tmp_path: Path, missing: str, said: str) -> None:
    (tmp_path / "model" / missing).unlink()
    done = cli("config", "check", "run.yaml")
    assert (done.code, said in done.err) == (2, True), done.err
    dry = cli("raft", "run", "run.yaml", "--dry-run")
    assert (dry.code, said in dry.out) == (0, True), dry.out


def test_a_chat_template_may_be_in_the_settings_of_the_tokenizer(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "model/chat_template.jinja").unlink()
    (tmp_path / "model/tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    assert cli("config", "check", "run.yaml").code == 0


NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHATML
BROKEN_TEMPLATES = {
    "syntax": ("{% for message in messages %}", (), "cannot render a conversation of user"),
    "another clock": ("{{ now() }}" + CHATML, (), "'now' is undefined"),
    "no system message": (NO_SYSTEM, ("--set", "prompts.system_prompt=Be brief."), "no system role"),
    "drops the prompt": (CHATML.replace("message['content']", "''"), (), "leaves out or changes the user message"),
    "drops replies": (
        CHATML.replace("message['content']", "(message['content'] if message['role'] == 'user' else '')"),
        (),
        "leaves out what the assistant says",
    ),
    "prefix in the reasoning": (THINKING, ("--set", "prompts.response_prefix=int"), "has opened the reasoning"),
}


@pytest.mark.parametrize("name", BROKEN_TEMPLATES)
def test_a_chat_template_that_fails_is_refused(cli: Cli, tmp_path: Path, name: str) -> None:
    template, change, said = BROKEN_TEMPLATES[name]
    (tmp_path / "model/chat_template.jinja").write_text(template)
    done = cli("config", "check", "run.yaml", *change)
    assert (done.code, said in done.err) == (2, True), done.out + done.err


def test_chat_templates_without_a_default_are_refused(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "model/chat_template.jinja").unlink()
    settings = {"chat_template": [{"name": "rag", "template": CHATML}, {"name": "tool_use", "template": CHATML}]}
    (tmp_path / "model/tokenizer_config.json").write_text(json.dumps(settings))
    done = cli("config", "check", "run.yaml")
    assert (done.code, "several chat templates (rag, tool_use), and none is named default" in done.err) == (2, True)
    settings["chat_template"].append({"name": "default", "template": CHATML})
    (tmp_path / "model/tokenizer_config.json").write_text(json.dumps(settings))
    assert cli("config", "check", "run.yaml").code == 0


def test_a_chat_template_that_reads_the_clock_is_told(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "model/chat_template.jinja").write_text(CLOCK)
    said = "note: the chat template reads the clock: it gets"
    assert f"{said} the time at which the run is started throughout this run" in cli("config", "check", "run.yaml").out
    fixed = cli("config", "check", "run.yaml", "--set", "prompts.date=2026-11-30")
    assert f"{said} 2026-11-30 00:00:00 throughout this run" in fixed.out


def test_a_chat_template_that_code_of_the_model_may_bring_is_not_checked(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "model/chat_template.jinja").unlink()
    done = cli("config", "check", "run.yaml", "--set", "model.trust_remote_code=true")
    assert (done.code, "not checked: whether ./model has a chat template" in done.out) == (0, True)


def test_the_warnings_of_the_dry_run_are_shown(cli: Cli) -> None:
    done = cli("config", "check", "run.yaml", "--set", "raft.prompts_per_cycle=50")
    assert (done.code, "warning: raft.prompts_per_cycle is 50, but prompts.train has 3 prompts" in done.out) == (
        0,
        True,
    )


def test_a_link_that_leads_nowhere_is_no_run_directory(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    for command in (("config", "check", "run.yaml"), ("raft", "run", "run.yaml", "--dry-run")):
        done = cli(*command, "--set", "output_dir=loop/out")
        assert "loop is a link that leads nowhere" in done.out + done.err


def test_no_heavy_library_is_imported(cli: Cli) -> None:
    script = (
        "import sys; from halo_forge.cli import app; sys.argv[1:] = ['config', 'check', 'run.yaml']\n"
        "try:\n    app.main()\nexcept SystemExit as done:\n    assert not done.code\n"
        "assert not {'torch', 'transformers', 'datasets'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True).returncode == 0


UNUSABLE = {
    "a fixture": ("def test_f(tmp_path):\n    assert f(tmp_path)", "`test_f` takes `tmp_path`"),
    "no assertion": ("print(f(1) == 3)", "asserts nothing"),
    "no syntax": ("assert f(1 ==", "not valid Python"),
}


@pytest.mark.parametrize("name", UNUSABLE)
@pytest.mark.parametrize("command", [("config", "check", "run.yaml"), ("raft", "run", "run.yaml", "--dry-run")])
def test_python_tests_that_cannot_be_run_are_refused(
    cli: Cli, tmp_path: Path, name: str, command: tuple[str, ...]
) -> None:
    text, said = UNUSABLE[name]
    rows = [
        {"id": "good", "prompt": "Write f.", "tests": {"kind": "asserts", "tests": ["assert f(1) == 3"]}},
        {"id": "bad", "prompt": "Write f, please.", "tests": {"kind": "asserts", "tests": [text]}},
    ]
    write_rows(tmp_path / "train.jsonl", rows)
    done = cli(*command, "--set", "verifier.kind=python")
    assert (done.code, said in done.err) == (2, True), done.err
    assert "train.jsonl:2: prompt 'bad': " in done.err


def test_of_many_prompts_with_unusable_tests_some_are_named_and_all_counted(cli: Cli, tmp_path: Path) -> None:
    tests = {"kind": "asserts", "tests": ["f(1)"]}
    write_rows(tmp_path / "train.jsonl", [{"prompt": f"{at}", "tests": tests} for at in range(8)])
    done = cli("config", "check", "run.yaml", "--set", "verifier.kind=python")
    assert done.code == 2
    assert done.err.count("asserts nothing") == 5 and "and 3 more prompts of this file are refused" in done.err


def test_prompts_that_are_not_used_need_no_usable_tests(cli: Cli, tmp_path: Path) -> None:
    rows = [
        {"prompt": "a", "info": {"level": 1}},
        {"prompt": "b", "info": {"level": 2}, "tests": {"kind": "asserts", "tests": ["f(1)"]}},
    ]
    for name in ("train", "dev", "test"):
        write_rows(tmp_path / f"{name}.jsonl", [{"id": f"{name}-{at}", **row} for at, row in enumerate(rows)])
    done = cli("config", "check", "run.yaml", "--set", "verifier.kind=python", "--set", "prompts.where={level: [1]}")
    assert done.code == 0, done.err


def test_tests_in_python_are_refused_by_other_verifiers(cli: Cli, tmp_path: Path) -> None:
    write_rows(
        tmp_path / "dev.jsonl", [{"id": "d", "prompt": "a", "tests": {"kind": "asserts", "tests": ["assert f()"]}}]
    )
    done = cli("config", "check", "run.yaml")
    assert (done.code, "dev.jsonl:1: prompt 'd': tests of the kind 'asserts' are for Python" in done.err) == (2, True)


def test_a_checker_does_not_go_with_a_harness(cli: Cli, tmp_path: Path) -> None:
    tests = {"kind": "harness", "entry_point": "f", "source": "int main(void) { return f(); }", "expected": ["1"]}
    write_rows(tmp_path / "dev.jsonl", [{"id": "d", "prompt": "Write f.", "tests": tests}])
    compare = "{checker: {language: c, source: 'int main(void) { return 0; }'}}"
    done = cli("config", "check", "run.yaml", "--set", f"verifier.compare={compare}")
    assert (done.code, "dev.jsonl:1: prompt 'd': verifier.compare has a checker" in done.err) == (2, True), done.err


def test_outputs_that_no_program_may_print_are_refused(cli: Cli, tmp_path: Path) -> None:
    tests = {"kind": "stdio", "cases": [{"stdin": "", "stdout": "x" * 2000}]}
    write_rows(tmp_path / "dev.jsonl", [{"id": "d", "prompt": "Print x.", "tests": tests}])
    done = cli("config", "check", "run.yaml", "--set", "verifier.output_limit_bytes=1024")
    assert (done.code, "expected output of case 1 has 2,000 bytes" in done.err) == (2, True), done.err


@pytest.mark.parametrize("command", [("config", "check", "run.yaml"), ("raft", "run", "run.yaml", "--dry-run")])
def test_limits_of_rows_that_are_not_applied_are_a_warning(cli: Cli, tmp_path: Path, command: tuple[str, ...]) -> None:
    write_rows(tmp_path / "dev.jsonl", [{"id": "d", "prompt": "a", "time_limit": "9 seconds"}])
    done = cli(*command)
    assert done.code == 0
    assert "1 prompt of prompts.dev with a time limit of their own (9 s), which is not applied" in " ".join(
        done.out.split()
    )
