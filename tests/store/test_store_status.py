"""What a run directory says about itself at any moment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from halo_forge.core.errors import RunDirError
from halo_forge.store.files import write_json
from halo_forge.store.status import read_status


def put(root: Path, files: dict[str, Any]) -> Path:
    """Files by name; a dict is JSON, a list is the lines of a JSONL file."""
    for name, value in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(value, list):
            path.write_text("".join(json.dumps(row) + "\n" for row in value))
        else:
            write_json(path, value)
    return root


def cycle_files(cycle: int, *, rate: float, best: int, report: bool = True) -> dict[str, Any]:
    folder = f"cycles/{cycle:03d}"
    found: dict[str, Any] = {
        f"{folder}/sampling.json": {"cycle": cycle, "temperature": 0.8},
        f"{folder}/measurement.json": {"metrics": {"dev/pass_rate": rate}},
        f"{folder}/decision.json": {"best_version": best, "action": "continue" if report else "finish"},
    }
    if report:
        found |= {
            f"{folder}/selection_settings.json": {"reward_threshold": "pass"},
            f"{folder}/settings.json": {"learning_rate": 1e-4},
            f"{folder}/selection.json": {"kept": [["a", 0], ["b", 1]]},
            f"{folder}/trained.json": {"metrics": {"optimizer_steps": 2.0, "num_tokens": 300.0}},
            f"{folder}/report.json": {},
        }
    return found


RUN: dict[str, Any] = {"run.json": {"schema_version": 3}}


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunDirError, match="not a run directory of halo-forge") as caught:
        read_status(tmp_path, 2)
    assert caught.value.exit_code == 3


STATES: list[tuple[dict[str, Any], str]] = [
    ({}, "not started"),
    ({"cycles/001/sampling.json": {}}, "cycle 1 of 2: sampling done"),
    ({"cycles/001/completions.jsonl.part": [{}, {}]}, "cycle 1 of 2: completions: 2 so far"),
    (
        {"cycles/001/sampling.json": {}, "cycles/001/dev_verdicts.jsonl.part": [{}]},
        "cycle 1 of 2: verdicts: 1 so far",
    ),
    (cycle_files(1, rate=0.5, best=0), "cycle 1 of 2 done"),
    (
        cycle_files(1, rate=0.5, best=0)
        | cycle_files(2, rate=0.5, best=0)
        | cycle_files(3, rate=0.5, best=0, report=False),
        "final comparison",
    ),
    (cycle_files(1, rate=0.5, best=0) | {"result.json": {"chosen_version": 0}}, "finished"),
]


@pytest.mark.parametrize(("files", "state"), STATES, ids=[state for _, state in STATES])
def test_states(tmp_path: Path, files: dict[str, Any], state: str) -> None:
    assert read_status(put(tmp_path, RUN | files), 2).state == state


def test_a_row_for_each_cycle(tmp_path: Path) -> None:
    def event(time: str, name: str, **fields: Any) -> dict[str, Any]:
        return {"time": f"2030-01-{time}+00:00", "event": name, **fields}

    def stage(time: str, name: str, stage: str, **fields: Any) -> dict[str, Any]:
        return event(time, f"stage_{name}", folder="001", stage=stage, **fields)

    events = [
        event("01T00:00:00", "attempt_started"),
        stage("01T00:00:01", "started", "completions"),
        stage("01T00:00:11", "interrupted", "completions", seconds=10.0, num_tokens=40),
        # A day passes before somebody resumes: it is nobody's time.
        event("02T00:00:00", "attempt_started"),
        stage("02T00:00:00", "started", "completions"),
        stage("02T00:00:30", "sealed", "completions", seconds=30.0, num_tokens=160),
        stage("02T00:00:32", "started", "verdicts"),
        stage("02T00:00:37", "sealed", "verdicts", seconds=5.0),
        stage("02T00:00:37", "started", "trained"),
        stage("02T00:00:57", "sealed", "trained", seconds=20.0),
        event("02T00:00:57", "resources", cycle=1, peak_memory_bytes=1024),
    ]
    status = read_status(
        put(
            tmp_path,
            RUN | cycle_files(1, rate=0.25, best=0) | cycle_files(2, rate=0.5, best=1) | {"events.jsonl": events},
        ),
        2,
    )
    first, second = status.cycles
    assert (first.cycle, first.policy_version, first.state, first.num_kept) == (1, 0, "done", 2)
    assert first.settings == {"cycle": 1, "temperature": 0.8, "reward_threshold": "pass", "learning_rate": 1e-4}
    costs = {
        "seconds/generate": 40.0,
        "seconds/verify": 5.0,
        "seconds/train": 20.0,
        "seconds/other": 2.0,
        "tokens_per_second/generate": 5.0,
        "tokens_per_second/train": 15.0,
        "peak_memory_bytes": 1024,
    }
    assert first.metrics == {"dev/pass_rate": 0.25, "optimizer_steps": 2.0, "num_tokens": 300.0, **costs}
    assert not any(name.startswith("seconds/") for name in second.metrics)
    assert (status.best_version, status.best_adapter) == (1, str(tmp_path / "cycles/001/adapter"))


def test_prompts_that_are_left_out_as_too_long_are_counted(tmp_path: Path) -> None:
    started = {"time": "2030-01-01T00:00:00+00:00", "event": "attempt_started"}
    assert read_status(put(tmp_path, RUN | {"events.jsonl": [started]}), 2).num_overlong == 0
    events = [started, {**started, "overlong_dropped": {"a": 900, "b": 800}}]
    assert read_status(put(tmp_path, RUN | {"events.jsonl": events}), 2).num_overlong == 2


def test_the_start_model_has_no_adapter(tmp_path: Path) -> None:
    status = read_status(put(tmp_path, RUN | cycle_files(1, rate=0.25, best=0)), 2)
    assert (status.best_version, status.best_adapter, status.result) == (0, None, None)


def test_plain_data(tmp_path: Path) -> None:
    status = read_status(put(tmp_path, RUN | cycle_files(1, rate=0.25, best=0)), 2)
    row = json.loads(json.dumps(status.to_row(), allow_nan=False))
    assert set(row) == {
        "root", "state", "process", "num_cycles", "cycles", "best_version", "best_adapter", "result", "num_overlong",
        "saved",
    }  # fmt: skip
    keys = {"cycle", "policy_version", "state", "metrics", "settings", "num_kept", "decision", "advice"}
    assert set(row["cycles"][0]) == keys


def test_a_cycle_that_is_being_superseded_ends_the_table(tmp_path: Path) -> None:
    status = read_status(put(tmp_path, RUN | cycle_files(1, rate=0.1, best=0) | cycle_files(3, rate=0.1, best=0)), 3)
    assert [each.cycle for each in status.cycles] == [1]
