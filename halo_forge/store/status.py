"""The state of a run, read from its directory: progress, and one row per cycle.

Everything is read from the sealed files and events.jsonl, in the same way for a running, a killed and a finished run.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from halo_forge.core.advice import Advised
from halo_forge.core.errors import RunDirError
from halo_forge.core.evaluation import Result
from halo_forge.core.metrics import CostFacts, measure_cost
from halo_forge.core.metrics.cost import GPU
from halo_forge.core.records import (
    Decision,
    Measurement,
    Record,
    SamplingSettings,
    Selection,
    SelectionSettings,
    Trained,
    TrainingSettings,
)
from halo_forge.store.files import as_written, read_json, read_jsonl
from halo_forge.store.lock import writing_process
from halo_forge.store.run import FILE_PREFIX, cycle_folder
from halo_forge.store.shared import Saved, read_saved

PHASE_OF = {
    "completions": "generate",
    "verdicts": "verify",
    "second_verdicts": "verify",
    "drift": "drift",
    "trained": "train",
}

EARLIER_WORDS = (
    "(a run of an earlier halo-forge: what it calls improved was ahead by one standard error on dev, and was not"
    " confirmed)"
)
"""What is said of the words of a run of schema 2."""

SHOWN: dict[str, type[Record]] = {
    "measurement": Measurement,
    "trained": Trained,
    "decision": Decision,
    "advice": Advised,
    "sampling": SamplingSettings,
    "rollback_sampling": SamplingSettings,
    "selection_settings": SelectionSettings,
    "settings": TrainingSettings,
    "selection": Selection,
}
"""Stage -> what its file holds."""

COUNTED = {"num_gpu_readings", *GPU}
"""Fields of the event `resources`: readings of the GPU's sensors, and their number."""


@dataclass
class CycleRow:
    """One row: the measurements of v_{cycle-1}, and the training of cycle `cycle`.

    Attributes:
        metrics: Names of docs/metrics.md -> values; costs are those of docs/metrics.md, summed over attempts.
        decision: The cycle's decision.json; empty until then.
        advice: The rows of the cycle's advice.json.
    """

    cycle: int
    policy_version: int
    state: str
    metrics: dict[str, float] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    num_kept: int | None = None
    decision: dict[str, Any] = field(default_factory=dict)
    advice: list[dict[str, str]] = field(default_factory=list)


@dataclass
class Status:
    """A whole run.

    Attributes:
        saved: What it took from other runs.
        state: "finished", or how far it is, such as "cycle 2 of 6: completions: 143 so far".
        process: The process that is working on it; None where nobody is.
        num_overlong: Prompts that `prompts.overlong` leaves out.
    """

    root: str
    state: str
    process: int | None
    num_cycles: int
    cycles: list[CycleRow]
    best_version: int | None
    best_adapter: str | None
    result: dict[str, Any] | None
    num_overlong: int = 0
    saved: Saved = Saved()  # noqa: RUF009 -- it is frozen

    @property
    def latest_advice(self) -> list[dict[str, str]]:
        """The advice about the latest measured version; earlier advice may no longer apply."""
        measured = [row for row in self.cycles if row.decision]
        return measured[-1].advice if measured else []

    def to_row(self) -> dict[str, Any]:
        """As plain JSON data."""
        return asdict(self)


def read_status(root: Path, num_cycles: int) -> Status:
    """The status of the run in `root`.

    Raises:
        RunDirError: The directory holds no run.
    """
    if not (root / "run.json").is_file():
        raise RunDirError(
            f"{root}: not a run directory of halo-forge", "name the output_dir of a run (it holds run.json)"
        )
    with as_written(root / "events.jsonl"):
        costs = _costs(root / "events.jsonl")
        num_overlong = _num_overlong(root / "events.jsonl")
    cycles = []
    for cycle in range(1, num_cycles + 2):
        folder = cycle_folder(root, cycle)
        if not folder.is_dir():
            break
        with as_written(folder):
            cycles.append(_cycle_row(folder, cycle, costs[folder.name]))
    result = _checked(root / "result.json", Result) if (root / "result.json").is_file() else None
    decided = [row for row in cycles if row.decision]
    best = None
    if decided:
        with as_written(cycle_folder(root, decided[-1].cycle) / "decision.json"):
            best = decided[-1].decision["best_version"]
    return Status(
        root=str(root),
        state="finished" if result is not None else _state(root, cycles, num_cycles),
        process=writing_process(root),
        num_cycles=num_cycles,
        cycles=cycles,
        best_version=best,
        best_adapter=str(cycle_folder(root, best) / "adapter") if best else None,
        result=result,
        num_overlong=num_overlong,
        saved=read_saved(root),
    )


