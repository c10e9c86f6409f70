"""Rows of public data sets, made up after their documentation: each is read with all its tests, or refused."""

from __future__ import annotations

import base64
import json
import pickle
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest

from halo_forge.core.errors import ConfigError
from halo_forge.core.records import Prompt
from halo_forge.prompts import load_prompts
from halo_forge.verifiers.checks import Stdio, parse_tests

PAIRS = {"inputs": ["1\n", "2\n"], "outputs": ["2\n", "4\n"]}
STDIO = {"kind": "stdio", "cases": ({"stdin": "1\n", "stdout": "2\n"}, {"stdin": "2\n", "stdout": "4\n"})}
CASES = [{"input": "1\n", "output": "2\n", "testtype": "stdin"}, {"input": "2\n", "output": "4\n", "testtype": "stdin"}]
MESSAGES = [{"role": "user", "content": "Double n."}]
METHOD = "class Solution:\n    def double(self, n: int) -> int:\n        "


def load(folder: Path, *rows: dict[str, Any]) -> list[Prompt]:
    path = folder / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_prompts(str(path), language="python")


def packed(value: Any) -> str:
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(value)))).decode()


STDIO_ROWS: dict[str, dict[str, Any]] = {
    "verl": {
        "data_source": "codecontests",
        "prompt": MESSAGES,
        "ability": "code",
        "reward_model": {"style": "rule", "ground_truth": json.dumps(PAIRS)},
        "extra_info": {"index": 0, "split": "train"},
    },
    "verl, tests of DeepCoder": {
        "prompt": MESSAGES,
        "reward_model": {"style": "rule", "ground_truth": json.dumps(CASES)},
    },
    "APPS": {
        "problem_id": 7,
        "question": "Double n.",
        "solutions": '["print(2 * int(input()))"]',
        "input_output": json.dumps(PAIRS),
        "difficulty": "interview",
        "url": "",
        "starter_code": "",
    },
    "TACO": {
        "question": "Double n.",
        "solutions": "[]",
        "starter_code": "",
        "input_output": json.dumps(PAIRS),
        "raw_tags": "[]",
        "Expected Time Complexity": None,
    },
    "CodeContests": {
        "name": "1_A. Double",
        "description": "Double n.",
        "public_tests": {"input": ["1\n"], "output": ["2\n"]},
        "private_tests": {"input": [], "output": []},
        "generated_tests": {"input": ["2\n"], "output": ["4\n"]},
        "solutions": {"language": [3], "solution": ["print(2 * int(input()))"]},
        "incorrect_solutions": {"language": [], "solution": []},
        "time_limit": {"seconds": 2, "nanos": 0},
    },
    "LiveCodeBench": {
        "question_title": "Double",
        "question_content": "Double n.",
        "platform": "atcoder",
        "question_id": "abc1_a",
        "contest_id": "abc1",
        "starter_code": "",
        "difficulty": "easy",
        "public_test_cases": json.dumps(CASES[:1]),
        "private_test_cases": packed(CASES[1:]),
        "metadata": "{}",
    },
    "DeepCoder": {"problem": "Double n.", "tests": json.dumps(CASES), "starter_code": "", "metadata": None},
    "DeepCoder of TACO": {"problem": "Double n.", "tests": json.dumps(PAIRS)},
    "PrimeIntellect": {
        "source": "apps",
        "task_type": "verifiable_code",
        "prompt": "Double n.",
        "gold_standard_solution": "print(2 * int(input()))",
        "verification_info": json.dumps(
            {"language": "python", "test_cases": [{**case, "type": "stdin_stdout", "fn_name": None} for case in CASES]}
        ),
        "metadata": "{}",
        "problem_id": "vfc_1",
    },
}


@pytest.mark.parametrize("name", STDIO_ROWS)
def test_every_input_of_a_public_row_is_a_case(name: str, tmp_path: Path) -> None:
    (prompt,) = load(tmp_path, STDIO_ROWS[name])
    assert prompt.tests == STDIO
    assert prompt.messages[-1]["content"].startswith("Double n.")
    assert parse_tests(prompt)[0].num_checks == 2


CALLS: dict[str, dict[str, Any]] = {
    "APPS": {
        "question": "Double n.",
        "input_output": json.dumps({"fn_name": "double", "inputs": [[3]], "outputs": [[6]]}),
    },
    "verl": {
        "prompt": MESSAGES,
        "reward_model": {"ground_truth": {"fn_name": "double", "inputs": [[3]], "outputs": [6]}},
    },
    "PrimeIntellect": {
        "prompt": "Double n.",
        "verification_info": {
            "language": "python",
            "test_cases": [{"type": "function_call", "fn_name": "double", "input": [3], "output": [6]}],
        },
    },
}


