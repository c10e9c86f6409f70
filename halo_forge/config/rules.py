"""Rules between keys, and the ranges of scheduled values over all cycles."""

from __future__ import annotations

import difflib
import itertools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from halo_forge.config.problems import Problem, raise_all, show
from halo_forge.config.yaml_io import KeyPath
from halo_forge.core.lr_scheduler import learning_rate_factors
from halo_forge.core.metrics import drift_names, fewest_samples, measured_names
from halo_forge.core.prompt_sampling import MIN_BUDGETED
from halo_forge.core.wording import counted

if TYPE_CHECKING:
    from halo_forge.config.sections import RaftConfig


_TEMPERATURE: KeyPath = ("engine", "temperature")
_SAMPLES: KeyPath = ("raft", "samples_per_prompt")
_PER_CYCLE: KeyPath = ("raft", "prompts_per_cycle")
_LIMIT: KeyPath = ("prompts", "train_limit")
_KEEP: KeyPath = ("selection", "keep_fraction")
_RATE: KeyPath = ("training", "learning_rate")
_MASS: KeyPath = ("training", "learning_rate_mass")
_ACCUMULATION: KeyPath = ("training", "gradient_accumulation_steps")
_GREEDY = "at temperature 0 all samples of a prompt are identical"


@dataclass(frozen=True)
class Range:
    """The allowed values of a scheduled key: from `low` to `high`, `low` itself only if `closed`."""

    low: float
    high: float
    closed: bool = True
    text: str = ""
    may_pass: bool = False

    def holds(self, value: float | str) -> bool:
        """Whether `value` is allowed."""
        if isinstance(value, str):
            return self.may_pass and value == "pass"
        return math.isfinite(value) and value <= self.high and (value >= self.low if self.closed else value > self.low)


_SHARE = Range(0.0, 1.0, closed=False, text="a number above 0 and up to 1")
SCHEDULED: dict[KeyPath, Range] = {
    _TEMPERATURE: Range(0.0, 10.0, text="a number from 0 to 10"),
    ("engine", "top_p"): _SHARE,
    ("selection", "reward_threshold"): Range(0.0, 1.0, text='a number from 0 to 1, or "pass"', may_pass=True),
    _KEEP: _SHARE,
    ("engine", "min_p"): Range(0.0, 1.0, text="a number from 0 to 1"),
    _RATE: Range(0.0, 1.0, text="a number from 0 to 1"),
    _MASS: Range(0.0, math.inf, text="a number of at least 0"),
    _ACCUMULATION: Range(1.0, math.inf, text="a whole number of at least 1"),
    ("training", "num_train_epochs"): Range(0.0, 1000.0, closed=False, text="above 0, at most 1000"),
    ("training", "max_grad_norm"): Range(0.0, math.inf, text="a number of at least 0 (0 turns clipping off)"),
    ("training", "weight_decay"): Range(0.0, 1.0, text="a number from 0 to 1"),
    _SAMPLES: Range(1.0, math.inf, text="a whole number of at least 1"),
    ("raft", "curriculum_fraction"): _SHARE,
    ("training", "average_weight"): _SHARE,
}
"""Every scheduled key, and the allowed range of its values in each cycle."""

COUNTS = (_SAMPLES, _ACCUMULATION)
"""Scheduled keys whose values are rounded to whole numbers."""


def check_rules(config: RaftConfig) -> None:
    """Raise a pydantic error with every violated rule."""
    outside = list(_ranges(config))
    broken = {problem.path for problem in outside}
    rules = [
        _prompt_sets(config),
        _learning_rate(config),
        _metrics(config),
        _single_rules(config),
        _greedy(config, broken),
        _temperature(config, broken),
        _budgeted(config, broken),
        _counts(config, broken),
    ]
    raise_all([*outside, *itertools.chain.from_iterable(rules)])


def bounds(config: RaftConfig, path: KeyPath, cycle: int) -> tuple[Any, Any]:
    """Smallest and largest value of a scheduled key in a cycle, with counts rounded; the key must not be null."""
    low, high = value_at(config, path).bounds(cycle, config.raft.num_cycles)
    return (round(low), round(high)) if path in COUNTS else (low, high)


def value_at(config: RaftConfig, path: KeyPath) -> Any:
    """The schedule of a scheduled key; None if the key is null."""
    value: Any = config
    for part in path:
        value = getattr(value, str(part))
    return value


