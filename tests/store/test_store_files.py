"""Writing, appending and reading: whole or not at all."""

from __future__ import annotations

import builtins
import errno
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halo_forge.core.errors import RunDirError
from halo_forge.store.files import (
    GrowingFile,
    cut_torn_tail,
    explained,
    line,
    read_json,
    read_jsonl,
    write_bytes,
    write_json,
    write_jsonl,
)


def test_a_write_replaces_the_whole_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"first": 1})
    write_json(path, {"second": "ä\n"})
    assert read_json(path) == {"second": "ä\n"}
    assert path.read_text(encoding="utf-8") == '{\n  "second": "ä\\n"\n}\n'
    assert [item.name for item in tmp_path.iterdir()] == ["a.json"]


def test_a_write_that_fails_before_the_rename_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})

    def fail(*arguments: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(RunDirError, match="Input/output error"):
        write_json(path, {"new": 1})
    assert read_json(path) == {"old": 1}


def test_the_data_is_on_the_disk_before_its_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(
        os, "fsync", lambda fd: (heard.append("folder" if os.path.isdir(f"/proc/self/fd/{fd}") else "file"), fsync(fd))
    )
    monkeypatch.setattr(os, "replace", lambda old, new: (heard.append("rename"), replace(old, new)))
    write_bytes(tmp_path / "a", b"data")
    assert heard == ["file", "rename", "folder"]


@pytest.mark.parametrize(
    ("number", "hint"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "raise the quota"),
        (errno.EACCES, "make the folder writable"),
        (errno.EROFS, "writable file system"),
        (errno.EIO, "check the path"),
    ],
)
def test_a_failing_disk_is_explained(tmp_path: Path, number: int, hint: str) -> None:
    with pytest.raises(RunDirError) as caught, explained(tmp_path / "a.json"):
        raise OSError(number, os.strerror(number))
    assert caught.value.exit_code == 3
    assert hint in caught.value.hint
    assert caught.value.message == f"{tmp_path}/a.json: {os.strerror(number)}"


class Full(io.RawIOBase):
    """A file on a disk with room for a few bytes."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.taken = b""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if self.room == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = bytes(data)[: self.room]
        self.room -= len(taken)
        self.taken += taken
        return len(taken)


def test_disk_full_while_a_file_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"old": 1}])
    monkeypatch.setattr(io, "open", lambda *arguments, **named: io.BufferedWriter(Full(10)))
    with pytest.raises(RunDirError, match="No space left on device") as caught:
        write_jsonl(tmp_path / "a.jsonl", [{"number": number} for number in range(3)])
    assert "--resume" in caught.value.hint
    monkeypatch.undo()
    assert read_jsonl(tmp_path / "a.jsonl") == [{"old": 1}]


@pytest.mark.parametrize("room", [0, 5])
def test_disk_full_in_the_middle_of_a_line(tmp_path: Path, room: int) -> None:
    path = tmp_path / "a.jsonl"
    with GrowingFile(path) as growing:
        growing.append({"number": 1})
        whole = path.read_bytes()
        full = Full(room)
        growing._handle, handle = full, growing._handle  # type: ignore[assignment]
        with pytest.raises(RunDirError, match="No space left on device"):
            growing.append({"number": 2})
        growing._handle = handle
    path.write_bytes(whole + full.taken)
    with GrowingFile(path) as growing:
        growing.append({"number": 3})
    assert read_jsonl(path) == [{"number": 1}, {"number": 3}]


def test_every_cut_of_a_growing_file_leaves_whole_lines(tmp_path: Path) -> None:
    numbers = [{"number": number, "text": "ä\u2028\n"} for number in range(3)]
    data = "".join(line(row) for row in numbers).encode()
    path = tmp_path / "a.jsonl"
    for cut in range(len(data) + 1):
        path.write_bytes(data[:cut])
        with GrowingFile(path):
            found = read_jsonl(path)
        num_whole = data[:cut].count(b"\n")
        assert found == numbers[:num_whole]
        assert path.read_bytes() == b"".join(data.splitlines(keepends=True)[:num_whole])


def test_a_file_without_any_newline_becomes_empty(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b'{"half": ')
    cut_torn_tail(tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b""


def test_an_appended_line_is_readable_at_once(tmp_path: Path) -> None:
    with GrowingFile(tmp_path / "a.jsonl") as growing:
        growing.append({"number": 1})
        assert read_jsonl(tmp_path / "a.jsonl") == [{"number": 1}]


@given(st.dictionaries(st.text(max_size=5), st.text(max_size=20) | st.integers() | st.floats(allow_nan=False)))
def test_a_row_is_one_line_whatever_it_holds(row: dict[str, Any]) -> None:
    text = line(row)
    assert text.count("\n") == 1
    assert text.endswith("\n")
    assert json.loads(text) == row


def test_edited_files_are_named_with_their_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n{"a": \n')
    with pytest.raises(RunDirError, match=r"a\.jsonl:2: not JSON") as caught:
        read_jsonl(tmp_path / "a.jsonl")
    assert "--from-cycle" in caught.value.hint
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(RunDirError, match=r"a\.json: not JSON"):
        read_json(tmp_path / "a.json")
    with pytest.raises(RunDirError, match="No such file"):
        read_json(tmp_path / "missing.json")


def test_open_is_the_one_that_is_patched() -> None:
    # `Path.open` looks `io.open` up; the test of the full disk stands on it.
    assert io.open is builtins.open
