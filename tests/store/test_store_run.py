"""The run directory: whose it is, where its links lead, and how a part of it is set aside."""

from __future__ import annotations

from pathlib import Path

import pytest

from halo_forge.core.errors import RunDirError
from halo_forge.store.files import read_json, read_jsonl
from halo_forge.store.run import Run, cycle_folders, version_folders


def started(root: Path, num_cycles: int = 0) -> Run:
    run = Run(root)
    run.start({"config_digest": "abc"}, given="given: 1\n", resolved="resolved: 1\n")
    for cycle in range(1, num_cycles + 1):
        adapter = run.adapter(cycle)
        assert adapter is not None
        adapter.mkdir(parents=True)
        (adapter / "weights").write_text(str(cycle))
    return run


def test_a_new_directory(tmp_path: Path) -> None:
    root = tmp_path / "deep/run"
    with Run(root) as run:
        assert run.is_new
    # Nothing was started: the lock alone does not make it somebody's.
    with started(root) as run:
        assert not run.is_new
        assert run.identity() == {"schema_version": 3, "config_digest": "abc"}
    assert (root / "config.yaml").read_text() == "given: 1\n"
    assert (root / "config.resolved.yaml").read_text() == "resolved: 1\n"


def test_a_directory_that_was_made_for_a_run_that_never_started_is_removed(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), Run(tmp_path / "runs/new"):
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.iterdir()] == ["runs"] and not (tmp_path / "runs/new").exists()
    (tmp_path / "mine").mkdir()
    with Run(tmp_path / "mine"):
        pass
    assert (tmp_path / "mine").is_dir()  # it was there before
    with Run(tmp_path / "logs") as run:
        (run.root / "server_logs").mkdir()
    assert (tmp_path / "logs/server_logs").is_dir()  # says why the run did not start
    with Run(tmp_path / "begun") as run:
        run.event("attempt_started")
    assert (tmp_path / "begun/events.jsonl").is_file()


@pytest.mark.parametrize("name", ["thesis.tex", "config.yaml", "cycles"])
def test_a_foreign_directory_is_refused_and_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(RunDirError, match=f"not a run directory of halo-forge .holds {name}") as caught:
        Run(tmp_path)
    assert caught.value.exit_code == 3
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_start_that_was_killed_is_no_foreign_directory(tmp_path: Path) -> None:
    with Run(tmp_path):
        (tmp_path / ".config.yaml.tmp").write_text("half")
        (tmp_path / "config.yaml").write_text("given: 0\n")
    with started(tmp_path) as run:
        assert not run.is_new
    assert (tmp_path / "config.yaml").read_text() == "given: 1\n"
    (tmp_path / "run.json").unlink()
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(RunDirError, match=r"thesis\.tex"):
        Run(tmp_path)


