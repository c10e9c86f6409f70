"""Tests in a column that nobody reads are an error: without them every program that compiles would pass."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from halo_forge.core.errors import ConfigError
from halo_forge.prompts import load_prompts

HARNESS = {"kind": "harness", "entry_point": "f", "source": "int main(void) {}", "expected": ["0"]}
CASES = [{"input": "1\n", "output": "2\n"}]


def load(folder: Path, *rows: dict[str, Any]) -> list[Any]:
    path = folder / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_prompts(str(path), language=None)


LOST: dict[str, tuple[dict[str, Any], str]] = {
    "test": ({"test": HARNESS}, 'the unknown column `test`; did you mean "tests"?'),
    "capitals": ({"Tests": HARNESS}, 'the unknown column `Tests`; did you mean "tests"?'),
    "another name": ({"verify": HARNESS}, "`verify` looks like tests"),
    "as JSON text": ({"verify": json.dumps(HARNESS)}, "`verify` looks like tests"),
    "ground truth": (
        {"scoring": {"style": "rule", "ground_truth": "{}1"}},
        "`scoring.ground_truth` looks like tests",
    ),
    "in an object": ({"extra_info": {"index": 0, "test_cases": CASES}}, "`extra_info.test_cases` looks like tests"),
    "asserts": ({"test_list": ["assert f(1) == 2"]}, "`test_list` looks like tests"),
    "asserts of another name": ({"examples": ["assert f(1) == 2"]}, "`examples` looks like tests"),
    "inputs and outputs": ({"input_output": '{"inputs": ["1"], "outputs": ["2"]}'}, "`input_output` looks like tests"),
    "cases": ({"examples": CASES}, "`examples` looks like tests"),
    "private tests": ({"private_tests": {"input": ["1"], "output": ["2"]}}, "`private_tests` looks like tests"),
    "camel case": ({"unitTests": "def test_f():\n    assert f(1) == 2"}, "`unitTests` looks like tests"),
    "compiled tests": ({"unit_tests": "int main() { return f(1) != 2; }"}, "`unit_tests` looks like tests"),
    "an answer": ({"answer": "42"}, "the row has no `tests`, and `answer` is not used"),
    "a number": ({"answer": 42}, "the row has no `tests`, and `answer` is not used"),
    "ground truth alone": ({"ground_truth": "42"}, "the row has no `tests`, and `ground_truth` is not used"),
    "solutions": ({"solutions": ["int f(void) { return 1; }"]}, "the row has no `tests`, and `solutions` is not used"),
    "in and out": ({"examples": [{"in": "1", "out": "2"}]}, "`examples` looks like tests"),
    "pairs": ({"samples": [["1", "2"]]}, "`samples` looks like tests"),
    "asserts after imports": ({"eval": "from answer import f\nassert f(1) == 2"}, "`eval` looks like tests"),
    "pytest": ({"spec": "import pytest\n\ndef test_f():\n    assert f(1) == 2"}, "`spec` looks like tests"),
    "unittest": ({"suite": "import unittest\nclass A(unittest.TestCase):\n    pass"}, "`suite` looks like tests"),
    "gtest": ({"suite": "#include <gtest/gtest.h>\nTEST(F, One) {}"}, "`suite` looks like tests"),
    "an expected result": ({"expected_result": "3"}, "the row has no `tests`, and `expected_result` is not used"),
    "a sample": (
        {"sample_input": "1", "sample_output": "2"},
        "the row has no `tests`, and `sample_output` is not used",
    ),
    "encoded tests": ({"private_test_cases": "eJxrYJmqzgAB" * 20}, "`private_test_cases` looks like tests"),
    "a file of tests": ({"test_file": "cases/7.py"}, "`test_file` looks like tests"),
    "the name of a file": ({"unit_test": "test_area.py"}, "`unit_test` looks like tests"),
    "a validator": ({"validator": "def validate(x):\n    return x > 0"}, "`validator` looks like tests"),
    "camel case of a result": ({"expectedOutput": "3"}, "the row has no `tests`, and `expectedOutput` is not used"),
    "the output of a test": (
        {"test_input": "1", "test_output": "2"},
        "the row has no `tests`, and `test_output` is not used",
    ),
    "gt": ({"gt": "2"}, "the row has no `tests`, and `gt` is not used"),
    "doctests": ({"doctests": ">>> f(1)\n2"}, "`doctests` looks like tests"),
    "names of tests": ({"FAIL_TO_PASS": ["a::b"]}, "the row has no `tests`, and `FAIL_TO_PASS` is not used"),
    "words of a result": ({"Expected Output": "3"}, "the row has no `tests`, and `Expected Output` is not used"),
    "a language": ({"lang": "Rust"}, "the language is in `lang`"),
}


@pytest.mark.parametrize("name", LOST)
def test_tests_that_would_be_lost_are_an_error(name: str, tmp_path: Path) -> None:
    columns, message = LOST[name]
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, {"prompt": "fine", "tests": HARNESS}, {"prompt": "a", **columns})
    assert caught.value.message.startswith(f"{tmp_path}/a.jsonl:2: ")
    assert message in caught.value.message
    # The way out that the hint names: what is in `info` is never taken for tests.
    (prompt,) = load(tmp_path, {"prompt": "a", "info": columns})
    assert prompt.tests is None and set(prompt.info) == set(columns)


def test_further_tests_beside_tests_are_an_error_too(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="`private_tests` looks like further tests, which would not be used"):
        load(tmp_path, {"prompt": "a", "tests": HARNESS, "private_tests": CASES})


@pytest.mark.parametrize(
    ("key", "value", "kind"),
    [
        ("compare", {"absolute_tolerance": 1e-6}, "stdio"),
        ("setup", "import math", "asserts"),
        ("entry_point", "g", "asserts"),
    ],
)
def test_what_belongs_into_tests_is_not_ignored_beside_it(key: str, value: Any, kind: str, tmp_path: Path) -> None:
    cases = {"cases": [{"stdin": "", "stdout": "0.5"}]} if kind == "stdio" else {"tests": ["assert f(1) == 2"]}
    tests = {"kind": kind, **cases}
    with pytest.raises(ConfigError, match=rf"a\.jsonl:1: `{key}` belongs into `tests`"):
        load(tmp_path, {"prompt": "a", "tests": tests, key: value})
    for columns in ({"info": {key: value}}, {key: None}, {key: value, "tests": {**tests, key: value}}):
        load(tmp_path, {"prompt": "a", "tests": tests, **columns})


@pytest.mark.parametrize(
    "columns",
    [
        {"test": None},
        {"tests_stdio": []},
        {"private_tests": {"input": [], "output": None}},
        {"num_tests": 3, "test_id": 7, "is_test": True, "has_answer": True, "max_output": 3, "num_answers": 2},
        {"split": "test", "test_framework": "pytest", "contest": "spring 2024", "judge": "codeforces"},
        {"reference": "assert f", "wrong": ["assert g"]},
        {"extra_info": {"index": 1, "split": "test"}},
        {"source": [1, None], "difficulty": "easy", "lang": "en"},
        {"latest": ["a b"], "text": "(x)"},
        {"note": "Do not assert anything.\nTests are elsewhere: import them.", "samples": 3, "\n": "\n" * 1000},
    ],
)
def test_columns_that_are_no_tests_are_kept_as_info(columns: dict[str, Any], tmp_path: Path) -> None:
    (prompt,) = load(tmp_path, {"prompt": "a", **columns})
    assert set(prompt.info) == set(columns)


def test_an_answer_is_a_note_where_the_row_says_how_it_is_checked(tmp_path: Path) -> None:
    tested, compiled = load(
        tmp_path,
        {"prompt": "a", "tests": HARNESS, "answer": "42"},
        {"prompt": "b", "tests": {"kind": "compile"}, "solutions": ["x"]},
    )
    assert tested.info == {"answer": "42"}
    assert compiled.info == {"solutions": ("x",)}


def test_messages_as_json_text_are_messages(tmp_path: Path) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say 1."}]
    (prompt,) = load(tmp_path, {"prompt": json.dumps(messages)})
    assert list(prompt.messages) == messages


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[{'role': 'user', 'content': 'a'}]", "begins like a list of messages, but is not valid JSON"),
        ('[{"from": "human", "value": "a"}]', "message 1 has the unknown key `from`"),
        ('[{"role": "user", "content": "a"', "begins like a list of messages, but is not valid JSON"),
        ('[{"role": "user", "role": "user", "content": "a"}]', "the key 'role' appears twice"),
    ],
)
def test_text_that_begins_like_messages_but_is_none_is_an_error(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a\.jsonl:1: .*") as caught:
        load(tmp_path, {"prompt": text})
    assert message in caught.value.message


def test_a_prompt_about_a_list_stays_text(tmp_path: Path) -> None:
    (prompt,) = load(tmp_path, {"prompt": '[{"x": 1}] is a list: sum it.'})
    assert prompt.text == '[{"x": 1}] is a list: sum it.'


@pytest.mark.parametrize(
    "text", ['{"kind": "stdio", "kind": "compile"}', '{"kind": "stdio", "cases": ' + "[" * 100_000, '{"kind": NaN}']
)
def test_tests_as_unclear_json_text_are_an_error(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a\.jsonl:1: `tests` is text, but not valid JSON"):
        load(tmp_path, {"prompt": "a", "tests": text})


def test_a_number_beyond_all_numbers_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": "a", "x": 1e999}\n')
    with pytest.raises(ConfigError, match=r"a\.jsonl:1: the number 1e999 is too large"):
        load_prompts(str(path), language=None)


@pytest.mark.parametrize("split", ["validation", "valid", "val", "dev2", "TRAIN", ""])
def test_an_unknown_split_of_a_file_is_no_data_set_id(split: str, tmp_path: Path) -> None:
    load(tmp_path, {"prompt": "a"})
    with pytest.raises(ConfigError, match="splits of a file are train, dev, test, found") as caught:
        load_prompts(f"{tmp_path}/a.jsonl:{split}", language=None)
    assert (":dev for" in caught.value.hint) == split.startswith("val")


@pytest.mark.parametrize(
    ("tests", "message"),
    [
        (["assert f(1) == 2"], "`tests` is a list"),
        ({"kind": "assert", "tests": ["assert f(1) == 2"]}, "`tests.kind` is 'assert'; did you mean \"asserts\"?"),
        ({"kind": "asserts", "test": ["assert f(1) == 2"]}, "`tests` of kind asserts lacks `tests`"),
        ({"kind": "asserts", "tests": ["assert f()"], "timeout": 5}, "has the unknown key `timeout`"),
        ({"kind": "asserts", "tests": "assert f(1) == 2"}, "`tests.tests` is text ('assert f(1) == 2'); a list of"),
        ({"kind": "asserts", "tests": []}, "`tests.tests` is a list ([]); a list of at least one text is needed"),
        ({"kind": "asserts", "tests": ["assert f()", 2]}, "a list of at least one text is needed"),
        ({"kind": "asserts", "tests": ["assert f()"], "setup": ["import math"]}, "`tests.setup` is a list"),
    ],
)
def test_asserts_of_another_form_are_named_with_their_line_and_the_form(
    tests: Any, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, {"prompt": "a", "tests": tests})
    assert caught.value.message.startswith(f"{tmp_path}/a.jsonl:1: ") and message in caught.value.message
    assert '{"kind": "asserts", "tests": ["assert ...", ...]}' in caught.value.hint
