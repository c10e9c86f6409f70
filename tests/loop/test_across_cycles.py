"""What one cycle leaves to the next, through the loop: replay, the parent's weights and optimizer, a second round."""

from __future__ import annotations

from collections import Counter
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
    write_inputs,
)

from halo_forge.config import load_config
from halo_forge.core.errors import RunDirError
from halo_forge.core.records import Verdict
from halo_forge.policy import OPTIMIZER_FILE, file_digest
from halo_forge.runtime.assembly import planned
from halo_forge.runtime.effects import Runtime, sealed_optimizer_state
from halo_forge.store.files import write_json

MANY = [f"pass number {number}" for number in range(40)]


@pytest.fixture
def verifier(monkeypatch: pytest.MonkeyPatch) -> MemoryVerifier:
    """In the place of the compiler."""
    return verify_in_memory(monkeypatch)


def many_answers(prompt_id: str) -> list[str]:
    return [f"{answer} of {prompt_id}" for answer in MANY]


def run(tmp_path: Path, **changes: Any) -> Path:
    """A run of 3 cycles; its cycles folder."""
    run_three_cycles(tmp_path, **{"decisions__stop_patience": None, **changes})
    return tmp_path / "run/cycles"


def replayed(cycles: Path) -> list[list[int]]:
    """For each cycle, the cycles that its replayed rows come from, in order."""
    return [sorted(row[0] for row in read(folder / "selection.json")["replayed"]) for folder in trained_folders(cycles)]


def trained_folders(cycles: Path) -> list[Path]:
    return [folder for folder in sorted(cycles.iterdir()) if (folder / "selection.json").exists()]


def test_earlier_rows_join_up_to_their_share(tmp_path: Path, verifier: MemoryVerifier) -> None:
    cycles = run(tmp_path, answers=many_answers, replay={"kind": "accumulate", "share": 0.5})
    found = replayed(cycles)
    assert [len(each) for each in found] == [0, 6, 6]  # 6 rows of its own in each cycle
    assert set(found[2]) == {1, 2}
    for folder in trained_folders(cycles):
        selection, trained = read(folder / "selection.json"), read(folder / "trained.json")
        own, earlier = selection["kept"], selection["replayed"]
        assert trained["num_rows"] == len(own) + len(earlier)
        written = rows(folder / "selection.jsonl")
        expected = [[int(folder.name), *key] for key in own] + earlier
        assert [[row["policy_version"] + 1, row["prompt_id"], row["index"]] for row in written] == expected
        texts = [row["completion"][0]["content"] for row in written]
        assert len(set(texts)) == len(texts), "a program is trained on once"
        assert max(Counter(row["prompt_id"] for row in written).values()) <= 4, "selection.per_prompt_cap"
        assert read(folder / "report.json")["num_kept"] == len(own)


def test_a_window_forgets(tmp_path: Path, verifier: MemoryVerifier) -> None:
    cycles = run(tmp_path, answers=many_answers, replay={"kind": "window", "window": 1, "share": 0.5})
    assert [set(each) for each in replayed(cycles)] == [set(), {1}, {2}]


def test_without_replay_nothing_is_repeated(tmp_path: Path, verifier: MemoryVerifier) -> None:
    assert replayed(run(tmp_path, answers=many_answers)) == [[], [], []]


def test_what_made_a_version_worse_is_not_replayed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verify_in_memory(monkeypatch, bad_versions={2})
    cycles = run(
        tmp_path,
        answers=lambda prompt_id: many_answers(prompt_id),
        evaluation__samples_per_prompt=1,
        replay={"kind": "accumulate"},
    )
    assert read(cycles / "003/decision.json")["outcome"] == "degraded"
    assert [set(each) for each in replayed(cycles)] == [set(), {1}, {1}]


