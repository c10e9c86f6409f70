"""What a run says of the version it keeps: improved only where samples that nothing was chosen by confirm it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from scripted_runs import (
    MemoryVerifier,
    differences,
    execute,
    read,
    rows,
    steady_answers,
    tree,
    verify_in_memory,
    write_inputs,
)

from halo_forge.core.evaluation import Result
from halo_forge.store.run import Run


def finished(tmp_path: Path, **changes: Any) -> Result:
    """A run of 2 cycles; all of dev and test passes, but for versions that the verifier is told are bad."""
    defaults: dict[str, Any] = {"evaluation__samples_per_prompt": 1, "decisions__stop_patience": None}
    return execute(write_inputs(tmp_path, answers=steady_answers, **{**defaults, **changes}), tmp_path / "run")


def seeds(folder: Path) -> set[int]:
    return {row["seed"] for row in rows(folder / "completions.jsonl")}


def test_a_lead_is_confirmed_by_the_dev_prompts_with_fresh_seeds_where_test_is_too_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verify_in_memory(monkeypatch, bad_versions={0})
    result = finished(tmp_path)
    assert (result.conclusion, result.improved, result.confirmed_on) == ("improved", True, "dev")
    assert result.confirmation["difference"] == 1.0
    folders = sorted((tmp_path / "run/confirmation").iterdir())
    assert [folder.name for folder in folders] == ["v000", "v001"]
    first = tmp_path / "run/cycles/001"
    dev = {row["seed"] for row in rows(first / "dev_completions.jsonl")}
    assert seeds(folders[0]) == seeds(folders[1]) and seeds(folders[0]).isdisjoint(dev)
    assert read(tmp_path / "run/cycles/002/decision.json")["outcome"] == "ahead"
    assert "v1 against v0 in pass_rate on fresh samples of dev: +1.000" in result.reason


def test_test_confirms_where_it_is_large_enough_and_nothing_is_sampled_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verify_in_memory(monkeypatch, bad_versions={0})
    result = finished(tmp_path, num_prompts=(3, 2, 2))
    assert (result.conclusion, result.improved, result.confirmed_on) == ("improved", True, "test")
    assert not (tmp_path / "run/confirmation").exists()


def test_a_lead_by_luck_is_not_an_improvement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """v_0 fails on the seeds of dev alone; on fresh ones it passes as v_1 does."""
    verdict = MemoryVerifier.verdict
    dev: set[int] = set()

    def unlucky(self: MemoryVerifier, completion: Any) -> Any:
        if not dev:
            dev.update(row["seed"] for row in rows(tmp_path / "run/cycles/001/dev_completions.jsonl"))
        self.bad_versions = {0} if completion.seed in dev else set()
        return verdict(self, completion)

    monkeypatch.setattr(MemoryVerifier, "verdict", unlucky)
    verify_in_memory(monkeypatch)
    result = finished(tmp_path)
    assert (result.chosen_version, result.conclusion, result.improved) == (1, "inconclusive", False)
    assert result.confirmation["difference"] == 0.0
    assert result.reason.endswith("not confirmed as an improvement")


def test_the_last_version_is_still_improving_only_if_its_lead_over_the_one_before_is_confirmed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """v_0 fails everything, v_1 passes one test prompt of two, v_2 passes all."""
    verdict = MemoryVerifier.verdict

    def stepwise(self: MemoryVerifier, completion: Any) -> Any:
        half = completion.policy_version == 1 and completion.prompt_id.endswith(("1", "2", "3"))
        self.bad_versions = {0, 1} if half else {0}
        return verdict(self, completion)

    monkeypatch.setattr(MemoryVerifier, "verdict", stepwise)
    verify_in_memory(monkeypatch)
    result = finished(tmp_path, num_prompts=(3, 9, 9), decisions__max_standard_error=1.0, decisions__confirm_z=-1.0)
    assert (result.chosen_version, result.conclusion) == (2, "still_improving")
    assert sorted(path.name for path in (tmp_path / "run/test").iterdir()) == ["v000", "v001", "v002"]
    assert "its lead over v1: +0.333" in result.reason


def test_without_a_lead_nothing_is_sampled_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verify_in_memory(monkeypatch)
    result = finished(tmp_path)
    assert (result.chosen_version, result.conclusion, result.improved, result.confirmed_on) == (
        0, "inconclusive", None, None,
    )  # fmt: skip
    assert not (tmp_path / "run/confirmation").exists()


def test_going_back_sets_the_confirmation_aside_and_makes_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verify_in_memory(monkeypatch, bad_versions={0})
    finished(tmp_path)
    before = tree(tmp_path / "run")
    with Run(tmp_path / "run") as run:
        aside = run.supersede(2)
    assert aside is not None and (aside / "confirmation/v001/verdicts.jsonl").is_file()
    assert not (tmp_path / "run/confirmation").exists()
    execute(tmp_path / "run.yaml", tmp_path / "run")
    now = {name: data for name, data in tree(tmp_path / "run").items() if not name.startswith("superseded")}
    assert differences(before, now) == []
