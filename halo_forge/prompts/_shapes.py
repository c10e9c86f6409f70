"""The shape of the rows of a source: the first row decides, and all others must have the same."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import ModuleType

from halo_forge.core.errors import ConfigError
from halo_forge.core.records import Prompt
from halo_forge.prompts import humaneval, mbpp, native
from halo_forge.prompts._row import Row, left_out

# The most specific shape first: `native` recognises every row that has a prompt.
SHAPES: tuple[ModuleType, ...] = (humaneval, mbpp, native)


def to_prompts(rows: Iterable[Row], broken: list[ConfigError] | None = None) -> Iterator[tuple[Row, Prompt]]:
    """Each row with its prompt; errors of single rows are appended to `broken`, if given.

    Raises:
        ConfigError: A row is wrong or has another shape than the first, or two rows have the same id.
    """
    first: tuple[Row, ModuleType] | None = None
    seen: dict[str, Row] = {}
    for row in rows:
        with left_out(broken):
            shape = _shape(row)
            if first is None:
                first = (row, shape)
            elif shape is not first[1]:
                raise _mixed(row, shape, *first)
            # Converted through JSON types, so that a prompt equals itself after being written and read.
            prompt = Prompt.from_row(shape.to_prompt(row).to_row())
            if prompt.id in seen:
                raise _duplicate(row, seen[prompt.id], prompt.id)
            seen[prompt.id] = row
            yield row, prompt


def _shape(row: Row) -> ModuleType:
    # By column names only, so that a column without a value is reported as missing, not ignored.  `native` reports the
    # rows that no shape recognises.
    return next((shape for shape in SHAPES if shape.recognises(row.data.keys())), native)


def _mixed(row: Row, shape: ModuleType, first_row: Row, first_shape: ModuleType) -> ConfigError:
    missing = [column for column in first_shape.COLUMNS if row.data.get(column) is None]
    found = f"lacks {', '.join(f'`{column}`' for column in missing)}" if missing else f"reads as {shape.NAME}"
    return row.error(
        f"this row {found}, but the rows from {first_row.place} on are {first_shape.NAME}",
        "correct the row, or put rows of another shape into a separate file",
    )


def _duplicate(row: Row, earlier: Row, prompt_id: str) -> ConfigError:
    if row.data.get("id") is None and row.data.get("task_id") is None:
        return row.error(f"the same prompt and tests as {earlier.place}", "remove one of the two, or give both an `id`")
    return row.error(f"the id {prompt_id!r} is also that of {earlier.place}", "give every row a unique id")
