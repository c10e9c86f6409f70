"""A claim rechecked: none of an untouched run differs, and every edit is named."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from claim_runs import (
    Verifiers,
    claim_of_new_run,
    edited,
    inputs,
    members,
    packed,
    program,
    rechecked,
    rewritten,
    said,
    verify_programs,
)
from scripted_runs import execute, read, rows

from halo_forge import api
from halo_forge.claims.opened import Options
from halo_forge.claims.recheck import recheck
from halo_forge.core.errors import ClaimError

MANY = [program(f"pass number {number}") for number in range(40)]


@pytest.fixture
def verifiers(monkeypatch: pytest.MonkeyPatch) -> Verifiers:
    return verify_programs(monkeypatch)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nothing of its configuration has to be removed."""
    return claim_of_new_run(tmp_path_factory.mktemp("claim"))


@pytest.fixture
def claim(made: Path, verifiers: Verifiers) -> Path:
    return made


def confirmed(path: Path, **options: Any) -> None:
    found = rechecked(path, **options)
    assert said(found) == []
    assert found.is_confirmed and found.findings.flaky == []
    assert found.findings.num_values > 100


def test_nothing_differs_in_the_claim_of_an_untouched_run(claim: Path) -> None:
    confirmed(claim)
    found = rechecked(claim, programs=False)
    assert found.is_confirmed and found.num_verified == 0
    assert ("programs", "--no-programs") in [(each.what, each.why) for each in found.findings.not_checked]


def test_every_verdict_is_verified_again_and_second_ones_too(claim: Path, verifiers: Verifiers) -> None:
    found = rechecked(claim)
    files = [name for name in members(claim) if name.endswith("verdicts.jsonl")]
    assert any("second" in name for name in files)
    num = sum(len(members(claim)[name].splitlines()) for name in files)
    assert found.num_verified == num == len(verifiers.opened[-1].checked) > 0


def test_a_run_with_a_return_to_an_earlier_version(tmp_path: Path, verifiers: Verifiers) -> None:
    verifiers.words = {"bad_versions": {0, 2}}
    execute(inputs(tmp_path), tmp_path / "run")
    assert read(tmp_path / "run/cycles/003/decision.json")["action"] == "rollback"
    confirmed(packed(tmp_path / "run"))


def test_a_run_with_a_second_round_and_replay(tmp_path: Path, verifiers: Verifiers) -> None:
    changes: dict[str, Any] = {
        "raft__sampling": "budgeted",
        "raft__samples_per_prompt": 4,
        "replay__kind": "accumulate",
    }
    execute(inputs(tmp_path, **changes), tmp_path / "run")
    assert rows(tmp_path / "run/cycles/001/further_verdicts.jsonl")
    confirmed(packed(tmp_path / "run"))
    execute(inputs(tmp_path / "more", answers=lambda name: MANY, replay__kind="window"), tmp_path / "replaying")
    assert read(tmp_path / "replaying/cycles/002/selection.json")["replayed"]
    confirmed(packed(tmp_path / "replaying"))


def test_a_run_whose_lead_is_confirmed_on_fresh_samples_of_dev(tmp_path: Path, verifiers: Verifiers) -> None:
    verifiers.words = {"bad_versions": {0}}
    execute(inputs(tmp_path), tmp_path / "run")
    assert (tmp_path / "run/confirmation/v000/verdicts.jsonl").is_file()
    confirmed(packed(tmp_path / "run"))


def test_a_fork_whose_early_cycles_were_planned_otherwise(tmp_path: Path, verifiers: Verifiers) -> None:
    execute(inputs(tmp_path), tmp_path / "parent")
    api.fork(
        tmp_path / "parent",
        2,
        tmp_path / "fork",
        ["training.per_device_train_batch_size=2", "training.learning_rate=1e-6"],
    )
    path = packed(tmp_path / "fork")
    assert "forked_from/002.json" in members(path)
    confirmed(path)


