"""The stored verdicts of a run, scored again under other rewards: reads the run's files, runs and changes nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from halo_forge.config import RaftConfig, differing_keys, load_config, resolved
from halo_forge.core.errors import ConfigError, RunDirError
from halo_forge.core.records import Measurement, Selection, Threshold, Verdict
from halo_forge.store.files import EDITED, read_json, read_jsonl
from halo_forge.store.run import cycle_folder
from halo_forge.verifiers.rewards import Rewards, reward

Value = TypeVar("Value", Verdict, Selection, Measurement)

_FORMS: dict[type, TypeAdapter[Any]] = {kind: TypeAdapter(kind) for kind in (Verdict, Selection, Measurement)}
_MAY_CHANGE = ("verifier.rewards", "selection.reward_threshold")


@dataclass(frozen=True, slots=True)
class Rescored:
    """One file of verdicts under the run's own rewards and under others.

    Attributes:
        name: "train", "dev" or "test".
        cycle: Its number; None for test.
        num_verdicts: Verdicts that count; `num_errors`, failures of the verifier itself, are in no other number.
        num_changed: Verdicts whose reward is another.
        threshold_old, threshold_new: The reward threshold of that cycle; None where nothing is selected.
        num_above_old, num_above_new: Verdicts that reach it, before every other rule of selection.
        reward_mean_old, reward_mean_new: In [0, 1]; None without a verdict that counts.
    """

    name: str
    cycle: int | None
    policy_version: int
    num_verdicts: int
    num_errors: int
    num_changed: int
    reward_mean_old: float | None
    reward_mean_new: float | None
    threshold_old: Threshold | None
    threshold_new: Threshold | None
    num_above_old: int | None
    num_above_new: int | None

    def to_row(self) -> dict[str, Any]:
        """As plain JSON data."""
        return asdict(self)


def changed_config(root: Path, old: RaftConfig, overrides: Iterable[str]) -> RaftConfig:
    """The run's configuration with other rewards.

    Raises:
        ConfigError: Nothing is changed, or something else than rewards and the reward threshold.
    """
    new = load_config(root / "config.resolved.yaml", overrides).config
    keys = [key for key, _, _ in differing_keys(resolved(old), resolved(new)) if key != "output_dir"]
    other = [key for key in keys if not key.startswith(_MAY_CHANGE)]
    if other:
        raise ConfigError(
            f"--rescore: {', '.join(other)} cannot be changed: programs would have to be verified or sampled again",
            "set verifier.rewards.* or selection.reward_threshold only; for other limits use `halo-forge verify CONFIG"
            " FILE...` on the run's completions.jsonl",
        )
    if not keys:
        raise ConfigError("--rescore: no reward is changed", "add --set verifier.rewards.compiles=0.4, for example")
    return new


def rescore(root: Path, old: RaftConfig, new: RaftConfig) -> list[Rescored]:
    """Train and dev verdicts of every row, then those of the test prompts, as far as the run has come.

    Raises:
        RunDirError: The run holds no verdicts yet, or its files cannot be read.
    """
    found: list[Rescored] = []
    history: list[dict[str, float]] = []
    for cycle in range(1, old.raft.num_cycles + 2):
        folder = cycle_folder(root, cycle)
        if (folder / "measurement.json").is_file():
            history.append(dict(_read(Measurement, folder / "measurement.json").metrics))
        thresholds = _thresholds(folder, cycle, old, new, history)
        for name, file in (("train", "verdicts.jsonl"), ("dev", "dev_verdicts.jsonl")):
            if (folder / file).is_file():
                asked = thresholds if name == "train" else (None, None)
                read = list(_verdicts(folder / file))
                found.append(_rescored(name, cycle, cycle - 1, read, new.verifier.rewards, *asked))
    for path in sorted((root / "test").glob("*/verdicts.jsonl")):
        verdicts = list(_verdicts(path))
        version = verdicts[0].policy_version if verdicts else 0
        found.append(_rescored("test", None, version, verdicts, new.verifier.rewards, None, None))
    if not found:
        raise RunDirError(f"{root}: the run holds no verdicts yet", "wait until its first cycle is verified")
    return found


def _thresholds(
    folder: Path, cycle: int, old: RaftConfig, new: RaftConfig, history: Sequence[dict[str, float]]
) -> tuple[Threshold | None, Threshold | None]:
    if not (folder / "selection.json").is_file():
        return None, None
    before = _read(Selection, folder / "selection.json").threshold
    if new.selection.reward_threshold == old.selection.reward_threshold:
        return before, before
    return before, new.selection.reward_threshold.value(cycle, old.raft.num_cycles, history)


def _verdicts(path: Path) -> Iterator[Verdict]:
    for number, row in enumerate(read_jsonl(path), start=1):
        verdict = _valid(Verdict, row, f"{path}:{number}")
        if not (0.0 <= verdict.reward <= 1.0 and 0 <= verdict.tests_passed <= verdict.tests_total):
            found = f"reward {verdict.reward}, {verdict.tests_passed} of {verdict.tests_total} tests"
            raise RunDirError(f"{path}:{number}: impossible verdict: {found}", EDITED)
        yield verdict


def _read(kind: type[Value], path: Path) -> Value:
    return _valid(kind, read_json(path), str(path))


def _valid(kind: type[Value], row: Mapping[str, Any], where: str) -> Value:
    unknown = sorted(row.keys() - {field.name for field in fields(kind)})
    if unknown:
        raise RunDirError(f"{where}: {kind.__name__} has no {unknown[0]!r}", EDITED)
    try:
        # Through JSON, where a list is a tuple and nothing else is taken for what it is not.
        value: Value = _FORMS[kind].validate_json(json.dumps(row), strict=True)
        return value
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise RunDirError(f"{where}: {key}: {first['msg']}, found {str(first['input'])[:80]!r}", EDITED) from error


def _rescored(
    name: str,
    cycle: int | None,
    version: int,
    verdicts: Sequence[Verdict],
    rewards: Rewards,
    before: Threshold | None,
    after: Threshold | None,
) -> Rescored:
    counted = [verdict for verdict in verdicts if verdict.status != "error"]
    old = [verdict.reward for verdict in counted]
    new = [reward(verdict, rewards) for verdict in counted]
    return Rescored(
        name=name,
        cycle=cycle,
        policy_version=version,
        num_verdicts=len(counted),
        num_errors=len(verdicts) - len(counted),
        num_changed=sum(a != b for a, b in zip(old, new, strict=True)),
        reward_mean_old=sum(old) / len(old) if old else None,
        reward_mean_new=sum(new) / len(new) if new else None,
        threshold_old=before,
        threshold_new=after,
        num_above_old=_num_above(counted, old, before),
        num_above_new=_num_above(counted, new, after),
    )


def _num_above(verdicts: Sequence[Verdict], rewards: Sequence[float], threshold: Threshold | None) -> int | None:
    if threshold is None:
        return None
    if threshold == "pass":
        return sum(verdict.passed for verdict in verdicts)
    return sum(value >= threshold for value in rewards)
