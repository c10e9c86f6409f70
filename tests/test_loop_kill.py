"""A run that is killed at any write point ends, once resumed, in the bytes of the run that nobody disturbed."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from killing import WritePoints, in_child
from scripted_runs import MemoryVerifier, differences, execute, rows, tree, write_inputs

import halo_forge.assembly
from halo_forge.store.run import Run
from halo_forge.verifiers.c import Spec

KILLED = -signal.SIGKILL


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: hundreds of runs make tens of thousands of small files."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory, prefix="halo_forge_test_") as folder:
        yield Path(folder)


@pytest.fixture
def config(room: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """2 cycles of 3 train prompts x 2 samples; the parts that cost time and write nothing are taken out."""
    monkeypatch.setattr(Spec, "open", lambda self: MemoryVerifier())
    monkeypatch.setattr(halo_forge.assembly, "_versions", dict)
    monkeypatch.setattr(halo_forge.assembly, "_git_commit", lambda: None)
    config = write_inputs(room / "inputs", evaluation__samples_per_prompt=1)
    execute(config, room / "warm")  # what is imported late is imported here, once, and not in every child
    return config


def attempt(config: Path, folder: Path, kill_at: int = 0) -> int:
    """Run or resume in `folder`/run, in a child that dies at a write point; its exit code."""

    def work() -> None:
        os.chdir(folder)
        points = WritePoints(kill_at)
        points.install()
        execute(config, "run")

    return in_child(work)


@pytest.fixture
def undisturbed(config: Path, room: Path) -> dict[str, bytes]:
    folder = room / "undisturbed"
    folder.mkdir()
    assert attempt(config, folder) == 0
    return tree(folder / "run")


def test_killed_at_every_write_point_and_resumed(config: Path, room: Path, undisturbed: dict[str, bytes]) -> None:
    for kill_at in itertools.count(1):
        folder = room / f"case_{kill_at}"
        folder.mkdir()
        code = attempt(config, folder, kill_at)
        if code == 0:
            break
        assert code == KILLED, f"write point {kill_at}"
        assert attempt(config, folder) == 0, f"not resumable after a kill at write point {kill_at}"
        assert differences(tree(folder / "run"), undisturbed) == [], f"killed at write point {kill_at}"
        shutil.rmtree(folder)
    # 3 laps: the numbers of a run this small are known roughly, and a loop that ends early is found.
    assert 200 < kill_at < 2000


@pytest.mark.parametrize("survived", [97, 160])
def test_killed_again_and_again(config: Path, room: Path, undisturbed: dict[str, bytes], survived: int) -> None:
    num_kills = 0
    while attempt(config, room, survived) == KILLED:
        num_kills += 1
        assert num_kills < 100
    assert num_kills >= 3
    assert differences(tree(room / "run"), undisturbed) == []
    # No completion was drawn twice: what was on disk is never asked for again.
    events = rows(room / "run/events.jsonl")
    sealed = [(event["folder"], event["stage"]) for event in events if event["event"] == "stage_sealed"]
    assert len(sealed) >= len({*sealed})


def test_killed_at_every_write_point_of_going_back(config: Path, room: Path, undisturbed: dict[str, bytes]) -> None:
    shutil.copytree(room / "undisturbed", room / "finished", symlinks=True)

    def going_back(folder: Path, kill_at: int) -> Callable[[], None]:
        def work() -> None:
            os.chdir(folder)
            WritePoints(kill_at).install()
            with Run(Path("run")) as run:
                run.supersede(2)

        return work

    for kill_at in itertools.count(1):
        folder = room / f"back_{kill_at}"
        shutil.copytree(room / "finished", folder, symlinks=True)
        code = in_child(going_back(folder, kill_at))
        assert code in (0, KILLED)
        assert attempt(config, folder) == 0, f"not resumable after a kill at write point {kill_at}"
        found = tree(folder / "run")
        now = {name: data for name, data in found.items() if not name.startswith("superseded")}
        assert differences(now, undisturbed) == [], f"killed at write point {kill_at}"
        shutil.rmtree(folder)
        if code == 0:
            break
    assert kill_at > 5
