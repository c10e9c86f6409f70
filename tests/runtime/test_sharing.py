"""What one run takes from another: only what would be the same, with the same bytes at the end, and never an edit."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from scripted_runs import (
    MemoryVerifier,
    SilentObserver,
    differences,
    execute,
    rows,
    tree,
    verify_in_memory,
    write_inputs,
)

from halo_forge.config import load_config
from halo_forge.core.errors import RunDirError
from halo_forge.core.metrics import DriftFacts
from halo_forge.loop import run_raft
from halo_forge.runtime.assembly import open_run
from halo_forge.store import files


@pytest.fixture
def verifier(monkeypatch: pytest.MonkeyPatch) -> MemoryVerifier:
    monkeypatch.setattr("halo_forge.runtime.identity.git_commit", lambda: None)
    return verify_in_memory(monkeypatch)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_inputs(tmp_path / "inputs")


def run(config: Path, root: Path, *changes: str, share_from: Sequence[Path] = (), resume: bool = False) -> list[str]:
    """Run to the end; the files that were taken from other runs."""
    execute(config, root, *changes, resume=resume, share_from=share_from)
    return shared(root)


def shared(root: Path) -> list[str]:
    return [f"{event['of']}/{event['file']}" for event in rows(root / "events.jsonl") if event["event"] == "shared"]


def results(root: Path) -> dict[str, bytes]:
    """What a run made; its configuration holds the name of its folder."""
    return {name: data for name, data in tree(root).items() if not name.startswith("config.")}


FIRST_DEV = ["001/dev_completions.jsonl", "001/dev_verdicts.jsonl"]
FIRST_TRAIN = ["001/completions.jsonl", "001/verdicts.jsonl"]
TEST = ["v000/completions.jsonl", "v000/verdicts.jsonl"]
CASES = [
    # (what the second run changes, what it takes of the start model, what it does not take); the scripted engine gives
    # equal completions at every temperature, and equal completions have equal verdicts, whoever sampled them.
    (["training.learning_rate=1e-4"], [*FIRST_TRAIN, *FIRST_DEV, *TEST], []),
    (["selection.per_prompt_cap=1"], [*FIRST_TRAIN, *FIRST_DEV, *TEST], []),
    (["engine.temperature=0.5"], [*FIRST_DEV, *TEST], FIRST_TRAIN[:1]),
    (["engine.top_p=0.9"], [*FIRST_DEV, *TEST], FIRST_TRAIN[:1]),
    (["engine.min_p=0.1"], [*FIRST_DEV, *TEST], FIRST_TRAIN[:1]),
    (["raft.samples_per_prompt=3"], [*FIRST_DEV, *TEST], FIRST_TRAIN),
    (["raft.prompts_per_cycle=2"], [*FIRST_DEV, *TEST], FIRST_TRAIN),
    (["evaluation.temperature=0.6"], FIRST_TRAIN, [FIRST_DEV[0], TEST[0]]),
    (["evaluation.top_p=0.6"], FIRST_TRAIN, [FIRST_DEV[0], TEST[0]]),
    (["evaluation.samples_per_prompt=3"], FIRST_TRAIN, [*FIRST_DEV, *TEST]),
    (["lora.r=4"], [*FIRST_TRAIN, *FIRST_DEV, *TEST], ["002/completions.jsonl"]),
    (
        ["verifier.timeout_seconds=7"],
        ["001/completions.jsonl", FIRST_DEV[0], TEST[0]],
        ["001/verdicts.jsonl", FIRST_DEV[1]],
    ),
    (["seed=1"], [], [*FIRST_TRAIN, *FIRST_DEV, *TEST]),
    (["engine.max_new_tokens=77"], [], [*FIRST_TRAIN, *FIRST_DEV, *TEST]),
    (["engine.top_k=7"], [], [*FIRST_TRAIN, *FIRST_DEV, *TEST]),
    (["engine.stop=[x]"], [], [*FIRST_TRAIN, *FIRST_DEV, *TEST]),
    (["prompts.response_prefix=x"], [], [*FIRST_TRAIN, *FIRST_DEV, *TEST]),
    (["prompts.train_limit=2"], [], [*FIRST_TRAIN, *FIRST_DEV, *TEST]),
    (["model.dtype=float32"], [], [*FIRST_TRAIN, *FIRST_DEV, *TEST]),
]


@pytest.mark.parametrize(("changes", "taken", "made"), CASES, ids=lambda value: " ".join(value)[:40])
def test_what_is_the_same_is_taken_and_ends_with_the_same_bytes(
    tmp_path: Path, config: Path, verifier: MemoryVerifier, changes: list[str], taken: list[str], made: list[str]
) -> None:
    run(config, tmp_path / "first")
    run(config, tmp_path / "alone", *changes)
    found = run(config, tmp_path / "second", *changes, share_from=[tmp_path / "first"])
    assert set(taken) <= set(found), "not taken, although it is the same"
    assert not set(made) & set(found), "taken, although it is another one"
    assert differences(results(tmp_path / "second"), results(tmp_path / "alone")) == []


def test_nothing_that_was_taken_is_made_again(tmp_path: Path, config: Path, verifier: MemoryVerifier) -> None:
    run(config, tmp_path / "first")
    verifier.checked.clear()
    verifier.submitted.clear()
    found = run(config, tmp_path / "second", "training.learning_rate=1e-4", share_from=[tmp_path / "first"])
    assert len(found) == 2 * (2 + 2 + 1 + 2), "v_0 and v_1 on train and dev, v_2 on dev, v_0 and v_2 on test"
    assert verifier.checked == [] and verifier.submitted == []
    for name in ("cycles/001/completions.jsonl", "test/v000/verdicts.jsonl"):
        assert (tmp_path / "first" / name).samefile(tmp_path / "second" / name)
    event = next(each for each in rows(tmp_path / "second/events.jsonl") if each["event"] == "shared")
    assert event["how"] == "link" and event["source"] == str(tmp_path / "first") and len(event["sha256"]) == 64
    assert (event["num_samples"], event["num_tokens"]) == (
        6,
        sum(len(row["token_ids"]) for row in rows(tmp_path / "first/cycles/001/completions.jsonl")),
    )


def test_a_file_system_without_links_gets_copies(
    tmp_path: Path, config: Path, verifier: MemoryVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(config, tmp_path / "first")

    def no_link(source: Path, target: Path) -> None:
        raise OSError(18, os.strerror(18))

    monkeypatch.setattr(files.os, "link", no_link)
    run(config, tmp_path / "second", share_from=[tmp_path / "first"])
    event = next(each for each in rows(tmp_path / "second/events.jsonl") if each["event"] == "shared")
    assert event["how"] == "copy"
    assert not (tmp_path / "first/cycles/001/completions.jsonl").samefile(
        tmp_path / "second/cycles/001/completions.jsonl"
    )
    assert differences(results(tmp_path / "first"), results(tmp_path / "second")) == []


def test_of_a_run_that_is_still_running_only_sealed_stages_are_taken(
    tmp_path: Path, config: Path, verifier: MemoryVerifier
) -> None:
    run(config, tmp_path / "first")
    cycle = tmp_path / "first/cycles/001"
    (cycle / "completions.jsonl").rename(cycle / "completions.jsonl.part")
    found = run(config, tmp_path / "second", share_from=[tmp_path / "first"])
    assert FIRST_TRAIN[0] not in found and FIRST_DEV[0] in found


def test_what_a_run_has_begun_itself_it_also_ends(tmp_path: Path, config: Path, verifier: MemoryVerifier) -> None:
    run(config, tmp_path / "first")
    loaded = load_config(config, [f"output_dir={json.dumps(str(tmp_path / 'second'))}"])
    with open_run(loaded, SilentObserver(), resume=False) as (plan, directory, runtime):
        object.__setattr__(runtime, "verify", None)
        with pytest.raises(TypeError):
            run_raft(plan, directory, runtime)
    (tmp_path / "second/cycles/001/dev_verdicts.jsonl.part").write_text("")
    found = run(config, tmp_path / "second", share_from=[tmp_path / "first"], resume=True)
    assert FIRST_DEV[1] not in found and FIRST_TRAIN[1] not in found, "both are part of a stage that was begun"
    assert differences(results(tmp_path / "first"), results(tmp_path / "second")) == []


def test_other_tools_make_other_verdicts(tmp_path: Path, config: Path, verifier: MemoryVerifier) -> None:
    run(config, tmp_path / "first")
    path = tmp_path / "first/run.json"
    identity = json.loads(path.read_text())
    identity["toolchain"]["version"] = "memory 2"
    path.write_text(json.dumps(identity))
    found = run(config, tmp_path / "second", share_from=[tmp_path / "first"])
    assert FIRST_DEV[0] in found and FIRST_DEV[1] not in found


@pytest.mark.parametrize("key", ["versions", "halo_forge_version", "start_model"])
def test_another_environment_makes_other_completions(
    tmp_path: Path, config: Path, verifier: MemoryVerifier, key: str
) -> None:
    run(config, tmp_path / "first")
    path = tmp_path / "first/run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: {"torch": "another"}}))
    loaded = load_config(config, [f"output_dir={json.dumps(str(tmp_path / 'second'))}"])
    with open_run(loaded, SilentObserver(), resume=False, share_from=[tmp_path / "first"]) as (_, _, runtime):
        said = f"nothing is taken over from {tmp_path / 'first'}, because {key} is not the same"
        assert said in runtime.notes
    assert run(config, tmp_path / "second", share_from=[tmp_path / "first"], resume=True) == []


def test_what_is_no_run_is_refused_before_anything_is_made(
    tmp_path: Path, config: Path, verifier: MemoryVerifier
) -> None:
    with pytest.raises(RunDirError, match="nowhere: not a run directory"):
        run(config, tmp_path / "second", share_from=[tmp_path / "nowhere"])
    assert not (tmp_path / "second").exists()


def test_no_sealed_file_is_ever_opened_for_writing(
    tmp_path: Path, config: Path, verifier: MemoryVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that two runs have between them: an edit in one would be an edit in the other."""
    run(config, tmp_path / "first")
    before = {path: path.read_bytes() for path in (tmp_path / "first").rglob("*") if path.is_file()}
    root = tmp_path / "second"
    for changes in ([], ["report_to=none"]):
        run(config, root, *changes, share_from=[tmp_path / "first"], resume=True)
    with open_run(
        load_config(config, [f"output_dir={json.dumps(str(root))}"]),
        SilentObserver(),
        resume=True,
        from_cycle=1,
        share_from=[tmp_path / "first"],
    ) as (plan, directory, runtime):
        run_raft(plan, directory, runtime)
    links = [path for path in root.rglob("*") if path.is_file() and path.stat().st_nlink > 1]
    assert len(links) >= 10
    for path in before:
        if path.name not in ("events.jsonl", "lock"):
            assert path.read_bytes() == before[path], f"{path} was changed through its other name"


