"""What the loop does when a version declines: confirm, go back or go on lower, and stop."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from scripted_runs import (
    MemoryVerifier,
    differences,
    execute,
    read,
    rows,
    run_three_cycles,
    steady_answers,
    tree,
    verify_in_memory,
)

from halo_forge.core.evaluation import Result
from halo_forge.policy import adapter_digest
from halo_forge.runtime.effects import Runtime

TRAINED_FROM = Runtime.train


@pytest.fixture
def parents(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str | None]]:
    """(cycle, folder of the adapter it was trained from), as training is asked for."""
    found: list[tuple[int, str | None]] = []

    def train(self: Runtime, chosen: Any, facts: Any, settings: Any, adapter: Path | None, *more: Any) -> Any:
        found.append((settings.cycle, None if adapter is None else adapter.parent.name))
        return TRAINED_FROM(self, chosen, facts, settings, adapter, *more)

    monkeypatch.setattr(Runtime, "train", train)
    return found


def decline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: set[int], **changes: Any) -> Result:
    """A run of 3 cycles whose versions `bad` fail all of dev; the others pass it."""
    verify_in_memory(monkeypatch, bad_versions=bad)
    return run_three_cycles(tmp_path, answers=steady_answers, **{"evaluation__samples_per_prompt": 1, **changes})


def cycle_folder(tmp_path: Path, cycle: int) -> Path:
    return tmp_path / f"run/cycles/{cycle:03d}"


def decided(tmp_path: Path) -> list[tuple[str, str, int]]:
    """(outcome, action, incumbent) of each folder."""
    found = [read(folder / "decision.json") for folder in sorted((tmp_path / "run/cycles").iterdir())]
    return [(row["outcome"], row["action"], row["best_version"]) for row in found]


def seeds(path: Path) -> set[int]:
    return {row["seed"] for row in rows(path)}


def test_back_to_the_incumbent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parents: list[tuple[int, str | None]]
) -> None:
    # v0 fails, v1 passes, v2 fails, v3 passes.
    result = decline(tmp_path, monkeypatch, {0, 2})
    assert decided(tmp_path) == [
        ("baseline", "continue", 0),
        ("ahead", "continue", 1),
        ("degraded", "rollback", 1),
        ("held", "finish", 1),
    ]
    assert (result.chosen_version, result.last_version, result.conclusion) == (1, 3, "improved")
    assert parents == [(1, None), (2, "001"), (3, "001")]
    third = cycle_folder(tmp_path, 3)
    # The decline was confirmed on fresh samples of both, with other seeds than those of dev.
    for name, version in (("confirm", 2), ("confirm_incumbent", 1)):
        assert {row["policy_version"] for row in rows(third / f"{name}_completions.jsonl")} == {version}
        assert seeds(third / f"{name}_completions.jsonl").isdisjoint(seeds(third / "dev_completions.jsonl"))
    # What v2 had answered is dropped; v1 is asked instead, hotter and with other seeds.
    assert {row["policy_version"] for row in rows(third / "rollback_completions.jsonl")} == {1}
    assert seeds(third / "rollback_completions.jsonl").isdisjoint(seeds(third / "completions.jsonl"))
    plain, hotter = read(third / "sampling.json"), read(third / "rollback_sampling.json")
    assert hotter["temperature"] == pytest.approx(plain["temperature"] + 0.1)
    texts = {(row["prompt_id"], row["index"]): row["text"] for row in rows(third / "rollback_completions.jsonl")}
    kept = [tuple(key) for key in read(third / "selection.json")["kept"]]
    trained = [row["completion"][0]["content"] for row in rows(third / "selection.jsonl")]
    assert trained == [texts[key] for key in kept]
    settings = read(third / "settings.json")
    assert settings["parent_version"] == 1
    assert settings["learning_rate"] == pytest.approx(5e-5 * 0.85**2 * 0.5)
    reason = read(third / "decision.json")["reason"]
    assert "v2 against v1 on dev/pass_rate: -1.000" in reason
    assert "resampled -1.000" in reason
    assert "rollback 1: train from v1 on samples of v1, learning rate x 0.5 from now on, temperature + 0.1" in reason
    assert (tmp_path / "run/best").readlink() == Path("cycles/001/adapter")


def test_what_declines_changed_stays_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decline(tmp_path, monkeypatch, {1, 2}, raft__num_cycles=4, decisions__stop_patience=None)
    rates = [read(cycle_folder(tmp_path, cycle) / "settings.json")["learning_rate"] for cycle in (1, 2, 3, 4)]
    assert rates == pytest.approx([5e-5, 0.85 * 2.5e-5, 0.85**2 * 1.25e-5, 0.85**3 * 1.25e-5])
    temperatures = [read(cycle_folder(tmp_path, cycle) / "sampling.json")["temperature"] for cycle in (1, 2, 3, 4)]
    assert temperatures == pytest.approx([1.0, 1.0, 1.1, 1.2])
    assert read(cycle_folder(tmp_path, 3) / "rollback_sampling.json")["temperature"] == pytest.approx(1.2)


def test_on_from_the_declined_version_at_a_lower_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parents: list[tuple[int, str | None]]
) -> None:
    decline(tmp_path, monkeypatch, {2}, decisions__on_decline="continue_lower")
    assert decided(tmp_path)[2] == ("degraded", "continue_lower", 0)
    assert parents == [(1, None), (2, "001"), (3, "002")]
    third = cycle_folder(tmp_path, 3)
    assert not (third / "rollback_completions.jsonl").exists()
    assert (third / "confirm_completions.jsonl").exists()
    assert read(third / "settings.json")["learning_rate"] == pytest.approx(5e-5 * 0.85**2 * 0.5)


def test_from_the_start_model_with_what_the_good_cycles_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parents: list[tuple[int, str | None]]
) -> None:
    decline(tmp_path, monkeypatch, {0, 2}, decisions__on_decline="from_base", selection__per_prompt_cap=8)
    assert decided(tmp_path)[2] == ("degraded", "from_base", 1)
    assert parents == [(1, None), (2, "001"), (3, None)]
    third = cycle_folder(tmp_path, 3)
    assert read(third / "settings.json")["parent_version"] == 0
    # Cycle 2 trained the version that degraded, so only what cycle 1 kept comes back.
    assert {cycle for cycle, _, _ in read(third / "selection.json")["replayed"]} <= {1}


def test_the_run_stops_where_the_configuration_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = decline(tmp_path, monkeypatch, {2}, decisions__on_decline="stop")
    assert decided(tmp_path)[-1] == ("degraded", "stop", 0)
    assert (result.chosen_version, result.last_version, result.conclusion) == (0, 2, "declined")
    assert sorted(path.name for path in (tmp_path / "run/cycles").iterdir()) == ["001", "002", "003"]
    assert not (cycle_folder(tmp_path, 3) / "settings.json").exists()


def test_after_so_many_returns_the_run_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = decline(tmp_path, monkeypatch, {1, 2, 3}, raft__num_cycles=5, decisions__stop_patience=None)
    assert [action for _, action, _ in decided(tmp_path)] == ["continue", "rollback", "rollback", "stop"]
    assert result.conclusion == "declined"
    assert "2 returns" in result.reason


def test_a_suspect_that_is_cleared_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """v1 fails the dev seeds alone: bad luck, which fresh samples do not repeat."""
    verdict = MemoryVerifier.verdict
    dev: set[int] = set()

    def unlucky(self: MemoryVerifier, completion: Any) -> Any:
        self.bad_versions = {1} if completion.seed in dev else set()
        if completion.policy_version == 0 and completion.prompt_id.startswith("dev"):
            dev.add(completion.seed)
        return verdict(self, completion)

    monkeypatch.setattr(MemoryVerifier, "verdict", unlucky)
    decline(tmp_path, monkeypatch, set(), raft__num_cycles=2)
    assert decided(tmp_path)[1] == ("suspect_not_confirmed", "continue", 0)
    assert (cycle_folder(tmp_path, 2) / "confirm_incumbent_verdicts.jsonl").exists()
    assert not (cycle_folder(tmp_path, 2) / "rollback_completions.jsonl").exists()
    assert read(cycle_folder(tmp_path, 2) / "settings.json")["parent_version"] == 1


def test_nothing_changes_nothing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Learning rate 0: the same answers to the same seeds; no alarm, and the end is no success."""
    result = decline(tmp_path, monkeypatch, set(), training__learning_rate=0.0)
    assert [outcome for outcome, _, _ in decided(tmp_path)] == ["baseline", "held", "held", "held"]
    assert not list((tmp_path / "run").rglob("confirm_*"))
    assert (result.chosen_version, result.dev["pass_rate"]["difference"]) == (0, 0.0)
    assert result.conclusion == "inconclusive"


