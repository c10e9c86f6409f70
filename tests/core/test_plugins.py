"""Kinds that installed packages bring by entry points, and what is said about those that do not work."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
from plugin_packages import halo_forge, install
from scripted_runs import write_inputs, write_rows

from halo_forge.core.registry import FAMILIES, discover

STEPS = """
from typing import Literal
from halo_forge.core.schedules import History, NumberSchedule

class Steps(NumberSchedule):
    kind: Literal["steps"] = "steps"

    def value(self, cycle: int, num_cycles: int, history: History = ()) -> float:
        return 1e-5 * self.position(cycle, num_cycles)
"""

PAIRS = """
NAME = "question rows"
COLUMNS = ("question",)

def recognises(columns):
    return "question" in columns

def to_prompt(row):
    from halo_forge.core.records import Prompt

    return Prompt(str(row.data["number"]), ({"role": "user", "content": row.text("question")},))
"""


LAST = """
from typing import Literal
from halo_forge.core.selection import SelectionSpec, take

class Last(SelectionSpec):
    kind: Literal["last"] = "last"

    def choose(self, candidates, keep_fraction, seed):
        ranked = sorted(candidates, key=lambda each: (-each.completion.index, each.tie_break(seed)))
        return take(ranked, quota=1, cap=self.per_prompt_cap)
"""

ONE_ANSWER = """
from typing import ClassVar, Literal
from halo_forge.core.records import Completion
from halo_forge.engines import EngineSpec

class OneAnswer:
    saturates_cpu = False

    def sample(self, prompts, requests, policy_version):
        for request in requests:
            text = "```c\\nint f(int a) { return a * %d; }\\n```" % (request.index + 2)
            yield Completion(request.prompt_id, request.index, text, (1, 2), "stop", request.seed, policy_version)

class OneAnswerSpec(EngineSpec):
    needs_policy: ClassVar[bool] = False
    kind: Literal["one_answer"] = "one_answer"

    def open(self, policy):
        return OneAnswer()
