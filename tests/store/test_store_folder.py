"""Stages: read where sealed, else made and sealed; streams that lose and double nothing."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halo_forge.core.errors import RunDirError, VerifierBroken
from halo_forge.core.records import Record
from halo_forge.store.files import read_jsonl
from halo_forge.store.folder import Key, StageFolder, StreamForm


@dataclass(frozen=True, slots=True)
class Item(Record):
    prompt_id: str
    index: int
    value: str = ""
    seconds: float = 0.0


ORDER: list[Key] = [("b", 0), ("b", 1), ("a", 0), ("a", 1)]


class Notes(list[dict[str, Any]]):
    def __call__(self, event: str, **fields: Any) -> None:
        self.append({"event": event, **fields})

    def named(self, event: str) -> list[str]:
        return [note["stage"] for note in self if note["event"] == event]


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture
def folder(tmp_path: Path, notes: Notes) -> StageFolder:
    return StageFolder(tmp_path / "cycles/001", notes)


def is_sealed(folder: StageFolder, name: str) -> bool:
    return any((folder.path / f"{name}{end}").exists() for end in (".json", ".jsonl"))


def made(keys: Sequence[Key]) -> Iterator[Item]:
    for prompt_id, index in keys:
        yield Item(prompt_id, index, f"{prompt_id}{index}")


def never() -> Any:
    raise AssertionError("a sealed stage is not made again")


def stream(folder: StageFolder, name: str, kind: Any, order: Sequence[Key], make: Any, form: Any) -> list[Item]:
    """A stage of one file."""
    (records,) = folder.streams(name, kind, {name: order}, make, form)
    return records


def stops_after(num: int, error: Callable[[], BaseException] = KeyboardInterrupt) -> Any:
    def make(keys: Sequence[Key]) -> Iterator[Item]:
        yield from itertools.islice(made(keys), num)
        raise error()

    return make


def test_a_stage_is_made_once_and_then_read(folder: StageFolder, notes: Notes) -> None:
    item = Item("a", 1, "ä", 0.5)
    assert not is_sealed(folder, "one")
    assert folder.stage("one", Item, lambda: item) == item
    assert is_sealed(folder, "one")
    assert folder.stage("one", Item, never) == item
    assert (notes.named("stage_started"), notes.named("stage_sealed")) == (["one"], ["one"])


def test_a_stage_that_fails_is_not_sealed(folder: StageFolder, notes: Notes) -> None:
    def fail() -> Item:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        folder.stage("one", Item, fail)
    assert not is_sealed(folder, "one")
    assert notes.named("stage_interrupted") == ["one"]
    assert folder.stage("one", Item, lambda: Item("a", 1)).index == 1


def test_a_stage_of_another_version_is_refused(folder: StageFolder) -> None:
    folder.stage("one", Item, lambda: Item("a", 1))
    (folder.path / "one.json").write_text('{"prompt_id": "a", "index": 1, "colour": "red"}')
    with pytest.raises(RunDirError, match=r"not a Item: .*colour") as caught:
        folder.stage("one", Item, never)
    assert "--from-cycle" in caught.value.hint


@given(st.permutations(ORDER))
def test_the_file_has_the_order_of_the_requests_whatever_finished_first(
    tmp_path_factory: pytest.TempPathFactory, finished: list[Key]
) -> None:
    folder = StageFolder(tmp_path_factory.mktemp("folder"), Notes())
    found = stream(folder, "items", Item, ORDER, lambda missing: made(finished), StreamForm[Item]())
    assert [(item.prompt_id, item.index) for item in found] == ORDER
    assert [(row["prompt_id"], row["index"]) for row in read_jsonl(folder.path / "items.jsonl")] == ORDER
    assert stream(folder, "items", Item, ORDER, lambda missing: never(), StreamForm[Item]()) == found
    assert [path.name for path in folder.path.iterdir()] == ["items.jsonl"]


@pytest.mark.parametrize("num", range(5))
def test_an_interrupted_stream_asks_for_the_rest_only(folder: StageFolder, notes: Notes, num: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        stream(folder, "items", Item, ORDER, stops_after(num), StreamForm[Item]())
    assert not is_sealed(folder, "items")
    assert len(read_jsonl(folder.path / "items.jsonl.part")) == num
    asked: list[Key] = []

    def rest(missing: Sequence[Key]) -> Iterator[Item]:
        asked.extend(missing)
        return made(missing)

    found = stream(folder, "items", Item, ORDER, rest, StreamForm[Item]())
    assert asked == ORDER[num:]
    assert found == list(made(ORDER))
    assert not (folder.path / "items.jsonl.part").exists()
    assert (notes.named("stage_interrupted"), notes.named("stage_sealed")) == (["items"], ["items"])


def test_a_record_is_on_disk_before_the_next_one_is_asked_for(folder: StageFolder) -> None:
    def watching(missing: Sequence[Key]) -> Iterator[Item]:
        for number, item in enumerate(made(missing)):
            assert len(read_jsonl(folder.path / "items.jsonl.part")) == number
            yield item

    stream(folder, "items", Item, ORDER, watching, StreamForm[Item]())


def test_a_torn_line_is_made_again(folder: StageFolder) -> None:
    with pytest.raises(KeyboardInterrupt):
        stream(folder, "items", Item, ORDER, stops_after(3), StreamForm[Item]())
    part = folder.path / "items.jsonl.part"
    part.write_bytes(part.read_bytes()[:-7])
    asked: list[Key] = []
    found = stream(
        folder, "items", Item, ORDER, lambda missing: (asked.extend(missing), made(missing))[1], StreamForm[Item]()
    )
    assert asked == ORDER[2:]
    assert found == list(made(ORDER))


def test_two_files_grow_in_one_pass_and_are_resumed_together(folder: StageFolder, notes: Notes) -> None:
    orders = {"items": ORDER[:2], "dev_items": ORDER[2:]}
    with pytest.raises(KeyboardInterrupt):
        folder.streams("items", Item, orders, stops_after(3), StreamForm[Item]())
    assert [len(read_jsonl(folder.path / f"{name}.jsonl.part")) for name in orders] == [2, 1]
    asked: list[Key] = []
    found = folder.streams(
        "items", Item, orders, lambda missing: (asked.extend(missing), made(missing))[1], StreamForm[Item]()
    )
    assert asked == ORDER[3:]
    assert found == [list(made(order)) for order in orders.values()]
    assert sorted(path.name for path in folder.path.iterdir()) == ["dev_items.jsonl", "items.jsonl"]
    # As if killed between sealing the first file and the second.
    (folder.path / "dev_items.jsonl").rename(folder.path / "dev_items.jsonl.part")
    assert folder.streams("items", Item, orders, lambda missing: never(), StreamForm[Item]()) == found
    assert notes.named("stage_sealed") == ["items", "items"]


def test_the_same_record_twice_is_our_mistake(folder: StageFolder) -> None:
    with pytest.raises(RuntimeError, match="made twice"):
        stream(folder, "items", Item, ORDER, lambda missing: made([*missing, ORDER[0]]), StreamForm[Item]())


def test_a_record_that_nobody_made_is_our_mistake(folder: StageFolder) -> None:
    with pytest.raises(KeyError):
        stream(folder, "items", Item, ORDER, lambda missing: made(missing[1:]), StreamForm[Item]())
    assert not is_sealed(folder, "items")


def test_an_empty_stream_is_sealed_and_nothing_is_asked(folder: StageFolder) -> None:
    assert stream(folder, "items", Item, [], lambda missing: never(), StreamForm[Item]()) == []
    assert (folder.path / "items.jsonl").read_bytes() == b""


def test_a_kill_between_sealing_and_tidying_up_leaves_no_part(folder: StageFolder) -> None:
    stream(folder, "items", Item, ORDER, made, StreamForm[Item]())
    (folder.path / "items.jsonl.part").write_text("left over\n")
    stream(folder, "items", Item, ORDER, lambda missing: never(), StreamForm[Item]())
    assert not (folder.path / "items.jsonl.part").exists()


def form(most: int) -> StreamForm[Item]:
    """Values "error" are ours: tried again on resume, and more than `most` stop the run."""

    def check(items: Sequence[Item]) -> None:
        if sum(item.value == "error" for item in items) > most:
            raise VerifierBroken("too many", "fix it")

    return StreamForm(
        sealed=lambda item: replace(item, seconds=0.0),
        is_final=lambda item: item.value != "error",
        cost=lambda items: {"total_seconds": sum(item.seconds for item in items)},
        check=check,
    )


def failing(*keys: Key) -> Callable[[Sequence[Key]], Iterator[Item]]:
    def make(missing: Sequence[Key]) -> Iterator[Item]:
        for item in made(missing):
            wrong = (item.prompt_id, item.index) in keys
            yield replace(item, value="error" if wrong else item.value, seconds=2.0)

    return make


def test_errors_of_ours_are_tried_again(folder: StageFolder, notes: Notes) -> None:
    with pytest.raises(VerifierBroken):
        stream(folder, "items", Item, ORDER, failing(ORDER[0], ORDER[3]), form(most=1))
    assert not is_sealed(folder, "items")
    assert {row["value"] for row in read_jsonl(folder.path / "items.jsonl.part")} == {"b1", "a0"}
    asked: list[Key] = []

    def again(missing: Sequence[Key]) -> Iterator[Item]:
        asked.extend(missing)
        return failing()(missing)

    assert stream(folder, "items", Item, ORDER, again, form(most=1)) == list(made(ORDER))
    assert asked == [ORDER[0], ORDER[3]]
    costs = [note["total_seconds"] for note in notes if note["event"].startswith("stage_") and "seconds" in note]
    assert costs == [8.0, 4.0]  # of this attempt each; nothing of it is sealed


def test_few_errors_of_ours_are_sealed_as_they_are(folder: StageFolder) -> None:
    found = stream(folder, "items", Item, ORDER, failing(ORDER[0]), form(most=1))
    assert found[0] == Item("b", 0, "error")
    assert stream(folder, "items", Item, ORDER, lambda missing: never(), form(most=1)) == found


Row = Mapping[str, Any]


def trainer(num_steps: int, *, dies: bool = False) -> Callable[[Path, Callable[[Row], None]], Item]:
    def train(scratch: Path, record: Callable[[Row], None]) -> Item:
        assert list(scratch.iterdir()) == [scratch / "training_log.jsonl"]
        (scratch / "adapter").mkdir()
        (scratch / "adapter/weights").write_text(f"{num_steps}")
        (scratch / "trainer").mkdir()
        for step in range(num_steps):
            record({"step": step})
        if dies:
            raise KeyboardInterrupt
        return Item("trained", num_steps)

    return train


def test_training_leaves_its_log_and_its_adapter_and_nothing_else(folder: StageFolder, notes: Notes) -> None:
    assert folder.training(Item, trainer(2)) == Item("trained", 2)
    assert sorted(path.name for path in folder.path.iterdir()) == ["adapter", "trained.json", "training_log.jsonl"]
    assert [row["step"] for row in read_jsonl(folder.path / "training_log.jsonl")] == [0, 1]
    assert folder.training(Item, lambda scratch, record: never()) == Item("trained", 2)
    assert notes.named("stage_sealed") == ["trained"]


def test_what_a_killed_training_left_is_replaced(folder: StageFolder) -> None:
    with pytest.raises(KeyboardInterrupt):
        folder.training(Item, trainer(3, dies=True))
    assert (folder.path / "training.part/adapter").is_dir()
    assert not is_sealed(folder, "trained")
    # As if it had been killed after the first renames too.
    (folder.path / "adapter").mkdir()
    (folder.path / "adapter/stale").write_text("from another attempt")
    (folder.path / "training_log.jsonl").write_text('{"step": 99}\n')
    assert folder.training(Item, trainer(1)) == Item("trained", 1)
    assert [path.name for path in (folder.path / "adapter").iterdir()] == ["weights"]
    assert [row["step"] for row in read_jsonl(folder.path / "training_log.jsonl")] == [0]
    assert not (folder.path / "training.part").exists()


def test_an_optimizer_state_is_kept_beside_the_adapter(folder: StageFolder) -> None:
    def make(scratch: Path, record: Any) -> Item:
        done = trainer(1)(scratch, record)
        (scratch / "optimizer.safetensors").write_bytes(b"moments")
        return done

    folder.path.mkdir(parents=True, exist_ok=True)
    (folder.path / "optimizer.safetensors").write_bytes(b"of an attempt that was killed")
    assert folder.training(Item, make) == Item("trained", 1)
    assert (folder.path / "optimizer.safetensors").read_bytes() == b"moments"
    assert not (folder.path / "training.part").exists()


def test_rows_for_others_are_written_once(folder: StageFolder) -> None:
    folder.write_rows("rows.jsonl", [{"a": 1}])
    folder.write_rows("rows.jsonl", [{"a": 2}])
    assert read_jsonl(folder.path / "rows.jsonl") == [{"a": 1}]


def test_a_folder_that_cannot_be_made_is_explained(tmp_path: Path, notes: Notes) -> None:
    (tmp_path / "cycles").write_text("a file")
    with pytest.raises(RunDirError, match=r"Not a directory|File exists"):
        StageFolder(tmp_path / "cycles/001", notes).stage("one", Item, lambda: Item("a", 1))


def test_a_sealed_stream_that_lost_a_line_is_refused(folder: StageFolder) -> None:
    stream(folder, "items", Item, ORDER, made, StreamForm())
    sealed = folder.path / "items.jsonl"
    whole = sealed.read_bytes()
    for data in (b"".join(whole.splitlines(keepends=True)[:-1]), whole.rstrip(b"\n"), b"", b"[1]\n" + whole, b"\xff\n"):
        sealed.write_bytes(data)
        with pytest.raises(RunDirError, match=r"from-cycle|edited"):
            stream(folder, "items", Item, ORDER, made, StreamForm())
