"""From a file and `--set` to a checked configuration, or to one error that lists all problems."""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from halo_forge.config.explain import problems_of
from halo_forge.config.problems import Problem
from halo_forge.config.sections import RaftConfig
from halo_forge.config.shares import allow_shares, with_numbers
from halo_forge.config.spellings import Normalised, normalised
from halo_forge.config.yaml_io import MAX_DIGITS, Document, KeyPath, apply_overrides, dump, leaves, load_document
from halo_forge.core.errors import ConfigError

WITHOUT_INFLUENCE = (
    (None, "output_dir"),
    (None, "report_to"),
    (None, "tracking"),
    (None, "notify_command"),
    (None, "hardware"),
    ("verifier", "workers"),
    ("engine", "batch_size"),
    ("engine", "cuda_graphs"),
    *(("engine", key) for key in ("base_url", "health_url", "exchange_folder", "api_key_variable", "run")),
    *(("engine", key) for key in ("python", "gpu_memory_utilization", "max_policy_gap")),
    *(("engine", key) for key in ("max_in_flight", "timeout_seconds", "retry_seconds", "start_timeout_seconds")),
    ("training", "max_tokens_per_pass"),
    ("training", "learning_rate_origin"),
)
"""(section, key) of the keys that no result of a run depends on."""

_MAPPING = "<mapping>"
"""What messages call a configuration that is no file."""

# Removing a wrong value can leave its section without a required one, so that the section has to be removed too, and so
# on outwards; paths are short.
_ATTEMPTS = 4


@dataclass(frozen=True)
class LoadedConfig:
    """A checked configuration and the document it came from."""

    config: RaftConfig
    document: Document


def load_config(
    source: str | Path | Mapping[str, Any], overrides: Iterable[str] | Mapping[str, Any] = ()
) -> LoadedConfig:
    """Read, override and check a configuration.

    Args:
        source: A YAML file, whose `output_dir` defaults to `runs/<file name>`; or the same settings as a mapping, which
            has to name one.
        overrides: `KEY=VALUE` as `--set` takes them, one or several, or dotted key -> value.

    Raises:
        ConfigError: All problems, one line per key: `file:line: key: found ..., allowed ...`.
    """
    if not isinstance(source, str | os.PathLike | Mapping):
        raise ConfigError(
            f"a configuration is given as {type(source).__name__}, allowed: the path of a YAML file, or a mapping",
            "give a path, or the settings as a mapping",
        )
    document = overridden(_given(source) if isinstance(source, Mapping) else load_document(source), overrides)
    return checked(document, None if isinstance(source, Mapping) else f"runs/{Path(source).stem}")


def is_sft(document: Document) -> bool:
    """Whether a file is the configuration of an SFT run: only these have a section `data`."""
    return isinstance(document.data.get("data"), Mapping)


def checked(document: Document, output_dir: str | None = None) -> LoadedConfig:
    """The configuration of a document that was read, and changed where it is to be.

    Args:
        output_dir: Of a document that names none.

    Raises:
        ConfigError: As `load_config`.
    """
    if is_sft(document):
        raise ConfigError(
            f"{document.path}: this is the configuration of an SFT run: it has a section `data`",
            f"run it with `halo-forge sft run {document.path}`",
        )
    data, unresolved = with_numbers({**({} if output_dir is None else {"output_dir": output_dir}), **document.data})
    found = normalised(data)
    found.problems += unresolved
    try:
        if not found.problems:
            return LoadedConfig(RaftConfig.model_validate(found), document)
    except ValidationError as error:
        found.problems.extend(problems_of(error, found.data))
    problems = [*found.problems, *_hidden_problems(found)]
    hint = (
        "correct these keys; `halo-forge config schema` lists every key, `halo-forge docs configuration` describes them"
    )
    raise as_error(problems, found, document, hint)


def overridden(document: Document, overrides: Iterable[str] | Mapping[str, Any]) -> Document:
    """The document with overrides as `load_config` takes them; those of a mapping are not called `--set`."""
    if isinstance(overrides, Mapping):
        texts = [f"{key}={_as_json(value, key)}" for key, value in overrides.items()]
        return apply_overrides(document, texts, option="override")
    listed = [overrides] if isinstance(overrides, str) or not isinstance(overrides, Iterable) else list(overrides)
    for each in listed:
        if not isinstance(each, str):
            raise ConfigError(
                f"an override is of type {type(each).__name__}, allowed: a text KEY=VALUE",
                "write overrides as texts, or as one mapping from dotted keys to values",
            )
    return apply_overrides(document, listed)


def _given(settings: Mapping[str, Any]) -> Document:
    """A configuration that is no file: without lines, and with the text that it would have as one."""
    data = json.loads(_as_json(settings, _MAPPING), parse_int=_int)
    if "extends" in data:
        raise ConfigError(f"{_MAPPING}: extends: only a file can extend another one", "merge the two mappings")
    return Document(data, {}, Path(_MAPPING), dump(data))


def _int(text: str) -> int:
    if len(text) > MAX_DIGITS:
        message = f"{_MAPPING}: {text[:20]}... has {len(text)} digits, allowed: at most {MAX_DIGITS}"
        raise ConfigError(message, "use a smaller number")
    return int(text)


