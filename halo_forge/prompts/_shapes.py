"""The shape of the rows of a source: the first row decides, and all others must have the same."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Iterator
from typing import Protocol

from halo_forge.core.errors import ConfigError
from halo_forge.core.records import Prompt
from halo_forge.core.registry import PROMPTS_GROUP, plugins
from halo_forge.prompts import humaneval, mbpp, multipl_e, native
from halo_forge.prompts._conversion import row_hint
from halo_forge.prompts._row import Row, left_out
from halo_forge.prompts.contests import SHAPES


class Shape(Protocol):
    """A shape of prompt rows: one of our modules, or a module (or an object) that an entry point names.

    Attributes:
        NAME: The name of such rows in messages, such as "HumanEval rows".
        COLUMNS: The columns that every such row has.
    """

    @property
    def NAME(self) -> str: ...

    @property
    def COLUMNS(self) -> tuple[str, ...]: ...

    def recognises(self, columns: Collection[str], /) -> bool:
        """Whether rows with these columns have this shape."""
        ...

    def to_prompt(self, row: Row, /) -> Prompt:
        """The prompt of one row.

        Raises:
            ConfigError: The row is wrong; `Row.error` makes one that names file and line.
        """
        ...


@functools.cache
def shapes() -> tuple[Shape, ...]:
    """Every shape, the most specific first: `native` recognises every row that has a `prompt`.

    Plugins come before it and after our own, so installing one never changes how HumanEval or MBPP rows are read.

    Raises:
        PluginError: A plugin cannot be loaded, or lacks a part of a shape.
    """
    brought = []
    for plugin in plugins(PROMPTS_GROUP):
        lacking = [name for name in ("NAME", "COLUMNS", "recognises", "to_prompt") if not hasattr(plugin.loaded, name)]
        if lacking:
            raise plugin.error(f"it names {plugin.loaded!r}, which lacks {', '.join(lacking)}")
        brought.append(plugin.loaded)
    return (humaneval, mbpp, multipl_e, *SHAPES, *brought, native)


def to_prompts(rows: Iterable[Row], broken: list[ConfigError] | None = None) -> Iterator[tuple[Row, Prompt]]:
    """Each row with its prompt; errors of single rows are appended to `broken`, if given.

    Raises:
        ConfigError: A row is wrong or has another shape than the first, or two rows have the same id.
    """
    first: tuple[Row, Shape] | None = None
    seen: dict[str, Row] = {}
    for row in rows:
        with left_out(broken):
            shape = _shape(row)
            if first is None:
                first = (row, shape)
            elif shape is not first[1]:
                raise _mixed(row, shape, *first)
            if shape is native and not native.recognises(row.data) and (hint := _hint(row)) is not None:
                raise native.missing_prompt(row, hint)
            # Converted through JSON types, so that a prompt equals itself after being written and read.
            prompt = Prompt.from_row(shape.to_prompt(row).to_row())
            if prompt.id in seen:
                raise _duplicate(row, seen[prompt.id], prompt.id)
            seen[prompt.id] = row
            yield row, prompt


def _shape(row: Row) -> Shape:
    # By column names only, so that a column without a value is reported as missing, not ignored.  `native` reports the
    # rows that no shape recognises.
    return next((shape for shape in shapes() if shape.recognises(row.data.keys())), native)


def _hint(row: Row) -> str | None:
    return row_hint(row, [(shape.NAME, shape.COLUMNS) for shape in shapes() if shape is not native])


def _mixed(row: Row, shape: Shape, first_row: Row, first_shape: Shape) -> ConfigError:
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
