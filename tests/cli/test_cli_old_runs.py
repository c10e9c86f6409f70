"""Run directories of earlier schemas: shown, and not continued.  Schema 1 kept all settings in settings.json."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_calls import Cli, command_line
from scripted_runs import MemoryVerifier, execute, read, steady_answers, tree, verify_in_memory, write_inputs


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Iterator[Cli]:
    monkeypatch.setattr("halo_forge.verifiers.verifier.ThreadedVerifier", lambda spec: MemoryVerifier())
    monkeypatch.chdir(tmp_path)
    with command_line(monkeypatch, capsys) as run:
        yield run


@pytest.fixture
def old(cli: Cli, tmp_path: Path) -> Path:
    """A finished run, in the layout of schema 1."""
    assert cli("raft", "run", write_inputs(tmp_path), "--output-dir", "out").code == 0
    root = tmp_path / "out"
    write(root / "run.json", read(root / "run.json") | {"schema_version": 1})
    for path in root.glob("cycles/*/selection_settings.json"):
        chosen, settings = read(path), read(path.with_name("settings.json"))
        path.unlink()
        both = {"cycle": settings["cycle"], "parent_version": settings["parent_version"]} | chosen | settings
        write(path.with_name("settings.json"), both)
        report = path.with_name("report.json")
        write(report, read(report) | {"settings": both})
    return root


def write(path: Path, value: dict[str, object]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def test_status_shows_it(cli: Cli, old: Path) -> None:
    found = cli("raft", "status", "out", "--json")
    assert found.code == 0
    assert (found.json["state"], len(found.json["cycles"])) == ("finished", 3)
    settings = found.json["cycles"][0]["settings"]
    assert (settings["reward_threshold"], settings["learning_rate"]) == ("pass", 5e-5)
    assert cli("raft", "status", "out").out.startswith("out: finished")


def test_its_verdicts_can_be_rescored(cli: Cli, old: Path) -> None:
    done = cli("verify", "--rescore", "out", "--set", "verifier.rewards.runs=0.6", "--json")
    assert done.code == 0
    assert done.json["cycles"][0]["threshold_old"] == "pass"


@pytest.mark.parametrize("command", [("raft", "resume", "out"), ("raft", "resume", "out", "--from-cycle", "2")])
def test_it_is_not_continued(cli: Cli, old: Path, command: tuple[str, ...]) -> None:
    (old / "result.json").unlink()
    before = tree(old)
    done = cli(*command)
    assert done.code == 3
    assert "out: made by an earlier halo-forge (schema_version 1, this one continues 3)" in done.err
    assert "raft status out" in done.err and "Traceback" not in done.err
    assert tree(old) == before


def test_it_is_refused_before_its_prompts_and_its_configuration_are_read(cli: Cli, old: Path) -> None:
    path = old / "config.resolved.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace("kind: best_per_prompt", "kind: everything"))
    prompts = list(old.parent.glob("*.jsonl"))
    assert prompts
    for each in prompts:
        each.unlink()
    done = cli("raft", "resume", "out")
    assert done.code == 3 and len(done.err.splitlines()) == 2, done.err
    assert "out: made by an earlier halo-forge (schema_version 1, this one continues 3)" in done.err


@pytest.mark.parametrize("is_finished", [True, False])
def test_its_configuration_file_does_not_continue_it_either(cli: Cli, old: Path, is_finished: bool) -> None:
    (config,) = old.parent.glob("*.yaml")
    for each in old.parent.glob("*.jsonl"):
        each.unlink()
    if not is_finished:
        (old / "result.json").unlink()
    before = tree(old)
    done = cli("raft", "run", str(config), "--output-dir", "out", "--resume")
    assert done.code == 3 and len(done.err.splitlines()) == 2, done.err
    assert "out: made by an earlier halo-forge (schema_version 1, this one continues 3)" in done.err
    assert tree(old) == before


def test_a_renamed_policy_in_its_configuration_is_refused_in_one_sentence(cli: Cli, old: Path) -> None:
    path = old / "config.resolved.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace("kind: best_per_prompt", "kind: everything"))
    done = cli("raft", "status", "out")
    assert done.code == 3
    assert "selection.kind: found" in done.err and "(everything is now called unfiltered)" in done.err
    assert len(done.err.splitlines()) == 2  # the error and what to do
    # Redoing a cycle would be refused for the same reason.
    assert "continue it with the version that started it" in done.err and "--from-cycle" not in done.err


def test_a_run_of_schema_2_says_ahead_where_it_said_improved(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verify_in_memory(monkeypatch, bad_versions=[0])
    execute(write_inputs(tmp_path, answers=steady_answers), tmp_path / "run")
    path = tmp_path / "run" / "cycles" / "002" / "decision.json"
    assert read(path)["outcome"] == "ahead"
    write(path, read(path) | {"outcome": "improved"})
    done = cli("raft", "status", tmp_path / "run", "--json")
    assert done.code == 0
    assert done.json["cycles"][1]["decision"]["outcome"] == "ahead"
