"""What a run measured of each version, prompt by prompt, and what it cost to make."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from scripted_runs import read, rows, run_three_cycles, verify_in_memory

from halo_forge.core.errors import RunDirError
from halo_forge.store.versions import chosen_version, stored_versions


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    verify_in_memory(monkeypatch)
    run_three_cycles(tmp_path)
    return tmp_path / "run"


def test_every_version_has_the_totals_of_its_verdicts(run: Path) -> None:
    versions = stored_versions(run)
    assert [each.version for each in versions] == [0, 1, 2, 3]
    for each in versions:
        verdicts = rows(run / f"cycles/{each.cycle:03d}/dev_verdicts.jsonl")
        passed = {
            prompt: sum(row["status"] == "passed" for row in verdicts if row["prompt_id"] == prompt)
            for prompt in ("dev1", "dev2")
        }
        assert each.totals["dev/pass_rate"] == {prompt: (num, 2) for prompt, num in passed.items()}
        assert each.mean("dev/pass_rate") == pytest.approx(each.metrics["dev/pass_rate"])
        assert each.mean("dev/reward_mean") == pytest.approx(each.metrics["dev/reward_mean"])
    tested = [each.version for each in versions if each.mean("test/pass_rate") is not None]
    assert tested == [int(folder.name[1:]) for folder in sorted((run / "test").iterdir())]
    assert versions[0].rates("test/pass_rate").keys() == {"test1"}


def test_a_version_costs_what_all_trainings_and_samples_before_it_cost(run: Path) -> None:
    versions = stored_versions(run)
    steps = [read(run / f"cycles/{cycle:03d}/trained.json")["metrics"]["learning_rate_mass"] for cycle in (1, 2, 3)]
    tokens = [
        sum(len(row["token_ids"]) for row in rows(run / f"cycles/{cycle:03d}/completions.jsonl")) for cycle in (1, 2, 3)
    ]
    assert all(steps) and all(tokens)
    assert [each.learning_rate_mass for each in versions] == pytest.approx([sum(steps[:at]) for at in range(4)])
    assert [each.sampled_tokens for each in versions] == [sum(tokens[:at]) for at in range(4)]


def test_the_mass_of_a_version_trained_from_the_start_model_is_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verify_in_memory(monkeypatch)
    run_three_cycles(tmp_path, training__start_from="base")
    root = tmp_path / "run"
    own = [read(root / f"cycles/{cycle:03d}/trained.json")["metrics"]["learning_rate_mass"] for cycle in (1, 2, 3)]
    assert [each.learning_rate_mass for each in stored_versions(root)] == pytest.approx([0.0, *own])


def test_an_unfinished_run_shows_what_it_has_measured(run: Path) -> None:
    chosen = chosen_version(run)
    assert chosen == read(run / "result.json")["chosen_version"]
    (run / "result.json").unlink()
    assert chosen_version(run) == chosen
    for name in ("measurement.json", "decision.json"):
        (run / "cycles/004" / name).unlink()
    assert [each.version for each in stored_versions(run)] == [0, 1, 2]
    assert chosen_version(run) == read(run / "cycles/003/decision.json")["best_version"]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("trained.json", {"metrics": {}}),
        ("settings.json", {"parent_version": "one"}),
        ("measurement.json", {"metrics": 3}),
    ],
)
def test_an_edited_file_is_named(run: Path, name: str, change: dict[str, object]) -> None:
    path = run / "cycles/001" / name
    path.write_text(json.dumps({**read(path), **change}), encoding="utf-8")
    with pytest.raises(RunDirError, match=f"cycles/001/{name}: not what halo-forge wrote"):
        stored_versions(run)
