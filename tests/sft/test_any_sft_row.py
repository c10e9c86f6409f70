"""Whatever a row of an SFT run holds: it is read, or refused with its place and a fix."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st

from halo_forge.core.errors import ConfigError
from halo_forge.sft.config import DataSection
from halo_forge.sft.rows import read_rows, with_prefix

WORDS = st.sampled_from(
    ["", " ", "x", "<|im_end|>", "```c\nint x;\n```", "\x00", "\ud800", "user", "assistant", "system"]
)
SIMPLE = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | WORDS
VALUES = st.recursive(
    SIMPLE,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "kind", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)
COLUMNS = ["prompt", "completion", "messages", "id", "tests", "info", "language", "task_id", "other", "answer"]
MESSAGE = st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system"]), "content": WORDS})
ROWS = st.dictionaries(st.sampled_from(COLUMNS), VALUES | st.lists(MESSAGE, max_size=3), min_size=1, max_size=5)


@examples(60)
@given(rows=st.lists(ROWS, min_size=1, max_size=3), judged=st.booleans())
def test_any_row_is_read_or_refused_with_its_place(
    rows: list[dict[str, Any]], judged: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = Path(tmp_path_factory.getbasetemp()) / "any.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    try:
        found = read_rows(DataSection(train=str(path)), str(path), judged=judged)
    except ConfigError as error:
        assert "any.jsonl" in error.message and error.hint
        return
    for row in found.rows:
        try:
            assert with_prefix(row, "") == (row.completion if not row.is_reference else with_prefix(row, ""))
        except ValueError as error:
            assert "completion" in str(error) or "reference" in str(error)


def test_every_packaged_reference_can_begin_as_in_the_quickstart() -> None:
    start = "```c\n#include <stdio.h>\n\n"
    found = read_rows(DataSection(train="builtin:c/all"), "builtin:c/all", judged=True)
    assert len(found.rows) > 300
    for row in found.rows:
        whole = with_prefix(row, start)
        assert whole.startswith(start) and whole.count("#include <stdio.h>") == 1 and whole.endswith("\n```")