@pytest.mark.parametrize(
    ("start_from", "parents"),
    [("previous", [0, 1, 2]), ("average", [0, 1, 2]), ("base", [0, 0, 0]), ("best", [0, 0, 0])],
)
def test_start_from(start_from: str, parents: list[int], tmp_path: Path, verifier: MemoryVerifier) -> None:
    """Scripted answers never get better, so the best version is v_0 all the time."""
    cycles = run(tmp_path, answers=steady_answers, training__start_from=start_from, training__average_weight=[0.25, 1])
    settings = [read(folder / "settings.json") for folder in trained_folders(cycles)]
    assert [each["parent_version"] for each in settings] == parents
    assert [
        read(folder / "adapter/adapter_config.json")["parent_version"] for folder in trained_folders(cycles)
    ] == parents
    weights = [0.25, 1, 1] if start_from == "average" else [1, 1, 1]
    assert [each["average_weight"] for each in settings] == weights


@pytest.mark.parametrize("across", ["reset", "carry", "carry_moments"])
def test_the_optimizer_goes_on_from_the_second_cycle(across: str, tmp_path: Path, verifier: MemoryVerifier) -> None:
    cycles = run(tmp_path, answers=steady_answers, training__optimizer={"across_cycles": across})
    assert [read(folder / "settings.json")["optimizer"] for folder in trained_folders(cycles)] == [
        "reset",
        across,
        across,
    ]


def test_a_rollback_resets_the_optimizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verify_in_memory(monkeypatch, bad_versions={2})
    cycles = run(
        tmp_path,
        answers=steady_answers,
        evaluation__samples_per_prompt=1,
        training__optimizer={"across_cycles": "carry"},
    )
    settings = [read(folder / "settings.json") for folder in trained_folders(cycles)]
    assert [(each["parent_version"], each["optimizer"]) for each in settings] == [
        (0, "reset"),
        (1, "carry"),
        (0, "reset"),
    ]


def test_the_state_beside_the_adapter_is_checked(tmp_path: Path) -> None:
    adapter, state = tmp_path / "adapter", tmp_path / OPTIMIZER_FILE
    write_json(tmp_path / "trained.json", {"optimizer_digest": None})
    assert sealed_optimizer_state(adapter) is None  # the scripted trainer has no optimizer
    state.write_bytes(b"moments")
    write_json(tmp_path / "trained.json", {"optimizer_digest": file_digest(state)})
    assert sealed_optimizer_state(adapter) == state
    state.write_bytes(b"others")
    with pytest.raises(RunDirError, match="not the optimizer state"):
        sealed_optimizer_state(adapter)
    state.unlink()
    with pytest.raises(RunDirError, match="missing"):
        sealed_optimizer_state(adapter)


TWO_ROUNDS: dict[str, Any] = {"raft__sampling": "budgeted", "raft__samples_per_prompt": 4, "num_prompts": (6, 2, 1)}


def test_the_second_round_goes_where_the_first_one_says(tmp_path: Path, verifier: MemoryVerifier) -> None:
    cycles = run(tmp_path, **TWO_ROUNDS)
    for folder in trained_folders(cycles):
        first, verdicts = rows(folder / "completions.jsonl"), rows(folder / "verdicts.jsonl")
        further = rows(folder / "further_completions.jsonl")
        assert len(first) + len(further) == 6 * 4
        assert Counter(row["prompt_id"] for row in first) == {f"train{number}": 2 for number in range(1, 7)}
        passed = Counter(row["prompt_id"] for row in verdicts if row["status"] == "passed")
        between = {prompt_id for prompt_id, num in passed.items() if num == 1}
        assert between
        assert {row["prompt_id"] for row in further} == between, "room for all of the budget"
        seeds = [row["seed"] for row in first + further]
        assert len(set(seeds)) == len(seeds)
        assert {row["index"] for row in further} == set(
            range(2, 2 + max(Counter(r["prompt_id"] for r in further).values()))
        )
        selection = read(folder / "selection.json")
        num_seen = len(selection["kept"]) + sum(len(keys) for keys in selection["dropped"].values())
        assert num_seen == 6 * 4


