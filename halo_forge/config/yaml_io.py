"""Configuration files: plain data, the line of every value, `extends:` and `--set`.

PyYAML follows YAML 1.1, where `5e-5` is a string and `no` is false.  This module follows the core schema of YAML 1.2
(https://yaml.org/spec/1.2.2/#103-core-schema): `5e-5`, `1e3` and `.5e-3` are floats, only `true` and `false` are
booleans, and `on`, `off`, `yes`, `no`, dates and `1:30` stay strings.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from halo_forge.core.errors import ConfigError

__all__ = ["Document", "KeyPath", "apply_overrides", "apply_values", "dump", "leaves", "load_document", "parse_value"]

KeyPath = tuple[str | int, ...]


@dataclass(frozen=True)
class Document:
    """A configuration file as plain data, and where each value was written.

    Attributes:
        data: The top-level mapping, `extends` resolved and overrides applied.
        lines: Path of a value -> its 1-based line in `path`.  List items are addressed by index.
        path: The file, as the user named it.
        text: The text of that file, unchanged.
        places: Path of a value -> where it was written, for values that do not come from `path`: a line of the extended
            file, or a `--set`.
    """

    data: dict[str, Any]
    lines: dict[KeyPath, int]
    path: Path
    text: str
    places: dict[KeyPath, str] = field(default_factory=dict)

    def where(self, path: KeyPath) -> str:
        """`file:line` or `--set key=value` of a value.

        Of a section that only a `--set` of a key in it made: that `--set`; of what was not written: the nearest section
        around it.
        """
        if path and path not in self.lines:
            inside = [place for known, place in self.places.items() if known[: len(path)] == path]
            if inside:
                return inside[0]
        for length in range(len(path), 0, -1):
            if path[:length] in self.places:
                return self.places[path[:length]]
            if path[:length] in self.lines:
                return f"{self.path}:{self.lines[path[:length]]}"
        return str(self.path)


def load_document(path: str | Path) -> Document:
    """Read a configuration file, and the file that it `extends:`, if any.

    Mappings of the two files are merged key by key; lists and plain values are replaced; a mapping with another `kind`
    than in the extended file replaces it as a whole.

    Raises:
        ConfigError: The file is missing, unreadable, not UTF-8, empty, not valid YAML (with line and column), not a
            mapping, contains a key twice (with both lines), or extends a file that extends another.
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


def apply_overrides(document: Document, overrides: Iterable[str], option: str = "--set") -> Document:
    """The document with each `a.b=value` of `--set` applied; a later one wins over an earlier one.

    Values are YAML (`5e-5`, `true`, `null`, `[a, b]`, `{kind: cosine, base: 1e-4}`).  Setting `x.kind` to another
    kind drops the other keys of `x` that came with the old kind, except those that `--set` set.

    Args:
        option: What errors call an override.

    Raises:
        ConfigError: No `=`, an empty key, a value that is not YAML, or a path that runs through a plain value.
    """
    values = []
    for override in overrides:
        label = f"{option} {override if len(override) <= _LONGEST_LABEL else override[:_LONGEST_LABEL] + '...'}"
        values.append((*_split_override(override, label), label))
    return _with_values(document, values, f"{option} ")


def apply_values(document: Document, values: Iterable[tuple[str, Any, str]], source: str) -> Document:
    """The same for values that were read already: (dotted key, plain value, where it was written).

    Args:
        source: What each of these places begins with.

    Raises:
        ConfigError: An empty key, or a path that runs through a plain value.
    """
    return _with_values(document, [(_split_key(key, place), value, place) for key, value, place in values], source)


