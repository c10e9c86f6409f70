"""Alternative spellings of the same configuration, mapped to the one that is validated.

The hypotheses that the project started with (docs/THEORY.md) were written down with
`learning_rate_schedule: {cycle_1: 5e-5, ...}` and `base_learning_rate` with `lr_decay_factor` (and `min_lr`); a section
without `kind` gets its default kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from halo_forge.config.problems import Problem
from halo_forge.config.yaml_io import KeyPath

LEARNING_RATE = {"kind": "exponential", "base": 5e-5, "decay": 0.85, "min": 1e-6}
"""The default learning rate."""

DEFAULT_KINDS: dict[KeyPath, str] = {
    ("engine",): "transformers",
    ("verifier",): "c",
    ("selection",): "best_per_prompt",
    ("training", "learning_rate"): str(LEARNING_RATE["kind"]),
}

_RATE: KeyPath = ("training", "learning_rate")
_EXPONENTIAL = {"base_learning_rate": "base", "lr_decay_factor": "decay", "min_lr": "min"}
_SPELLINGS = ("learning_rate", "learning_rate_schedule", *_EXPONENTIAL)


@dataclass
class Normalised:
    """Data in the spelling that is validated.

    Attributes:
        origins: Path in `data` -> the path where the user wrote it, if the two differ.
        problems: Spellings that contradict each other.
    """

    data: dict[str, Any]
    origins: dict[KeyPath, KeyPath] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def origin(self, path: KeyPath) -> KeyPath:
        """The path that the user wrote for a path in `data`."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.origins:
                return (*self.origins[path[:length]], *path[length:])
        return path


def normalised(data: Mapping[str, Any]) -> Normalised:
    """The same settings in our spelling; `data` is not changed.  Normalised data stay the same."""
    result = Normalised(dict(data))
    training = data.get("training")
    if isinstance(training, Mapping):
        result.data["training"] = _one_learning_rate(dict(training), result)
        if training.get("learning_rate_mass") is not None:
            result.data["training"].setdefault("learning_rate", None)
    for path, kind in DEFAULT_KINDS.items():
        parent = result.data if len(path) == 1 else result.data.get(str(path[0]))
        section = parent.get(str(path[-1])) if isinstance(parent, dict) else None
        if (
            isinstance(section, Mapping)
            and "kind" not in section
            and not any(str(key).startswith("cycle_") for key in section)
        ):
            parent[str(path[-1])] = {"kind": kind, **section}  # type: ignore[index]
    return result


def _one_learning_rate(training: dict[str, Any], result: Normalised) -> dict[str, Any]:
    used = [name for name in _SPELLINGS if name in training]
    exponential = [name for name in used if name in _EXPONENTIAL]
    if not exponential and "learning_rate_schedule" not in used:
        return training
    if used != exponential and len(used) > 1:
        first, *rest = used
        others = tuple((("training", name), training[name]) for name in rest)
        text = "these are different spellings of one setting; keep one, for example " + (
            "learning_rate: {kind: exponential, base: 5e-5, decay: 0.85, min: 1e-6}"
        )
        result.problems.append(Problem(("training", first), text, training[first], others))
    elif not exponential:
        result.origins[_RATE] = ("training", "learning_rate_schedule")
        training["learning_rate"] = training["learning_rate_schedule"]
    else:
        for missing in [name for name in ("base_learning_rate", "lr_decay_factor") if name not in used]:
            text = f"needs training.{missing} as well; for one learning rate in all cycles write learning_rate: 5e-5"
            result.problems.append(Problem(("training", exponential[0]), text))
        result.origins |= {(*_RATE, _EXPONENTIAL[name]): ("training", name) for name in exponential}
        training["learning_rate"] = {
            "kind": "exponential",
            **{_EXPONENTIAL[name]: training[name] for name in exponential},
        }
    for name in used:
        if name != "learning_rate":
            del training[name]
    if result.problems:
        training.pop("learning_rate", None)
    return training
