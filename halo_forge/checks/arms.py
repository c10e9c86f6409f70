"""Runs read for a comparison: arms of one or more seeds, the version that each run is judged by, and what differs.

An arm is a set of runs that differ only in their seed.  Nothing is sampled and no program is run: everything is in the
run directories.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from halo_forge.config import RaftConfig
from halo_forge.config.load import differing_keys, influential
from halo_forge.core.comparison import Estimate, estimate
from halo_forge.store.files import as_written, read_json
from halo_forge.store.status import read_status
from halo_forge.store.versions import StoredVersion, chosen_version, stored_versions

At = Literal["final", "chosen", "peak", "fall", "equal_mass", "equal_tokens"]
"""The version of a run: the last one; the one to keep; the one with the best dev value; the peak's value less the last
one's; the last one within the learning-rate mass, or within the sampled tokens, that both runs have spent."""

_MEASURED_BY = (
    "evaluation.temperature",
    "evaluation.top_p",
    "engine.max_new_tokens",
    "engine.top_k",
    "engine.stop",
    "prompts.system_prompt",
    "prompts.response_prefix",
    "verifier",
)
"""Keys that decide what a rate means: two runs that differ in one of them are not measured alike."""
_NOT_MEASURED_BY = ("verifier.rerun_kept", "verifier.max_error_fraction")
_REWARDS = "verifier.rewards"
"""It decides what a reward means, and not whether a program compiles or passes."""


class NotComparable(Exception):
    """Two runs, or two arms, cannot be compared by this metric; the message says why."""


@dataclass(frozen=True)
class MeasuredRun:
    """One run directory, as far as a comparison looks at it.

    Attributes:
        settings: Everything that its results depend on, without the seed.
        prompts: "train", "dev", "test" -> digest of the prompts.
        state: As `raft status` says it.
        versions: Those that are measured, v_0 first.
        chosen: The version to keep, as of now; None before the first decision.
    """

    root: Path
    seed: int
    settings: Mapping[str, Any]
    prompts: Mapping[str, Any]
    start_model: Mapping[str, Any]
    decided_by: str
    state: str
    is_finished: bool
    versions: Sequence[StoredVersion]
    chosen: int | None


@dataclass(frozen=True)
class MeasuredArm:
    """Runs that differ only in their seed."""

    name: str
    runs: Mapping[int, MeasuredRun]

    @property
    def first(self) -> MeasuredRun:
        """The run of the lowest seed."""
        return self.runs[min(self.runs)]


def measured_run(root: Path, config: RaftConfig) -> MeasuredRun:
    """Read the run in `root`, which has this configuration.

    Raises:
        RunDirError: A file cannot be read, or is not what halo-forge wrote.
    """
    settings = influential(config)
    del settings["seed"]
    status = read_status(root, config.raft.num_cycles)
    identity = read_json(root / "run.json")
    with as_written(root / "run.json"):
        prompts, start_model = dict(identity["prompts"]), dict(identity["start_model"])
    return MeasuredRun(
        root=root,
        seed=config.seed,
        settings=settings,
        prompts=prompts,
        start_model=start_model,
        decided_by=config.decisions.metric.removeprefix("dev/"),
        state=status.state,
        is_finished=status.result is not None,
        versions=stored_versions(root),
        chosen=chosen_version(root),
    )


def differing_settings(runs: Sequence[MeasuredRun]) -> list[tuple[str, list[Any]]]:
    """(dotted key, its value in each run) of every key in which the runs differ, the seed left out; None if absent."""
    first = runs[0].settings
    found: dict[str, list[Any]] = {}
    for at, run in enumerate(runs[1:], start=1):
        for key, before, after in differing_keys(first, run.settings):
            found.setdefault(key, [before] * len(runs))[at] = after
    return list(found.items())


def why_not_comparable(metric: str, runs: Sequence[MeasuredRun]) -> list[str]:
    """Why `metric` does not mean the same in all runs; nothing if it does."""
    first, set_name = runs[0], metric.partition("/")[0]
    found = dict.fromkeys(
        f"their {set_name} prompts differ" for run in runs if run.prompts.get(set_name) != first.prompts.get(set_name)
    )
    keys = [key for key, _ in differing_settings(runs) if decides(key, metric)]
    return [*found, *(f"{key} differs" for key in keys)]


def decides(key: str, metric: str) -> bool:
    """Whether two runs that differ in this dotted key of their settings measure `metric` in unlike ways."""

    def is_below(name: str) -> bool:
        return key == name or key.startswith(f"{name}.")

    if is_below(_REWARDS):
        return metric.endswith("reward_mean")
    return any(map(is_below, _MEASURED_BY)) and not any(map(is_below, _NOT_MEASURED_BY))


def compare_arms(treatment: MeasuredArm, control: MeasuredArm, metric: str, at: At) -> Estimate:
    """The treatment less the control by one metric, at one version of each run.

    Raises:
        NotComparable: They are not measured alike, or a run has not measured this.
    """
    if reasons := why_not_comparable(metric, [*control.runs.values(), *treatment.runs.values()]):
        raise NotComparable(f"{metric} does not mean the same in both: {'; '.join(reasons)}")
    budget = shared_budget([treatment, control], at)
    values = [
        {seed: prompt_values(run, metric, at, budget) for seed, run in arm.runs.items()} for arm in (treatment, control)
    ]
    try:
        return estimate(*values)
    except ValueError as error:
        raise NotComparable(str(error)) from error


