"""Rows and files of other formats are refused with the way to convert them."""

from __future__ import annotations

import gzip
import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from halo_forge.core.errors import ConfigError
from halo_forge.prompts import is_remote, load_prompts

ASSERTS = "import unittest\nclass T(unittest.TestCase):\n    def test_a(self):\n        assert f() == 1"
HINTS: dict[str, tuple[dict[str, Any], str]] = {
    "BigCodeBench": (
        {
            "task_id": "BigCodeBench/0",
            "complete_prompt": "def f():",
            "instruct_prompt": "Write f.",
            "canonical_solution": "    return 1",
            "code_prompt": "def f():",
            "test": ASSERTS,
            "entry_point": "f",
            "libs": "['math']",
        },
        'rename `instruct_prompt` to `prompt`, and write `test` as "tests": {"kind": "asserts"',
    ),
    "question and test_cases": (
        {"question": "Double n.", "test_cases": [{"input": "1", "output": "2"}]},
        'rename `question` to `prompt`, and write `test_cases` as "tests": {"kind": "stdio"',
    ),
    "a misspelt column of MBPP": (
        {"task_id": 2, "text": "Write f.", "code": "def f(): return 1", "test_lst": ["assert f() == 1"]},
        "if these are MBPP rows, rename `test_lst` to `test_list`",
    ),
    "a misspelt column of APPS": (
        {"question": "Double n.", "input_outputs": '{"inputs": ["1"], "outputs": ["2"]}'},
        "if these are APPS or TACO rows, rename `input_outputs` to `input_output`",
    ),
    "instructions": ({"Instruction": "Double n.", "output": "x"}, "rename `Instruction` to `prompt`"),
}


def write(folder: Path, *rows: dict[str, Any], name: str = "a.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("name", HINTS)
def test_a_row_without_a_prompt_says_what_to_rename(name: str, tmp_path: Path) -> None:
    row, hint = HINTS[name]
    with pytest.raises(ConfigError, match=r"a\.jsonl:1: `prompt` is missing") as caught:
        load_prompts(str(write(tmp_path, row)), language=None)
    assert hint in caught.value.hint


PROMPTS = {
    "one message": ('{"role": "user", "content": "Hi"}', "is the JSON text of one object (with role, content)"),
    "a conversation": ('{"messages": []}', "is the JSON text of one object (with messages)"),
    "ChatML": ("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", "contains '<|im_start|>'"),
    "Llama 3": ("<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>", "contains '<|begin_of"),
    "Llama 2": ("<s>[INST] Hi [/INST]", "contains '[INST]'"),
    "Gemma": ("<start_of_turn>user\nHi<end_of_turn>", "contains '<start_of_turn>'"),
    "DeepSeek": ("<\uff5cUser\uff5c>Hi<\uff5cAssistant\uff5c>", "contains '<\uff5cUser\uff5c>'"),
}


@pytest.mark.parametrize("name", PROMPTS)
def test_a_prompt_that_was_made_for_a_model_is_refused(name: str, tmp_path: Path) -> None:
    text, said = PROMPTS[name]
    with pytest.raises(ConfigError) as caught:
        load_prompts(str(write(tmp_path, {"prompt": text})), language=None)
    assert said in caught.value.message and '[{"role": "user", "content":' in caught.value.hint
    # The way out for a prompt that is about such texts.
    (prompt,) = load_prompts(str(write(tmp_path, {"prompt": [{"role": "user", "content": text}]})), language=None)
    assert prompt.messages[0]["content"] == text


@pytest.mark.parametrize("text", ['{"role": what does this mean in C?', '{"a": 1}', "Print <|x|> and [INSTALL]."])
def test_text_that_only_looks_a_little_like_it_stays_text(text: str, tmp_path: Path) -> None:
    (prompt,) = load_prompts(str(write(tmp_path, {"prompt": text})), language=None)
    assert prompt.messages[0]["content"] == text


def test_tests_that_are_the_text_null_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="`tests` is the text 'null'"):
        load_prompts(str(write(tmp_path, {"prompt": "a", "tests": "null"})), language=None)


@pytest.mark.parametrize(
    "truth", ["The answer is forty two", "four words of text", "Paris is the capital", "42 apples"]
)
def test_a_ground_truth_in_words_is_no_packed_test(truth: str, tmp_path: Path) -> None:
    path = write(tmp_path, {"prompt": "a", "reward_model": {"style": "rule", "ground_truth": truth}})
    with pytest.raises(ConfigError, match=r"`reward_model\.ground_truth` is text .* no test of a program") as caught:
        load_prompts(str(path), language=None)
    assert "tests are read from {inputs, outputs, fn_name}" in caught.value.hint


@pytest.mark.parametrize("empty", ["", " "])
def test_a_row_of_apps_without_tests_says_so(empty: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="`input_output` is empty"):
        load_prompts(str(write(tmp_path, {"question": "a", "input_output": empty})), language=None)


ROWS = [{"prompt": "a"}, {"prompt": "b"}]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (json.dumps(ROWS, indent=2), "is one JSON list, not one object per line"),
        (json.dumps(ROWS), "is one JSON list, not one object per line"),
        ("\n".join(json.dumps(row, indent=2) for row in ROWS), "is JSON over several lines, not one object per line"),
    ],
)
def test_json_that_is_not_one_object_per_line(content: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(content)
    with pytest.raises(ConfigError) as caught:
        load_prompts(str(path), language=None)
    assert f"prompt file {path} {said}" in caught.value.message
    assert "convert it: jq -c " in caught.value.hint
    if shutil.which("jq"):
        subprocess.run(caught.value.hint.removeprefix("convert it: "), shell=True, check=True, cwd=tmp_path)
        assert len(load_prompts(str(tmp_path / "NEW.jsonl"), language=None)) == 2


def test_a_broken_first_line_is_still_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('[{"prompt": ]\n')
    with pytest.raises(ConfigError, match=r"a\.jsonl:1: column 13: not valid JSON"):
        load_prompts(str(path), language=None)


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "a.json", "a.csv", "a.tsv", "a.txt"])
def test_files_of_other_formats_are_no_data_set_ids(name: str, tmp_path: Path) -> None:
    assert not is_remote(name)
    with pytest.raises(ConfigError, match=r"is neither \.jsonl nor \.parquet") as caught:
        load_prompts(str(tmp_path / name), language=None)
    command = {"gz": "gunzip -k", "zst": "zstd -d", "json": "jq -c", "csv": "python -c", "tsv": "python -c"}
    assert command.get(name.rpartition(".")[2], "one JSON object per line") in caught.value.hint


@pytest.mark.parametrize(("name", "separator"), [("it's a.csv", ","), ("a.tsv", "\t")])
def test_the_command_for_a_table_makes_a_file_that_is_read(name: str, separator: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(f"id{separator}prompt\n1{separator}Double n.\n2{separator}Halve n.\n")
    with pytest.raises(ConfigError) as caught:
        load_prompts(str(path), language=None)
    words = shlex.split(caught.value.hint.removeprefix("convert it: "))
    subprocess.run([sys.executable, *words[1:]], check=True)
    assert [prompt.id for prompt in load_prompts(str(path.with_suffix(".parquet")), language=None)] == ["1", "2"]


def test_a_compressed_file_with_the_wrong_ending(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(gzip.compress(b'{"prompt": "a"}\n'))
    with pytest.raises(ConfigError, match="is compressed by gzip") as caught:
        load_prompts(str(path), language=None)
    assert "gunzip" in caught.value.hint
