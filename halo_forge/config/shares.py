"""Learning rates that are written as a share of another run's: `{share: 0.25, of: runs/my_sft}`.

They become numbers when a configuration is loaded.  Where a number comes from is kept beside it, as
`training.learning_rate_origin`, so the run directory holds both and needs the other run no more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from halo_forge.config.problems import Problem, dotted, show
from halo_forge.config.yaml_io import KeyPath
from halo_forge.core.errors import ConfigError, RunDirError
from halo_forge.store.sft import SftSource, sft_source

ORIGIN = "learning_rate_origin"
_KEYS = ("learning_rate", "learning_rate_schedule", "base_learning_rate", "min_lr")
_NO_RATES = frozenset(
    "decay decay_on_decline exponent improvement_threshold max_factor min_improvement power target".split()
)
"""Settings of schedules that are numbers but no learning rates: a share of one means nothing there."""
LARGEST = 10
"""Of a share; more is a mistake."""
_FORM = "{share: 0.25, of: runs/my_sft}; without `of`, the stage that model.adapter is from"


@dataclass
class _Shares:
    """What was found while the shares of one configuration were replaced."""

    adapter: Any
    origins: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def replaced(self, value: Any, path: KeyPath) -> Any:
        """`value` with a number in place of every share in it."""
        if isinstance(value, Mapping):
            if "share" in value and "kind" not in value:
                return self._number(value, path)
            return {key: self.replaced(item, (*path, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [self.replaced(item, (*path, number)) for number, item in enumerate(value)]
        return value

    def _number(self, value: Mapping[str, Any], path: KeyPath) -> Any:
        share, given = value["share"], value.get("of", self.adapter)
        if path[-1] in _NO_RATES:
            return self._refuse(path, "found a share of a learning rate, but this is none; write a number")
        unknown = sorted(str(key) for key in value.keys() - {"share", "of"})
        if unknown:
            return self._refuse(path, f"unknown key {', '.join(unknown)} beside share, allowed: {_FORM}")
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= LARGEST:
            return self._refuse((*path, "share"), f"found {show(share)}, allowed: a number above 0, at most {LARGEST}")
        if given is None:
            return self._refuse(path, f"of what the share is, is not said; write {_FORM}, which needs model.adapter")
        if not isinstance(given, str) or not given:
            return self._refuse((*path, "of"), f"found {show(given)}, allowed: the run directory of `sft run`")
        source = self._source(given, path)
        if source is None:
            return None
        rate = float(f"{share * source.learning_rate:.12g}")  # 0.3 times 1e-4 is 3e-5, and not a digit of rounding more
        self.origins[dotted(path[1:])] = f"{share:g} of {source.learning_rate:g}, the learning rate of {given}"
        return rate

    def _source(self, given: str, path: KeyPath) -> SftSource | None:
        try:
            source = sft_source(Path(given))
        except (RunDirError, ConfigError) as error:
            self._refuse(path, f"{error.message} ({error.hint})")
            return None
        if source is None:
            text = "no SFT run is there; run it first (halo-forge sft run), or write a number"
            self._refuse(path, f"found {show(given)}: {text}")
        return source

    def _refuse(self, path: KeyPath, text: str) -> None:
        self.problems.append(Problem(path, text))


def with_numbers(data: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """The same settings with a number in place of every share; `data` is not changed.

    A share that cannot be resolved is left out, and is among the problems.
    """
    training = data.get("training")
    if not isinstance(training, Mapping):
        return dict(data), []
    model = data.get("model")
    found = _Shares(model.get("adapter") if isinstance(model, Mapping) else None)
    changed = {
        key: found.replaced(value, ("training", key)) if key in _KEYS else value for key, value in training.items()
    }
    if found.origins:
        changed[ORIGIN] = found.origins
    return {**data, "training": changed}, found.problems


def allow_shares(schema: dict[str, Any]) -> None:
    """Let a JSON schema of a configuration have a share wherever a schedule of the learning rate has a number.

    Schedules are described once for all keys that take one, so an editor accepts a share there too; loading does not.
    """
    number = {"exclusiveMinimum": 0, "maximum": LARGEST, "type": "number"}
    schema["$defs"]["Share"] = {
        "type": "object",
        "properties": {"share": number, "of": {"type": "string"}},
        "required": ["share"],
        "additionalProperties": False,
    }
    rate = schema["$defs"]["TrainingSection"]["properties"]["learning_rate"]
    rate["anyOf"] = [*rate["anyOf"], {"$ref": "#/$defs/Share"}]
    for name in _reachable(rate, schema["$defs"], set()) - {"Share"}:
        schema["$defs"][name]["properties"] = _with_shares(schema["$defs"][name]["properties"])


def _reachable(part: Any, definitions: Mapping[str, Any], found: set[str]) -> set[str]:
    """Names of all definitions that a part of a schema refers to, directly or not; added to `found`."""
    if isinstance(part, Mapping):
        name = str(part.get("$ref", "")).rpartition("/")[2]
        if name and name not in found:
            found.add(name)
            _reachable(definitions[name], definitions, found)
        for value in part.values():
            _reachable(value, definitions, found)
    elif isinstance(part, list):
        for value in part:
            _reachable(value, definitions, found)
    return found


def _with_shares(part: Any) -> Any:
    if isinstance(part, Mapping):
        if part.get("type") == "number":
            return {"anyOf": [dict(part), {"$ref": "#/$defs/Share"}]}
        return {key: _with_shares(value) for key, value in part.items()}
    return [_with_shares(value) for value in part] if isinstance(part, list) else part