def test_a_run_that_shares_files_with_another_one(tmp_path: Path, verifiers: Verifiers) -> None:
    config = inputs(tmp_path)
    execute(config, tmp_path / "first")
    execute(config, tmp_path / "second", "training.learning_rate=1e-6", share_from=[tmp_path / "first"])
    assert (tmp_path / "second/cycles/001/completions.jsonl").stat().st_nlink == 2
    confirmed(packed(tmp_path / "second"))


def test_a_run_with_schedules_that_look_at_results(tmp_path: Path, verifiers: Verifiers) -> None:
    plateau = {"kind": "plateau", "base": 1e-4, "metric": "dev/pass_rate", "patience": 1}
    execute(inputs(tmp_path, training__learning_rate=plateau), tmp_path / "run")
    confirmed(packed(tmp_path / "run"))


Edit = Callable[[Any], Any]


def set_to(key: str, value: Any, number: int | None = None) -> Edit:
    """Sets a dotted key of an object, or of the row of that number."""

    def edit(found: Any) -> None:
        inner = found if number is None else found[number]
        *path, last = key.split(".")
        for part in path:
            inner = inner[part]
        assert inner[last] != value
        inner[last] = value

    return edit


@pytest.mark.parametrize(
    ("file", "edit", "expected"),
    [
        ("cycles/002/measurement.json", set_to("metrics.dev/pass_rate", 0.25), "metrics.dev/pass_rate"),
        ("cycles/002/decision.json", set_to("outcome", "ahead"), "outcome"),
        ("cycles/002/decision.json", set_to("screen.difference", 0.5), "screen.difference"),
        ("cycles/002/sampling.json", set_to("temperature", 0.5), "temperature"),
        ("cycles/002/settings.json", set_to("learning_rate", 1.0), "learning_rate"),
        ("cycles/002/selection.json", set_to("threshold", 0.1), "threshold"),
        ("cycles/002/training_log.jsonl", set_to("learning_rate", 1e-9, 0), "step 1: learning_rate"),
        ("cycles/002/training_log.jsonl", lambda found: found[1:], "number of steps"),
        ("cycles/002/trained.json", set_to("metrics.learning_rate_mass", 1.0), "metrics.learning_rate_mass"),
        ("cycles/002/report.json", set_to("num_kept", 99), "num_kept"),
        ("cycles/002/advice.json", set_to("policy_version", 7), "policy_version"),
        ("cycles/002/dev_completions.jsonl", set_to("seed", 1, 0), "seed"),
        ("test/v000/measurement.json", set_to("metrics.test/pass_rate", 0.0), "metrics.test/pass_rate"),
        ("result.json", set_to("conclusion", "improved"), "conclusion"),
        ("run.json", set_to("seed", 5), "seed"),
        ("run.json", set_to("config_digest", "0"), "config_digest"),
        ("run.json", set_to("prompts.dev", "0"), "prompts.dev"),
    ],
)  # fmt: skip
def test_one_edited_number_is_named(claim: Path, file: str, edit: Edit, expected: str) -> None:
    found = rechecked(edited(claim, file, edit), programs=False)
    assert ("value", file, expected) in said(found)


def test_without_a_forged_manifest_the_file_is_named_too(claim: Path) -> None:
    path = edited(claim, "result.json", set_to("conclusion", "improved"), forged=False)
    found = said(rechecked(path, programs=False))
    assert ("file", "result.json", "not the bytes of the manifest") in found
    assert ("value", "result.json", "conclusion") in found


def test_a_number_that_no_model_has_measured_does_not_come_in_with_the_drift(claim: Path) -> None:
    files = members(claim)
    path = edited(claim, "cycles/001/drift.json", set_to_new("metrics", {"dev/pass_rate": 0.0}))
    path = edited(path, "cycles/001/measurement.json", set_to("metrics.dev/pass_rate", 0.0))
    assert files["cycles/001/drift.json"] != members(path)["cycles/001/drift.json"]
    found = rechecked(path, programs=False)
    assert ("value", "cycles/001/drift.json", "metrics.dev/pass_rate") in said(found)


