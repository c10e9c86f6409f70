"""What earlier runs say about a planned one: how much its results vary, and how long it takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from halo_forge.checks.arms import MeasuredRun, measured_run
from halo_forge.core.power import Variation, intraclass_correlation
from halo_forge.core.statistics import clustered_rate
from halo_forge.core.wording import counted
from halo_forge.experiments.file import Experiment
from halo_forge.runtime.assembly import run_config
from halo_forge.store.files import as_written, read_json, read_jsonl
from halo_forge.store.run import cycle_folders
from halo_forge.store.shared import saved_by
from halo_forge.store.status import read_status

ASSUMED = "assumed"


@dataclass(frozen=True)
class Known:
    """A number and where it comes from: a run, the experiment file, or an assumption."""

    value: float
    source: str


@dataclass(frozen=True)
class Speed:
    """How fast a run was, everything included: sampling, checking, measuring drift and training.

    Attributes:
        seconds_per_completion: Of all completions in its cycles, those of dev included.
        tokens_per_completion: Sampled, mean over the same.
        profile: The hardware profile it ran on.
    """

    seconds_per_completion: float
    tokens_per_completion: float
    profile: str
    source: str


def earlier_runs(experiment: Experiment, like: Sequence[Path]) -> list[MeasuredRun]:
    """The runs that are named, the one that is forked if it is still there, and those of the experiment itself, as far
    as they measured something.

    Raises:
        RunDirError: A named directory is not a run, or a file of it cannot be read.
    """
    roots = [*like, *(() if experiment.fork is None or experiment.fork_is_gone else (experiment.fork.run,))]
    roots += [
        root for arm, seed in experiment.runs() if ((root := experiment.run_root(arm, seed)) / "run.json").is_file()
    ]
    runs = [measured_run(root, run_config(root).config) for root in dict.fromkeys(roots)]
    return [run for run in runs if run.versions]


def variation_of(experiment: Experiment, name: str, runs: Sequence[MeasuredRun]) -> dict[str, Known]:
    """The fields of `Variation` for a metric: as the file says, else as the start model measured, else assumed.

    v_0's dev completions of several seeds are asked of the same model, so they count together.

    Args:
        name: pass_rate, compile_rate or reward_mean.
    """
    given, default = experiment.assumptions, Variation()
    found = {
        "rate": Known(default.rate, ASSUMED),
        "intraclass_correlation": Known(default.intraclass_correlation, ASSUMED),
        "effect_sd": Known(default.effect_sd, ASSUMED),
        "seed_sd": Known(default.seed_sd, ASSUMED),
    }
    found |= _measured(name, runs)
    stated = {"rate": given.rate, "intraclass_correlation": given.icc, "seed_sd": given.seed_standard_deviation}
    return found | {key: Known(value, "the experiment file") for key, value in stated.items() if value is not None}


def _measured(name: str, runs: Sequence[MeasuredRun]) -> Iterator[tuple[str, Known]]:
    """Rate and intraclass correlation of the start model on dev."""
    alike = [
        run
        for run in {run.seed: run for run in reversed(runs)}.values()
        if (run.start_model, run.prompts["dev"]) == (runs[0].start_model, runs[0].prompts["dev"])
    ]
    asked = [totals for run in alike if (totals := run.versions[0].totals.get(f"dev/{name}"))]
    if not asked:
        return
    source = f"v0 on dev in {runs[0].root}, asked {counted(len(asked), 'time')}"
    together = _together(asked)
    means = [total / num for total, num in together.values()]
    yield "rate", Known(sum(means) / len(means), source)
    if name == "reward_mean":
        # Rewards lie between levels: the correlation of passing, or of compiling, stands for theirs.
        asked = [
            run.versions[0].totals.get("dev/pass_rate") or run.versions[0].totals["dev/compile_rate"] for run in alike
        ]
        together = _together(asked)
    correlation = intraclass_correlation(clustered_rate([(round(total), num) for total, num in together.values()]))
    if correlation is not None:
        yield "intraclass_correlation", Known(correlation, source)


def _together(asked: Sequence[Mapping[str, tuple[float, int]]]) -> dict[str, tuple[float, int]]:
    """Prompt id -> sum and number over all times that it was asked."""
    found: dict[str, tuple[float, int]] = {}
    for totals in asked:
        for prompt, (total, num) in totals.items():
            before = found.get(prompt, (0.0, 0))
            found[prompt] = before[0] + total, before[1] + num
    return found


def speed_of(runs: Sequence[MeasuredRun], model: Mapping[str, object], profile: str) -> Speed | None:
    """How fast the first run with this model and hardware profile was; None where no such run is known."""
    for run in runs:
        if run.settings["model"] == model and (found := _speed(run)) is not None and found.profile == profile:
            return found
    return None


def _speed(run: MeasuredRun) -> Speed | None:
    seconds, num, tokens = 0.0, 0, 0
    for row in read_status(run.root, len(run.versions)).cycles:
        seconds += sum(value for key, value in row.metrics.items() if key.startswith("seconds/"))
    folders = cycle_folders(run.root)
    seconds += _seconds_elsewhere(run.root, {folder.name for folder in folders})
    for folder in folders:
        for path in folder.glob("*completions.jsonl"):
            rows = read_jsonl(path)
            num += len(rows)
            with as_written(path):
                tokens += sum(len(row["token_ids"]) for row in rows)
    identity = run.root / "run.json"
    with as_written(identity):
        profile = str(read_json(identity)["hardware"]["profile"])
    return Speed(seconds / num, tokens / num, profile, str(run.root)) if num and seconds > 0.0 else None


def _seconds_elsewhere(root: Path, cycles: Set[str]) -> float:
    """What single files of these cycles took where they were made, in other runs; whole cycles have their times."""
    path = root / "events.jsonl"
    events = read_jsonl(path) if path.is_file() else []
    with as_written(path):
        taken = [event for event in events if event["event"] == "shared" and event["of"] in cycles]
        return saved_by(event for event in taken if event["file"] != "*").seconds
