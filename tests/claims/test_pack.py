"""What goes into a claim, what stays private, and what cannot be packed."""

from __future__ import annotations

import dataclasses
import getpass
import json
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
from claim_runs import (
    TESTS,
    ProgramVerifier,
    Verifiers,
    edited,
    inputs,
    members,
    packed,
    rechecked,
    said,
    verify_programs,
)
from scripted_runs import execute, read, rows

from halo_forge import api
from halo_forge.claims.pack import pack_run
from halo_forge.claims.privacy import shareable_config, shareable_identity, without_home
from halo_forge.config import load_config, resolved
from halo_forge.core.errors import ClaimError, RunDirError
from halo_forge.policy import adapter_digest


@pytest.fixture
def verifiers(monkeypatch: pytest.MonkeyPatch) -> Verifiers:
    return verify_programs(monkeypatch)


@pytest.fixture
def run(tmp_path: Path, verifiers: Verifiers) -> Path:
    verifiers.words = {"bad_versions": {0}}  # so that v1 is ahead and chosen
    execute(inputs(tmp_path / "my inputs", raft__num_cycles=1), tmp_path / "run")
    return tmp_path / "run"


def test_the_same_run_gives_the_same_bytes(run: Path, tmp_path: Path) -> None:
    first = packed(run).read_bytes()
    shutil.copytree(run, tmp_path / "elsewhere/run", symlinks=True)
    for path in (tmp_path / "elsewhere/run").rglob("*"):
        path.touch()
    assert packed(tmp_path / "elsewhere/run").read_bytes() == first
    assert packed(run).read_bytes() == first  # and an equal file may be there


