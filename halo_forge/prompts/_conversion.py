"""How rows and files that are not read become ones that are: the hints of errors."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from halo_forge.prompts._row import Row
from halo_forge.prompts._unread import path_to_tests

# In the order in which they are preferred: of several the most telling one is the statement.
_STATEMENTS = (
    "instruct_prompt instruction instructions question problem problem_statement statement task task_description"
    " description problem_description question_content query problem_prompt user_prompt content text input docstring"
    " complete_prompt"
).split()
_ALIKE = 0.75
_DECOMPRESS = {".gz": "gunzip -k", ".zst": "zstd -d", ".xz": "xz -dk", ".bz2": "bzip2 -dk", ".zip": "unzip"}
_TABLES = {
    ".csv": "csv.read_csv({0!r})",
    ".tsv": "csv.read_csv({0!r}, parse_options=csv.ParseOptions(delimiter='\\t'))",
}
NOT_READ = (*_DECOMPRESS, *_TABLES, ".json", ".txt", ".yaml", ".yml", ".arrow", ".xlsx")
"""Endings of files of other formats; a name with one of these is never a data set id."""


def row_hint(row: Row, shapes: Sequence[tuple[str, Sequence[str]]] = ()) -> str | None:
    """What to rename in a row without a `prompt`; None where no column looks like a statement.

    Args:
        shapes: (name, columns) of the other shapes of rows that are read.
    """
    for name, columns in shapes:
        renamed = _renamed(columns, row.data)
        if renamed:
            pairs = " and ".join(f"`{found}` to `{meant}`" for found, meant in renamed.items())
            return f"if these are {name}, rename {pairs}; else write the row with a `prompt`"
    lower = {column.lower(): column for column, value in row.data.items() if isinstance(value, str) and value.strip()}
    statement = next((lower[name] for name in _STATEMENTS if name in lower), None)
    if statement is None:
        return None
    names = [path_to_tests(column, value) for column, value in row.data.items() if column != statement]
    where = next((name for name in names if name is not None), None)
    if where is None:
        return f"rename `{statement}` to `prompt`; tests go into `tests`"
    column = where.partition(".")[0]
    return f"rename `{statement}` to `prompt`, and write `{where}` as {_form_of(row.data[column])}"


def _renamed(columns: Sequence[str], data: Mapping[str, Any]) -> dict[str, str]:
    """Found column -> the column of a shape that it is a misspelling of; empty unless that makes the shape whole."""
    missing = [column for column in columns if column not in data]
    others = [column for column in data if column not in columns]
    near = {column: difflib.get_close_matches(column, others, n=1, cutoff=_ALIKE) for column in missing}
    if len(missing) == len(columns) or not all(near.values()):
        return {}
    return {found[0]: column for column, found in near.items()}


def _form_of(value: Any) -> str:
    """Our tests for what another tool has, as far as its form tells."""
    items = value if isinstance(value, list) else [value]
    if all(isinstance(item, str) and ("assert" in item or "def test" in item) for item in items):
        return '"tests": {"kind": "asserts", "tests": [text, ...]} (Python)'
    if all(isinstance(item, Mapping) for item in items):
        return '"tests": {"kind": "stdio", "cases": [{"stdin": input, "stdout": output}, ...]}'
    return "`tests` (`halo-forge docs prompts` lists the kinds)"


def file_hint(path: Path) -> str:
    """A command that makes a file of another format one that is read."""
    name, new = shlex.quote(str(path)), shlex.quote(str(path.with_suffix(".jsonl")))
    if path.suffix in _DECOMPRESS:
        return f"unpack it: {_DECOMPRESS[path.suffix]} {name}"
    if path.suffix == ".json":
        return f"convert it: {lines_command(name, new, is_list=True)} (a list of objects; for one object: '.')"
    if path.suffix in _TABLES:
        table = _TABLES[path.suffix].format(str(path))
        script = (
            f"from pyarrow import csv, parquet; parquet.write_table({table}, {str(path.with_suffix('.parquet'))!r})"
        )
        return f"convert it: python -c {shlex.quote(script)}"
    return "convert it to JSON Lines: one JSON object per line, in a file that ends in .jsonl"


def lines_command(name: str, new: str, *, is_list: bool) -> str:
    """A command that writes one object of a JSON file per line."""
    return f"jq -c {shlex.quote('.[]' if is_list else '.')} {name} > {new}"