def _ranges(config: RaftConfig) -> Iterator[Problem]:
    for path, allowed in SCHEDULED.items():
        schedule = value_at(config, path)
        if schedule is None:
            continue
        for cycle in _cycles(config):
            try:
                values = schedule.bounds(cycle, config.raft.num_cycles)
                outside = [value for value in values if not allowed.holds(value)]
            except ValueError as error:
                yield Problem(path, f"{error} (raft.num_cycles is {config.raft.num_cycles})")
                break
            if outside:
                when = "" if schedule.kind == "constant" else f" in cycle {cycle}"
                yield Problem(path, f"found {show(outside[0])}{when}, allowed: {allowed.text}")
                break
    for path in COUNTS:
        count = value_at(config, path)
        # The values of a schedule are rounded; a constant that is not a whole number can only be a mistake.
        if count.kind == "constant" and (low := count.bounds(1, 1)[0]) >= 1 and low % 1 != 0:
            yield Problem(path, f"found {show(low)}, allowed: {SCHEDULED[path].text}")


def _prompt_sets(config: RaftConfig) -> Iterator[Problem]:
    """Sets that are the same by their names; what files hold is seen when they are read."""
    for one, other in itertools.combinations(("train", "dev", "test"), 2):
        names = [getattr(config.prompts, name) for name in (one, other)]
        if names[0] == names[1]:
            text = "a model must not be measured on what it was trained or chosen on; name another set or split"
            yield Problem(("prompts", other), text, names[1], ((("prompts", one), names[0]),))


def _learning_rate(config: RaftConfig) -> Iterator[Problem]:
    rate, mass = config.training.learning_rate, config.training.learning_rate_mass
    if rate is None and mass is None:
        yield Problem(_RATE, "found null, allowed: a number or a schedule; null only together with learning_rate_mass")
    if rate is not None and mass is not None:
        text = "the peak follows from the mass and the number of rows; keep one of the two"
        yield Problem(_MASS, text, _as_written(mass), ((_RATE, _as_written(rate)),))


