"""A run that continues another one: what lies before is shared, what follows is its own, and it stands alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from scripted_runs import (
    MemoryVerifier,
    differences,
    execute,
    read,
    rows,
    steady_answers,
    tree,
    verify_in_memory,
    write_inputs,
)

from halo_forge import api
from halo_forge.core.errors import ConfigError, HaloForgeError, RunDirError
from halo_forge.runtime import fork as forking

RATE = "training.learning_rate"


@pytest.fixture
def verifier(monkeypatch: pytest.MonkeyPatch) -> MemoryVerifier:
    monkeypatch.setattr("halo_forge.runtime.identity.git_commit", lambda: None)
    return verify_in_memory(monkeypatch)


@pytest.fixture
def config(tmp_path: Path, verifier: MemoryVerifier) -> Path:
    changes = {"raft__num_cycles": 3, "training__learning_rate": 5e-5, "replay__kind": "accumulate"}
    return write_inputs(tmp_path / "inputs", answers=steady_answers, **changes)


@pytest.fixture
def parent(tmp_path: Path, config: Path) -> Path:
    execute(config, tmp_path / "parent")
    return tmp_path / "parent"


def fork(parent: Path, cycle: int, name: str, *changes: str, resume: bool = False) -> Path:
    root = parent.parent / name
    api.fork(parent, cycle, root, changes, resume=resume)
    return root


def results(root: Path) -> dict[str, bytes]:
    """What a run made, without what says how it came to be."""
    own = ("config.", "run.json", "forked_from", "superseded")
    return {name: data for name, data in tree(root).items() if not name.startswith(own)}


def rates(root: Path) -> list[float]:
    return [read(path)["learning_rate"] for path in sorted(root.glob("cycles/*/settings.json"))]


@pytest.mark.parametrize("cycle", [1, 2, 3])
def test_a_fork_that_changes_nothing_is_the_run_again(parent: Path, verifier: MemoryVerifier, cycle: int) -> None:
    verifier.checked.clear()
    root = fork(parent, cycle, "fork")
    assert differences(results(root), results(parent)) == []
    assert verifier.checked == [], "everything was there"
    record = read(root / "run.json")["fork"]
    assert record == {
        "run": str(parent),
        "config_digest": read(parent / "run.json")["config_digest"],
        "from_cycle": cycle,
    }


def test_a_fork_is_the_run_whose_schedule_changed_in_that_cycle(
    tmp_path: Path, config: Path, parent: Path, verifier: MemoryVerifier
) -> None:
    before = tree(parent)
    verifier.checked.clear()
    verifier.submitted.clear()
    root = fork(parent, 2, "fork", f"{RATE}=1e-4", "selection.per_prompt_cap=1", "raft.num_cycles=4")
    assert rates(root) == [5e-5, 1e-4, 1e-4, 1e-4]
    assert tree(parent) == before
    for name in (
        "001/trained.json",
        "001/adapter/adapter_config.json",
        "002/completions.jsonl",
        "002/dev_verdicts.jsonl",
    ):
        assert (root / "cycles" / name).samefile(parent / "cycles" / name)
    train = [prompt_id for prompt_id, _ in verifier.checked if prompt_id.startswith("train")]
    assert len(train) == 2 * 6, "the train samples of cycles 3 and 4 alone"
    schedule = f"{RATE}={{kind: manual, values: [5e-5, 1e-4, 1e-4, 1e-4]}}"
    from halo_forge.config import load_config

    other = tmp_path / "other"
    changes = [schedule, "raft.num_cycles=4", f"output_dir={json.dumps(str(other))}"]
    api.run(load_config(config, changes))
    same = fork(parent, 2, "same", f"{RATE}=1e-4", "raft.num_cycles=4")
    assert differences(results(same), results(other)) == []


def test_earlier_cycles_keep_their_selection_and_sampling_when_the_fork_is_resumed(parent: Path) -> None:
    changes = [
        "selection={kind: unfiltered}",
        "raft.sampling=budgeted",
        "raft.samples_per_prompt=4",
        "replay.kind=none",
    ]
    root = fork(parent, 3, "fork", *changes)
    wanted = results(root)
    (root / "result.json").unlink()
    shutil.rmtree(root / "cycles/004")
    shutil.rmtree(parent)
    api.resume(root)
    assert differences(results(root), wanted) == []
    api.resume(root, from_cycle=2)
    assert [path.name for path in (root / "superseded").glob("*/cycles/*")] != []
    assert differences(results(root), wanted) == [], "cycle 2 was done again as the run before had done it"


def test_a_fork_of_a_fork_has_the_settings_of_each_for_its_cycles(parent: Path) -> None:
    first = fork(parent, 2, "first", f"{RATE}=1e-4")
    second = fork(first, 3, "second", f"{RATE}=2e-4")
    shutil.rmtree(parent)
    shutil.rmtree(first)
    assert rates(second) == [5e-5, 1e-4, 2e-4]
    api.resume(second, from_cycle=1)
    assert rates(second) == [5e-5, 1e-4, 2e-4]


def test_a_run_is_continued_for_more_cycles(parent: Path) -> None:
    root = fork(parent, 4, "longer", "raft.num_cycles=5")
    assert rates(root) == [5e-5] * 5
    assert (root / "cycles/004/dev_completions.jsonl").samefile(parent / "cycles/004/dev_completions.jsonl")


def test_a_run_is_forked_while_its_cycle_is_under_way(parent: Path) -> None:
    wanted = results(fork(parent, 2, "wanted", f"{RATE}=1e-4"))
    (parent / "result.json").unlink()
    shutil.rmtree(parent / "cycles/003")
    cycle = parent / "cycles/002"
    for path in cycle.iterdir():
        if path.name not in ("sampling.json", "completions.jsonl"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    (cycle / "verdicts.jsonl.part").write_text("")
    assert differences(results(fork(parent, 2, "fork", f"{RATE}=1e-4")), wanted) == []
    with pytest.raises(ConfigError, match=r"from_cycle is 3, but .*parent has 1 finished cycle\n  fix: .* from 1 to 2"):
        fork(parent, 3, "none")


REFUSED = [
    ("evaluation.samples_per_prompt=3", "evaluation.samples_per_prompt: was 2, is 3"),
    ("seed=5", "seed: was 0, is 5"),
    ("engine.max_new_tokens=99", "engine.max_new_tokens: was 256, is 99"),
    ("verifier.timeout_seconds=99", "verifier.timeout_seconds: was "),
    ("prompts.dev_limit=1", "prompts.dev_limit: was None, is 1"),
    ("lora.r=4", "lora.r: was 16, is 4"),
    ("model.dtype=float32", "model.dtype: was 'auto', is 'float32'"),
]


@pytest.mark.parametrize(("change", "said"), REFUSED)
def test_what_would_change_shared_samples_is_refused_with_the_key(parent: Path, change: str, said: str) -> None:
    with pytest.raises(ConfigError, match=f"--set {change}: {said}"):
        fork(parent, 2, "fork", change)
    assert not (parent.parent / "fork").exists()


@pytest.mark.parametrize(
    ("cycle", "changes", "said"),
    [
        (5, [], "from_cycle is 5, but .* has 3 finished cycles"),
        (3, ["raft.num_cycles=2"], "from_cycle is 3, but raft.num_cycles is 2"),
        (2, ["training.lr=1"], "halo-forge calls it training.learning_rate"),
    ],
)
def test_a_fork_that_cannot_be_is_refused(parent: Path, cycle: int, changes: Sequence[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        fork(parent, cycle, "fork", *changes)
    assert not (parent.parent / "fork").exists()


def test_a_fork_goes_into_a_folder_of_its_own(parent: Path) -> None:
    with pytest.raises(ConfigError, match="is the run that is continued"):
        fork(parent, 2, "parent")
    with pytest.raises(ConfigError, match="is inside the run that is continued"):
        fork(parent, 2, "parent/cycles/fork")
    root = fork(parent, 2, "fork", f"{RATE}=1e-4")
    with pytest.raises(RunDirError, match="already started"):
        fork(parent, 2, "fork", f"{RATE}=1e-4")
    assert fork(parent, 2, "fork", f"{RATE}=1e-4", resume=True) == root
    with pytest.raises(RunDirError, match=r"continues .* from cycle 2, not .* from cycle 3"):
        fork(parent, 3, "fork", f"{RATE}=1e-4", resume=True)
    with pytest.raises(RunDirError, match="started with another configuration"):
        fork(parent, 2, "fork", f"{RATE}=2e-4", resume=True)


def test_prompts_that_changed_since_are_refused(parent: Path) -> None:
    path = parent.parent / "inputs/dev.jsonl"
    path.write_text(path.read_text().replace("Write", "Please write"))
    with pytest.raises(
        HaloForgeError, match=r"parent: the prompts are not those the run was started with \(dev changed\)"
    ):
        fork(parent, 2, "fork")


@pytest.mark.parametrize("point", ["stage_fork", "start", "complete_fork"])
def test_killed_while_it_is_made_it_is_made_again(parent: Path, monkeypatch: pytest.MonkeyPatch, point: str) -> None:
    wanted = results(fork(parent, 2, "wanted", f"{RATE}=1e-4"))

    class Killed(BaseException):
        pass

    def killed(*arguments: object, **named: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        if point == "stage_fork":
            patch.setattr(forking, "write_text", killed)
        elif point == "start":
            patch.setattr("halo_forge.store.run.Run.start", killed)
        else:
            patch.setattr(forking, "seconds_of_folder", killed)
        with pytest.raises(Killed):
            fork(parent, 2, "fork", f"{RATE}=1e-4")
    root = fork(parent, 2, "fork", f"{RATE}=1e-4", resume=True)
    assert differences(results(root), wanted) == []
    taken = [
        event["of"] for event in rows(root / "events.jsonl") if event["event"] == "shared" and event["file"] == "*"
    ]
    assert set(taken) == {"001"}
