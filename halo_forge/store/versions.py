"""What a run measured of each of its versions, prompt by prompt, and what each version cost to make.

Only sealed stages are read, so a running or stopped run shows the versions it has measured so far.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from halo_forge.core.evaluation import COMPARED
from halo_forge.core.metrics.compare import verdict_totals, verdicts_are_tested
from halo_forge.core.records import MASS, Verdict
from halo_forge.store.files import as_written, read_json, read_jsonl
from halo_forge.store.run import FILE_PREFIX, cycle_folders, version_folders

PromptTotals = Mapping[str, tuple[float, int]]
"""Prompt id -> (sum over its judged samples, their number)."""
_TRAINED_ON = ("train", "further", "rollback")
"""Sets of samples that a cycle selects from."""


@dataclass(frozen=True, slots=True)
class StoredVersion:
    """One measured policy version.

    Attributes:
        cycle: The cycle that measured it.
        learning_rate_mass: Of all trainings that lead to it from the start model.
        sampled_tokens: Sampled from train prompts in all cycles before, whether they were trained on or not.
        totals: "dev/pass_rate", "test/reward_mean" ... -> its totals by prompt; test only of versions measured there.
        metrics: All that was measured of it, see docs/metrics.md.
    """

    version: int
    learning_rate_mass: float
    sampled_tokens: int
    totals: Mapping[str, PromptTotals]
    metrics: Mapping[str, float]

    @property
    def cycle(self) -> int:
        """The cycle that measured it."""
        return self.version + 1

    def rates(self, metric: str) -> dict[str, float]:
        """Prompt id -> its mean value of a metric; empty where it was not measured."""
        return {prompt: total / num for prompt, (total, num) in self.totals.get(metric, {}).items()}

    def mean(self, metric: str) -> float | None:
        """Over prompts; None where it was not measured."""
        rates = self.rates(metric)
        return sum(rates.values()) / len(rates) if rates else None


def stored_versions(root: Path) -> list[StoredVersion]:
    """All versions whose dev samples are judged, v_0 first.

    Raises:
        RunDirError: A file cannot be read, or is not what halo-forge wrote.
    """
    found: list[StoredVersion] = []
    masses: dict[int, float] = {0: 0.0}
    tests = {int(folder.name[1:]): folder for folder in version_folders(root, "test")}
    num_tokens = 0
    for folder in cycle_folders(root):
        version = int(folder.name) - 1
        measurement = folder / "measurement.json"
        if version not in masses or not measurement.is_file():
            break
        totals = _totals(folder / f"{FILE_PREFIX['dev']}verdicts.jsonl", "dev")
        metrics = _metrics(measurement)
        if version in tests:
            totals |= _totals(tests[version] / "verdicts.jsonl", "test")
            metrics |= _metrics(tests[version] / "measurement.json")
        found.append(StoredVersion(version, masses[version], num_tokens, totals, metrics))
        num_tokens += sum(_num_tokens(folder / f"{FILE_PREFIX[name]}completions.jsonl") for name in _TRAINED_ON)
        if (folder / "trained.json").is_file():
            masses[version + 1] = _mass(folder) + masses[_parent(folder)]
    return found


def chosen_version(root: Path) -> int | None:
    """The version to keep: of the result, else as of the latest decision; None before there is one.

    Raises:
        RunDirError: A file cannot be read, or is not what halo-forge wrote.
    """
    sources = [(root / "result.json", "chosen_version")]
    sources += [(folder / "decision.json", "best_version") for folder in reversed(cycle_folders(root))]
    for path, key in sources:
        if path.is_file():
            with as_written(path):
                return int(read_json(path)[key])
    return None


def _totals(path: Path, set_name: str) -> dict[str, PromptTotals]:
    rows = read_jsonl(path) if path.is_file() else []
    with as_written(path):
        verdicts = [Verdict.from_row(row) for row in rows]
    tested = verdicts_are_tested(verdicts)
    names = [name for name in COMPARED if name != "pass_rate" or tested]
    totals = {f"{set_name}/{name}": verdict_totals(verdicts, COMPARED[name]) for name in names}
    return {name: of_prompts for name, of_prompts in totals.items() if of_prompts}


def _metrics(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    with as_written(path):
        return dict(read_json(path)["metrics"])


def _num_tokens(path: Path) -> int:
    rows = read_jsonl(path) if path.is_file() else []
    with as_written(path):
        return sum(len(row["token_ids"]) for row in rows)


def _mass(folder: Path) -> float:
    with as_written(folder / "trained.json"):
        return float(read_json(folder / "trained.json")["metrics"][MASS])


def _parent(folder: Path) -> int:
    with as_written(folder / "settings.json"):
        return int(read_json(folder / "settings.json")["parent_version"])