def _metrics(config: RaftConfig) -> Iterator[Problem]:
    """A schedule whose metric is never measured would never change, without any sign of it."""
    for path in SCHEDULED:
        metric = getattr(value_at(config, path), "metric", None)
        if metric is None:
            continue
        place, names = (*path, "metric"), measured_names()
        samples = (("evaluation", "samples_per_prompt"), config.evaluation.samples_per_prompt)
        if (re.sub(r"@[1-9]\d*$", "@k", metric) not in names and metric not in names) or metric.endswith("@k"):
            near = difflib.get_close_matches(metric, names, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            text = "a metric (`halo-forge docs metrics`) of a prompt set (with dev/ or train/), of drift or of kept"
            yield Problem(place, f"found {show(metric)}, allowed: {text} samples{hint}")
        elif metric in drift_names() and config.evaluation.num_drift_samples == 0:
            other = (("evaluation", "num_drift_samples"), 0)
            yield Problem(place, "without drift samples it is not measured; set at least 1", metric, (other,))
        elif metric.startswith("dev/") and samples[1] < (least := fewest_samples(metric)):
            yield Problem(place, f"it needs at least {least} samples per prompt", metric, (samples,))


def _as_written(schedule: Any) -> Any:
    return schedule.setting if schedule.kind == "constant" else schedule.model_dump(exclude_unset=True)


def _single_rules(config: RaftConfig) -> Iterator[Problem]:
    evaluation = config.evaluation
    if evaluation.temperature == 0 and evaluation.samples_per_prompt > 1:
        other = (("evaluation", "samples_per_prompt"), evaluation.samples_per_prompt)
        text = f"{_GREEDY}; raise the temperature, or set evaluation.samples_per_prompt to 1"
        yield Problem(("evaluation", "temperature"), text, evaluation.temperature, (other,))
    engine = config.engine
    adapter, kind = getattr(engine, "adapter", None), engine.kind
    if config.model.quantization != "none" and (kind == "vllm" or adapter in ("vllm_runtime_lora", "none")):
        text = "the server has the full-precision weights: a different policy than the one trained; set it to none"
        if kind == "openai_server":
            text += ", or engine.adapter to merged_restart, which serves the 4-bit weights"
        sampler = (("engine", "kind"), kind) if adapter is None else (("engine", "adapter"), adapter)
        yield Problem(("model", "quantization"), text, config.model.quantization, (sampler,))
    if engine.batch_size != "auto" and engine.batch_size < 1:
        yield Problem(("engine", "batch_size"), f"found {engine.batch_size}, allowed: auto or at least 1")
    across = config.training.optimizer.across_cycles
    if config.training.start_from == "base" and across != "reset":
        base = (("training", "start_from"), "base")
        text = "the state belongs to weights that the next cycle does not start from; set across_cycles to reset"
        yield Problem(("training", "optimizer", "across_cycles"), text, across, (base,))
    if "" in engine.stop:
        yield Problem(
            ("engine", "stop"), 'found "" in it, allowed: text that is not empty; an empty string ends every completion'
        )
    try:
        learning_rate_factors(config.training.lr_scheduler_type, 10, 0, **config.training.lr_scheduler_kwargs)
    except ValueError as error:
        yield Problem(("training", "lr_scheduler_kwargs"), str(error))
    per_cycle, limit = config.raft.prompts_per_cycle, config.prompts.train_limit
    if per_cycle is not None and limit is not None and per_cycle > limit:
        text = "a cycle cannot use more prompts than there are; lower prompts_per_cycle or raise train_limit"
        yield Problem(_PER_CYCLE, text, per_cycle, ((_LIMIT, limit),))


def _temperature(config: RaftConfig, broken: set[KeyPath]) -> Iterator[Problem]:
    """Not above what the engine can sample; returns to an earlier version may add to the schedule."""
    if _TEMPERATURE in broken:
        return
    limit, decisions, raft = config.engine.max_temperature, config.decisions, config.raft
    allowed = f"allowed with engine.kind {config.engine.kind}: up to {limit:g}"
    if config.evaluation.temperature > limit:
        yield Problem(("evaluation", "temperature"), f"found {show(config.evaluation.temperature)}, {allowed}")
    schedule = config.engine.temperature
    hottest = max(schedule.bounds(cycle, raft.num_cycles)[1] for cycle in _cycles(config))
    if hottest > limit:
        yield Problem(_TEMPERATURE, f"found {show(hottest)}, {allowed}")
        return
    added = decisions.temperature_add * decisions.max_rollbacks if decisions.on_decline == "rollback" else 0.0
    if hottest + added > limit:
        others = (
            (("decisions", "temperature_add"), decisions.temperature_add),
            (("decisions", "max_rollbacks"), decisions.max_rollbacks),
        )
        yield Problem(_TEMPERATURE, f"{hottest + added:g} after all rollbacks, {allowed}", hottest, others)


def _greedy(config: RaftConfig, broken: set[KeyPath]) -> Iterator[Problem]:
    if broken & {_SAMPLES, _TEMPERATURE}:
        return
    for cycle in _cycles(config):
        wanted, hottest = bounds(config, _SAMPLES, cycle)[1], bounds(config, _TEMPERATURE, cycle)[1]
        if hottest == 0 and round(wanted) > 1:
            text = f"{_GREEDY} (cycle {cycle}); raise the temperature, or set raft.samples_per_prompt to 1"
            yield Problem(_TEMPERATURE, text, hottest, ((_SAMPLES, round(wanted)),))
            return


def _budgeted(config: RaftConfig, broken: set[KeyPath]) -> Iterator[Problem]:
    if config.raft.sampling == "uniform" or _SAMPLES in broken:
        return
    fewest = min(bounds(config, _SAMPLES, cycle)[0] for cycle in _cycles(config))
    if fewest < MIN_BUDGETED:
        text = (
            f"half of the samples decide which prompts get the rest; use {MIN_BUDGETED} or more, or sampling: uniform"
        )
        yield Problem(("raft", "sampling"), text, "budgeted", ((_SAMPLES, fewest),))


def _counts(config: RaftConfig, broken: set[KeyPath]) -> Iterator[Problem]:
    counts = {_PER_CYCLE: config.raft.prompts_per_cycle, _LIMIT: config.prompts.train_limit}
    known = {path: count for path, count in counts.items() if count is not None}
    if not known or broken & {_SAMPLES, _KEEP}:
        return  # the size of a prompt set is only known once it is read
    path = min(known, key=lambda each: known[each])
    samples = max(round(bounds(config, _SAMPLES, cycle)[1]) for cycle in _cycles(config))
    share = max(bounds(config, _KEEP, cycle)[1] for cycle in _cycles(config))
    most = config.selection.max_kept(known[path], samples, share)
    if config.raft.min_selected > most:
        others = ((path, known[path]), (_SAMPLES, samples))
        text = (
            f"a cycle selects at most {counted(most, 'sample')}, so every cycle would stop; lower min_selected, or"
            " sample more"
        )
        yield Problem(("raft", "min_selected"), text, config.raft.min_selected, others)


def _cycles(config: RaftConfig) -> range:
    return range(1, config.raft.num_cycles + 1)