def _with_values(document: Document, values: Sequence[tuple[tuple[str, ...], Any, str]], source: str) -> Document:
    data = copy.deepcopy(document.data)
    places, lines = dict(document.places), dict(document.lines)
    for keys, value, label in values:
        section = _section(data, keys[:-1], label, replace(document, lines=lines, places=places))
        if keys[-1] == "kind" and "kind" in section and section["kind"] != value:
            for sibling in [key for key in section if key != "kind"]:
                if not places.get((*keys[:-1], sibling), "").startswith(source):
                    del section[sibling]
                    _forget((*keys[:-1], sibling), lines, places)
        section[keys[-1]] = copy.deepcopy(value)
        _forget(keys, lines, places)
        places[keys] = label
    return Document(data, lines, document.path, document.text, places)


def parse_value(text: str, label: str) -> Any:
    """One YAML value, such as the right-hand side of a `--set`; an empty string is null.

    Raises:
        ConfigError: Not valid YAML; the message starts with `label`.
    """
    root = _compose(text, label)
    return None if root is None else _Builder(label).build(root, ())


def dump(data: Any) -> str:
    """YAML text of plain data, in the order given; `load_document` and YAML 1.1 readers read equal values from it."""
    text: str = yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=2**16)
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
    root = _compose(text, str(path))
    if root is None:
        raise ConfigError(f"{path}: the file is empty", "write the required keys; `halo-forge config schema` lists all")
    if not isinstance(root, yaml.MappingNode):
        found = "a list" if isinstance(root, yaml.SequenceNode) else "a plain value"
        raise ConfigError(
            f"{path}:{root.start_mark.line + 1}: the top level is {found}, allowed: `key: value` lines",
            "start the file with a section such as `model:`",
        )
    builder = _Builder(str(path))
    return Document(builder.build(root, ()), builder.lines, path, text)


def _read(path: Path) -> str:
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file", "check the path") from error
    except IsADirectoryError as error:
        raise ConfigError(f"{path}: is a folder, allowed: a YAML file", "name the file inside it") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL character
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
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
    keys = _split_key(key if equals else "", label)
    return keys, parse_value(text, label)


def _split_key(key: str, label: str) -> tuple[str, ...]:
    keys = tuple(part.strip() for part in key.split("."))
    if not all(keys):
        raise ConfigError(f"{label}: allowed: key=value", "write for example seed=7 or raft.num_cycles=3")
    return keys


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
                f"set it as a whole: '{name}={{key: value, ...}}'",
            )
        section = inner
    return section


def _forget(path: KeyPath, *tables: dict[KeyPath, Any]) -> None:
    for table in tables:
        for known in [known for known in table if known[: len(path)] == path]:
            del table[known]