"""


def failed(site: Path, config: Path) -> str:
    """What a command says that ends because of a plugin."""
    done = halo_forge(site, "config", "check", config)
    assert done.returncode == 4, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("value", "source", "wrong"),
    [
        ("steps:Steps", "import nothing_of_this_name\n", "ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        ("steps:Stairs", STEPS, "cannot be loaded: AttributeError: module 'steps' has no attribute 'Stairs'"),
        ("steps:Steps", "class Steps:\n    pass\n", "which is not a subclass of Schedule"),
        ("steps:Steps", STEPS.replace('"steps"', '"stairs"'), "the kind of Steps is 'stairs'; it must be the name"),
        ("steps:Steps", STEPS.replace(' = "steps"', ""), "the kind of Steps has no default for `kind`"),
        ("steps:Steps", STEPS.replace("def value", "def worth"), "Steps lacks value"),
    ],
    ids=["import fails", "no such class", "not a schedule", "another kind", "no kind", "no value"],
)
def test_a_broken_plugin_is_named_with_what_is_wrong(tmp_path: Path, value: str, source: str, wrong: str) -> None:
    install(tmp_path, "steps-of-mine", {"halo_forge.schedules": {"steps": value}}, {"steps.py": source})
    said = failed(tmp_path, write_inputs(tmp_path / "inputs"))
    assert "plugin steps-of-mine 1.2, entry point 'steps' of group halo_forge.schedules: " in said
    assert wrong in said
    assert "pip uninstall steps-of-mine" in said


def test_an_engine_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    source = ONE_ANSWER.replace("def open", "def start")
    install(tmp_path, "one", {"halo_forge.engines": {"one_answer": "one:OneAnswerSpec"}}, {"one.py": source})
    assert "OneAnswerSpec lacks open" in failed(tmp_path, write_inputs(tmp_path / "inputs"))


def test_a_kind_is_claimed_only_once(tmp_path: Path) -> None:
    config = write_inputs(tmp_path / "inputs")
    for name, module in (("one", "steps_one"), ("two", "steps_two")):
        install(tmp_path, name, {"halo_forge.schedules": {"steps": f"{module}:Steps"}}, {f"{module}.py": STEPS})
    said = failed(tmp_path, config)
    assert "plugin two 1.2" in said
    assert "its kind 'steps' is taken by one 1.2 (steps_one)" in said


def test_no_plugin_replaces_a_kind_of_our_own(tmp_path: Path) -> None:
    source = STEPS.replace('"steps"', '"cosine"')
    install(tmp_path, "other", {"halo_forge.schedules": {"cosine": "steps:Steps"}}, {"steps.py": source})
    said = failed(tmp_path, write_inputs(tmp_path / "inputs"))
    assert "its kind 'cosine' is taken by halo-forge itself (halo_forge.core.schedules.cosine)" in said


def test_a_shape_of_prompt_rows_lacks_nothing(tmp_path: Path) -> None:
    source = PAIRS.replace("def recognises", "def knows")
    install(tmp_path, "pairs", {"halo_forge.prompts": {"pairs": "pairs"}}, {"pairs.py": source})
    done = halo_forge(tmp_path, "raft", "run", write_inputs(tmp_path / "inputs"), "--dry-run")
    assert done.returncode == 4
    assert "plugin pairs 1.2, entry point 'pairs' of group halo_forge.prompts: it names <module 'pairs'" in done.stderr
    assert "which lacks recognises" in done.stderr


def test_a_run_records_the_plugins_that_it_used(tmp_path: Path) -> None:
    install(tmp_path, "steps", {"halo_forge.schedules": {"steps": "steps:Steps"}}, {"steps.py": STEPS})
    install(tmp_path, "pairs", {"halo_forge.prompts": {"pairs": "pairs"}}, {"pairs.py": PAIRS})
    idle = STEPS.replace('"steps"', '"idle"')
    install(tmp_path, "idle", {"halo_forge.schedules": {"idle": "idle:Steps"}}, {"idle.py": idle})
    config = write_inputs(
        tmp_path / "inputs",
        training__learning_rate={"kind": "steps"},
        verifier={"kind": "c", "stages": ["compile"], "workers": 1},
        selection={"reward_threshold": 0.1},
    )
    for number, name in enumerate(("train", "dev", "test")):
        rows = [{"question": f"Which {each}?", "number": 10 * number + each} for each in range(2)]
        write_rows(tmp_path / "inputs" / f"{name}.jsonl", rows)
    answers = ["```c\nint f(int a) { return a * a; }\n```"]
    write_rows(tmp_path / "inputs/answers.jsonl", [{"prompt_id": "*", "answers": answers}])
    done = halo_forge(tmp_path, "raft", "run", config, "--output-dir", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run/run.json").read_text())["plugins"] == {"pairs": "1.2", "steps": "1.2"}
    settings = [json.loads((tmp_path / f"run/cycles/00{each}/settings.json").read_text()) for each in (1, 2)]
    assert [each["learning_rate"] for each in settings] == pytest.approx([1e-5, 2e-5])
    assert json.loads((tmp_path / "run/cycles/001/selection.jsonl").read_text().splitlines()[0])["prompt_id"] in "01"


def test_an_engine_and_a_selection_policy_take_part_in_a_run(tmp_path: Path) -> None:
    points = {"halo_forge.selection": {"last": "last:Last"}, "halo_forge.engines": {"one_answer": "one:OneAnswerSpec"}}
    install(tmp_path, "both", points, {"last.py": LAST, "one.py": ONE_ANSWER})
    config = write_inputs(
        tmp_path / "inputs",
        engine={"kind": "one_answer"},
        selection={"kind": "last", "reward_threshold": 0.1, "deduplicate": False},
        verifier={"kind": "c", "stages": ["compile"], "workers": 1},
    )
    done = halo_forge(tmp_path, "raft", "run", config, "--output-dir", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run/run.json").read_text())["plugins"] == {"both": "1.2"}
    selection = json.loads((tmp_path / "run/cycles/001/selection.json").read_text())
    assert [index for _, index in selection["kept"]] == [1]


def test_every_family_of_plugins_is_one_whose_own_kinds_have_its_base() -> None:
    for package, family in FAMILIES.items():
        module, _, name = family.base.partition(":")
        base = getattr(importlib.import_module(module), name)
        kinds = discover(package)
        assert len(kinds) >= 4 and all(issubclass(spec, base) for spec in kinds.values())