def test_a_file_in_the_place_of_the_directory(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(RunDirError, match="run is a file, allowed: a folder"):
        Run(tmp_path / "run")


def test_two_writers(tmp_path: Path) -> None:
    with Run(tmp_path), pytest.raises(RunDirError, match="another process"):
        Run(tmp_path)
    with Run(tmp_path):
        pass


def test_links(tmp_path: Path) -> None:
    with started(tmp_path, 2) as run:
        run.point("best", 1, cycle=9)
        run.point("latest", 2, cycle=9)
        assert (tmp_path / "best").readlink() == Path("cycles/001/adapter")
        assert (tmp_path / "latest/weights").read_text() == "2"
        run.point("best", 2, cycle=9)
        assert (tmp_path / "best/weights").read_text() == "2"
        run.point("best", 0, cycle=9)  # the start model has no adapter
        run.point("best", 0, cycle=9)
        assert not (tmp_path / "best").is_symlink()
    # A relative link goes where the directory goes.
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    assert (moved / "latest/weights").read_text() == "2"


def test_a_link_that_a_kill_left_half_made(tmp_path: Path) -> None:
    with started(tmp_path, 1) as run:
        (tmp_path / ".best.tmp").symlink_to("nowhere")
        run.point("best", 1, cycle=9)
    assert (tmp_path / "best/weights").read_text() == "1"
    assert not (tmp_path / ".best.tmp").is_symlink()


@pytest.mark.parametrize("from_cycle", [1, 2, 3, 4])
def test_superseded_files_are_moved_and_kept(tmp_path: Path, from_cycle: int) -> None:
    with started(tmp_path, 3) as run:
        (tmp_path / "test/v000").mkdir(parents=True)
        (tmp_path / "result.json").write_text("{}")
        run.point("best", 1, cycle=9)
        run.point("latest", 3, cycle=9)
        target = run.supersede(from_cycle)
        assert target is not None
        kept, moved = [1, 2, 3][: from_cycle - 1], [1, 2, 3][from_cycle - 1 :]
        assert sorted(int(path.name) for path in (tmp_path / "cycles").iterdir()) == kept
        assert sorted(int(path.name) for path in (target / "cycles").iterdir()) == moved
        for cycle in moved:
            assert (target / f"cycles/00{cycle}/adapter/weights").read_text() == str(cycle)
        assert (target / "result.json").exists()
        assert (target / "test/v000").is_dir()
        assert not (tmp_path / "result.json").exists()
        assert not (tmp_path / "test").exists()
        assert not (tmp_path / "best").is_symlink()  # the loop sets the link again
        assert (tmp_path / "latest").is_symlink() == bool(kept)
        if kept:
            assert (tmp_path / "latest/weights").read_text() == str(kept[-1])
        last = read_jsonl(tmp_path / "events.jsonl")[-1]
        assert (last["event"], last["from_cycle"]) == ("superseded", from_cycle)
        assert tmp_path / last["moved_to"] == target


def test_nothing_to_supersede(tmp_path: Path) -> None:
    with started(tmp_path, 1) as run:
        assert run.supersede(2) is None
    assert not (tmp_path / "superseded").exists()


def test_going_back_twice_at_once(tmp_path: Path) -> None:
    with started(tmp_path, 2) as run:
        first, second = run.supersede(2), run.supersede(1)
    assert first is not None
    assert second is not None
    assert first != second
    assert (first / "cycles/002").is_dir()
    assert (second / "cycles/001").is_dir()


def test_events_of_all_attempts_in_one_file(tmp_path: Path) -> None:
    with started(tmp_path) as run:
        run.event("one", number=1)
    (tmp_path / "events.jsonl").open("a").write('{"torn')
    with Run(tmp_path) as run:
        run.event("two")
    events = read_jsonl(tmp_path / "events.jsonl")
    assert [event["event"] for event in events] == ["one", "two"]
    assert all(event["time"].endswith("+00:00") for event in events)


def test_an_edited_identity_is_named(tmp_path: Path) -> None:
    with started(tmp_path) as run:
        (tmp_path / "run.json").write_text("{")
        with pytest.raises(RunDirError, match=r"run\.json: not JSON"):
            run.identity()
    with pytest.raises(RunDirError):
        read_json(tmp_path / "run.json")


def test_folders_are_in_the_order_of_their_numbers_beyond_999(tmp_path: Path) -> None:
    for number in (1000, 2, 999, 10000):
        (tmp_path / f"cycles/{number:03d}").mkdir(parents=True)
        (tmp_path / f"test/v{number:03d}").mkdir(parents=True)
    assert [folder.name for folder in cycle_folders(tmp_path)] == ["002", "999", "1000", "10000"]
    assert [folder.name for folder in version_folders(tmp_path, "test")] == ["v002", "v999", "v1000", "v10000"]


def test_the_latest_cycle_moves_first_beyond_999(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[str] = []
    monkeypatch.setattr("halo_forge.store.run.shutil.move", lambda source, target: moved.append(Path(source).name))
    with started(tmp_path, 1) as run:
        for number in (998, 999, 1000):
            (tmp_path / f"cycles/{number:03d}").mkdir()
        run.supersede(999)
    assert moved == ["1000", "999"]
