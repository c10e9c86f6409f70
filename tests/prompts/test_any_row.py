"""Any row of any shape is a prompt or an error that names its place; HALO_FORGE_ROWS sets how many rows are tried."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from halo_forge.core.errors import ConfigError
from halo_forge.core.records import Prompt
from halo_forge.prompts import Row
from halo_forge.prompts._shapes import shapes, to_prompts
from halo_forge.prompts._unread import SOLUTIONS, path_to_tests
from halo_forge.prompts.summary import is_tested
from halo_forge.verifiers.checks import parse_tests

NUM_ROWS = int(os.environ.get("HALO_FORGE_ROWS", "150"))
READ = ("id", "language", "prompt", "tests", "info")
COLUMNS = sorted(
    {column for shape in shapes() for column in shape.COLUMNS}
    | {"id", "language", "tests", "info", "test_setup_code", "test_imports", "code", "text", "starter_code", "metadata"}
    | {
        "canonical_solution",
        "plus_input",
        "challenge_test_list",
        "solutions",
        "answer",
        "lang",
        "Tests",
        "test_cases",
        "checker",
        "time_limit",
        "question",
        "x",
    }
)
WORDS = st.sampled_from(
    ["", "a", "def f(n):\n    return n", "assert f(1) == 2", "def check(candidate):\n    assert candidate(1)", "f", "c",
     "python", "[]", "{}", "null", "[1", '{"inputs": ["1"], "outputs": ["2"]}', '[{"role": "user", "content": "a"}]',
     "QUFBQUFBQUFBQUFBQUFBQQ==", "four words of text", "<|im_start|>user", '{"role": "user"}',
     "class Solution:", "\ud800", "1e999", "[" * 2000]
)  # fmt: skip
KEYS = st.sampled_from(
    ["kind", "cases", "entry_point", "source", "expected", "stdin", "stdout", "inputs", "outputs", "input", "output",
     "fn_name", "type", "testtype", "role", "content", "ground_truth", "test_cases", "func_name", "compare", "tests"]
)  # fmt: skip
KINDS = st.sampled_from(["stdio", "harness", "compile", "asserts", "mbpp", "humaneval", "user", "stdin", "functional"])
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | WORDS
    | KINDS
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(), inner, max_size=4),
    max_leaves=8,
)
CELLS = JSON | JSON.map(json.dumps)
ROWS = st.one_of(
    st.dictionaries(st.sampled_from(COLUMNS) | st.text(max_size=8), CELLS, max_size=8),
    *(
        st.fixed_dictionaries(
            {column: CELLS for column in shape.COLUMNS},
            optional={column: CELLS for column in COLUMNS if column not in shape.COLUMNS},
        )
        for shape in shapes()
    ),
)


@pytest.mark.timeout(3600)  # ten thousand rows take some minutes
@settings(max_examples=NUM_ROWS, deadline=None, suppress_health_check=list(HealthCheck))
@given(ROWS)
def test_any_row_is_a_prompt_or_an_error_that_names_its_place(data: dict[str, Any]) -> None:
    try:
        ((_, prompt),) = to_prompts([Row("f.jsonl:1", data)])
    except ConfigError as error:
        assert error.message.startswith("f.jsonl:1: ") and error.hint
        return
    assert Prompt.from_row(json.loads(json.dumps(prompt.to_row()))) == prompt
    try:
        parse_tests(prompt)
    except ConfigError as error:
        assert error.hint


@pytest.mark.timeout(3600)  # ten thousand rows take some minutes
@settings(max_examples=NUM_ROWS, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.dictionaries(st.sampled_from(COLUMNS), CELLS, max_size=6))
def test_no_row_loses_its_tests(data: dict[str, Any]) -> None:
    try:
        ((_, prompt),) = to_prompts([Row("f.jsonl:1", {**data, "prompt": "Double n."})])
    except ConfigError:
        return
    if not is_tested(prompt):
        kept = {column: value for column, value in data.items() if column not in (*READ, *SOLUTIONS)}
        assert [column for column, value in kept.items() if path_to_tests(column, value)] == []
