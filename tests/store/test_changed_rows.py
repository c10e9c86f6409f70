"""Rows of a run's files that were edited: a value of another type is found where it is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from halo_forge.core.errors import RunDirError
from halo_forge.core.records import Completion, Measurement
from halo_forge.store.status import read_status

COMPLETION: dict[str, Any] = {
    "prompt_id": "p",
    "index": 0,
    "text": "x",
    "token_ids": [1, 2],
    "finish": "stop",
    "seed": 1,
    "policy_version": 0,
}


@pytest.mark.parametrize(
    ("name", "value"),
    [("token_ids", ["1"]), ("token_ids", [1.5]), ("index", "0"), ("index", True), ("finish", "ended"), ("text", None)],
)
def test_a_value_of_another_type_is_refused(name: str, value: Any) -> None:
    assert Completion.from_row(COMPLETION).to_row() == COMPLETION
    with pytest.raises(TypeError, match=name):
        Completion.from_row({**COMPLETION, name: value})


def test_a_whole_number_is_a_float_and_a_text_is_not() -> None:
    row = {"cycle": 1, "policy_version": 0, "metrics": {"dev/pass_rate": 1}}
    assert Measurement.from_row(row).metrics == {"dev/pass_rate": 1}
    with pytest.raises(TypeError, match="metrics"):
        Measurement.from_row({**row, "metrics": {"dev/pass_rate": "1"}})


@pytest.mark.parametrize("event", [{}, {"event": "resources"}, {"event": "x", "folder": "001", "time": 3}])
def test_an_event_that_lacks_something_names_the_file(event: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "events.jsonl").write_text(json.dumps(event) + "\n")
    with pytest.raises(RunDirError, match=r"events\.jsonl: not what halo-forge wrote here"):
        read_status(tmp_path, 2)


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("decision", {"action": "continue", "best_version": 0, "screen": {"num_prompts": []}}),
        ("measurement", {"metrics": {"dev/pass_rate": "0.5"}}),
        ("advice", {"advice": [3]}),
        ("decision", {"action": "continue"}),
    ],
)
def test_status_names_the_file_with_a_value_that_cannot_be_shown(
    name: str, row: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "run.json").write_text("{}")
    folder = tmp_path / "cycles" / "001"
    folder.mkdir(parents=True)
    (folder / f"{name}.json").write_text(json.dumps(row))
    with pytest.raises(RunDirError, match=rf"{name}\.json: not what halo-forge wrote here"):
        read_status(tmp_path, 2)