def _as_json(value: Any, name: str) -> str:
    """A value as a configuration file can hold it; paths become text, tuples lists."""

    def plain(part: Any) -> str:
        if isinstance(part, Path):
            return str(part)
        raise TypeError(f"found {type(part).__name__!r}, which no configuration can hold")

    try:
        return json.dumps(value, default=plain)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name}: {error}", "use numbers, text, lists and mappings, as in a YAML file") from error


def resolved(config: RaftConfig) -> dict[str, Any]:
    """Every value, defaults included, as plain JSON data that `RaftConfig.model_validate` accepts."""
    plain: dict[str, Any] = _short(config.model_dump(mode="json", by_alias=True))
    samples = plain["raft"]["samples_per_prompt"]
    if isinstance(samples, float):
        plain["raft"]["samples_per_prompt"] = int(samples)
    return plain


def influential(config: RaftConfig) -> dict[str, Any]:
    """`resolved`, without the keys that no result depends on."""
    return influential_data(resolved(config))


def influential_data(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The same of a configuration that is plain data, every value given; it is not changed."""
    data = copy.deepcopy(dict(settings))
    for section, key in WITHOUT_INFLUENCE:
        (data if section is None else data.get(section, {})).pop(key, None)  # an SFT run has fewer sections
    return data


def config_digest(config: RaftConfig) -> str:
    """SHA-256 of everything that results depend on; equal for files that differ only in spelling."""
    return digest_of(influential(config))


def digest_of(data: Mapping[str, Any]) -> str:
    """SHA-256 of plain data, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


def differing_keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """(dotted key, old value, new value) of every key in which two resolved configurations differ; None if absent."""
    before, after = (dict(leaves(side)) for side in (old, new))
    return [
        (".".join(map(str, path)), before.get(path), after.get(path))
        for path in dict.fromkeys([*before, *after])
        if before.get(path) != after.get(path)
    ]


def json_schema() -> dict[str, Any]:
    """JSON schema of a configuration file, for editors."""
    schema = written_schema(RaftConfig)
    allow_shares(schema)
    return schema


def written_schema(config: type[BaseModel]) -> dict[str, Any]:
    """JSON schema of a file from which a configuration of this class is read."""
    schema = config.model_json_schema(by_alias=True)
    schema["required"] = [name for name in schema["required"] if name != "output_dir"]
    schema["properties"]["extends"] = {"type": "string", "description": "Another file whose settings this one changes."}
    return schema


def _hidden_problems(found: Normalised) -> list[Problem]:
    """Violated rules between keys that pydantic skipped because single values were wrong: checks without those."""
    data = copy.deepcopy(found.data)
    removed = [_remove(data, problem.path) for problem in found.problems]
    for _ in range(_ATTEMPTS):
        data.setdefault("model", {}).setdefault("model_name_or_path", "unknown")
        data.setdefault("output_dir", "unknown")
        try:
            RaftConfig.model_validate(data)
            return []
        except ValidationError as error:
            left = problems_of(error, data)
        if hidden := [each for each in left if not any(_related(each, path) for path in removed)]:
            return hidden
        removed += [_remove(data, problem.path) for problem in left]
    return []


def _remove(data: dict[str, Any], path: KeyPath) -> KeyPath:
    """Remove the value at `path`, or what contains it: a list, a section without a key or with a wrong kind.

    Returns:
        The path that was removed.
    """
    if path[-1:] == ("kind",):
        return _remove(data, path[:-1])
    section: Any = data
    for depth, part in enumerate(path):
        following = section.get(part) if isinstance(section, dict) else None
        last = depth == len(path) - 1
        if last or not isinstance(following, dict):
            if depth > 0 and part not in section:
                return _remove(data, path[:depth])
            section.pop(part, None)
            return path[: depth + 1]
        section = following
    return ()


def _related(problem: Problem, removed: KeyPath) -> bool:
    paths = [problem.path, *(path for path, _ in problem.others)]
    return any(path[: len(removed)] == removed[: len(path)] for path in paths)


def _short(data: Any) -> Any:
    if isinstance(data, dict):
        if data.keys() == {"kind", "beyond", "value"} and data["kind"] == "constant" and data["beyond"] == "hold":
            return data["value"]
        first = {"kind": data["kind"]} if "kind" in data else {}
        return {key: _short(value) for key, value in {**first, **data}.items()}
    return data


def as_error(problems: Sequence[Problem], found: Normalised, document: Document, hint: str) -> ConfigError:
    """One error with a line for each problem, in the order of the lines of the document."""

    def where(path: KeyPath) -> str:
        data: Any = document.data
        for part in path:
            inside = part in data if isinstance(data, dict) else isinstance(data, list)
            if not inside:
                return "default"
            data = data[part]
        return document.where(path)

    def line(problem: Problem) -> int:
        path = found.origin(problem.path)
        return next((document.lines[path[:end]] for end in range(len(path), 0, -1) if path[:end] in document.lines), 0)

    lines = []
    for problem in sorted(problems, key=line):
        path = found.origin(problem.path)
        others = tuple((found.origin(other), value) for other, value in problem.others)
        text = Problem(path, problem.text, problem.value, others).line(where)
        lines.append(text if where(path) != "default" else f"{document.where(path)}: {text}")
    head = [f"{document.path}: {len(lines)} problems"] if len(lines) > 1 else []
    return ConfigError("\n".join([*head, *lines]), hint)