def set_to_new(key: str, value: Any) -> Edit:
    def edit(found: Any) -> None:
        found[key] = value

    return edit


def test_an_edited_verdict_is_one_of_another_number_and_not_what_this_machine_finds(claim: Path) -> None:
    def edit(found: list[dict[str, Any]]) -> None:
        row = next(row for row in found if row["status"] == "failed" and row["stage"] == "tests")
        row |= {"status": "passed", "tests_passed": 1, "reward": 1.0}

    name = "cycles/001/verdicts.jsonl"
    path = edited(claim, name, edit)
    without = said(rechecked(path, programs=False))
    assert ("value", "cycles/001/measurement.json", "metrics.train/pass_rate") in without
    found = rechecked(path)
    (difference,) = [each for each in found.findings.differences if each.group == "verdict"]
    assert (difference.file, difference.what) == (name, "status, tests_passed")
    assert difference.prompt_id is not None and difference.index is not None
    assert difference.stored == "passed at tests, 1 of 1 test" and difference.recomputed.startswith("failed at tests")


def test_where_verdicts_differ_the_result_by_those_of_this_machine_is_shown(
    tmp_path: Path, verifiers: Verifiers
) -> None:
    verifiers.words = {"bad_versions": {0}}
    execute(inputs(tmp_path), tmp_path / "run")
    assert read(tmp_path / "run/result.json")["improved"] is True
    path = packed(tmp_path / "run")
    verifiers.words = {"bad_versions": {0, 1}}  # this machine does not confirm what v1 reached
    found = rechecked(path)
    assert {each.group for each in found.findings.differences} == {"verdict"}
    assert ("improved", True, False) in [(each.what, each.stored, each.recomputed) for each in found.consequences]


def test_a_reward_that_does_not_follow_from_its_verdict(claim: Path) -> None:
    path = edited(claim, "cycles/001/dev_verdicts.jsonl", set_to("reward", 0.9, 0))
    found = said(rechecked(path))
    assert ("value", "cycles/001/dev_verdicts.jsonl", "reward") in found
    assert not any(group == "verdict" for group, _, _ in found)


def test_an_edited_completion(claim: Path) -> None:
    def edit(found: list[dict[str, Any]]) -> None:
        row = next(row for row in found if '"fail' in row["text"])
        row["text"] = row["text"].replace('"fail', '"pass')

    path = edited(claim, "cycles/001/completions.jsonl", edit)
    assert ("value", "cycles/001/verdicts.jsonl", "source_digest") in said(rechecked(path, programs=False))
    assert any(group == "verdict" for group, _, _ in said(rechecked(path)))


def test_other_diagnostics_are_a_difference_of_their_own(claim: Path, verifiers: Verifiers) -> None:
    path = edited(claim, "cycles/001/dev_verdicts.jsonl", set_to("diagnostics", "all is well", 0))
    assert said(rechecked(path)) == [("diagnostics", "cycles/001/dev_verdicts.jsonl", "diagnostics")]
    verifiers.compiler = "memory 2"  # another compiler words its messages otherwise
    assert rechecked(path).is_confirmed


def test_which_of_several_limits_ended_a_program_is_no_difference(tmp_path: Path, verifiers: Verifiers) -> None:
    """On a busy machine time on the clock is over before CPU time is."""
    verifiers.timeouts = [("exceeded its 1 s of CPU time", 24)]
    execute(inputs(tmp_path), tmp_path / "run")
    path = packed(tmp_path / "run")
    assert any(row["status"] == "timeout" for row in rows(tmp_path / "run/cycles/001/verdicts.jsonl"))
    verifiers.timeouts = [("did not finish within 5 s", 9)]
    confirmed(path)
    verifiers.timeouts = []
    assert {each.group for each in rechecked(path).findings.differences} == {"verdict"}


