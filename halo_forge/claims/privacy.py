"""What of a run stays on the machine: folders, addresses, commands, and where trackers report to."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from halo_forge.config.sections import TrackingSection
from halo_forge.config.shares import ORIGIN

_NOT_IN_A_CLAIM = ("output_dir", "report_to", "tracking", "notify_command")
"""Keys of the configuration that name places and people; no result depends on them."""
_ENGINE_ADDRESSES = ("base_url", "health_url", "exchange_folder", "api_key_variable", "options")
"""Keys of a server's engine that say where it is and how it is started."""
_PATHS = (
    ("model", "model_name_or_path"),
    ("model", "adapter"),
    *(("prompts", name) for name in ("train", "dev", "test")),
    *(("engine", name) for name in ("answers", "run", "python", "served_model")),
    *(("verifier", name) for name in ("compiler", "command", "files", "read_only")),
)
"""Keys that name files and folders."""
_IDENTITY = (
    "schema_version", "halo_forge_version", "config_digest", "seed", "prompts", "start_model", "toolchain", "versions",
    "plugins", "git_commit", "hardware", "rendering", "fork",
)  # fmt: skip
_NO_TRACKING = TrackingSection().model_dump()
_SERVER = re.compile(r"^(\w+):https?://[^#]*")
OUTPUT_DIR = "claim"
"""What the configuration in a claim has for `output_dir`, which a configuration must have."""


def shareable_config(settings: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A resolved configuration without what is private, and the dotted keys that were changed."""
    data = copy.deepcopy(dict(settings))
    changed = [key for key in _NOT_IN_A_CLAIM if data.pop(key, None) not in (None, [], _NO_TRACKING)]
    data["output_dir"] = OUTPUT_DIR
    engine = data.get("engine", {})
    if "retry_seconds" in engine:  # asks a server
        changed += [f"engine.{key}" for key in _ENGINE_ADDRESSES if engine.pop(key, None)]
        if engine.get("restart_command"):
            engine["restart_command"] = ["removed"]  # the adapter `merged_restart` must have one
            changed.append("engine.restart_command")
    for section, key in _PATHS:
        value = data.get(section, {}).get(key)
        if (short := _short(value)) != value:
            data[section][key] = short
            changed.append(f"{section}.{key}")
    origins = data.get("training", {}).get(ORIGIN, {})
    for key, said in origins.items():  # "0.25 of 0.0002, the learning rate of RUN"
        words, of, run = str(said).rpartition(" of ")
        if (short := f"{words}{of}{_short(run)}") != said:
            origins[key] = short
            changed.append(f"training.{ORIGIN}")
    return _without_home(data, (), changed), changed


def shareable_verifier(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a verifier without paths."""
    own = [key for section, key in _PATHS if section == "verifier"]
    found = {key: _short(value) if key in own else value for key, value in settings.items()}
    return dict(_without_home(found, (), []))


def shareable_identity(identity: Mapping[str, Any]) -> dict[str, Any]:
    """run.json without what is private: paths, and variables of the environment."""
    found = {key: copy.deepcopy(identity[key]) for key in _IDENTITY if key in identity}
    found.get("hardware", {}).pop("environment", None)
    found.get("fork", {}).pop("run", None)
    for section, key in (("start_model", "model_name_or_path"), ("toolchain", "compiler"), ("toolchain", "command")):
        if key in found.get(section, {}):
            found[section][key] = _short(found[section][key])
    return dict(_without_home(found, (), []))


def short_names(names: Iterable[str]) -> dict[str, str]:
    """Names that may be paths or addresses -> what a claim calls them; no two have one."""
    found: dict[str, str] = {}
    for name in names:
        short = without_home(_SERVER.sub(r"\1:", name) if _SERVER.match(name) else _short(name))
        number = 2
        while short in found.values():
            short, number = f"{short.removesuffix(f' ({number - 1})')} ({number})", number + 1
        found[name] = short
    return found


def shareable_model(identity: Mapping[str, Any]) -> dict[str, Any]:
    """What identifies a subject of an evaluation, without paths and addresses."""
    found = {key: _short(value) for key, value in identity.items() if key not in ("server", "folder")}
    if "server" in identity:
        found["server"] = {key: value for key, value in identity["server"].items() if key != "base_url"}
    return dict(_without_home(found, (), []))


def without_home(text: str) -> str:
    """A text in which the home folder of whoever runs this is `~`: compilers and interpreters print their paths."""
    home = os.path.expanduser("~").rstrip("/")
    return text.replace(f"{home}/", "~/") if len(home) > 1 else text


def _short(value: Any) -> Any:
    """Of an absolute path, or one from the home folder, the last part; of a list, that of each."""
    if isinstance(value, list):
        return [_short(each) for each in value]
    if isinstance(value, str) and (value.startswith(("/", "~")) or ".." in PurePosixPath(value).parts):
        return Path(value).name or "folder"
    return value


def _without_home(value: Any, path: tuple[str, ...], changed: list[str]) -> Any:
    if isinstance(value, dict):
        return {key: _without_home(item, (*path, key), changed) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_home(item, path, changed) for item in value]
    if isinstance(value, str) and (short := without_home(value)) != value:
        changed.append(".".join(path))
        return short
    return value
