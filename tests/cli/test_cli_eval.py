"""`halo-forge eval`: what it prints, what `--json` holds, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_calls import Cli, command_line
from scripted_runs import verify_in_memory, write_rows

from halo_forge.evaluations.result import outcome_names


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Cli]:
    verify_in_memory(monkeypatch)
    with command_line(monkeypatch, capsys) as run:
        yield run


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    """Two subjects on eight prompts, with completions from a file."""
    ids = [f"t{number}" for number in range(8)]
    tasks = write_rows(
        tmp_path / "tasks.jsonl", ({"id": each, "prompt": f"Write {each}.", "language": "c"} for each in ids)
    )
    answers = write_rows(tmp_path / "answers.jsonl", [{"prompt_id": "*", "answers": ["pass", "fail", "broken"]}])
    engine = json.dumps({"kind": "scripted", "answers": str(answers)})
    return ["owner/a", "owner/b", "--tasks", str(tasks), "--set", f"engine={engine}", "-o", str(tmp_path / "eval")]


def test_run_prints_rates_outcomes_and_differences(cli: Cli, arguments: list[str]) -> None:
    done = cli("eval", "run", *arguments)
    assert done.code == 0
    for word in ("pass@1", "compile rate", "tests passed", "compile failed", "difference", "detectable", "owner/b"):
        assert word in done.out
    assert "owner/a on" in done.err


def test_outcomes_stand_by_stage_whatever_the_first_subject_came_to(cli: Cli, arguments: list[str]) -> None:
    done = cli("eval", "run", *arguments, "--limit", "1")
    assert "tasks.jsonl: 1 prompt (95%" in done.out
    rows = [{"outcomes": {"tests passed": 1}}, {"outcomes": {"extract failed": 1, "compile failed": 2}}]
    assert outcome_names(rows) == ["extract failed", "compile failed", "tests passed"]


def test_json_holds_everything_and_report_prints_the_same(cli: Cli, arguments: list[str]) -> None:
    done = cli("eval", "run", *arguments, "--json").json
    assert {(each["subject"], each["decoding"]) for each in done["columns"]} == {
        (subject, decoding) for subject in ("owner/a", "owner/b") for decoding in ("greedy", "sampled")
    }
    assert len(done["differences"]) == 3 * (2 + 2)
    assert cli("eval", "report", done["folder"], "--json").json == done
    assert "pass@1" in cli("eval", "report", done["folder"]).out


def test_a_second_run_in_the_folder_needs_resume(cli: Cli, arguments: list[str]) -> None:
    first = cli("eval", "run", *arguments, "--json")
    refused = cli("eval", "run", *arguments)
    assert refused.code == 3
    assert "fix: continue it with --resume" in refused.err
    assert cli("eval", "run", *arguments, "--resume", "--json").json == first.json


def test_an_unfinished_evaluation_says_how_far_it_is(cli: Cli, arguments: list[str], tmp_path: Path) -> None:
    cli("eval", "run", *arguments)
    (tmp_path / "eval" / "result.json").unlink()
    done = cli("eval", "report", tmp_path / "eval")
    assert done.code == 3
    assert "not finished: 4 of 4 measurements are done" in done.err


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        (["--decoding", "beam"], 2, "--decoding: found 'beam', allowed: greedy, sampled, both"),
        (["--set", "training.learning_rate=1"], 2, "nothing of an evaluation depends on `training`"),
        (["--tasks", "builtin:nothing"], 2, "builtin:nothing"),
    ],
)
def test_what_cannot_be_asked_is_an_error_with_a_fix(
    cli: Cli, arguments: list[str], changes: list[str], code: int, message: str, tmp_path: Path
) -> None:
    done = cli("eval", "run", *arguments, *changes)
    assert done.code == code
    assert message in done.err
    assert "fix: " in done.err
    assert not (tmp_path / "eval").exists()


def damaged(kind: str, result: dict[str, Any]) -> None:
    column, difference = result["columns"][0], result["differences"][0]
    match kind:
        case "metric is text":
            column["metrics"]["pass@1"] = "good"
        case "metric without an interval":
            del column["metrics"]["pass@1_low"]
        case "no k":
            column["metrics"] |= {"pass@x": 1.0, "pass@x_low": 0.0, "pass@x_high": 1.0}
        case "difference without values":
            difference["values"] = {}
        case "number of prompts is text":
            column["num_prompts"] = "many"


@pytest.mark.parametrize(
    "kind",
    ["metric is text", "metric without an interval", "no k", "difference without values", "number of prompts is text"],
)
def test_an_edited_result_is_an_error_about_its_file(kind: str, cli: Cli, arguments: list[str], tmp_path: Path) -> None:
    cli("eval", "run", *arguments)
    path = tmp_path / "eval" / "result.json"
    damaged(kind, found := json.loads(path.read_text()))
    path.write_text(json.dumps(found))
    for command in (["eval", "report", path.parent], ["report", path.parent], ["eval", "run", *arguments, "--resume"]):
        done = cli(*command)
        assert done.code == 3 and "result.json: not what halo-forge wrote here" in done.err
        assert "raft resume" not in done.err


def test_an_edited_date_is_an_error_about_its_file(cli: Cli, arguments: list[str], tmp_path: Path) -> None:
    cli("eval", "run", *arguments)
    path = next((tmp_path / "eval").rglob("asked.json"))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"date": "today"}))
    done = cli("eval", "run", *arguments, "--resume")
    assert done.code == 3 and "asked.json: not what halo-forge wrote here" in done.err


def test_a_full_disk_is_an_error_that_loses_nothing(
    cli: Cli, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from halo_forge.store import files

    append, num = files.GrowingFile.append, [0]

    def full(growing: files.GrowingFile, row: object) -> None:
        num[0] += growing.path.name.startswith("completions")
        if num[0] == 5:
            with files.explained(growing.path):
                raise OSError(28, "No space left on device")
        append(growing, row)  # type: ignore[arg-type]

    monkeypatch.setattr(files.GrowingFile, "append", full)
    done = cli("eval", "run", *arguments)
    assert done.code == 3
    assert "free some space, then rerun with --resume" in done.err
    monkeypatch.setattr(files.GrowingFile, "append", append)
    assert cli("eval", "run", *arguments, "--resume").code == 0