@pytest.mark.parametrize("name", CALLS)
def test_calls_of_functions_become_asserts_in_python(name: str, tmp_path: Path) -> None:
    (prompt,) = load(tmp_path, CALLS[name])
    assert prompt.language == "python" and prompt.tests is not None
    assert prompt.tests["entry_point"] == "double"
    (text,) = prompt.tests["tests"]
    namespace: dict[str, Any] = {"double": lambda n: 2 * n}
    exec(prompt.tests["setup"] + text, namespace)
    with pytest.raises(AssertionError):
        exec(prompt.tests["setup"] + text, {"double": lambda n: n})
    assert parse_tests(prompt)[0].num_checks == 1
    with pytest.raises(ConfigError, match="the prompt is in python, but the verifier checks c"):
        load_prompts(str(tmp_path / "a.jsonl"), language="c")


def test_methods_of_livecodebench_are_called_on_a_solution(tmp_path: Path) -> None:
    case = {"input": "3\n[1, 2]", "output": "[6]", "testtype": "functional"}
    row = {
        **STDIO_ROWS["LiveCodeBench"],
        "starter_code": METHOD,
        "public_test_cases": json.dumps([case]),
        "private_test_cases": packed([case]),
        "metadata": '{"func_name": "double"}',
    }
    (prompt,) = load(tmp_path, row)
    assert prompt.tests is not None and prompt.tests["entry_point"] == "Solution"
    assert prompt.tests["tests"][0] == "assert _plain(Solution().double(*[3, [1, 2]])) in [[6], 6]"
    assert METHOD.strip() in prompt.text


def test_tests_of_kodcode_import_nothing(tmp_path: Path) -> None:
    row = {
        "question_id": "Prefill_1",
        "question": "Double n.",
        "solution": "def double(n):\n    return 2 * n\n",
        "test": "from solution import double\n\ndef test_three():\n    assert double(3) == 6\n",
        "test_info": [{"function_name": "double"}],
    }
    (prompt,) = load(tmp_path, row)
    assert prompt.info["reference"] == row["solution"]
    assert prompt.tests is not None and "import" not in prompt.tests["tests"][0]
    assert parse_tests(prompt)[0].num_checks == 1


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "MultiPL-E without asserts": (
        {
            "name": "f",
            "language": "cpp",
            "prompt": "int f(int n) {",
            "tests": "}\nint main() {}",
            "stop_tokens": ["\n}"],
        },
        "`tests` gives no function to `candidate`",
    ),
    "HumanEval-X": (
        {"task_id": "CPP/0", "prompt": "int f(int n) {", "declaration": "", "test": "int main() { assert(f(1)); }"},
        "`test`",
    ),
    "OpenCodeReasoning": (
        {"id": "1", "input": "Double n.", "output": "x", "solution": "print(2)"},
        "`prompt` is missing",
    ),
    "TRL prompt and completion": (
        {"prompt": "Double n.", "completion": "print(2)"},
        "`completion` is not used to check anything",
    ),
    "verl of mathematics": (
        {"prompt": MESSAGES, "reward_model": {"style": "rule", "ground_truth": "72"}},
        "that is no test of a program",
    ),
    "rStar-Coder": (
        {"prompt": "Double n.", "inputs": '["1"]', "outputs": '["2"]'},
        "`outputs` is not used to check anything",
    ),
    "no test": ({"question": "q", "input_output": '{"inputs": [], "outputs": []}'}, "`input_output` has no test"),
    "unequal": ({"question": "q", "input_output": '{"inputs": ["1"], "outputs": []}'}, "1 inputs and 0 outputs"),
    "null": ({"question": "q", "input_output": None}, "`input_output` is missing"),
    "nameless call": (
        {"problem": "q", "tests": [{"input": "1", "output": "2", "testtype": "functional"}]},
        "calls a function, but names none",
    ),
    "hostile name": (
        {"question": "q", "input_output": {"fn_name": "f);x(", "inputs": [[1]], "outputs": [1]}},
        "is no name",
    ),
    "packed otherwise": (
        {**STDIO_ROWS["LiveCodeBench"], "private_test_cases": base64.b64encode(b"0" * 40).decode()},
        "is packed in an unknown way",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_checked_is_refused_with_what_to_write(name: str, tmp_path: Path) -> None:
    row, message = REFUSED[name]
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, row)
    assert caught.value.message.startswith(f"{tmp_path}/a.jsonl:1: ")
    assert message in caught.value.message
    assert caught.value.hint


def test_solutions_need_not_import_what_the_starter_code_uses(tmp_path: Path) -> None:
    tests = {"fn_name": "f", "inputs": [[0]], "outputs": [0]}
    (prompt,) = load(tmp_path, {"question": "q", "input_output": json.dumps(tests)})
    assert prompt.tests is not None
    scope: dict[str, Any] = {}
    limit = sys.getrecursionlimit()
    exec(prompt.tests["imports"], scope)
    sys.setrecursionlimit(limit)
    assert eval("List, Counter([1]), heapq.heappop([1]), gcd(4, 6), pow(2, 3, 5), open", scope)[3:] == (2, 3, open)


