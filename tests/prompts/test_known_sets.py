"""HumanEval and MBPP: made-up rows of their shapes, and the real files where they are at hand."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from known_sets import known_set

from halo_forge.core.errors import ConfigError
from halo_forge.prompts import load_prompts

HUMANEVAL = {
    "task_id": "Toy/0",
    "prompt": 'def twice(x):\n    """Double x."""\n',
    "entry_point": "twice",
    "canonical_solution": "    return 2 * x\n",
    "test": "def check(candidate):\n    assert candidate(2) == 4\n",
    "level": 1,
}
MBPP = {
    "task_id": 7,
    "text": "Write a function to double a number.",
    "code": "def helper(x):\r\n\treturn x\r\ndef twice(x, *, by: int = 2) -> int:\r\n\treturn helper(x) * by",
    "test_list": ["assert twice(2) == 4", "assert twice(0) == 0"],
    "test_setup_code": "",
    "challenge_test_list": [],
}


def load(folder: Path, *rows: dict[str, Any], language: str | None = "python") -> list[Any]:
    path = folder / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_prompts(str(path), language=language)


def test_humaneval_row(tmp_path: Path) -> None:
    (prompt,) = load(tmp_path, HUMANEVAL, language=None)
    assert (prompt.id, prompt.language) == ("Toy/0", "python")
    keys = ("entry_point", "test", "prompt")
    assert prompt.tests == {"kind": "humaneval", **{key: HUMANEVAL[key] for key in keys}}
    assert HUMANEVAL["prompt"].strip() in prompt.text
    assert "2 * x" not in prompt.text
    assert prompt.info == {"level": 1, "reference": HUMANEVAL["prompt"] + HUMANEVAL["canonical_solution"]}


def test_humaneval_rows_are_no_c_prompts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r":1: the prompt is in python, but the verifier checks c"):
        load(tmp_path, HUMANEVAL, language="c")


@pytest.mark.parametrize("column", ["test", "entry_point"])
def test_a_later_humaneval_row_that_lacks_a_column_does_not_pass_as_untested(column: str, tmp_path: Path) -> None:
    broken = {key: value for key, value in HUMANEVAL.items() if key != column} | {"task_id": "Toy/1"}
    with pytest.raises(ConfigError, match=rf"a\.jsonl:2: this row lacks `{column}`"):
        load(tmp_path, HUMANEVAL, broken)


def test_humaneval_column_of_null_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=":1: `test` is missing"):
        load(tmp_path, {**HUMANEVAL, "test": None})


def test_humaneval_prompt_must_open_the_function(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=":1: `prompt` does not define `thrice`"):
        load(tmp_path, {**HUMANEVAL, "entry_point": "thrice"})


def test_mbpp_row_shows_the_signature_that_the_tests_call(tmp_path: Path) -> None:
    (prompt,) = load(tmp_path, MBPP)
    assert (prompt.id, prompt.language) == ("mbpp/7", "python")
    assert prompt.tests == {"kind": "mbpp", "test_list": tuple(MBPP["test_list"]), "test_setup_code": ""}
    assert prompt.text.startswith("Write a function to double a number.")
    assert "def twice(x, *, by: int=2) -> int: ..." in prompt.text
    assert "helper" not in prompt.text and "assert" not in prompt.text
    assert prompt.info == {"challenge_test_list": (), "reference": MBPP["code"].replace("\r\n", "\n")}


def test_mbpp_row_shows_classes_too(tmp_path: Path) -> None:
    code = "class Pair(object):\n  def __init__(self, a, b): self.a = a\ndef first(p): return p.a"
    (prompt,) = load(tmp_path, {**MBPP, "code": code, "test_list": ["assert first(Pair(1, 2)) == 1"]})
    assert "class Pair(object):\n    def __init__(self, a, b): ...\ndef first(p): ..." in prompt.text


@pytest.mark.parametrize("code", ["print 'python 2'", "other = lambda x: 2 * x", "def unrelated(): pass"])
def test_mbpp_row_without_a_signature_shows_one_assert(code: str, tmp_path: Path) -> None:
    (prompt,) = load(tmp_path, {**MBPP, "code": code})
    assert "assert twice(2) == 4" in prompt.text
    assert "assert twice(0) == 0" not in prompt.text


def test_sanitized_mbpp_row(tmp_path: Path) -> None:
    row = {key: value for key, value in MBPP.items() if key not in ("text", "test_setup_code")}
    (prompt,) = load(tmp_path, {**row, "prompt": "Double it.", "test_imports": ["import math", "import re"]})
    assert prompt.text.startswith("Double it.")
    assert prompt.tests["test_setup_code"] == "import math\nimport re"


BAD = {
    "no asserts": ({"test_list": []}, "`test_list` is empty"),
    "asserts of wrong type": ({"test_list": "assert f(1)"}, "`test_list` is text"),
    "no text": ({"text": ""}, "`text` is empty"),
    "no id": ({"task_id": None}, "`task_id` is null"),
    "setup of wrong type": ({"test_setup_code": 1}, "`test_setup_code` is a number"),
    "no code": ({"code": None}, "`code` is missing"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_mbpp_row_is_an_error(name: str, tmp_path: Path) -> None:
    change, message = BAD[name]
    with pytest.raises(ConfigError, match=rf"a\.jsonl:1: {re.escape(message)}"):
        load(tmp_path, {**MBPP, **change})


def test_real_humaneval() -> None:
    prompts = load_prompts(str(known_set("humaneval.jsonl")), language="python")
    assert len(prompts) == 164
    assert prompts[0].id == "HumanEval/0"
    assert all(prompt.tests["kind"] == "humaneval" and prompt.info["reference"] for prompt in prompts if prompt.tests)


def test_every_real_mbpp_statement_names_what_its_tests_call() -> None:
    prompts = load_prompts(str(known_set("mbpp_train.jsonl")), language="python")
    assert len(prompts) == 374
    for prompt in prompts:
        assert prompt.tests is not None
        called = {name for name in re.findall(r"(\w+)\s*\(", prompt.tests["test_list"][0])}
        shown = set(re.findall(r"(?:def|class) (\w+)", prompt.text))
        assert shown & called, prompt.id


def test_an_mbpp_row_without_code_has_no_reference_but_all_tests(tmp_path: Path) -> None:
    (prompt,) = load(tmp_path, {key: value for key, value in MBPP.items() if key != "code"})
    assert prompt.tests["test_list"] == tuple(MBPP["test_list"])
    assert "reference" not in prompt.info
    assert "assert twice(2) == 4" in prompt.text


def test_stronger_mbpp_tests_are_used(tmp_path: Path) -> None:
    program = "for value in range(9):\n    assert twice(value) == 2 * value\n"
    challenge = ["assert twice(-1) == -2"]
    (prompt,) = load(tmp_path, {**MBPP, "challenge_test_list": challenge, "test": program})
    assert prompt.tests["test_list"] == (*MBPP["test_list"], *challenge)
    assert prompt.tests["test"] == program


@pytest.mark.parametrize("shape", [HUMANEVAL, MBPP])
def test_tests_that_a_known_set_does_not_have_are_an_error(shape: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=":1: `extra_tests` looks like further tests"):
        load(tmp_path, {**shape, "extra_tests": ["assert twice(3) == 6"]})


def test_humaneval_plus_inputs_without_outputs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r":1: `plus_input` .EvalPlus. are stronger inputs"):
        load(tmp_path, {**HUMANEVAL, "base_input": [[2]], "plus_input": [[3]]})
    (prompt,) = load(tmp_path, {**HUMANEVAL, "base_input": [[2]], "plus_input": []})
    assert prompt.info["base_input"] == ((2,),)


def test_humaneval_in_another_language_is_refused_with_what_to_write(tmp_path: Path) -> None:
    row = {**HUMANEVAL, "task_id": "CPP/0", "prompt": "int twice(int x) {\n", "declaration": "int twice(int x) {\n"}
    with pytest.raises(ConfigError, match="does not define `twice`") as caught:
        load(tmp_path, row)
    assert "HumanEval-X" in caught.value.hint