def test_a_machine_that_is_too_slow_is_named_as_a_reason(claim: Path, verifiers: Verifiers) -> None:
    verifiers.timeouts = [("did not finish within 5 s", 9)]
    found = rechecked(claim)
    assert {each.group for each in found.findings.differences} == {"verdict"}
    assert any("--workers 1" in each.why for each in found.findings.not_checked)


@pytest.mark.parametrize("name", ["completions", "verdicts", "dev_completions", "second_verdicts"])
def test_a_missing_row_and_one_too_many(claim: Path, name: str) -> None:
    file = f"cycles/001/{name}.jsonl"
    found = rechecked(edited(claim, file, lambda found: found[1:]), programs=False)
    assert ("row", file, "missing") in said(found)
    assert any("lacks 1 of" in each.why for each in found.findings.not_checked)
    found = rechecked(edited(claim, file, lambda found: [*found, found[0]]), programs=False)
    assert said(found) == [("row", file, "2 times")]
    other = edited(claim, file, lambda found: [*found, {**found[0], "index": 77}])
    assert ("row", file, "not asked for") in said(rechecked(other, programs=False))


def test_rows_in_another_order(claim: Path) -> None:
    path = edited(claim, "cycles/001/completions.jsonl", lambda found: found[::-1])
    assert ("row", "cycles/001/completions.jsonl", "not in the order of the requests") in said(rechecked(path))


def test_a_missing_file_and_one_that_belongs_to_nothing(claim: Path) -> None:
    files = members(claim)
    del files["cycles/002/decision.json"]
    found = rechecked(rewritten(claim, files), programs=False)
    assert said(found) == [("file", "cycles/002/decision.json", "missing")]
    assert any(each.what == "cycles/003/decision.json" for each in found.findings.not_checked)
    files = {**members(claim), "cycles/009/decision.json": b"{}"}
    found = rechecked(rewritten(claim, files), programs=False)
    assert said(found) == [("file", "cycles/009/decision.json", "belongs to no stage of the run")]


def test_a_file_that_is_not_what_it_should_be(claim: Path) -> None:
    for content in (b"{", b"[1]", b'{"cycle": "one"}', b"[" * 5000):
        files = {**members(claim), "cycles/002/decision.json": content}
        found = said(rechecked(rewritten(claim, files), programs=False))
        assert [(group, file) for group, file, _ in found] == [("file", "cycles/002/decision.json")]


def test_values_that_no_run_can_have_are_differences_not_tracebacks(claim: Path) -> None:
    for key, value in (("best_version", 99), ("train_from", -7), ("learning_rate_factor", float("nan"))):
        found = rechecked(edited(claim, "cycles/002/decision.json", set_to(key, value)), programs=False)
        assert ("value", "cycles/002/decision.json", key) in said(found)
    absurd = edited(claim, "cycles/002/sampling.json", set_to("samples_per_prompt", 10**12))
    assert any("asks for" in each.why for each in rechecked(absurd, programs=False).findings.not_checked)


def test_a_flaky_program_is_no_difference(tmp_path: Path, verifiers: Verifiers) -> None:
    verifiers.words = {"flaky": ["pass one train1"]}
    execute(inputs(tmp_path), tmp_path / "run")
    dropped = read(tmp_path / "run/cycles/001/selection.json")["dropped"]
    found = rechecked(packed(tmp_path / "run"))
    assert ("flaky" in dropped) == bool(found.findings.flaky)
    assert found.is_confirmed
    assert {each.prompt_id for each in found.findings.flaky} <= {"train1"}


def test_without_reruns_a_flaky_program_counts(tmp_path: Path, verifiers: Verifiers) -> None:
    verifiers.words = {"flaky": ["pass one train1", "pass two train1"]}
    execute(inputs(tmp_path), tmp_path / "run")
    path = packed(tmp_path / "run")
    assert rechecked(path, num_reruns=3).findings.flaky
    assert any(group == "verdict" for group, _, _ in said(rechecked(path, num_reruns=0)))