class Probe:
    """Measures a number of its own at every call."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def drift(self, version: int, *arguments: object) -> DriftFacts:
        self.asked.append(version)
        values = [[0.5 + len(self.asked) / 100]]
        return DriftFacts(version, values, values, values, values, values, values)

    def negative_log_likelihood(self, completions: object) -> list[list[float]]:
        return [[1.0]]


@pytest.mark.parametrize(
    ("changes", "asked"),
    [
        (["training.learning_rate=1e-4"], []),
        (["engine.temperature=0.5"], [0, 1, 2]),
        (["evaluation.num_drift_samples=9"], [0, 1, 2]),
        (["lora.r=4"], [1, 2]),
    ],
)
def test_drift_is_measured_once_of_equal_weights_on_equal_completions(
    tmp_path: Path,
    config: Path,
    verifier: MemoryVerifier,
    monkeypatch: pytest.MonkeyPatch,
    changes: list[str],
    asked: list[int],
) -> None:
    probe = Probe()
    monkeypatch.setattr("halo_forge.runtime.assembly._drift_probe", lambda *arguments: probe)
    run(config, tmp_path / "first")
    assert probe.asked == [0, 1, 2]
    probe.asked.clear()
    found = run(config, tmp_path / "second", *changes, share_from=[tmp_path / "first"])
    assert probe.asked == asked
    assert {f"{version + 1:03d}/drift.json" for version in {0, 1, 2} - set(asked)} == {
        name for name in found if name.endswith("drift.json")
    }
    for version in {0, 1, 2} - set(asked):
        name = f"cycles/{version + 1:03d}/drift.json"
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
