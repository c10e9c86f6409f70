"""The samples of a run directory: joined with their verdicts, by version and by set."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from scripted_runs import execute, verify_in_memory, write_inputs

from halo_forge.core.errors import RunDirError
from halo_forge.store.rows import sample_rows
from halo_forge.store.samples import stored_samples


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    verify_in_memory(monkeypatch, flaky=[f"pass two train{number}" for number in (1, 2, 3)])
    execute(write_inputs(tmp_path), tmp_path / "run")
    return tmp_path / "run"


def test_the_samples_of_a_version_are_all_that_it_generated_and_no_others(root: Path) -> None:
    every = list(stored_samples(root))
    for version in (0, 1, 2):
        found = list(stored_samples(root, version=version))
        assert found == [each for each in every if each.completion.policy_version == version]
        assert found
    assert list(stored_samples(root, version=7)) == []


def test_a_set_is_read_alone(root: Path) -> None:
    every = list(stored_samples(root))
    for name in {each.set_name for each in every}:
        assert list(stored_samples(root, sets=[name])) == [each for each in every if each.set_name == name]
    assert {each.set_name for each in every} >= {"train", "dev", "test"}
    assert all((each.cycle is None) is (each.set_name == "test") for each in every)


def test_every_train_sample_says_whether_it_was_kept_and_else_why_not(root: Path) -> None:
    for sample in stored_samples(root, sets=["train"]):
        assert sample.kept is not None
        assert sample.kept is (sample.dropped_for is None)
        assert sample.verdict is not None
        if sample.dropped_for == "below_threshold":
            assert not sample.verdict.passed


def test_a_flaky_sample_has_both_verdicts(root: Path) -> None:
    flaky = [each for each in stored_samples(root) if each.dropped_for == "flaky"]
    assert flaky
    for sample in flaky:
        assert sample.verdict is not None and sample.second_verdict is not None
        assert sample.verdict.passed and not sample.second_verdict.passed


def test_a_sample_without_a_sealed_verdict_is_not_judged(root: Path) -> None:
    (root / "cycles" / "002" / "dev_verdicts.jsonl").unlink()
    dev = list(stored_samples(root, version=1, sets=["dev"]))
    assert dev
    assert not any(each.is_judged for each in dev)
    assert all(each.is_judged for each in stored_samples(root, version=0))


def test_resamples_belong_to_the_version_that_generated_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verify_in_memory(monkeypatch, bad_versions=[1])
    config = write_inputs(
        tmp_path,
        num_prompts=(4, 12, 1),
        answers=lambda prompt_id: [f"pass {prompt_id}", f"pass again {prompt_id}"],
        decisions__on_decline="rollback",
        raft__num_cycles=3,
    )
    execute(config, tmp_path / "run")
    of_start = Counter(each.set_name for each in stored_samples(tmp_path / "run", version=0))
    assert of_start["rollback"] > 0 and of_start["confirm_incumbent"] > 0
    of_worse = Counter(each.set_name for each in stored_samples(tmp_path / "run", version=1))
    assert of_worse["confirm"] > 0 and of_worse["rollback"] == of_worse["confirm_incumbent"] == 0
    kept_of_worse = [each.kept for each in stored_samples(tmp_path / "run", version=1, sets=["train"])]
    assert set(kept_of_worse) == {None}  # the selection chose among the resamples


def test_an_edited_line_is_an_error_that_names_the_file(root: Path) -> None:
    path = root / "cycles" / "001" / "dev_verdicts.jsonl"
    path.write_text(path.read_text().replace('"reward": 1.0', '"reward": "full"'))
    with pytest.raises(RunDirError, match=r"dev_verdicts\.jsonl"):
        list(stored_samples(root))


def test_rows_say_the_same(root: Path) -> None:
    rows = list(sample_rows(root))
    samples = list(stored_samples(root))
    assert [(row["prompt_id"], row["index"]) for row in rows] == [each.key for each in samples]
    assert [row["kept"] for row in rows] == [each.kept for each in samples]
    assert [row["status"] for row in rows] == [each.verdict and each.verdict.status for each in samples]
