"""Turns pydantic's errors into problems that name the key as the user wrote it, what was found and what is allowed."""

from __future__ import annotations

import difflib
import re
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from halo_forge.config.names import RENAMED_KINDS, advice, default_kind, fields, inside, models_at
from halo_forge.config.problems import PROBLEMS, Problem, show
from halo_forge.config.rules import SCHEDULED
from halo_forge.config.sections import RaftConfig
from halo_forge.config.yaml_io import KeyPath

_TAGS = ("union_tag_invalid", "union_tag_not_found")
_ALLOWED = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a section of `key: value` lines",
    "greater_than_equal": "at least {ge}",
    "greater_than": "above {gt}",
    "less_than_equal": "at most {le}",
    "less_than": "below {lt}",
    "finite_number": "a finite number",
    "string_too_short": "text that is not empty",
    "too_short": "at least {min_length} of them",
    "too_long": "at most {max_length} of them",
}


def problems_of(error: ValidationError, data: Any, root: type[BaseModel] = RaftConfig) -> list[Problem]:
    """The problems of a validation of `data` (in its normalised spelling) by `root`, one per key.

    If several types were tried for one value, the message lists what each of them allows.
    """
    found: dict[KeyPath, list[str]] = {}
    finished: list[Problem] = []
    for each in error.errors(include_url=False):
        path = key_path(each["loc"], data, root)
        if each["type"] in _TAGS and isinstance(value_at(data, path), Mapping):
            path = (*path, "kind")
        if each["type"] == PROBLEMS:
            finished += each["ctx"]["problems"]
        elif each["type"] == "missing":
            finished.append(Problem(path, "missing; this key is required"))
        elif each["type"] == "extra_forbidden":
            finished.append(Problem(path, f"unknown key; {advice(path, data, root)}"))
        elif each["type"] in ("value_error", "assertion_error"):
            finished.append(Problem(path, _own_words(each["msg"], path, data)))
        else:
            found.setdefault(path, []).append(_allowed(each, path, data, root))
    for path, allowed in found.items():
        value, items = value_at(data, path), _items(path, root)
        if allowed == ["a list"] and (least := _least_items(path, root)) > 1:
            allowed = [f"a list of {least} or more"]
        text = f"found {show(value)}, allowed: {' or '.join(dict.fromkeys(allowed))}{_remark(value, allowed, items)}"
        finished.append(Problem(path, text))
    return finished


def key_path(loc: tuple[str | int, ...], data: Any, root: type[BaseModel] = RaftConfig) -> KeyPath:
    """Pydantic's location without the names of kinds, types and short spellings."""
    path: list[str | int] = []
    skip_tag = False
    for number, part in enumerate(loc):
        if isinstance(data, Mapping):
            if skip_tag and part == data.get("kind"):
                skip_tag = False
                continue
            if isinstance(part, int):
                part = f"cycle_{part + 1}"
            if part not in data:
                # A missing key is not in the data either, but it is the end of the location and a key of the section.
                last = number == len(loc) - 1
                if last and any(part in fields(model) for model in models_at(tuple(path), data, root)):
                    path.append(part)
                continue
            data = data[part]
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
        else:
            continue
        path.append(part)
        skip_tag = isinstance(data, Mapping) and "kind" in data
    return tuple(path)


def value_at(data: Any, path: KeyPath) -> Any:
    """The value at `path`, None if there is none."""
    for part in path:
        data = inside(data, part)
    return data


def _allowed(error: Any, path: KeyPath, data: Any, root: type[BaseModel]) -> str:
    kind, context = error["type"], error.get("ctx", {})
    if kind in _TAGS:
        family = models_at(path[:-1] if path[-1] == "kind" else path, None, root)
        return _one_of([str(default_kind(model)) for model in family], value_at(data, path))
    if kind == "literal_error":
        return _one_of(re.findall(r"'([^']*)'", context["expected"]), value_at(data, path))
    if kind in ("model_type", "model_attributes_type", "dict_type") and (models := models_at(path, None, root)):
        keys = ", ".join(dict.fromkeys(key for model in models for key in fields(model)))
        return f"a section with keys such as {keys}"
    if kind in _ALLOWED:
        return _ALLOWED[kind].format(**{name: _number(value) for name, value in context.items()})
    return str(error["msg"])


def _number(value: Any) -> Any:
    """A limit with all of its digits if it is a whole number, as it would be written in a file."""
    if not isinstance(value, int | float):
        return value
    return str(int(value)) if float(value).is_integer() else f"{value:g}"


def _one_of(names: list[str], found: Any) -> str:
    if isinstance(found, str) and RENAMED_KINDS.get(found) in names:
        return ", ".join(names) + f" ({found} is now called {RENAMED_KINDS[found]})"
    near = difflib.get_close_matches(found, names, n=1) if isinstance(found, str) else []
    return ", ".join(names) + (f" (did you mean {near[0]}?)" if near else "")


def _own_words(message: str, path: KeyPath, data: Any) -> str:
    value = value_at(data, path)
    if path in SCHEDULED and not isinstance(value, Mapping | list):
        text = f"found {show(value)}, allowed: {SCHEDULED[path].text}, or a schedule (`{{kind: ...}}`)"
    else:
        text = re.sub(r"^(Value error|Assertion failed), ", "", message)
        text = text if "found" in text else f"found {show(value)}: {text}"
    return text + _remark(value, ["a number"])


def _items(path: KeyPath, root: type[BaseModel]) -> list[str]:
    """The names that a list may hold, if only names are allowed in it."""
    models = models_at(path[:-1], None, root) if path else []
    annotations = [fields(model)[key].annotation for model in models if (key := str(path[-1])) in fields(model)]
    return [
        str(name)
        for annotation in annotations
        if typing.get_origin(annotation) is list
        for item in typing.get_args(annotation)
        if typing.get_origin(item) is typing.Literal
        for name in typing.get_args(item)
    ]


def _least_items(path: KeyPath, root: type[BaseModel]) -> int:
    """How many items a list must have."""
    found = [
        fields(model)[key] for model in models_at(path[:-1], None, root) if (key := str(path[-1])) in fields(model)
    ]
    return max((getattr(each, "min_length", 0) for field in found for each in field.metadata), default=0)


def _remark(value: Any, allowed: list[str], items: Sequence[str] = ()) -> str:
    if not isinstance(value, str):
        return ""
    if "true or false" in allowed and value.lower() in ("yes", "no", "on", "off", "y", "n"):
        return "; only true and false are booleans in YAML 1.2"
    if "a list" in allowed:
        return f" of {_one_of(list(items), value)}" if items and value not in items else f"; write [{value}]"
    number = re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", value)
    return "; remove the quotes" if number and any("number" in each for each in allowed) else ""
