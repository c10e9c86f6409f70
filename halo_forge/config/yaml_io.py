"""Configuration files: plain data, a line for every value, `extends:` and `--set`.

Scalars follow YAML 1.2 (see `_yaml`): `5e-5` is a float, only `true` and `false` are booleans.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from halo_forge.config._yaml import Builder, Dumper, KeyPath, compose
from halo_forge.core.errors import ConfigError

__all__ = ["Document", "KeyPath", "apply_overrides", "dump", "leaves", "load_document", "parse_value"]


@dataclass(frozen=True)
class Document:
    """A configuration file as plain data, and where each of its values was written.

    Attributes:
        data: The top-level mapping, `extends` resolved and overrides applied.
        lines: Path of a value -> its 1-based line in `path`.  List items are addressed by index.
        path: The file, as the user named it.
        text: The file's own text, unchanged.
        places: Path of a value -> where it was written, for values that are not from `path`: a line of the extended
            file, or a `--set`.
    """

    data: dict[str, Any]
    lines: dict[KeyPath, int]
    path: Path
    text: str
    places: dict[KeyPath, str] = field(default_factory=dict)

    def where(self, path: KeyPath) -> str:
        """`file:line` or `--set key=value` of a value, or of the nearest section around it that was written."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.places:
                return self.places[path[:length]]
            if path[:length] in self.lines:
                return f"{self.path}:{self.lines[path[:length]]}"
        return str(self.path)


def load_document(path: str | Path) -> Document:
    """Read a configuration file, and the one it `extends:`, if any.

    Mappings of the two files are merged key by key; lists and plain values are replaced; a mapping whose `kind`
    differs from the extended file's replaces it whole.

    Raises:
        ConfigError: The file is missing, unreadable, not UTF-8, empty, not valid YAML (with line and column), not a
            mapping, holds a key twice (with both lines), or extends a file that extends another.
    """
    document = _load_one(Path(path))
    if "extends" not in document.data:
        return document
    line = document.where(("extends",))
    name = document.data["extends"]
    if not isinstance(name, str) or not name:
        raise ConfigError(f"{line}: extends: found {name!r}, allowed: the path of one file", "name one YAML file")
    try:
        parent = _load_one(document.path.parent / name)
    except ConfigError as error:
        raise ConfigError(f"{line}: extends {name}: {error.message}", error.hint) from error
    if "extends" in parent.data:
        raise ConfigError(
            f"{line}: extends {name}, which itself extends {parent.data['extends']} ({parent.where(('extends',))})",
            "extend one file only: copy the few keys you need from the other one",
        )
    return _extend(parent, document)


def apply_overrides(document: Document, overrides: Iterable[str]) -> Document:
    """The document with each `a.b=value` of `--set` put in; a later one wins over an earlier one.

    Values are YAML (`5e-5`, `true`, `null`, `[a, b]`, `{kind: cosine, base: 1e-4}`).  Setting `x.kind` to another
    kind drops the other keys of `x` that came with the old kind, except those set on their own by `--set`.

    Raises:
        ConfigError: No `=`, an empty key, a value that is not YAML, or a path that runs through a plain value.
    """
    data = copy.deepcopy(document.data)
    places, lines = dict(document.places), dict(document.lines)
    for override in overrides:
        label = f"--set {override}"
        keys, value = _split_override(override, label)
        section = _section(data, keys[:-1], label, replace(document, lines=lines, places=places))
        if keys[-1] == "kind" and "kind" in section and section["kind"] != value:
            for sibling in [key for key in section if key != "kind"]:
                if not places.get((*keys[:-1], sibling), "").startswith("--set "):
                    del section[sibling]
                    _forget((*keys[:-1], sibling), lines, places)
        section[keys[-1]] = value
        _forget(keys, lines, places)
        places[keys] = label
    return Document(data, lines, document.path, document.text, places)


def parse_value(text: str, label: str) -> Any:
    """One YAML value, such as the right-hand side of a `--set`; an empty text is null.

    Raises:
        ConfigError: Not valid YAML; the message starts with `label`.
    """
    root = compose(text, label)
    return None if root is None else Builder(label).build(root, ())


def dump(data: Any) -> str:
    """YAML text of plain data, in the order given; `load_document` and any YAML 1.1 reader read back equal values."""
    text: str = yaml.dump(data, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=2**16)
    return text


def leaves(data: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Every (path, value) below `data` that is not itself a non-empty mapping; lists count as one value."""
    if isinstance(data, Mapping) and data:
        for key, value in data.items():
            yield from leaves(value, (*path, key))
    else:
        yield path, data


def _load_one(path: Path) -> Document:
    text = _read(path)
    root = compose(text, str(path))
    if root is None:
        raise ConfigError(f"{path}: the file is empty", "write at least the required keys; see docs/configuration.md")
    if not isinstance(root, yaml.MappingNode):
        found = "a list" if isinstance(root, yaml.SequenceNode) else "a plain value"
        raise ConfigError(
            f"{path}:{root.start_mark.line + 1}: the top level is {found}, allowed: `key: value` lines",
            "start the file with a section such as `model:`",
        )
    builder = Builder(str(path))
    return Document(builder.build(root, ()), builder.lines, path, text)


def _read(path: Path) -> str:
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file", "check the path of the configuration file") from error
    except IsADirectoryError as error:
        raise ConfigError(f"{path}: is a folder, allowed: a YAML file", "name the file inside it") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(f"{path}: cannot be read: {reason}", "check the path and its permissions") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        message = f"{path}:{line}: byte 0x{content[error.start]:02x} is not UTF-8"
        raise ConfigError(message, "save the file as UTF-8 text") from error


def _extend(parent: Document, child: Document) -> Document:
    data = copy.deepcopy(parent.data)
    places = {path: f"{parent.path}:{line}" for path, line in parent.lines.items() if path}
    own = {key: value for key, value in child.data.items() if key != "extends"}

    def merge(below: dict[str, Any], above: Mapping[str, Any], path: KeyPath) -> None:
        for key, value in above.items():
            old = below.get(key)
            new_kind = isinstance(old, dict) and isinstance(value, dict) and "kind" in value and "kind" in old
            if isinstance(old, dict) and isinstance(value, dict) and not (new_kind and old["kind"] != value["kind"]):
                places.pop((*path, key), None)
                merge(old, value, (*path, key))
            else:
                _forget((*path, key), places)
                below[key] = copy.deepcopy(value)

    merge(data, own, ())
    return Document(data, child.lines, child.path, child.text, places)


def _split_override(override: str, label: str) -> tuple[tuple[str, ...], Any]:
    key, equals, text = override.partition("=")
    keys = tuple(part.strip() for part in key.split("."))
    if not equals or not all(keys):
        raise ConfigError(f"{label}: allowed: section.key=value", "write for example --set raft.num_cycles=3")
    return keys, parse_value(text, label)


def _section(data: dict[str, Any], keys: tuple[str, ...], label: str, document: Document) -> dict[str, Any]:
    section = data
    for depth, key in enumerate(keys, start=1):
        inner = section.setdefault(key, {})
        if inner is None:
            inner = section[key] = {}
        if not isinstance(inner, dict):
            name = ".".join(keys[:depth])
            raise ConfigError(
                f"{label}: {name} is {inner!r} ({document.where(keys[:depth])}), not a section",
                f"set it as a whole: --set '{name}={{key: value, ...}}'",
            )
        section = inner
    return section


def _forget(path: KeyPath, *tables: dict[KeyPath, Any]) -> None:
    for table in tables:
        for known in [known for known in table if known[: len(path)] == path]:
            del table[known]
