"""What an evaluation asks of whom: settings, task sets, folders, and what is refused before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from scripted_runs import execute, verify_in_memory, write_inputs, write_rows

from halo_forge.core.errors import ConfigError, ModelError
from halo_forge.evaluations.plan import Evaluation, plan

MBPP = {"task_id": 1, "text": "Add.", "code": "def add(a, b): return a + b", "test_list": ["assert add(1, 2) == 3"]}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    verify_in_memory(monkeypatch)
    execute(write_inputs(tmp_path, prompts__response_prefix="```c\n", engine__stop=["```"]), tmp_path / "run")
    return tmp_path / "run"


def other_run(tmp_path: Path, **changes: Any) -> Path:
    config = write_inputs(tmp_path, prompts__response_prefix="```c\n", engine__stop=["```"], **changes)
    execute(config, tmp_path / "other")
    return tmp_path / "other"


def tasks(tmp_path: Path, *rows: dict[str, Any]) -> str:
    return str(write_rows(tmp_path / "tasks.jsonl", rows or [{"id": "t1", "prompt": "Write one.", "language": "c"}]))


def only_settings(planned: Evaluation, decoding: str = "sampled") -> Any:
    return planned.sets[0].settings[decoding]  # type: ignore[index]


def test_a_runs_settings_hold_for_all_subjects_and_are_sampled_greedily_too(run: Path, tmp_path: Path) -> None:
    planned = plan(["owner/name", f"{run}@v0", f"{run}@v1"], [tasks(tmp_path)])
    assert [each.name for each in planned.subjects] == ["owner/name", f"{run}@v0", f"{run}@v1"]
    sampled, greedy = only_settings(planned), only_settings(planned, "greedy")
    assert (sampled.samples_per_prompt, sampled.temperature, sampled.response_prefix) == (2, 0.7, "```c\n")
    assert sampled.engine.stop == ["```"]
    assert (greedy.temperature, greedy.num_samples) == (0.0, 1)


def test_overrides_hold_for_all_subjects(tmp_path: Path) -> None:
    planned = plan(
        ["owner/name"],
        [tasks(tmp_path)],
        overrides=["evaluation.samples_per_prompt=10", "engine.max_new_tokens=99", "model.dtype=float32"],
    )
    assert (only_settings(planned).num_samples, only_settings(planned).engine.max_new_tokens) == (10, 99)
    assert planned.subjects[0].model.dtype == "float32"


def test_a_set_in_another_language_has_its_own_verifier_and_neither_prefix_nor_stop(run: Path, tmp_path: Path) -> None:
    planned = plan([f"{run}@v0"], [tasks(tmp_path, MBPP)])
    settings = only_settings(planned)
    assert (settings.verifier.language, settings.response_prefix, settings.engine.stop) == ("python", None, [])
    assert any("prompts.response_prefix, engine.stop" in note for note in planned.notes)
    given = plan([f"{run}@v0"], [tasks(tmp_path, MBPP)], overrides=["engine.stop=[END]"])
    assert only_settings(given).engine.stop == ["END"]


def test_two_runs_that_would_be_asked_differently_are_refused_until_it_is_said_how(run: Path, tmp_path: Path) -> None:
    other = other_run(tmp_path, evaluation__temperature=0.2)
    with pytest.raises(ConfigError, match=r"sampling\.temperature: 0\.7 in .*, 0\.2 in "):
        plan([f"{run}@v0", f"{other}@v0"], [tasks(tmp_path)])
    said = plan([f"{run}@v0", f"{other}@v0"], [tasks(tmp_path)], overrides=["evaluation.temperature=0.5"])
    assert only_settings(said).temperature == 0.5


def test_what_a_runs_where_leaves_out_is_asked_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verify_in_memory(monkeypatch)
    rows = [{"id": f"t{n}", "prompt": f"Write {n}.", "language": "c", "difficulty": level} for n, level in
            enumerate(["easy", "hard"])]  # fmt: skip
    config = write_inputs(tmp_path)
    for name in ("train", "dev", "test"):
        path = tmp_path / f"{name}.jsonl"
        given = [json.loads(line) for line in path.read_text().splitlines()]
        write_rows(path, [{**row, "difficulty": "easy"} for row in given])
    execute(config, tmp_path / "run", "prompts.where={difficulty: [easy]}")
    whole = plan([f"{tmp_path / 'run'}@v0"], [tasks(tmp_path, *rows)])
    assert len(whole.sets[0].prompts) == 2
    assert any("is not applied" in note for note in whole.notes)
    chosen = plan(
        [f"{tmp_path / 'run'}@v0"], [tasks(tmp_path, *rows)], overrides=["prompts.where={difficulty: [easy]}"]
    )
    assert [prompt.id for prompt in chosen.sets[0].prompts] == ["t0"]


def test_the_default_folder_follows_from_everything_that_is_asked(tmp_path: Path) -> None:
    first = plan(["owner/name"], [tasks(tmp_path)])
    again = plan(["owner/name"], [tasks(tmp_path)])
    other = plan(["owner/name"], [tasks(tmp_path)], overrides=["engine.max_new_tokens=99"])
    assert first.root == again.root != other.root
    assert first.root.parts[:2] == ("runs", "evaluations")


def test_two_names_of_one_model_are_said(run: Path, tmp_path: Path, tiny_models: dict[str, Path]) -> None:
    planned = plan([str(tiny_models["llama"]), str(tiny_models["qwen2"])], [tasks(tmp_path)])
    assert planned.notes == ()
    same = plan([f"{run}@v0", "nobody/nothing"], [tasks(tmp_path)])
    assert f"{run}@v0 and nobody/nothing are the same model" in same.notes


def test_names_that_are_alike_as_folders_get_folders_of_their_own(tmp_path: Path) -> None:
    planned = plan(["owner/name", "owner_name"], [tasks(tmp_path)])
    assert len(set(planned.folders)) == 2


@pytest.mark.parametrize(
    ("subjects", "overrides", "message"),
    [
        ([], [], "no subject is given"),
        (["owner/name", "owner/name"], [], "subject owner/name is given twice"),
        (["owner/name"], ["training.learning_rate=1e-4"], "nothing of an evaluation depends on `training`"),
        (["owner/name"], ["prompts.test=x.jsonl"], "an evaluation reads prompts.response_prefix"),
        (["owner/name"], ["model.adapter=x"], "an adapter is a subject of its own"),
        (["owner/name"], ["engine.max_new_tokens=many"], "engine.max_new_tokens"),
        (["owner/name"], ["verifier.kind=rust"], "its prompts ask for c, but verifier.kind is rust"),
    ],
)
def test_what_cannot_be_asked_is_refused(
    subjects: list[str], overrides: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(subjects, [tasks(tmp_path)], overrides=overrides)


def test_a_missing_model_is_refused_before_a_task_set_is_read() -> None:
    with pytest.raises(ModelError, match="no such folder"):
        plan(["./none/such/model"], ["none.jsonl"])


def test_every_task_set_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        plan(["owner/name"], [str(tmp_path / "one.jsonl"), str(tmp_path / "two.jsonl")])
    assert "one.jsonl" in str(refused.value)
    assert "two.jsonl" in str(refused.value)


def test_rows_without_a_language_need_a_verifier(tmp_path: Path) -> None:
    rows = tasks(tmp_path, {"id": "t1", "prompt": "Write one."})
    with pytest.raises(ConfigError, match="its rows name no language"):
        plan(["owner/name"], [rows])
    assert only_settings(plan(["owner/name"], [rows], overrides=["verifier.kind=go"])).verifier.language == "go"


def test_rows_in_two_languages_are_refused(tmp_path: Path) -> None:
    rows = tasks(tmp_path, *({"id": each, "prompt": "Write one.", "language": each} for each in ("c", "go")))
    with pytest.raises(ConfigError, match=r"in 2 languages \(c, go\)"):
        plan(["owner/name"], [rows])


def test_tests_that_the_verifier_cannot_use_are_refused_with_the_prompt(tmp_path: Path) -> None:
    rows = tasks(
        tmp_path,
        {"id": "t1", "prompt": "Write.", "language": "c", "tests": {"kind": "asserts", "tests": ["assert f() == 1"]}},
    )
    with pytest.raises(ConfigError, match=r"prompt 't1'.*are for Python"):
        plan(["owner/name"], [rows])


def test_of_many_prompts_that_are_refused_a_few_are_shown_and_the_others_counted(tmp_path: Path) -> None:
    tests = {"kind": "asserts", "tests": ["assert f() == 1"]}
    rows = [{"id": f"t{number}", "prompt": "Write.", "language": "c", "tests": tests} for number in range(8)]
    with pytest.raises(ConfigError) as refused:
        plan(["owner/name"], [tasks(tmp_path, *rows)])
    assert str(refused.value).count("are for Python") == 5
    assert "(and 3 more prompts of this set are refused)" in str(refused.value)


def test_at_temperature_0_there_is_greedy_decoding_only_and_it_is_said(tmp_path: Path) -> None:
    changes = ["evaluation.temperature=0", "evaluation.samples_per_prompt=1"]
    planned = plan(["owner/name"], [tasks(tmp_path)], overrides=changes)
    assert list(planned.sets[0].settings) == ["greedy"]
    assert planned.notes == ("evaluation.temperature is 0: greedy decoding only",)
    with pytest.raises(ConfigError, match="there is nothing to sample"):
        plan(["owner/name"], [tasks(tmp_path)], overrides=changes, decodings=["sampled"])


def test_a_set_without_tests_is_warned_about(tmp_path: Path) -> None:
    assert any("has tests: a pass means" in each for each in plan(["owner/name"], [tasks(tmp_path)]).warnings)