def _cycle_row(folder: Path, cycle: int, cost: CostFacts) -> CycleRow:
    row = CycleRow(cycle, cycle - 1, _cycle_state(folder))
    found = {name: _checked(path, kind) for name, kind in SHOWN.items() if (path := folder / f"{name}.json").is_file()}
    for name in ("measurement", "trained"):
        row.metrics |= found[name]["metrics"] if name in found else {}
    row.decision = found.get("decision", {})
    row.advice = found["advice"]["advice"] if "advice" in found else []
    for name in ("sampling", "rollback_sampling", "selection_settings", "settings"):
        row.settings |= found.get(name, {})
    if "selection" in found:
        row.num_kept = len(found["selection"]["kept"])
    if "num_tokens" in row.metrics:
        cost = replace(cost, tokens={**cost.tokens, "train": int(row.metrics["num_tokens"])})
    row.metrics |= measure_cost(cost)
    return row


def _checked(path: Path, kind: type[Record]) -> dict[str, Any]:
    """The JSON object in a stage's file, with values that can be shown; runs of another schema may lack some."""
    row = read_json(path)
    if kind is Decision and row.get("outcome") == "improved":
        row["outcome"] = "ahead"  # runs of schema 2 called a version improved that was ahead
    with as_written(path):
        kind.check_row(row)
    return row


def _cycle_state(folder: Path) -> str:
    if (folder / "report.json").is_file():
        return "done"
    decision = folder / "decision.json"
    if decision.is_file() and read_json(decision).get("action") in ("stop", "finish"):
        return "done"
    for stage in ("completions", "verdicts", "second_verdicts"):
        prefixes = [""] if stage == "second_verdicts" else sorted(set(FILE_PREFIX.values()))
        parts = [path for prefix in prefixes if (path := folder / f"{prefix}{stage}.jsonl.part").is_file()]
        if parts:
            num_lines = sum(part.read_bytes().count(b"\n") for part in parts)
            return f"{stage.replace('_', ' ')}: {num_lines} so far"
    sealed = [path for path in folder.glob("*.json*") if not path.name.startswith(".")]
    return f"{max(sealed, key=lambda path: path.lstat().st_mtime).stem} done" if sealed else "starting"


def _state(root: Path, cycles: list[CycleRow], num_cycles: int) -> str:
    if not cycles:
        return "not started"
    last = cycles[-1]
    name = f"cycle {last.cycle} of {num_cycles}" if last.cycle <= num_cycles else "final evaluation"
    if last.decision.get("action") in ("stop", "finish"):
        return "final comparison"
    if last.state == "done":
        return f"{name} done"
    return f"{name}: {last.state}"


def _num_overlong(path: Path) -> int:
    """As the latest attempt recorded it; 0 where an earlier version recorded nothing."""
    attempts = [event for event in read_jsonl(path) if event["event"] == "attempt_started"] if path.is_file() else []
    return len(attempts[-1].get("overlong_dropped", {})) if attempts else 0


def _costs(path: Path) -> defaultdict[str, CostFacts]:
    """Folder name -> the cost of its stages, summed over all attempts."""
    seconds: defaultdict[str, defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))
    tokens: defaultdict[str, defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))
    memory: dict[str, int] = {}
    gpu: defaultdict[str, dict[str, float]] = defaultdict(dict)
    begun: dict[str, datetime] = {}
    for event in read_jsonl(path) if path.is_file() else ():
        if event["event"] == "attempt_started":
            begun.clear()
        elif event["event"] == "resources":
            # A resumed run passes through its finished cycles again, with less memory than they needed.
            name = f"{event['cycle']:03d}"
            memory[name] = max(memory.get(name, 0), event["peak_memory_bytes"])
            if event.get("num_gpu_readings", 0) > gpu[name].get("num_gpu_readings", 0):
                gpu[name] = {key: value for key, value in event.items() if key in COUNTED}
        elif event["event"] == "superseded":
            for name in [name for name in seconds if name.isdigit() and int(name) >= event["from_cycle"]]:
                del seconds[name]
                tokens.pop(name, None)  # absent if the attempt died during sampling
        elif "folder" in event:
            folder, now = event["folder"], datetime.fromisoformat(event["time"])
            # The time between two events of a folder belongs to it, because cycles follow each other.
            seconds[folder]["other"] += (now - begun.get(folder, now)).total_seconds()
            begun[folder] = now
            phase = PHASE_OF.get(event["stage"])
            if phase is not None and "seconds" in event:
                seconds[folder][phase] += event["seconds"]
                seconds[folder]["other"] -= event["seconds"]
                if phase == "generate":
                    tokens[folder][phase] += event.get("num_tokens", 0)
    return defaultdict(
        CostFacts,
        {
            folder: CostFacts(
                {phase: round(max(value, 0.0), 3) for phase, value in phases.items()},
                tokens[folder],
                memory.get(folder),
                {key: value for key, value in gpu[folder].items() if key in GPU},
            )
            for folder, phases in seconds.items()
        },
    )
