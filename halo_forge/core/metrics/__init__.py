"""Metrics: what a cycle reports, each name with its unit, its direction and its formula.

One topic is one file.  To add `style`, write `style.py` in this folder:

    SCOPE = "set"
    CATALOGUE = {"style/num_comments_mean": MetricInfo("count", "none", "Mean number of comments per completion.")}

    def measure(facts: SetFacts) -> dict[str, float]:
        counts = [completion.text.count("/*") for completion in facts.completions]
        return {"style/num_comments_mean": sum(counts) / len(counts)} if counts else {}

Nothing has to be registered, but every name needs its row in docs/metrics.md (a test compares).  `SCOPE` names the
facts that the topic measures: "set" (SetFacts), "drift" (DriftFacts), "kept" (KeptFacts), "training" (TrainingFacts) or
"cost" (CostFacts).  A metric whose data are missing is absent, never 0.  In the catalogue, `pass@k` stands for pass@1,
pass@2 ...; `_low` and `_high` need no entry.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
import re
from types import ModuleType
from typing import Literal, get_args

from halo_forge.core.metrics._facts import (
    CostFacts,
    DriftFacts,
    KeptFacts,
    MetricInfo,
    SetFacts,
    TokenValues,
    TrainingFacts,
)

__all__ = [
    "CostFacts",
    "DriftFacts",
    "KeptFacts",
    "MetricInfo",
    "SetFacts",
    "TokenValues",
    "TrainingFacts",
    "catalogue",
    "drift_names",
    "fewest_samples",
    "measure_cost",
    "measure_drift",
    "measure_kept",
    "measure_set",
    "measure_training",
    "measured_names",
]

Scope = Literal["set", "drift", "kept", "training", "cost"]
SetName = Literal["train", "dev", "test"]


@functools.cache
def _topics(scope: Scope) -> tuple[ModuleType, ...]:
    names = sorted(info.name for info in pkgutil.iter_modules(__path__) if not info.name.startswith("_"))
    modules = (importlib.import_module(f"{__name__}.{name}") for name in names)
    return tuple(module for module in modules if getattr(module, "SCOPE", None) == scope)


def catalogue() -> dict[str, MetricInfo]:
    """Every metric's name, without the prefix of its prompt set, and its description.

    Raises:
        ValueError: Two topics define the same name.
    """
    found: dict[str, MetricInfo] = {}
    for topic in (topic for scope in get_args(Scope) for topic in _topics(scope)):
        if clash := found.keys() & topic.CATALOGUE.keys():
            raise ValueError(f"{topic.__name__} repeats {sorted(clash)}")
        found |= topic.CATALOGUE
    return found


def measured_names() -> set[str]:
    """The metrics of a version that schedules may read, if the configuration measures them; `pass@k` for every k."""
    sets = {
        name if set_name == "train" and info.bare_on_train else f"{set_name}/{name}"
        for topic in _topics("set")
        for name, info in topic.CATALOGUE.items()
        for set_name in ("train", "dev")
    }
    return sets | drift_names() | {name for topic in _topics("kept") for name in topic.CATALOGUE}


def fewest_samples(name: str) -> int:
    """The fewest samples per prompt that a metric of a prompt set (given with its prefix) needs."""
    bare = name.split("/", 1)[1]
    if re.fullmatch(r"pass@\d+", bare):
        return int(bare[5:])
    return max((topic.FEWEST.get(bare, 1) for topic in _topics("set") if hasattr(topic, "FEWEST")), default=1)


def drift_names() -> set[str]:
    """The metrics of the scope "drift"."""
    return {name for topic in _topics("drift") for name in topic.CATALOGUE}


def measure_set(facts: SetFacts, set_name: SetName) -> dict[str, float]:
    """All metrics of one policy version on one prompt set, under `train/`, `dev/` or `test/`.

    On the train set the metrics that describe how sampling went (`MetricInfo.bare_on_train`) carry no prefix.
    """
    named: dict[str, float] = {}
    for topic in _topics("set"):
        for name, value in topic.measure(facts).items():
            info = topic.CATALOGUE.get(name)
            bare = set_name == "train" and info is not None and info.bare_on_train
            named[name if bare else f"{set_name}/{name}"] = value
    return named


def measure_drift(facts: DriftFacts) -> dict[str, float]:
    """Metrics of how far a version has moved, and of its entropy."""
    return {name: value for topic in _topics("drift") for name, value in topic.measure(facts).items()}


def measure_kept(facts: KeptFacts) -> dict[str, float]:
    """Metrics of the samples that a cycle kept."""
    return {name: value for topic in _topics("kept") for name, value in topic.measure(facts).items()}


def measure_training(facts: TrainingFacts) -> dict[str, float]:
    """All metrics of the training of one cycle."""
    return {name: value for topic in _topics("training") for name, value in topic.measure(facts).items()}


def measure_cost(facts: CostFacts) -> dict[str, float]:
    """All metrics of the cost of one cycle; they vary from run to run."""
    return {name: value for topic in _topics("cost") for name, value in topic.measure(facts).items()}
