"""Damage to files, drawn by hypothesis: values of another type, and files cut off, garbled, lost or exchanged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 10**15) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def damage(data: st.DataObject, root: Path) -> str:
    """Damage one of the files below `root`; what was done.

    Half of the changes to JSON and JSONL files change a value at some depth, so that the file stays one of its kind.
    """
    files = sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    path = data.draw(st.sampled_from(files), "file")
    content = path.read_bytes()
    kinds = ["truncated", "garbled", "empty", "gone", "folder", "dangling link", "link to itself", "doubled"]
    if content.strip():
        kinds += ["repeated line"]
        kinds += ["edited"] * 8 if path.suffix in (".json", ".jsonl") else []
    kind = data.draw(st.sampled_from(kinds), "kind")
    if kind == "edited":
        path.write_text(_edited(data, content.decode(), path.suffix == ".jsonl"))
    elif kind == "truncated":
        path.write_bytes(content[: data.draw(st.integers(0, len(content)), "length")])
    elif kind == "garbled":
        at = data.draw(st.integers(0, len(content)), "offset")
        garbage = data.draw(st.binary(min_size=1, max_size=8), "bytes")
        path.write_bytes(content[:at] + garbage + content[at + len(garbage) :])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "doubled":
        path.write_bytes(content * 2)
    elif kind == "repeated line":
        lines = content.splitlines(keepends=True)
        at = data.draw(st.integers(0, len(lines) - 1), "line")
        path.write_bytes(b"".join([*lines[: at + 1], *lines[at:]]))
    else:
        path.unlink()
        if kind == "folder":
            path.mkdir()
        elif kind != "gone":
            path.symlink_to("nowhere" if kind == "dangling link" else path.name)
    return f"{path.relative_to(root)}: {kind}"


def _edited(data: st.DataObject, text: str, is_rows: bool) -> str:
    """The text of a JSON or JSONL file with one value, at any depth, that is another, or with one more key."""
    lines = text.splitlines() if is_rows else [text]
    at = data.draw(st.integers(0, len(lines) - 1), "line")
    row = json.loads(lines[at])
    place = data.draw(st.sampled_from([*_places(row), ("key_of_tomorrow",)]), "place")
    new = data.draw(JSON, "value")
    lines[at] = json.dumps({**row, place[0]: new} if place == ("key_of_tomorrow",) else _replaced(row, place, new))
    return "\n".join(lines) + "\n"


def _places(value: Any) -> list[tuple[Any, ...]]:
    """Where the values inside a JSON value are: keys and positions on the way to each."""
    found: list[tuple[Any, ...]] = [()]
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        found += [(key, *rest) for rest in _places(item)]
    return found


def _replaced(value: Any, place: tuple[Any, ...], new: Any) -> Any:
    if not place:
        return new
    changed = dict(value) if isinstance(value, dict) else list(value)
    changed[place[0]] = _replaced(value[place[0]], place[1:], new)
    return changed