def test_a_packed_class_is_never_loaded(tmp_path: Path) -> None:
    hostile = base64.b64encode(zlib.compress(b"cos\nsystem\n(S'exit 1'\ntR.")).decode()
    with pytest.raises(ConfigError, match=r"it names os\.system"):
        load(tmp_path, {**STDIO_ROWS["LiveCodeBench"], "private_test_cases": hostile})


@pytest.mark.parametrize(
    ("output", "right", "wrong"),
    [
        ([[1, 2], [3, 4]], [(1, 2), (3, 4)], [(1, 2), (3, 5)]),
        ([[[1, 2]]], ([1, 2],), [1, 2, 3]),
        ("12", "12", 12),
        (["12"], "12", 12),
        ("true", "true", True),
        ([5], 5, "5"),
    ],
)
def test_results_of_calls_are_values_and_tuples_count_as_lists(
    output: Any, right: Any, wrong: Any, tmp_path: Path
) -> None:
    tests = {"fn_name": "f", "inputs": [[0]], "outputs": [output]}
    (prompt,) = load(tmp_path, {"question": "q", "input_output": json.dumps(tests)})
    assert prompt.tests is not None
    for value, holds in ((right, True), (wrong, False)):
        scope: dict[str, Any] = {"f": lambda _, value=value: value}
        exec(prompt.tests["setup"], scope)
        assert eval(prompt.tests["tests"][0].removeprefix("assert "), scope) is holds


@pytest.mark.parametrize(
    "code", [b"K\x01K\x02R.", b"K\x01(K\x02e.", b"K\x01}K\x02s.", b"\x80\x05\x95" + b"\xff" * 8 + b"N."]
)
def test_a_broken_pickle_is_an_error_about_the_row(code: bytes, tmp_path: Path) -> None:
    packed = base64.b64encode(zlib.compress(code)).decode()
    with pytest.raises(ConfigError, match="is packed in an unknown way"):
        load(tmp_path, {**STDIO_ROWS["LiveCodeBench"], "private_test_cases": packed})


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        (
            {**PAIRS, "checker": "int main() {}"},
            "`checker` of `reward_model.ground_truth` decides which outputs are right, and is not used",
        ),
        ({**PAIRS, "functional": "assert f(1) == 2"}, "has `functional` and `inputs`; only one of them would be used"),
        ({"pytest": "assert f(1)", "functional": "assert f(1)"}, "has `functional` and `pytest`; only one"),
    ],
)
def test_further_tests_in_the_same_object_are_an_error(truth: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, {"prompt": MESSAGES, "reward_model": {"ground_truth": json.dumps(truth)}})
    assert "a.jsonl:1: " in caught.value.message and message in caught.value.message
    (prompt,) = load(tmp_path, {"prompt": MESSAGES, "reward_model": {"ground_truth": {**PAIRS, "checker": ""}}})
    assert prompt.tests == STDIO


CHECKER = {"language": "python", "source": "import sys\nsys.exit(0)\n"}


@pytest.mark.parametrize("name", STDIO_ROWS)
def test_a_checker_beside_the_tests_is_used(name: str, tmp_path: Path) -> None:
    (prompt,) = load(tmp_path, {**STDIO_ROWS[name], "checker": CHECKER})
    assert prompt.tests is not None and prompt.tests["compare"] == {"checker": CHECKER}
    tests = parse_tests(prompt)[0]
    assert isinstance(tests, Stdio) and tests.compare is not None and tests.compare.checker is not None
    assert "checker" not in prompt.info


@pytest.mark.parametrize(
    "column",
    [
        {"checker": '#include "testlib.h"\nint main() {}'},
        {"checker": "wcmp"},
        {"checker": {"type": "special", "code": "x"}},
        {"generated_checker": "import sys"},
        {"special_judge": True},
    ],
)
@pytest.mark.parametrize("name", ["APPS", "CodeContests", "LiveCodeBench", "our own"])
def test_a_checker_of_another_form_is_an_error(name: str, column: dict[str, Any], tmp_path: Path) -> None:
    row = {"prompt": "Double n.", "tests": STDIO} if name == "our own" else STDIO_ROWS[name]
    (given,) = column
    with pytest.raises(ConfigError, match=f"`{given}` decides which outputs are right, and is not used") as caught:
        load(tmp_path, {**row, **column})
    assert '"compare": {"checker": ' in caught.value.hint


def test_a_checker_does_not_go_with_calls_of_functions(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="`checker` decides which outputs are right, and is not used"):
        load(tmp_path, {**CALLS["APPS"], "checker": CHECKER})


@pytest.mark.parametrize("value", [None, "", False, {}, {"language": None, "source": None}])
def test_no_checker_is_no_error(value: object, tmp_path: Path) -> None:
    (prompt,) = load(tmp_path, {**STDIO_ROWS["APPS"], "checker": value, "special_judge": False})
    assert prompt.tests == STDIO
