"""Decisions and results in words: no difference without its error and what could have been detected."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from scripted_runs import MemoryVerifier, execute, steady_answers, write_inputs

from halo_forge.cli.render import Column
from halo_forge.cli.status import cycle_columns, decision_columns, print_status, result_columns, time_line
from halo_forge.store.run import cycle_folder
from halo_forge.store.status import CycleRow, Status, read_status


@pytest.fixture
def declined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Status:
    """The status of a run of 3 cycles: v1 is ahead of v0, v2 degrades, v3 is as good as v1."""
    monkeypatch.setattr(
        "halo_forge.verifiers.verifier.ThreadedVerifier", lambda spec: MemoryVerifier(bad_versions={0, 2})
    )
    execute(write_inputs(tmp_path, answers=steady_answers, raft__num_cycles=3), tmp_path / "run")
    return read_status(tmp_path / "run", 3)


def rows_of(columns: Sequence[Column]) -> list[list[str]]:
    return [list(row) for row in zip(*(column.cells for column in columns), strict=True)]


def test_a_row_for_each_version_that_was_compared(declined: Status) -> None:
    assert rows_of(decision_columns(declined.cycles, declined.result)) == [
        ["v1", "v0", "+1.000", "0.430", "2.33", "1.203", "2", "", "ahead", "continue"],
        ["v2", "v1", "-1.000", "0.430", "-2.33", "1.203", "2", "-1.000 (z -2.33)", "degraded", "back to v1"],
        ["v3", "v1", "+0.000", "0.430", "", "1.203", "2", "", "held", "finish (completed)"],
        ["v1", "v0, dev again", "+1.000", "0.430", "2.33", "1.203", "2", "", "improved", "keep"],
    ]


def test_the_chosen_and_the_last_version_against_the_start(declined: Status) -> None:
    assert declined.result is not None
    rows = rows_of(result_columns(declined.result))
    passed = [(row[0], row[2], row[5]) for row in rows if row[1] == "pass_rate"]
    # One test prompt has no spread to compare with.
    assert passed == [("dev", "v1 (chosen)", "+1.000"), ("dev", "v3 (last)", "+1.000")]
    same = {**declined.result, "last_version": 1}
    assert {row[2] for row in rows_of(result_columns(same))} == {"v1 (chosen)"}
    nothing = {**declined.result, "chosen_version": 0, "last_version": 0}
    assert result_columns(nothing) == []


def test_status_says_what_was_decided_and_why_it_ended(declined: Status, capsys: pytest.CaptureFixture[str]) -> None:
    print_status(declined)
    shown = capsys.readouterr().out
    for said in ("back to v1", "resampled", "detectable", "ended: improved", "all cycles completed", "v3 (last)"):
        assert said in shown
    assert shown.rstrip().endswith("cycles/001/adapter")


def test_status_says_how_many_prompts_are_left_out(declined: Status, capsys: pytest.CaptureFixture[str]) -> None:
    print_status(declined)
    assert "left out as too long" not in capsys.readouterr().out
    print_status(dataclasses.replace(declined, num_overlong=2))
    assert "left out as too long for the model: 2 prompts (prompts.overlong)" in capsys.readouterr().out


def test_status_repeats_the_advice_of_the_latest_version_only(
    declined: Status, capsys: pytest.CaptureFixture[str]
) -> None:
    for cycle, symptom in ((3, "that of v2"), (4, "that of v3")):
        row = {"symptom": symptom, "evidence": "e", "cause": "c", "action": "a", "power": "p"}
        advised = {"cycle": cycle, "policy_version": cycle - 1, "advice": [row]}
        (cycle_folder(Path(declined.root), cycle) / "advice.json").write_text(json.dumps(advised))
    again = read_status(Path(declined.root), 3)
    assert [row.advice[0]["symptom"] for row in again.cycles[2:]] == ["that of v2", "that of v3"]
    print_status(again)
    shown = capsys.readouterr().out
    assert "advice: that of v3 (e)" in shown and "that of v2" not in shown


def test_status_after_a_cycle_that_died_while_it_sampled_and_was_moved_away(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}", encoding="utf-8")
    told = [
        {"event": "stage_started", "folder": "002", "stage": "completions"},
        {"event": "superseded", "from_cycle": 2},
    ]
    lines = [json.dumps({"time": f"2026-01-01T00:00:0{second}+00:00", **row}) for second, row in enumerate(told)]
    (tmp_path / "events.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert read_status(tmp_path, 2).cycles == []


def test_status_says_where_the_time_went() -> None:
    first = {"seconds/generate": 60.0, "seconds/drift": 5.0, "seconds/train": 25.0}
    cycles = [CycleRow(1, 0, "done", metrics=first), CycleRow(2, 1, "done", metrics={"seconds/generate": 10.0})]
    assert time_line(cycles) == "time: sampling 1 min 10 s (70%), drift 5 s (5%), training 25 s (25%)"
    assert time_line([CycleRow(1, 0, "starting")]) == ""


def test_a_cycle_whose_first_stage_goes_on_has_no_time_yet() -> None:
    def times(**seconds: float) -> Sequence[str]:
        row = CycleRow(1, 0, "starting", metrics={f"seconds/{name}": value for name, value in seconds.items()})
        return next(column.cells for column in cycle_columns([row], 3) if column.name == "time")

    assert times(other=0.0) == ["-"]
    assert times(generate=41.8, other=0.0) == ["42 s"]
    assert times() == [""]


def test_a_set_without_tests_has_a_compile_column_and_no_pass_column() -> None:
    compiled = {"dev/compile_rate": 0.0, "train/compile_rate": 0.5, "train/pass_rate": 0.0}
    names = [column.name for column in cycle_columns([CycleRow(1, 0, "done", metrics=compiled)], 3)]
    assert [name for name in names if name.startswith(("dev", "train"))] == [
        "dev compile",
        "train compile",
        "train pass",
    ]
    unknown = [column.name for column in cycle_columns([CycleRow(1, 0, "starting")], 3)]
    assert "dev pass" in unknown, "a column does not come and go while nothing is measured yet"


def test_a_run_of_schema_2_is_shown_in_the_words_of_today(
    declined: Status, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It called a version improved that was ahead by one standard error, and confirmed nothing."""
    for path in (tmp_path / "run").glob("cycles/*/decision.json"):
        row = {key: value for key, value in json.loads(path.read_text()).items() if key not in ("ending", "opposed")}
        row |= {"conclusion": None, "outcome": row["outcome"].replace("ahead", "improved")}
        path.write_text(json.dumps(row))
    old = read_status(tmp_path / "run", 3)
    assert declined.result is not None
    new = ("improved", "confirmed_on", "confirmation", "confirmation_opposed")
    old.result = {key: value for key, value in declined.result.items() if key not in new}
    rows = rows_of(decision_columns(old.cycles, old.result))
    assert [row[-2] for row in rows] == ["ahead", "degraded", "held"]
    print_status(old)
    assert "what it calls improved was ahead by one standard error on dev" in " ".join(capsys.readouterr().out.split())


def test_a_metric_that_fell_is_named_beside_the_one_that_rose(declined: Status) -> None:
    declined.cycles[1].decision["opposed"] = {"compile_rate": {"difference": -0.094}}
    assert declined.result is not None
    declined.result["confirmation_opposed"] = {"reward_mean": {"difference": -0.087}}
    outcomes = [row[-2] for row in rows_of(decision_columns(declined.cycles, declined.result))]
    assert outcomes[0] == "ahead, but compile rate -0.094"
    assert outcomes[-1] == "improved, but reward mean -0.087"
