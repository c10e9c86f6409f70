"""Claims of evaluations: their columns and differences, computed again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from claim_runs import (
    TESTS,
    Verifiers,
    edited,
    members,
    programs,
    rechecked,
    rewritten,
    said,
    silent,
    verify_programs,
)
from scripted_runs import read, write_rows

from halo_forge.api import SilentObserver
from halo_forge.claims.opened import Options
from halo_forge.claims.pack import pack
from halo_forge.claims.recheck import recheck
from halo_forge.core.errors import ClaimError, RunDirError
from halo_forge.core.records import Prompt
from halo_forge.evaluations.execute import execute
from halo_forge.evaluations.plan import plan
from halo_forge.runtime.prompt_sets import prompt_digest

IDS = [f"train{number}" for number in range(6)]


@pytest.fixture
def verifiers(monkeypatch: pytest.MonkeyPatch) -> Verifiers:
    return verify_programs(monkeypatch)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two subjects on a set of one's own and on a packaged one, greedily and sampled."""
    folder = tmp_path_factory.mktemp("evaluation")
    rows = ({"id": each, "prompt": f"Write {each}.", "language": "c", "tests": TESTS} for each in IDS)
    own = write_rows(folder / "secret folder/own.jsonl", rows)
    every = {"prompt_id": "*", "answers": programs("train0")}
    answers = write_rows(folder / "secret folder/answers.jsonl", [every])
    engine = json.dumps({"kind": "scripted", "answers": str(answers)})
    with pytest.MonkeyPatch.context() as monkeypatch:
        verify_programs(monkeypatch)
        planned = plan(
            ["owner/first", "owner/second"], [str(own), "builtin:c/test"], limit=4,
            overrides=[f"engine={engine}", "verifier.kind=c"], output_dir=folder / "eval",
        )  # fmt: skip
        execute(planned, SilentObserver())
    return folder / "eval"


@pytest.fixture
def evaluation(made: Path, tmp_path: Path, verifiers: Verifiers) -> Path:
    return Path(shutil.copytree(made, tmp_path / "eval"))


def test_nothing_differs_in_an_untouched_evaluation(evaluation: Path) -> None:
    path = pack(evaluation, None, with_prompts=True).path
    found = rechecked(path)
    assert said(found) == [] and found.findings.flaky == []
    num = sum(1 for each in evaluation.rglob("verdicts.jsonl") for _ in each.open())
    assert found.num_completions == found.num_verified == num == 2 * 2 * (4 + 16)
    assert any("owner/first on own.jsonl, greedy: pass@1" in line for line in found.title)
    assert path.read_bytes() == pack(evaluation, None, with_prompts=True).path.read_bytes()


def test_names_and_folders_that_are_paths_stay_private(evaluation: Path, made: Path) -> None:
    content = b"".join(members(pack(evaluation, None, with_prompts=True).path).values())
    for word in (str(made.parent), made.parent.name, "secret", "answers.jsonl"):
        assert word.encode() not in content, word


@pytest.mark.parametrize(
    ("file", "keys", "what"),
    [
        ("result.json", ("columns", 0, "metrics", "pass@1"), "columns.0.metrics.pass@1"),
        ("result.json", ("columns", 1, "outcomes", "tests passed"), "columns.1.outcomes.tests passed"),
        ("result.json", ("differences", 0, "values", "high"), "differences.0.values.high"),
        ("sets/set1/subject1/sampled/completions.jsonl", (0, "seed"), "seed"),
        ("sets/set1/subject2/greedy/verdicts.jsonl", (0, "reward"), "reward"),
        ("evaluation.json", ("sets", "own.jsonl", "prompts_sha256"), "own.jsonl.prompts_sha256"),
    ],
)
def test_one_edited_number_is_named(evaluation: Path, file: str, keys: tuple[Any, ...], what: str) -> None:
    def edit(found: Any) -> None:
        for key in keys[:-1]:
            found = found[key]
        assert found[keys[-1]] is not None
        found[keys[-1]] = (
            0.123 if isinstance(found[keys[-1]], float) else 99 if isinstance(found[keys[-1]], int) else "0"
        )

    path = edited(pack(evaluation, None).path, file, edit)
    assert ("value", file, what) in said(rechecked(path, programs=False))


def test_an_edited_verdict_is_not_confirmed_and_the_columns_by_this_machine_are_shown(evaluation: Path) -> None:
    file = "sets/set1/subject1/sampled/verdicts.jsonl"

    def edit(found: Any) -> None:
        row = next(row for row in found if row["status"] == "failed" and row["stage"] == "tests")
        row |= {"status": "passed", "tests_passed": 1, "reward": 1.0}

    path = pack(evaluation, None, with_prompts=True).path
    found = rechecked(edited(path, file, edit))
    assert [(each.group, each.file) for each in found.findings.differences if each.group == "verdict"] == [
        ("verdict", file)
    ]
    assert ("value", "result.json", "columns.2.metrics.pass@1") in said(found)
    assert found.consequences == []  # by the verdicts of this machine the stored columns are right


