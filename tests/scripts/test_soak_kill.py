"""scripts/soak_kill.py: a few real kills, and a check that notices what it is there for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from benchmarks import run, script
from scripted_runs import MemoryVerifier, execute, write_inputs

import halo_forge.verifiers.verifier


@pytest.fixture(scope="module")
def soak() -> Iterator[ModuleType]:
    with script("soak_kill") as module:
        yield module


@pytest.fixture
def finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(halo_forge.verifiers.verifier, "ThreadedVerifier", lambda spec: MemoryVerifier())
    execute(write_inputs(tmp_path / "inputs"), tmp_path / "run")
    return tmp_path / "run"


def test_an_untouched_run_is_as_it_was(soak: ModuleType, finished: Path) -> None:
    snapshot = soak.Snapshot.of(finished)
    assert {"result.json", "cycles/001/completions.jsonl", "cycles/001/trained.json"} <= snapshot.sealed.keys()
    snapshot.check(finished)


@pytest.mark.parametrize("name", ["result.json", "cycles/001/completions.jsonl", "cycles/002/decision.json"])
@pytest.mark.parametrize("lost", [True, False])
def test_a_sealed_file_that_is_lost_or_changed_is_a_violation(
    soak: ModuleType, finished: Path, name: str, lost: bool
) -> None:
    snapshot = soak.Snapshot.of(finished)
    if lost:
        (finished / name).unlink()
    else:
        (finished / name).write_bytes((finished / name).read_bytes() + b"\n")
    with pytest.raises(soak.Violation, match=name):
        snapshot.check(finished)


def test_a_finished_record_that_is_lost_is_a_violation(soak: ModuleType, finished: Path) -> None:
    sealed = finished / "cycles/001/completions.jsonl"
    part, lines = sealed.with_suffix(".jsonl.part"), sealed.read_bytes().splitlines(keepends=True)
    sealed.unlink()
    part.write_bytes(b"".join(lines[:2]) + lines[2][:9])
    snapshot = soak.Snapshot.of(finished)
    part.write_bytes(b"".join(lines[:3]))
    snapshot.check(finished)
    part.write_bytes(lines[0])
    with pytest.raises(soak.Violation, match="1 finished records are lost"):
        snapshot.check(finished)


def test_a_file_of_an_unfinished_training_may_change(soak: ModuleType, finished: Path) -> None:
    (finished / "cycles/002/trained.json").unlink()
    snapshot = soak.Snapshot.of(finished)
    (finished / "cycles/002/training_log.jsonl").write_text(json.dumps({"step": 1}) + "\n")
    snapshot.check(finished)


@pytest.mark.timeout(600)  # several real runs
def test_a_kill_loses_nothing(tiny_models: dict[str, Path]) -> None:
    # Random weights write no C, so everything that ends counts.
    settings = ("engine.stop=['}', 'e']", "engine.max_new_tokens=60", "model.dtype=float32", "lora.r=4")
    options = [word for each in settings for word in ("--set", each)]
    done = run("soak_kill", "--only", "real", "--kills", 1, "--model", tiny_models["llama"], *options, seconds=580)
    assert done.returncode == 0, done.stderr + done.stdout
    assert len([line for line in done.stdout.splitlines() if line.startswith("kill ")]) == 1
    assert done.stdout.splitlines()[-1] == "nothing lost, nothing doubled, nothing left behind"


def test_zero_kills_are_refused() -> None:
    done = run("soak_kill", "--kills", 0)
    assert done.returncode == 2 and "--kills must be at least 1" in done.stderr
