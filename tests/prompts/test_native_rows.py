"""Our own rows: what is read, and the error for each way of being wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halo_forge.core.errors import ConfigError
from halo_forge.core.records import Prompt
from halo_forge.prompts import Row, load_prompts
from halo_forge.prompts._shapes import to_prompts

STDIO = {"kind": "stdio", "cases": [{"stdin": "1\n", "stdout": "2\n"}]}
HARNESS = {"kind": "harness", "entry_point": "f", "source": "int f(void); int main(void) {}", "expected": ["0", ""]}


def write(folder: Path, *lines: str | bytes | dict[str, Any]) -> str:
    path = folder / "tasks.jsonl"
    encoded = [
        line if isinstance(line, bytes) else (line if isinstance(line, str) else json.dumps(line)).encode()
        for line in lines
    ]
    path.write_bytes(b"\n".join(encoded))
    return str(path)


def test_reads_every_column(tmp_path: Path) -> None:
    row = {"id": "a", "language": "C", "prompt": "Say 1.", "tests": STDIO, "info": {"family": "x"}, "source": [1, None]}
    (prompt,) = load_prompts(write(tmp_path, row), language=None)
    assert prompt.id == "a"
    assert prompt.language == "c"
    assert prompt.messages == ({"role": "user", "content": "Say 1."},)
    assert prompt.tests == {"kind": "stdio", "cases": ({"stdin": "1\n", "stdout": "2\n"},)}
    assert prompt.info == {"source": (1, None), "family": "x"}
    assert Prompt.from_row(json.loads(json.dumps(prompt.to_row()))) == prompt


def test_reads_messages(tmp_path: Path) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    (prompt,) = load_prompts(write(tmp_path, {"prompt": messages}), language=None)
    assert list(prompt.messages) == messages
    assert (prompt.language, prompt.tests, prompt.info) == (None, None, {})


def test_prompt_text_is_taken_as_it_is(tmp_path: Path) -> None:
    (prompt,) = load_prompts(write(tmp_path, {"prompt": "  two\u2028lines\n"}), language=None)
    assert prompt.text == "  two\u2028lines\n"


def test_byte_order_mark_blank_lines_and_carriage_returns_are_no_rows(tmp_path: Path) -> None:
    path = write(tmp_path, b'\xef\xbb\xbf{"prompt": "a", "id": "a"}\r', b"\r", b'{"prompt": "b", "id": "b"}\r', b"")
    assert [prompt.id for prompt in load_prompts(path, language=None)] == ["a", "b"]


def test_missing_id_depends_on_prompt_and_tests_alone(tmp_path: Path) -> None:
    def id_of(row: dict[str, Any]) -> str:
        return load_prompts(write(tmp_path, row), language="c")[0].id

    plain = id_of({"prompt": "a"})
    assert plain == "sha256:" + plain[7:] and len(plain) == 23
    assert plain == id_of({"prompt": "a", "info": {"x": 1}, "other": 2, "id": None})
    assert (
        len(
            {
                plain,
                id_of({"prompt": "b"}),
                id_of({"prompt": "a", "tests": STDIO}),
                id_of({"prompt": "a", "tests": HARNESS}),
            }
        )
        == 4
    )


def test_whole_number_ids_become_text(tmp_path: Path) -> None:
    assert load_prompts(write(tmp_path, {"id": 0, "prompt": "a"}), language=None)[0].id == "0"


def test_rows_without_language_get_the_verifiers(tmp_path: Path) -> None:
    assert load_prompts(write(tmp_path, {"prompt": "a"}), language="c")[0].language == "c"


def test_tests_of_other_kinds_pass_through_and_json_text_is_parsed(tmp_path: Path) -> None:
    path = write(
        tmp_path, {"prompt": "a", "tests": {"kind": "property", "seed": 0}}, {"prompt": "b", "tests": json.dumps(STDIO)}
    )
    first, second = load_prompts(path, language=None)
    assert first.tests == {"kind": "property", "seed": 0}
    assert second.tests is not None and second.tests["kind"] == "stdio"


def test_compile_kind_needs_nothing_else(tmp_path: Path) -> None:
    assert load_prompts(write(tmp_path, {"prompt": "a", "tests": {"kind": "compile"}}), language=None)[0].tests == {
        "kind": "compile"
    }


GOOD = '{"prompt": "fine", "id": "fine"}'
BAD_ROWS: dict[str, tuple[str | bytes | dict[str, Any], str]] = {
    "malformed JSON": ('{"prompt": ', "column 12: not valid JSON"),
    "no object": ('["prompt"]', "the row is a list"),
    "number": ("7", "the row is a number"),
    "NaN": ('{"prompt": "a", "info": {"x": NaN}}', "NaN is not a JSON value"),
    "key twice": ('{"prompt": "a", "prompt": "b"}', "'prompt' appears twice"),
    "not UTF-8": (b'{"prompt": "\xff"}', "byte 13 of the line (0xff) is not UTF-8"),
    "half a character": ('{"prompt": "\\ud800"}', "half a surrogate pair"),
    "nested too deeply": ("[" * 100_000, "nested too deeply"),
    "no prompt": ({"promt": "a"}, "`prompt` is missing; the row has `promt`"),
    "null prompt": ({"prompt": None}, "`prompt` is missing"),
    "empty prompt": ({"prompt": " \n"}, "`prompt` is empty"),
    "prompt of wrong type": ({"prompt": 3}, "`prompt` is a number (3)"),
    "no messages": ({"prompt": []}, "is an empty list"),
    "message of wrong type": ({"prompt": ["hello"]}, "message 1 is text ('hello')"),
    "unknown role": ({"prompt": [{"role": "human", "content": "a"}]}, "message 1 has the role 'human'; system, user"),
    "no content": ({"prompt": [{"role": "user"}]}, "the content of message 1 is null"),
    "unknown key": ({"prompt": [{"role": "user", "content": "a", "name": "b"}]}, "the unknown key `name`"),
    "assistant last": (
        {"prompt": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
        "ends with the role 'assistant'",
    ),
    "language of wrong type": ({"prompt": "a", "language": 1}, "`language` is a number"),
    "info of wrong type": ({"prompt": "a", "info": [1]}, "`info` is a list"),
    "info twice": ({"prompt": "a", "x": 1, "info": {"x": 2}}, "`x` is both a column and a key of `info`"),
    "id of wrong type": ({"prompt": "a", "id": True}, "`id` is a boolean (True)"),
    "empty id": ({"prompt": "a", "id": ""}, "`id` is text ('')"),
    "tests of wrong type": ({"prompt": "a", "tests": [STDIO]}, "`tests` is a list"),
    "tests as bad text": ({"prompt": "a", "tests": "{"}, "`tests` is text, but not valid JSON"),
    "no kind": ({"prompt": "a", "tests": {"cases": []}}, "`tests.kind` is null"),
    "misspelt kind": (
        {"prompt": "a", "tests": {"kind": "harnes"}},
        "`tests.kind` is 'harnes'; did you mean \"harness\"?",
    ),
    "missing key": ({"prompt": "a", "tests": {"kind": "stdio"}}, "`tests` of kind stdio lacks `cases`"),
    "key too many": ({"prompt": "a", "tests": {**STDIO, "expect": 1}}, "unknown key `expect`"),
    "no case": ({"prompt": "a", "tests": {"kind": "stdio", "cases": []}}, "at least one case"),
    "case without stdout": (
        {"prompt": "a", "tests": {"kind": "stdio", "cases": [{"stdin": ""}]}},
        "case 1 has the keys stdin",
    ),
    "stdout of wrong type": (
        {"prompt": "a", "tests": {"kind": "stdio", "cases": [{"stdin": "", "stdout": 3}]}},
        "`stdout` of case 1 is a number (3)",
    ),
    "empty entry point": ({"prompt": "a", "tests": {**HARNESS, "entry_point": ""}}, "`tests.entry_point` is text ('')"),
    "nothing expected": ({"prompt": "a", "tests": {**HARNESS, "expected": []}}, "at least one line"),
    "two lines": ({"prompt": "a", "tests": {**HARNESS, "expected": ["a\nb"]}}, "item 1 is text"),
    "other shape": ({"prompt": "a", "task_id": "t", "entry_point": "f", "test": "x"}, "reads as HumanEval rows"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_bad_row_is_an_error_with_its_line(name: str, tmp_path: Path) -> None:
    row, message = BAD_ROWS[name]
    path = write(tmp_path, GOOD, "", row)
    with pytest.raises(ConfigError) as caught:
        load_prompts(path, language=None)
    assert caught.value.message.startswith(f"{path}:3: ")
    assert message in caught.value.message
    assert caught.value.hint


def test_duplicate_ids_name_both_lines(tmp_path: Path) -> None:
    path = write(tmp_path, {"id": 5, "prompt": "a"}, GOOD, {"id": "5", "prompt": "b"})
    with pytest.raises(ConfigError, match=r"tasks\.jsonl:3: the id '5' is also that of .*tasks\.jsonl:1"):
        load_prompts(path, language=None)


def test_equal_rows_without_ids_name_both_lines(tmp_path: Path) -> None:
    path = write(tmp_path, {"prompt": "a"}, {"prompt": "a", "note": 1})
    with pytest.raises(ConfigError, match=r"tasks\.jsonl:2: the same prompt and tests as .*tasks\.jsonl:1\n"):
        load_prompts(path, language=None)


def test_another_language_than_the_verifiers_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, {"prompt": "a", "language": "Rust"})
    with pytest.raises(ConfigError, match=r":1: the prompt is in rust, but the verifier checks c"):
        load_prompts(path, language="c")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(st.fixed_dictionaries({}, optional={name: JSON for name in ("id", "prompt", "language", "tests", "info", "x")}))
def test_any_row_is_a_prompt_or_an_error_and_a_prompt_survives_a_file(data: dict[str, Any]) -> None:
    try:
        ((_, prompt),) = to_prompts([Row("f.jsonl:1", data)])
    except ConfigError as error:
        assert error.message.startswith("f.jsonl:1: ")
        return
    assert Prompt.from_row(json.loads(json.dumps(prompt.to_row()))) == prompt
    # A column that is not ours reaches the verifier.
    assert "x" not in data or "x" in prompt.info
