"""Running an evaluation: columns and differences, killed and continued, read again."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from scripted_runs import rows, tree, verify_in_memory, write_rows

from halo_forge.api import SilentObserver
from halo_forge.core.errors import RunDirError, ToolMissing
from halo_forge.engines.scripted import ScriptedEngine
from halo_forge.evaluations.execute import execute, read_evaluation
from halo_forge.evaluations.outside import row_of
from halo_forge.evaluations.plan import Evaluation, plan
from halo_forge.prompts import load_prompts
from halo_forge.verifiers import open_verifier

IDS = [f"t{number}" for number in range(6)]


@pytest.fixture(autouse=True)
def _in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    verify_in_memory(monkeypatch)


def planned(tmp_path: Path, name: str = "eval", **changes: Any) -> Evaluation:
    """Two subjects that are the same model under two names, on one set of six prompts."""
    tasks = write_rows(
        tmp_path / "tasks.jsonl", ({"id": each, "prompt": f"Write {each}.", "language": "c"} for each in IDS)
    )
    answers = write_rows(
        tmp_path / "answers.jsonl",
        ({"prompt_id": each, "answers": ["pass one", "pass two", "fail", "broken"]} for each in IDS),
    )
    engine = {"kind": "scripted", "answers": str(answers)}
    return plan(
        ["owner/first", "owner/second"],
        [str(tasks)],
        overrides=[f"engine={json.dumps(engine)}", *(f"{key}={value}" for key, value in changes.items())],
        output_dir=tmp_path / name,
    )


def test_every_subject_has_a_column_for_each_set_and_decoding(tmp_path: Path) -> None:
    found = execute(planned(tmp_path), SilentObserver())
    columns = [(each["subject"], each["decoding"], each["num_samples"]) for each in found.columns]
    assert columns == [
        ("owner/first", "greedy", 6), ("owner/second", "greedy", 6),
        ("owner/first", "sampled", 24), ("owner/second", "sampled", 24),
    ]  # fmt: skip
    for column in found.columns:
        assert sum(column["outcomes"].values()) == column["num_samples"]
        metrics = column["metrics"]
        assert metrics["pass@1"] == pytest.approx(column["outcomes"]["tests passed"] / column["num_samples"])
        assert metrics["pass@1_low"] <= metrics["pass@1"] <= metrics["pass@1_high"]
    assert "pass@4" in found.columns[2]["metrics"]
    assert "pass@4" not in found.columns[0]["metrics"]


def test_two_subjects_of_equal_completions_differ_by_nothing_and_the_detectable_effect_is_not_nothing(
    tmp_path: Path,
) -> None:
    found = execute(planned(tmp_path), SilentObserver())
    between = [each for each in found.differences if each["first_decoding"] == each["second_decoding"]]
    assert {(each["first"], each["second"], each["first_decoding"]) for each in between} == {
        ("owner/first", "owner/second", decoding) for decoding in ("greedy", "sampled")
    }
    assert {each["metric"] for each in between} == {"pass_rate", "compile_rate", "reward_mean"}
    for each in between:
        assert each["values"]["difference"] == 0.0
        assert each["values"]["low"] < 0.0 < each["values"]["high"]
        assert each["values"]["minimum_detectable_effect"] > 0.0


def test_a_subject_is_compared_under_both_decodings(tmp_path: Path) -> None:
    found = execute(planned(tmp_path), SilentObserver())
    rates = {(each["subject"], each["decoding"]): each["metrics"]["pass_rate"] for each in found.columns}
    own = [each for each in found.differences if each["first_decoding"] != each["second_decoding"]]
    assert {each["first"] for each in own} == {each["second"] for each in own} == {"owner/first", "owner/second"}
    for each in own:
        assert (each["first_decoding"], each["second_decoding"]) == ("greedy", "sampled")
        if each["metric"] == "pass_rate":
            change = rates[each["first"], "sampled"] - rates[each["first"], "greedy"]
            assert each["values"]["difference"] == pytest.approx(change)


def test_a_killed_evaluation_continues_and_leaves_the_same_files(tmp_path: Path) -> None:
    execute(planned(tmp_path, "whole"), SilentObserver())
    child = os.fork()
    if child == 0:
        sample, drawn = ScriptedEngine.sample, [0]

        def killed(self: Any, *given: Any) -> Any:
            for completion in sample(self, *given):
                drawn[0] += 1
                if drawn[0] == 20:
                    os.kill(os.getpid(), signal.SIGKILL)
                yield completion

        ScriptedEngine.sample = killed  # type: ignore[method-assign]
        execute(planned(tmp_path, "killed"), SilentObserver())
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert len(list((tmp_path / "killed").rglob("completions.jsonl.part"))) == 1
    with pytest.raises(RunDirError, match="already started here") as refused:
        execute(planned(tmp_path, "killed"), SilentObserver())
    assert "--resume" in refused.value.hint
    execute(planned(tmp_path, "killed"), SilentObserver(), resume=True)

    def kept(root: Path) -> dict[str, bytes]:
        found = {name: data for name, data in tree(root).items() if Path(name).name not in ("events.jsonl", "lock")}
        return {
            name: b"" if name.endswith("asked.json") else data for name, data in found.items()
        }  # which says when it was first asked

    assert kept(tmp_path / "killed") == kept(tmp_path / "whole")


def test_another_evaluation_in_the_folder_is_refused_and_left_alone(tmp_path: Path) -> None:
    execute(planned(tmp_path), SilentObserver())
    before = tree(tmp_path / "eval")
    with pytest.raises(RunDirError, match=r"samples_per_prompt: was 4, is 2"):
        execute(planned(tmp_path, **{"evaluation.samples_per_prompt": 2}), SilentObserver(), resume=True)
    assert tree(tmp_path / "eval") == before


def test_what_failed_before_the_first_completion_may_be_asked_differently_in_the_same_folder(tmp_path: Path) -> None:
    asked = planned(tmp_path)
    sample = ScriptedEngine.sample

    def fails(self: Any, *given: Any) -> Any:
        raise ToolMissing("no such engine", "install it")
        yield from sample(self, *given)

    with pytest.MonkeyPatch.context() as patched, pytest.raises(ToolMissing):
        patched.setattr(ScriptedEngine, "sample", fails)
        execute(asked, SilentObserver())
    assert (tmp_path / "eval" / "evaluation.json").is_file()
    found = execute(planned(tmp_path, **{"evaluation.samples_per_prompt": 2}), SilentObserver())
    assert {column["num_samples"] for column in found.columns} == {6, 12}


@pytest.mark.parametrize("folder", ["..", "", ".", "../beside", "results"])
def test_nothing_but_an_evaluations_own_folders_is_ever_removed(tmp_path: Path, folder: str) -> None:
    root = tmp_path / "eval"
    for path in (tmp_path / "mine.txt", tmp_path / "beside" / "a.txt", root / "mine.txt", root / "results" / "a.txt"):
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    written = {"schema_version": 1, "subjects": {}, "sets": {"tasks": {"folder": folder, "decodings": {}}}}
    (root / "evaluation.json").write_text(json.dumps(written))
    asked = planned(tmp_path)
    before = tree(tmp_path)
    with pytest.raises(RunDirError, match=r"evaluation.json: not what halo-forge wrote here") as refused:
        execute(asked, SilentObserver())
    assert "remove" in refused.value.hint
    assert "raft resume" not in refused.value.hint
    assert {name: data for name, data in tree(tmp_path).items() if not name.endswith("lock")} == before


@pytest.mark.parametrize("section", ["sets", "subjects"])
def test_nothing_outside_of_an_evaluation_is_read(tmp_path: Path, section: str) -> None:
    execute(planned(tmp_path), SilentObserver())
    path = tmp_path / "eval" / "evaluation.json"
    written = json.loads(path.read_text())
    next(iter(written[section].values()))["folder"] = str(tmp_path)
    path.write_text(json.dumps(written))
    with pytest.raises(RunDirError, match=r"is not the name of a folder in it"):
        read_evaluation(tmp_path / "eval")


def test_a_file_of_another_program_with_the_same_name_is_kept(tmp_path: Path) -> None:
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "evaluation.json").write_text('{"sets": {}}')
    with pytest.raises(RunDirError, match=r"no 'schema_version'"):
        execute(planned(tmp_path), SilentObserver())
    assert (tmp_path / "eval" / "evaluation.json").read_text() == '{"sets": {}}'


def test_the_verifier_is_opened_once_for_all_subjects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[object] = []
    monkeypatch.setattr(
        "halo_forge.evaluations.ask.open_verifier", lambda spec: (opened.append(spec), open_verifier(spec))[1]
    )
    execute(planned(tmp_path), SilentObserver())
    assert len(opened) == 1


def test_a_folder_with_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "thesis.txt").write_text("mine")
    with pytest.raises(RunDirError, match=r"not an evaluation of halo-forge \(holds thesis.txt\)"):
        execute(planned(tmp_path), SilentObserver())


def test_a_finished_evaluation_is_read_as_it_was_found(tmp_path: Path) -> None:
    found = execute(planned(tmp_path), SilentObserver())
    stored = read_evaluation(tmp_path / "eval")
    assert stored.result == found
    (task_set,) = stored.prompts
    assert sorted(stored.prompts[task_set]) == IDS
    assert len(stored.samples[task_set, "owner/second", "sampled"]) == 24


def test_an_evaluation_that_is_not_finished_is_read_as_far_as_it_is(tmp_path: Path) -> None:
    execute(planned(tmp_path), SilentObserver())
    (tmp_path / "eval" / "result.json").unlink()
    next((tmp_path / "eval").rglob("verdicts.jsonl")).unlink()
    stored = read_evaluation(tmp_path / "eval")
    assert stored.result is None
    assert len(stored.samples) == 3


def test_samples_of_humaneval_rows_are_written_for_other_scorers(tmp_path: Path) -> None:
    head = 'def add(a: int, b: int) -> int:\n    """ Adds. """\n'
    row = {"task_id": "HumanEval/7", "prompt": head, "entry_point": "add", "canonical_solution": "    return a + b\n",
           "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n"}  # fmt: skip
    tasks = write_rows(tmp_path / "tasks.jsonl", [row])
    (prompt,) = load_prompts(str(tasks), language="python")
    indented = write_rows(tmp_path / "indented.jsonl", [{**row, "prompt": f"{head}    "}])
    (other,) = load_prompts(str(indented), language="python")
    continued = row_of(prompt, "    return a + b\n")
    whole = "def add(a, b):\n    return a - b\n"
    for found, expected in ((continued, 3), (row_of(prompt, whole), -1), (row_of(other, whole), -1)):
        assert found["task_id"] == "HumanEval/7"
        assert found["solution"].strip().startswith(head.strip())
        assert found["solution"].endswith(found["completion"])
        space: dict[str, Any] = {}
        exec(found["solution"], space)
        assert space["add"](1, 2) == expected


def test_a_file_of_samples_has_a_row_for_each_sample(tmp_path: Path) -> None:
    row = {"task_id": 7, "text": "Add.", "code": "def add(a, b): return a + b", "test_list": ["assert add(1, 2) == 3"]}
    tasks = write_rows(tmp_path / "tasks.jsonl", [row])
    texts = ["pass\n```python\ndef add(a, b):\n    return a + b\n```", "broken no program"]
    answers = write_rows(tmp_path / "answers.jsonl", [{"prompt_id": "*", "answers": texts}])
    engine = {"kind": "scripted", "answers": str(answers)}
    asked = plan(
        ["owner/name"], [str(tasks)], overrides=[f"engine={json.dumps(engine)}", "evaluation.samples_per_prompt=8"],
        decodings=["sampled"], output_dir=tmp_path / "eval",
    )  # fmt: skip
    execute(asked, SilentObserver())
    folder = asked.folder(asked.sets[0], 0, "sampled")
    found, completions = rows(folder / "samples.jsonl"), rows(folder / "completions.jsonl")
    assert [each["task_id"] for each in found] == ["Mbpp/7"] * 8
    assert {each["solution"] for each in found} == {"def add(a, b):\n    return a + b\n", ""}
    for sample, completion in zip(found, completions, strict=True):
        assert (sample["solution"] == "") == completion["text"].startswith("broken")


@pytest.mark.parametrize(("rows", "key"), [("columns", "metrics"), ("differences", "first_decoding")])
def test_an_edited_result_is_an_error_about_its_file(tmp_path: Path, rows: str, key: str) -> None:
    execute(planned(tmp_path), SilentObserver())
    path = tmp_path / "eval/result.json"
    edited = json.loads(path.read_text())
    del edited[rows][0][key]
    path.write_text(json.dumps(edited))
    with pytest.raises(RunDirError, match=r"result.json: not what halo-forge wrote here"):
        read_evaluation(tmp_path / "eval")