def test_the_file_lies_beside_the_run_however_the_run_is_named(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder, name, expected in (
        (tmp_path, "run", "run.claim.zip"),
        (tmp_path, "./run/", "run.claim.zip"),
        (run, ".", str(tmp_path / "run.claim.zip")),
        (run / "cycles", "..", str(tmp_path / "run.claim.zip")),
    ):
        monkeypatch.chdir(folder)
        assert packed(Path(name)) == Path(expected)


def test_another_file_of_that_name_is_not_overwritten(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "run.claim.zip"
    other.write_text("mine")
    with pytest.raises(ClaimError, match="with other content"):
        packed(run)
    assert other.read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_every_sealed_stage_is_packed(run: Path) -> None:
    names = members(packed(run)).keys()
    not_packed = {"events.jsonl", "lock", "config.yaml", "config.resolved.yaml", "best", "latest", "selection.jsonl"}
    for path in run.rglob("*"):
        name = path.relative_to(run).as_posix()
        if path.is_file() and path.name not in not_packed and "adapter/" not in name and "latest/" not in name:
            assert name in names or name.startswith("best/"), name


def test_nothing_of_the_machine_is_in_it(run: Path, tmp_path: Path) -> None:
    content = b"".join(members(packed(run)).values())
    for word in (str(tmp_path), tmp_path.parent.name, socket.gethostname(), "my inputs"):
        assert word.encode() not in content, word
    name = getpass.getuser()
    if name != "root":  # which is a word of programs too
        assert name.encode() not in content


def config_of(**changes: Any) -> dict[str, Any]:
    found = {
        "model": {"model_name_or_path": "/data/models/secret-project/model-7b", "adapter": "~/adapters/first"},
        "prompts": {"train": "/home/jane/tasks.jsonl:train", "dev": "../jane/dev.jsonl", "test": "builtin:c/test"},
        "report_to": ["wandb"],
        "tracking": {"project": "secret-project", "group": "jane"},
        "notify_command": ["curl", "https://example.org/hook?token=secret"],
        "output_dir": "/home/jane/runs/secret-project",
        **changes,
    }
    return resolved(load_config(found).config)


def test_paths_trackers_and_commands_are_removed_and_said() -> None:
    found, changed = shareable_config(config_of())
    text = json.dumps(found)
    for word in ("jane", "secret", "/data", "curl", "wandb", "/home"):
        assert word not in text
    assert found["model"]["model_name_or_path"] == "model-7b"
    assert found["prompts"] == {**found["prompts"], "train": "tasks.jsonl:train", "dev": "dev.jsonl"}
    assert {"output_dir", "report_to", "tracking", "notify_command", "model.model_name_or_path"} <= set(changed)
    assert {"prompts.train", "prompts.dev", "model.adapter"} <= set(changed)
    assert load_config(found)  # still a configuration


def test_the_address_and_the_command_of_a_server_are_removed() -> None:
    server = {
        "kind": "openai_server", "base_url": "http://jane:secret@10.0.0.7:8000/v1", "api_key_variable": "JANES_KEY",
        "adapter": "merged_restart", "restart_command": ["/home/jane/serve", "--token", "secret"],
        "exchange_folder": "/home/jane/exchange",
    }  # fmt: skip
    found, changed = shareable_config(config_of(engine=server))
    text = json.dumps(found["engine"])
    for word in ("jane", "secret", "JANES_KEY", "10.0.0.7"):
        assert word not in text
    assert {"engine.base_url", "engine.restart_command", "engine.api_key_variable"} <= set(changed)
    assert load_config(found)


def test_the_run_that_a_learning_rate_is_a_share_of_has_no_path() -> None:
    given = config_of()
    said = "0.25 of 0.0002, the learning rate of "
    given["training"]["learning_rate_origin"] = {"learning_rate": f"{said}/home/jane/runs/first"}
    found, changed = shareable_config(given)
    assert found["training"]["learning_rate_origin"] == {"learning_rate": f"{said}first"}
    assert "training.learning_rate_origin" in changed


def test_what_was_left_as_it_is_is_not_called_changed() -> None:
    own = {
        "model": {"model_name_or_path": "models/small"},
        "prompts": {"train": "builtin:c/train", "response_prefix": "// a comment\n", "system_prompt": "/no_think"},
        "report_to": [], "tracking": {}, "notify_command": [], "output_dir": "runs/mine",
    }  # fmt: skip
    found, changed = shareable_config(config_of(**own))
    assert changed == ["output_dir"]
    assert found["prompts"]["response_prefix"] == "// a comment\n"


def test_the_identity_keeps_versions_and_loses_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/jane")
    found = shareable_identity(
        {
            "schema_version": 3,
            "start_model": {"model_name_or_path": "/home/jane/model", "sha256": "0"},
            "toolchain": {"compiler": "/home/jane/gcc", "version": "gcc 12", "isolation_notes": ["/home/jane/x"]},
            "hardware": {"profile": "cpu", "environment": {"TOKEN": "secret"}},
            "fork": {"run": "/home/jane/runs/parent", "config_digest": "0", "from_cycle": 2},
            "something_of_tomorrow": "jane",
        }
    )
    assert "jane" not in json.dumps(found) and "secret" not in json.dumps(found)
    assert found["toolchain"]["version"] == "gcc 12" and found["fork"] == {"config_digest": "0", "from_cycle": 2}


def test_the_home_folder_in_what_a_compiler_said_is_removed_and_makes_no_difference(
    tmp_path: Path, verifiers: Verifiers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one who verifies has another home folder."""
    monkeypatch.setenv("HOME", "/home/jane")
    assert without_home("/home/jane/include/a.h: /home/janet/b.h") == "~/include/a.h: /home/janet/b.h"
    judge = ProgramVerifier.judge

    def judged(self: Any, *given: Any, **named: Any) -> Any:
        return dataclasses.replace(judge(self, *given, **named), diagnostics=f"{Path.home()}/include/a.h: not found")

    monkeypatch.setattr(ProgramVerifier, "judge", judged)
    execute(inputs(tmp_path, raft__num_cycles=1), tmp_path / "run")
    assert "/home/jane" in rows(tmp_path / "run/cycles/001/verdicts.jsonl")[0]["diagnostics"]
    path = packed(tmp_path / "run")
    assert b"jane" not in members(path)["cycles/001/verdicts.jsonl"]
    monkeypatch.setenv("HOME", "/home/somebody")
    assert said(rechecked(path)) == []


def test_own_prompts_are_packed_only_if_asked_for(run: Path) -> None:
    held = members(packed(run))
    assert TESTS["kind"].encode() in held["prompts/dev.jsonl"]
    packed(run).unlink()
    left_out = members(packed(run, with_prompts=False))
    assert [json.loads(line) for line in left_out["prompts/dev.jsonl"].splitlines()] == [
        {"id": "dev1", "info": {}},
        {"id": "dev2", "info": {}},
    ]
    sources = json.loads(left_out["manifest.json"])["prompts"]
    assert sources["dev"]["source"] == "dev.jsonl" and not sources["dev"]["packed"]
    assert sources["dev"]["sha256"] == read(run / "run.json")["prompts"]["dev"]


def test_the_packaged_prompts_are_always_packed(tmp_path: Path, verifiers: Verifiers) -> None:
    config = inputs(tmp_path, raft__num_cycles=1, prompts__dev="builtin:c/dev", prompts__dev_limit=2)
    config.write_text(config.read_text().replace("answers.jsonl", "more.jsonl"))
    answers = (tmp_path / "answers.jsonl").read_text()
    (tmp_path / "more.jsonl").write_text(
        answers + json.dumps({"prompt_id": "*", "answers": [json.loads(answers.splitlines()[0])["answers"][0]]}) + "\n"
    )
    execute(config, tmp_path / "run")
    held = members(packed(tmp_path / "run", with_prompts=False))
    assert held["prompts/dev.jsonl"].count(b'"tests"') == 2 and b'"tests"' not in held["prompts/train.jsonl"]
    assert rechecked(tmp_path / "run.claim.zip").num_verified > 0


def test_the_adapter_of_the_chosen_version_is_packed_if_asked_for(run: Path, tmp_path: Path) -> None:
    assert read(run / "result.json")["chosen_version"] == 1
    plain = members(packed(run))
    assert not any("adapter/" in name for name in plain)
    (tmp_path / "run.claim.zip").unlink()
    path = packed(run, with_adapter=True)
    assert adapter_digest(run / "cycles/001/adapter") == read(run / "cycles/001/trained.json")["adapter_digest"]
    assert rechecked(path, programs=False).is_confirmed
    changed = edited(path, "cycles/001/adapter/adapter_config.json", lambda found: {**found, "r": 64})
    assert said(rechecked(changed, programs=False)) == [("value", "cycles/001/adapter/", "adapter_digest")]


def test_a_run_that_was_redone_says_so(tmp_path: Path, verifiers: Verifiers) -> None:
    execute(inputs(tmp_path), tmp_path / "run")
    api.resume(tmp_path / "run", from_cycle=2)
    found = rechecked(packed(tmp_path / "run"))
    assert found.is_confirmed and found.claimed["history"]["redone_from_cycles"] == [2]
    assert not any("superseded" in name for name in members(tmp_path / "run.claim.zip"))


def test_what_cannot_be_packed(run: Path, tmp_path: Path) -> None:
    with pytest.raises(RunDirError, match="not a run directory"):
        packed(tmp_path / "nothing")
    train = tmp_path / "my inputs/train.jsonl"
    kept = train.read_text()
    train.write_text(kept.replace("Write", "Please write"))
    with pytest.raises(ClaimError, match=r"prompts.train: train.jsonl has changed"):
        packed(run)
    train.unlink()
    with pytest.raises(ClaimError, match="cannot be read"):
        packed(run)
    train.write_text(kept)
    with pytest.raises(ClaimError, match="cannot be written"):
        pack_run(run, tmp_path / "no such folder/a.zip", with_prompts=True)
    for folder in (".", "/"):
        with pytest.raises(ClaimError, match="is a folder"):
            pack_run(run, Path(folder), with_prompts=True)
    (run / "result.json").unlink()
    with pytest.raises(RunDirError, match="not finished") as caught:
        packed(run)
    assert "raft resume" in caught.value.hint
