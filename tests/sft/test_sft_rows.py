"""Rows of an SFT run: every form, what of them is trained on, and what is refused, dropped or said."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from sft_stages import completions, execute, write_config, write_jsonl
from tiny_models import THINKING, save_model

from halo_forge.core.errors import ConfigError
from halo_forge.core.records import Prompt
from halo_forge.sft.config import DataSection, load_sft_config
from halo_forge.sft.data import Rows, read_sources, tokenized
from halo_forge.sft.rows import SftRow, held_out_prompts, read_rows, with_prefix

pytest.importorskip("torch")


def rows_of(folder: Path, *rows: dict[str, Any], judged: bool = False, **data: Any) -> list[SftRow]:
    path = write_jsonl(folder / "some.jsonl", rows)
    return read_rows(DataSection(train=str(path), **data), str(path), judged=judged).rows


def prepared(config: Path, *overrides: str) -> Rows:
    """The rows with their token ids, without a run."""
    loaded = load_sft_config(config, overrides).config
    return tokenized(loaded, read_sources(loaded), datetime(2026, 11, 30))


def test_a_prompt_with_a_completion_and_a_conversation_are_the_same_row(tmp_path: Path) -> None:
    forms: list[dict[str, Any]] = [
        {"prompt": "ask", "completion": "tell"},
        {"prompt": [{"role": "user", "content": "ask"}], "completion": [{"role": "assistant", "content": "tell"}]},
        {"messages": [{"role": "user", "content": "ask"}, {"role": "assistant", "content": "tell"}]},
        {"prompt": '[{"role": "user", "content": "ask"}]', "completion": "tell", "tools": []},
    ]
    for form in forms:
        (row,) = rows_of(tmp_path, form)
        assert ([dict(each) for each in row.prompt.messages], row.completion) == (
            [{"role": "user", "content": "ask"}],
            "tell",
        )


def test_parquet_rows_are_read_too(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(completions(3)), path)
    assert len(read_rows(DataSection(train=str(path)), str(path), judged=False).rows) == 3


def test_only_the_last_message_of_a_conversation_is_trained_on_and_that_is_said(tmp_path: Path) -> None:
    turns = [("user", "one"), ("assistant", "two"), ("user", "three"), ("assistant", "four")]
    row = {"messages": [{"role": role, "content": content} for role, content in turns]}
    path = write_jsonl(tmp_path / "some.jsonl", [row])
    found = read_rows(DataSection(train=str(path)), str(path), judged=False)
    assert found.rows[0].completion == "four" and len(found.rows[0].prompt.messages) == 3
    assert found.notes == [
        "earlier messages of the assistant are context, only the last one is trained on: 1 conversation"
    ]


def test_references_of_a_prompt_set_become_fenced_completions() -> None:
    found = read_rows(
        DataSection(train="builtin:c/train", where={"difficulty": ["easy"]}), "builtin:c/train", judged=True
    )
    row = found.rows[0]
    assert row.is_reference and with_prefix(row, "").startswith("```c\n") and with_prefix(row, "").endswith("\n```")


@pytest.mark.parametrize(
    ("code", "start", "whole"),
    [
        ("int x;\n", "", "```c\nint x;\n```"),
        ("int x;\n", "```c\n", "```c\nint x;\n```"),
        ("#include <stdio.h>\nint x;", "```c\n#include <stdio.h>\n\n", "```c\n#include <stdio.h>\n\nint x;\n```"),
        ("#include <math.h>\n#include <stdio.h>\nint x;", "```c\n#include <stdio.h>\n\n",
         "```c\n#include <stdio.h>\n\n#include <math.h>\nint x;\n```"),
        ("int x;", "<think>\n\n</think>\n\n```c\n", "<think>\n\n</think>\n\n```c\nint x;\n```"),
    ],
)  # fmt: skip
def test_a_reference_begins_as_completions_of_a_run_do(code: str, start: str, whole: str) -> None:
    row = SftRow(Prompt("p", ({"role": "user", "content": "x"},), "c"), "here", code, is_reference=True)
    assert with_prefix(row, start) == whole


@pytest.mark.parametrize("start", ["<think>\n", "```c\nint main(", "Sure: "])
def test_a_reference_that_cannot_begin_so_is_refused(start: str) -> None:
    row = SftRow(Prompt("p", ({"role": "user", "content": "x"},), "c"), "here", "int x;", is_reference=True)
    with pytest.raises(ValueError, match=r"begin with"):
        with_prefix(row, start)


TOLD = {"role": "assistant", "content": "told"}
ERRORS: list[tuple[dict[str, Any], str]] = [
    ({"text": "x"}, r"some.jsonl:1: the row has `text`"),
    ({"prompt": "x", "completion": 3}, "`completion` is a number"),
    ({"completion": "x"}, "`prompt` is missing"),
    ({"messages": "x"}, "`messages` is text"),
    ({"messages": [{"role": "assistant", "content": "x"}]}, "no message before that of the assistant"),
    ({"messages": [{"role": "user", "content": "x"}], "prompt": "y"}, "`messages` beside `prompt`"),
    ({"prompt": "x", "completion": "<|im_end|>"}, "a token of a chat template"),
    ({"prompt": [{"role": "user", "content": "x", "tool": 1}], "completion": "y"}, "unknown key `tool`"),
    ({"prompt": "x", "completion": [{"role": "user", "content": "y"}]}, "a message of the assistant is needed"),
    ({"prompt": "<|im_start|>user", "completion": "y"}, "rendered for a model would be rendered again"),
    ({"prompt": '[{"role": "user", "content": ""}]', "completion": "y"}, "content of message 1 is empty"),
    ({"messages": [{"role": "system", "content": "x"}, TOLD]}, "`messages` without its last one ends with the role"),
    ({"messages": [{"role": "user", "content": "x"}, TOLD], "tools": [{"name": "f"}]}, "the row has `tools`"),
]


@pytest.mark.parametrize(("row", "said"), ERRORS, ids=[said for _, said in ERRORS])
def test_a_row_of_another_form_is_refused_with_its_place(row: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        rows_of(tmp_path, row)


def test_repeated_rows_are_left_out_and_counted(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "some.jsonl", [*completions(2), *completions(2), {"prompt": "x", "completion": "y"}])
    found = read_rows(DataSection(train=str(path)), str(path), judged=False)
    assert len(found.rows) == 3 and found.notes == [
        "left out because they repeat an earlier row, prompt and completion: 2 rows"
    ]


def test_rows_of_one_prompt_are_held_out_together_and_adding_rows_moves_few(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, *({"prompt": f"ask {at % 10}", "completion": f"tell {at}"} for at in range(40)))
    held_out = held_out_prompts(rows, 0.2)
    assert len(held_out) == 2 and sum(row.prompt_sha256 in held_out for row in rows) == 8
    assert held_out_prompts(rows[:1], 0.1) != set() and held_out_prompts(rows, 0.0) == set()


def test_unusable_rows_are_an_error_or_are_dropped_by_name(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    rows = [*completions(12), {"prompt": "x", "completion": ""}, {"prompt": "y", "completion": "z " * 600}]
    config = write_config(tmp_path, tiny_models["llama"], rows, data={"held_out_fraction": 0.1})
    with pytest.raises(ConfigError) as caught:
        prepared(config)
    assert "2 of 14 rows cannot be trained on" in str(caught.value)
    assert "rows.jsonl:13: it has no completion" in str(caught.value) and "longer than 512 tokens (1217)" in str(
        caught.value
    )
    found = prepared(config, "data.unusable=drop")
    assert {row.row.place.rpartition(":")[2] for row in found.of("dropped")} == {"13", "14"}
    assert any("it has no completion" in line for line in found.lines())
    short = prepared(config, "data.unusable=drop", "data.max_length=30")
    assert {row.row.place.rpartition(":")[2] for row in short.of("dropped")} > {"13", "14"}
    assert all(row.num_tokens is None or row.num_tokens > 30 for row in short.of("dropped"))


def test_the_prefix_is_a_part_of_the_prompt_as_in_raft(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    rows = [{"prompt": f"x {at}", "completion": f"int add {at}"} for at in range(4)]
    config = write_config(tmp_path, tiny_models["llama"], rows, data={"response_prefix": "int "})
    found = prepared(config)
    assert all(row.completion.text.startswith("int add") for row in found.train)
    with pytest.raises(ConfigError, match="does not begin with 'for '"):
        prepared(config, "data.response_prefix='for '")


def test_reasoning_that_the_template_opens_has_to_be_in_the_completion(tmp_path: Path) -> None:
    model = save_model(tmp_path / "thinking", chat_template=THINKING)
    config = write_config(tmp_path, model, completions(4))
    with pytest.raises(ConfigError, match=r"does not begin with '<think>\\n'"):
        prepared(config)


def test_the_same_prompt_in_both_files_is_refused(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    other = write_jsonl(tmp_path / "other.jsonl", [{"prompt": completions(1)[0]["prompt"], "completion": "else"}])
    config = write_config(tmp_path, tiny_models["llama"], completions(4), data={"held_out": str(other)})
    with pytest.raises(ConfigError, match=r"data.held_out: .*other.jsonl:1: the same prompt as .*rows.jsonl:1"):
        read_sources(load_sft_config(config).config)


def test_a_filter_needs_the_language_and_tests(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    rows = [{**row, "language": "python"} for row in completions(4)]
    config = write_config(tmp_path, tiny_models["llama"], rows, data={"filter": "compiles"})
    with pytest.raises(ConfigError, match="is in python, but the verifier checks c"):
        read_sources(load_sft_config(config).config)
    rows = [{**row, "language": "c"} for row in completions(4)]
    config = write_config(tmp_path, tiny_models["llama"], rows, data={"filter": "passes"})
    with pytest.raises(ConfigError, match="no tests in 4 rows"):
        read_sources(load_sft_config(config).config)


def test_the_filter_keeps_what_compiles_and_names_the_rest(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    good, bad = "```c\nint add(int a, int b) { return a + b; }\n```", "```c\nint add(int a { return; }\n```"
    rows = [{"prompt": f"add {at}", "completion": good if at % 4 else bad, "language": "c"} for at in range(12)]
    config = write_config(tmp_path, tiny_models["llama"], rows, data={"filter": "compiles"})
    _, watcher, root = execute(config)
    told = "\n".join(watcher.lines)
    assert "3 rows dropped: filter compiles: does not compile" in told
    verdicts = (root / "filter/verdicts.jsonl").read_text()
    assert verdicts.count('"status": "passed"') == 9
    assert (root / "rows.jsonl").read_text().count('"used_as": "dropped"') == 3
    result, again, _ = execute(config, resume=True)
    assert result.num_train_rows == 9 - (root / "rows.jsonl").read_text().count('"used_as": "held_out"')
    assert again.lines == watcher.lines