def test_decisions_are_events_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decline(tmp_path, monkeypatch, {2})
    before = tree(tmp_path / "run")
    execute(tmp_path / "run.yaml", tmp_path / "run")
    told = [event for event in rows(tmp_path / "run/events.jsonl") if event["event"] == "decision"]
    assert [event["cycle"] for event in told] == [1, 2, 3, 4]
    sealed = [read(cycle_folder(tmp_path, cycle) / "decision.json") for cycle in (1, 2, 3, 4)]
    assert [{key: event[key] for key in row} for event, row in zip(told, sealed, strict=True)] == sealed
    assert differences(before, tree(tmp_path / "run")) == []


def test_a_plateau_schedule_answers_to_a_decline_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decline(tmp_path, monkeypatch, {2}, training__learning_rate={"kind": "plateau", "base": 1e-4})
    assert read(cycle_folder(tmp_path, 3) / "settings.json")["learning_rate"] == pytest.approx(5e-5)  # not 2.5e-5


def test_the_weights_go_back_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_models: dict[str, Path]) -> None:
    """With a real trainer and rate 0 in cycle 3, v3 is v1, bit for bit; the learning in v2 is undone."""
    verdict = MemoryVerifier.verdict

    def passing(self: MemoryVerifier, completion: Any) -> Any:
        return verdict(self, dataclasses.replace(completion, text=f"pass {completion.text}"))

    monkeypatch.setattr(MemoryVerifier, "verdict", passing)
    decline(
        tmp_path,
        monkeypatch,
        {0, 2},
        model={"model_name_or_path": str(tiny_models["llama"]), "dtype": "float32"},
        engine={"kind": "transformers", "max_new_tokens": 40, "stop": ["}", "e"]},
        lora={"r": 4, "lora_alpha": 8},
        training__learning_rate=[1e-2, 1e-2, 0.0],
    )
    assert decided(tmp_path)[2] == ("degraded", "rollback", 1)
    digests = [adapter_digest(cycle_folder(tmp_path, cycle) / "adapter") for cycle in (1, 2, 3)]
    assert digests[2] == digests[0] != digests[1]
    tokens = [
        {tuple(row["token_ids"]) for row in rows(cycle_folder(tmp_path, cycle) / "dev_completions.jsonl")}
        for cycle in (2, 4)
    ]
    assert tokens[0] == tokens[1]