def shared_budget(arms: Sequence[MeasuredArm], at: At) -> float | None:
    """What every run of these arms has spent, for `equal_mass` and `equal_tokens`; None for the others.

    Raises:
        NotComparable: A run has not measured any version.
    """
    if at not in ("equal_mass", "equal_tokens"):
        return None
    return min(_spent(_last(run), at) for arm in arms for run in arm.runs.values())


def version_at(run: MeasuredRun, metric: str, at: At, budget: float | None = None) -> StoredVersion:
    """The version of a run that `at` names; of `fall` the peak.

    Raises:
        NotComparable: There is none yet.
    """
    if at in ("peak", "fall"):
        measured = [each for each in run.versions if each.mean(metric) is not None]
        if not measured:
            raise NotComparable(f"{run.root}: no version is measured on {metric}")
        return max(measured, key=lambda each: (each.mean(metric), -each.version))
    if at == "chosen":
        if run.chosen is None or run.chosen >= len(run.versions):
            raise NotComparable(f"{run.root}: no version is chosen yet")
        return run.versions[run.chosen]
    last = _last(run)
    if budget is None:
        return last
    return max(
        (each for each in run.versions if _spent(each, at) <= budget * (1.0 + 1e-9)), key=lambda each: each.version
    )


def prompt_values(run: MeasuredRun, metric: str, at: At, budget: float | None = None) -> dict[str, float]:
    """Prompt id -> what the version that `at` names measured of it, or how far it fell since.

    Raises:
        NotComparable: The version is not measured on this metric.
    """
    version = version_at(run, metric, at, budget)
    values = version.rates(metric)
    if not values:
        what = "the test prompts are measured at the end of a run" if metric.startswith("test/") else "it has no tests"
        raise NotComparable(f"{run.root}: v{version.version} is not measured on {metric}: {what}")
    if at != "fall":
        return values
    last = _last(run).rates(metric)
    return {prompt: value - last[prompt] for prompt, value in values.items() if prompt in last}


def _last(run: MeasuredRun) -> StoredVersion:
    if not run.versions:
        raise NotComparable(f"{run.root}: no version is measured yet ({run.state})")
    return run.versions[-1]


def _spent(version: StoredVersion, at: At) -> float:
    return version.learning_rate_mass if at == "equal_mass" else float(version.sampled_tokens)


def arms_of(runs: Sequence[MeasuredRun]) -> list[MeasuredArm]:
    """The runs in arms: those with equal settings, in the order in which they are given.

    A second run of the same settings and seed is an arm of its own.
    """
    groups: list[dict[int, MeasuredRun]] = []
    for run in runs:
        for group in groups:
            first = next(iter(group.values()))
            if run.seed not in group and (run.settings, run.start_model, run.prompts) == (
                first.settings,
                first.start_model,
                first.prompts,
            ):
                group[run.seed] = run
                break
        else:
            groups.append({run.seed: run})
    return [MeasuredArm(name, group) for name, group in zip(_names(groups), groups, strict=True)]


def _names(groups: Sequence[Mapping[int, MeasuredRun]]) -> list[str]:
    """The ends of the arms' paths, as long as they need to be to differ; a path that is there again is numbered."""
    paths = [_folder(group) for group in groups]
    distinct = list(dict.fromkeys(paths))
    lengths = range(1, max(len(path.parts) for path in distinct) + 1)
    ends = [{path: "/".join(path.parts[-length:]) for path in distinct} for length in lengths]
    names = next(each for each in ends if len(set(each.values())) == len(distinct))
    found = []
    for at, path in enumerate(paths):
        before = paths[:at].count(path)
        found.append(f"{names[path]} ({before + 1})" if before else names[path])
    return found


def _folder(group: Mapping[int, MeasuredRun]) -> Path:
    """The folder that an arm is named after: of its run, or where an experiment keeps all its seeds."""
    roots = [run.root for run in group.values()]
    parents = {root.parent for root in roots}
    seeds = all(root.name == f"seed-{run.seed}" for root, run in zip(roots, group.values(), strict=True))
    return next(iter(parents)) if seeds and len(parents) == 1 else roots[0]


def remarks_on(arms: Sequence[MeasuredArm]) -> Iterator[str]:
    """What a reader of a comparison of these arms must know of their runs."""
    runs = [run for arm in arms for run in arm.runs.values()]
    for run in runs:
        if not run.is_finished:
            reached = f"v{run.versions[-1].version}" if run.versions else "nothing"
            yield f"{run.root} is not finished ({run.state}): measured so far: {reached}"
    roots: dict[Path, int] = {}
    for run in runs:
        roots[run.root.resolve()] = roots.get(run.root.resolve(), 0) + 1
    yield from (f"{root} is given {number} times" for root, number in roots.items() if number > 1)
    if any(run.start_model != runs[0].start_model for run in runs):
        yield "they do not start from the same model: a difference is not one of training alone"