_LONGEST_LABEL = 120
_MAX_VALUES = 100_000
MAX_DIGITS = 300
"""Of a whole number; longer ones do not fit into a float."""
_SCALARS = {
    "null": (r"~|null|Null|NULL|", "~nN\0"),
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    "float": (
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
}
_TAG = "tag:yaml.org,2002:"


class _Loader(yaml.SafeLoader):
    """SafeLoader whose plain scalars follow the core schema of YAML 1.2."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012  (PyYAML's own attribute)


class _Dumper(yaml.SafeDumper):
    """SafeDumper that quotes every string which YAML 1.1 or 1.2 would read as something else."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    # Double quotes show a line break as such; the other styles fold those that are not "\n" into spaces.
    odd = any(c in "\n\r\x85\u2028\u2029\ufeff" for c in text)
    return dumper.represent_scalar(_TAG + "str", text, style='"' if odd else None)


_Dumper.add_representer(str, _text)

for _name, (_pattern, _first) in _SCALARS.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(
            _TAG + _name, re.compile(rf"(?:{_pattern})\Z"), ["" if c == "\0" else c for c in _first]
        )


def _compose(text: str, label: str) -> yaml.Node | None:
    """The root node of a text with one YAML document, None if it is empty.

    Raises:
        ConfigError: Not valid YAML; the message starts with `label:line:column`.
    """
    try:
        node: yaml.Node | None = yaml.compose(text, Loader=_Loader)
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        place = f"{label}:{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}"
        message = f"{place}: character U+{ord(text[error.position]):04X} is not allowed in YAML"
        raise ConfigError(message, "delete that character") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = label if mark is None else f"{label}:{mark.line + 1}:{mark.column + 1}"
        context = f" ({error.context})" if error.context else ""
        message = f"{place}: not valid YAML: {error.problem}{context}"
        raise ConfigError(
            message, "indent with spaces, put a space after `:`, close every quote and bracket"
        ) from error
    except RecursionError as error:
        raise ConfigError(f"{label}: nested too deeply", "use less nesting") from error
    return node


class _Builder:
    """Turns YAML nodes into plain data and records the line of each value."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.lines: dict[KeyPath, int] = {}
        self._values = 0
        self._open: set[int] = set()

    def build(self, node: yaml.Node, path: KeyPath) -> Any:
        """The value of `node`, which is at `path`."""
        line = node.start_mark.line + 1
        self.lines.setdefault(path, line)
        self._values += 1
        # Aliases repeat their anchor: a few lines can expand to billions of values, or contain themselves.
        if self._values > _MAX_VALUES or id(node) in self._open:
            raise ConfigError(f"{self.label}:{line}: the aliases (*name) expand endlessly", "write the values out")
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, line)
        self._open.add(id(node))
        value = self._mapping(node, path) if isinstance(node, yaml.MappingNode) else self._sequence(node, path)
        self._open.discard(id(node))
        return value

    def _sequence(self, node: yaml.Node, path: KeyPath) -> list[Any]:
        return [self.build(item, (*path, index)) for index, item in enumerate(node.value)]

    def _mapping(self, node: yaml.Node, path: KeyPath) -> dict[str, Any]:
        built: dict[str, Any] = {}
        first: dict[str, int] = {}
        for key_node, value_node in node.value:
            key, line = self._key(key_node), key_node.start_mark.line + 1
            if key in built:
                name = ".".join(map(str, (*path, key)))
                raise ConfigError(
                    f"{self.label}:{line}: {name}: given twice, first on line {first[key]}", "keep one of the two lines"
                )
            first[key] = self.lines[(*path, key)] = line
            built[key] = self.build(value_node, (*path, key))
        return built

    def _key(self, node: yaml.Node) -> str:
        line = node.start_mark.line + 1
        if not isinstance(node, yaml.ScalarNode) or node.tag != _TAG + "str":
            shown = node.value if isinstance(node, yaml.ScalarNode) else "a list or mapping"
            raise ConfigError(f"{self.label}:{line}: key {shown}: keys must be text", "quote the key")
        if node.value == "<<" and node.style is None:
            raise ConfigError(
                f"{self.label}:{line}: `<<` is not part of YAML 1.2", "use `extends:` or write out the keys"
            )
        text: str = node.value
        return text

    def _scalar(self, node: yaml.ScalarNode, line: int) -> Any:
        text: str = node.value
        name = node.tag.removeprefix(_TAG)
        if name == "str":
            return text
        if name not in _SCALARS or not re.fullmatch(_SCALARS[name][0], text):
            allowed = "plain text, numbers, true, false and null"
            raise ConfigError(
                f"{self.label}:{line}: {node.tag} {text!r} is not allowed; allowed: {allowed}", "remove the tag"
            )
        if name == "null":
            return None
        if name == "bool":
            return text.lower() == "true"
        if name == "int":
            return self._int(text, line)
        value = float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        if math.isinf(value) and "inf" not in text.lower():
            raise ConfigError(f"{self.label}:{line}: {text} is too large for a number", "write a smaller number")
        return value

    def _int(self, text: str, line: int) -> int:
        if len(text) > MAX_DIGITS:
            message = f"{self.label}:{line}: {text[:20]}... has {len(text)} digits, allowed: at most {MAX_DIGITS}"
            raise ConfigError(message, "write a smaller number")
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