def test_rates_are_those_of_the_first_round(tmp_path: Path, verifier: MemoryVerifier) -> None:
    """Every prompt weighs the same, and further samples of what passes sometimes do not move its rate."""
    cycles = run(tmp_path, **TWO_ROUNDS)
    for folder in trained_folders(cycles):
        verdicts = [Verdict.from_row(row) for row in rows(folder / "verdicts.jsonl")]
        metrics = read(folder / "measurement.json")["metrics"]
        assert metrics["train/pass_rate"] == pytest.approx(sum(verdict.passed for verdict in verdicts) / 12)
        assert {name for name in metrics if name.startswith("train/pass@") and name[11:].isdigit()} == {
            "train/pass@1",
            "train/pass@2",
        }


def test_a_finished_run_is_read_not_made(
    tmp_path: Path, verifier: MemoryVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    cycles = run(tmp_path, **TWO_ROUNDS, replay={"kind": "accumulate"}, raft__prompt_weights="learnable")
    before = tree(cycles.parent)

    def refuse(*arguments: Any) -> None:
        raise AssertionError("nothing is left to do")

    for name in ("sample", "verify", "verify_again", "train"):
        monkeypatch.setattr(Runtime, name, refuse)
    (cycles.parent / "result.json").unlink()
    execute(tmp_path / "run.yaml", cycles.parent)
    assert differences(tree(cycles.parent), before) == []


def test_prompts_that_nobody_solves_rest_for_a_cycle(tmp_path: Path, verifier: MemoryVerifier) -> None:
    def answers(prompt_id: str) -> list[str]:
        return {"train1": ["fail a", "fail b"], "train2": ["pass a", "pass b"]}.get(
            prompt_id, [f"{word} {prompt_id}" for word in ("pass", "fail")]
        )

    cycles = run(tmp_path, answers=answers, raft__prompt_weights="learnable", raft__samples_per_prompt=8)
    asked = [{row["prompt_id"] for row in rows(folder / "completions.jsonl")} for folder in trained_folders(cycles)]
    # One always-solved prompt is an anchor of its own: a share of it is rounded up.
    assert asked == [{"train1", "train2", "train3"}, {"train2", "train3"}, {"train1", "train2", "train3"}]


def test_a_curriculum_begins_with_what_is_easy(tmp_path: Path, verifier: MemoryVerifier) -> None:
    cycles = run(
        tmp_path, num_prompts=(6, 2, 1), raft__curriculum_fraction={"kind": "linear", "base": 0.5, "final": 1.0}
    )
    asked = [
        len({row["prompt_id"] for row in rows(folder / "completions.jsonl")}) for folder in trained_folders(cycles)
    ]
    assert asked == [3, 5, 6]
    assert [read(folder / "sampling.json")["curriculum_fraction"] for folder in trained_folders(cycles)] == [
        0.5,
        0.75,
        1.0,
    ]


def test_the_control_arm_is_trained_without_its_verdicts(tmp_path: Path, verifier: MemoryVerifier) -> None:
    cycles = run(tmp_path, selection={"kind": "unfiltered"}, raft__min_selected=6)
    for folder in trained_folders(cycles):
        assert len(read(folder / "selection.json")["kept"]) == 6
        assert rows(folder / "second_verdicts.jsonl") == []
    statuses = {row["status"] for row in rows(cycles / "001/verdicts.jsonl")}
    assert statuses != {"passed"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"training__start_from": "base"}, "training.start_from is base"),
        ({"training__start_from": "base", "training__learning_rate": 5e-5}, None),
        ({"training__start_from": "best"}, None),
        ({"selection": {"kind": "unfiltered"}}, "selection.kind is unfiltered: a control arm"),
    ],
)
def test_warnings_of_the_preview(changes: dict[str, Any], said: str | None, tmp_path: Path) -> None:
    warnings = planned(load_config(write_inputs(tmp_path, **changes)).config).warnings
    about = [each for each in warnings if "start_from" in each or "control arm" in each]
    assert [each[: len(said)] for each in about] == [said] if said is not None else about == []


def test_the_preview_counts_what_may_be_replayed(tmp_path: Path) -> None:
    config = load_config(write_inputs(tmp_path, raft__num_cycles=3, replay={"kind": "window", "share": 0.5})).config
    assert [cycle.max_optimizer_steps for cycle in planned(config).cycles] == [6, 12, 12]