def test_packaged_tasks_with_other_tests_are_not_taken_for_packaged_ones(evaluation: Path) -> None:
    path = pack(evaluation, None).path
    assert rechecked(path, programs=False).is_confirmed
    files = members(path)
    rows = [json.loads(each) for each in files["sets/set2/prompts.jsonl"].splitlines()]
    rows[0]["tests"]["expected"] = ["anything"]
    digest = prompt_digest([Prompt.from_row(row) for row in rows])
    manifest, stored = json.loads(files["manifest.json"]), json.loads(files["evaluation.json"])
    manifest["prompts"]["set2"]["sha256"] = stored["sets"]["builtin:c/test"]["prompts_sha256"] = digest
    for name, content in (("manifest.json", manifest), ("evaluation.json", stored)):
        files[name] = json.dumps(content).encode()
    files["sets/set2/prompts.jsonl"] = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    what = "that the prompts of set2 are builtin:c/test"
    assert ("value", "sets/set2/prompts.jsonl", what) in said(rechecked(rewritten(path, files), programs=False))


def test_more_samples_than_there_are_rows_are_a_difference_and_not_a_long_wait(evaluation: Path) -> None:
    def edit(found: Any) -> None:
        found["sets"]["own.jsonl"]["decodings"]["sampled"]["sampling"]["samples_per_prompt"] = 10**12

    found = rechecked(edited(pack(evaluation, None).path, "evaluation.json", edit), programs=False)
    assert any("asks for more samples than the claim has rows" in what for _, _, what in said(found))


def test_a_missing_row_and_one_too_many(evaluation: Path) -> None:
    path, folder = pack(evaluation, None).path, "sets/set2/subject1/greedy"
    for file in ("completions", "verdicts"):
        found = rechecked(edited(path, f"{folder}/{file}.jsonl", lambda rows: rows[1:]), programs=False)
        assert ("row", f"{folder}/completions.jsonl", "missing") in said(found)
        assert any(each.what == "columns and differences" for each in found.findings.not_checked)
    files = members(path)
    for file in ("completions.jsonl", "verdicts.jsonl"):
        first = files[f"{folder}/{file}"].splitlines(keepends=True)[0]
        files[f"{folder}/{file}"] += first.replace(b'"index": 0', b'"index": 5')
    found = rechecked(rewritten(path, files), programs=False)
    assert ("row", f"{folder}/completions.jsonl", "not asked for") in said(found)


def test_a_folder_that_leads_out_of_the_claim_is_refused(evaluation: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"id": "secret"}\n')
    path = pack(evaluation, None).path
    for where in ("../../..", "/etc", "set1/../set2", "", 7):
        for part, name in (("sets", "own.jsonl"), ("subjects", "owner/first")):

            def edit(found: Any, part: str = part, name: str = name, where: object = where) -> None:
                found[part][name]["folder"] = where

            with pytest.raises(ClaimError, match=r"evaluation.json: not what halo-forge wrote"):
                rechecked(edited(path, "evaluation.json", edit))


def test_prompts_of_one_s_own_are_named_by_whoever_rechecks(evaluation: Path) -> None:
    path = pack(evaluation, None).path
    assert b"Write train" not in members(path)["sets/set1/prompts.jsonl"]
    found = rechecked(path)
    assert found.is_confirmed and found.num_verified == 40  # those of the packaged set
    folders = [task_set["folder"] for task_set in read(evaluation / "evaluation.json")["sets"].values()]
    own, packaged = (evaluation / folder / "prompts.jsonl" for folder in folders)
    found = recheck(path, Options(prompts={"set1": str(own)}), silent)
    assert found.is_confirmed and found.num_verified == 80
    with pytest.raises(ClaimError, match="no such set"):
        recheck(path, Options(prompts={"dev": str(own)}), silent)
    with pytest.raises(ClaimError, match="not the prompts that were asked"):
        recheck(path, Options(prompts={"set1": str(packaged)}), silent)


def test_what_cannot_be_packed(evaluation: Path) -> None:
    with pytest.raises(ClaimError, match="has no adapter"):
        pack(evaluation, None, with_adapter=True)
    (evaluation / "result.json").unlink()
    with pytest.raises(RunDirError, match="not finished") as caught:
        pack(evaluation, None)
    assert "--resume" in caught.value.hint