def test_another_toolchain_is_shown_beside_the_run_s(claim: Path, verifiers: Verifiers) -> None:
    verifiers.compiler, verifiers.words = "memory 2", {"bad_versions": {2}}
    found = rechecked(claim)
    assert found.versions["version"] == ("memory 1", "memory 2")
    assert {each.group for each in found.findings.differences} == {"toolchain"}


def test_failures_of_a_verifier_say_nothing_about_a_program(tmp_path: Path, verifiers: Verifiers) -> None:
    def answers(name: str) -> list[str]:
        return [program(f"{word} {name}") for word in (("pass", "error") if name == "train1" else ("pass",))]

    changes: dict[str, Any] = {"verifier__max_error_fraction": 1.0}
    execute(inputs(tmp_path, answers=answers, **changes), tmp_path / "run")
    path = packed(tmp_path / "run")
    found = rechecked(path)
    assert said(found) == []
    assert any("failed on it" in each.why for each in found.findings.not_checked)
    without = rechecked(path, programs=False)
    assert any("of status error" in each.what for each in without.findings.not_checked)


def test_a_failed_program_cannot_be_hidden_as_a_failure_of_the_verifier(claim: Path) -> None:
    def edit(found: list[dict[str, Any]]) -> None:
        row = next(row for row in found if row["status"] == "failed" and row["stage"] == "tests")
        row |= {"stage": "extract", "status": "error", "tests_passed": 0, "reward": 0.0}

    path = edited(claim, "cycles/001/verdicts.jsonl", edit)
    assert ("verdict", "cycles/001/verdicts.jsonl", "stage, status") in said(rechecked(path))


def test_a_killed_recheck_goes_on_in_its_work_folder(claim: Path, tmp_path: Path, verifiers: Verifiers) -> None:
    work = tmp_path / "work"
    stopped = 5

    def killed(label: str, items: Any, total: int) -> Any:
        for number, item in enumerate(items):
            if number == stopped:
                raise KeyboardInterrupt
            yield item

    with pytest.raises(KeyboardInterrupt):
        recheck(claim, Options(work_dir=work), killed)
    first = len(verifiers.opened[-1].checked)
    found = rechecked(claim, work_dir=work)
    assert found.is_confirmed
    assert 0 < first and len(verifiers.opened[-1].checked) <= found.num_verified - stopped
    with pytest.raises(ClaimError, match="another file"):
        rechecked(edited(claim, "result.json", set_to("conclusion", "improved")), work_dir=work)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "mine.txt").write_text("mine")
    with pytest.raises(ClaimError, match="no folder of a recheck"):
        rechecked(claim, work_dir=foreign)
    assert (foreign / "mine.txt").read_text() == "mine"


def test_prompts_that_are_not_in_the_claim_are_named_by_whoever_rechecks(tmp_path: Path, verifiers: Verifiers) -> None:
    execute(inputs(tmp_path), tmp_path / "run")
    path = packed(tmp_path / "run", with_prompts=False)
    assert b"Write train1" not in members(path)["prompts/train.jsonl"]
    found = rechecked(path)
    assert found.is_confirmed and found.num_verified == 0
    assert "--prompts dev=FILE" in " ".join(each.why for each in found.findings.not_checked)
    # The numbers are computed all the same.
    lower = edited(path, "result.json", set_to("conclusion", "improved"))
    assert ("value", "result.json", "conclusion") in said(rechecked(lower))
    found = rechecked(path, prompts={name: str(tmp_path / f"{name}.jsonl") for name in ("train", "dev", "test")})
    assert found.is_confirmed and found.num_verified > 0
    shutil.copy(tmp_path / "train.jsonl", tmp_path / "other.jsonl")
    with pytest.raises(ClaimError, match="not the prompts that were asked"):
        rechecked(path, prompts={"dev": str(tmp_path / "other.jsonl")})
