"""Scalars of YAML 1.2, and nodes that remember their line; the private half of `yaml_io`.

PyYAML follows YAML 1.1, where `5e-5` is a string and `no` is false.  Here the core schema of YAML 1.2 decides
(https://yaml.org/spec/1.2.2/#103-core-schema): `5e-5`, `1e3` and `.5e-3` are floats, only `true` and `false` are
booleans, and `on`, `off`, `yes`, `no`, dates and `1:30` stay strings.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from halo_forge.core.errors import ConfigError

KeyPath = tuple[str | int, ...]

_MAX_VALUES = 100_000
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


class Dumper(yaml.SafeDumper):
    """SafeDumper that quotes each string which YAML 1.1 or 1.2 would read as something else."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: Dumper, text: str) -> yaml.ScalarNode:
    # Double quotes show a line break as such; the other styles fold those that are not "\n" into spaces.
    odd = any(c in "\n\r\x85\u2028\u2029\ufeff" for c in text)
    return dumper.represent_scalar(_TAG + "str", text, style='"' if odd else None)


Dumper.add_representer(str, _text)

for _name, (_pattern, _first) in _SCALARS.items():
    for _class in (_Loader, Dumper):
        _class.add_implicit_resolver(
            _TAG + _name, re.compile(rf"(?:{_pattern})\Z"), ["" if c == "\0" else c for c in _first]
        )


def compose(text: str, label: str) -> yaml.Node | None:
    """The root node of a text that holds one YAML document, None where it holds nothing.

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
        raise ConfigError(f"{label}: nested too deeply", "write flatter values") from error
    return node


class Builder:
    """Turns YAML nodes into plain data and writes down the line of each value."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.lines: dict[KeyPath, int] = {}
        self._values = 0
        self._open: set[int] = set()

    def build(self, node: yaml.Node, path: KeyPath) -> Any:
        """The value of `node`; `path` is where it stands."""
        line = node.start_mark.line + 1
        self.lines.setdefault(path, line)
        self._values += 1
        # Aliases repeat their anchor: a few lines can stand for billions of values, or for themselves.
        if self._values > _MAX_VALUES or id(node) in self._open:
            raise ConfigError(f"{self.label}:{line}: the aliases (*name) expand without end", "write the values out")
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
                    f"{self.label}:{line}: {name}: given twice, first in line {first[key]}", "keep one of the two lines"
                )
            first[key] = self.lines[(*path, key)] = line
            built[key] = self.build(value_node, (*path, key))
        return built

    def _key(self, node: yaml.Node) -> str:
        line = node.start_mark.line + 1
        if not isinstance(node, yaml.ScalarNode) or node.tag != _TAG + "str":
            shown = node.value if isinstance(node, yaml.ScalarNode) else "a list or mapping"
            raise ConfigError(f"{self.label}:{line}: key {shown}: keys must be text", "put the key in quotes")
        if node.value == "<<" and node.style is None:
            raise ConfigError(
                f"{self.label}:{line}: `<<` is not part of YAML 1.2", "use `extends:` or write the keys out"
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
                f"{self.label}:{line}: {node.tag} {text!r} is refused, allowed: {allowed}", "drop the tag"
            )
        if name == "null":
            return None
        if name == "bool":
            return text.lower() == "true"
        if name == "int":
            return self._int(text, line)
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))

    def _int(self, text: str, line: int) -> int:
        try:
            return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
        except ValueError as error:  # Python refuses to read more than 4300 digits
            message = f"{self.label}:{line}: {text[:20]}... has {len(text)} digits"
            raise ConfigError(message, "write a number of sensible size") from error
