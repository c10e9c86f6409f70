"""How things look: tables that fit the terminal, paragraphs, small plots, and numbers as text.

On a terminal no line is wider than the terminal.  Numbers are never cut or broken over lines: where a table is too
wide, columns are left out by priority, and a line below the table names them.  In a pipe everything is shown on lines
as long as they need to be, without colours; with COLUMNS set, as on a terminal of that width.

Text may come from a model or from a data set: characters that act on a terminal are written as escapes.
"""

from __future__ import annotations

import math
import os
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, Literal

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from halo_forge.core.wording import visible

LEARNING_RATE = ".2e"
"""How learning rates and sums of them are written, everywhere."""
_MORE = "widen the terminal or use --json"
_PIPE_WIDTH = 100_000
_GAP = 2
_HEADER_LINES = 3
_NARROW_TEXT, _WIDE_WORD = 10, 24
"""A column of text is at least as wide as its longest word, within these limits."""
_LONG_WORD_OF_HEADER = 18
"""Longer words of a header, such as keys of the configuration, may be broken."""
_MOST_REPEATED = 6
_BOX = box.Box("    \n    \n -- \n    \n    \n -- \n    \n    \n", ascii=True)
_BLOCKS, _ASCII_LEVELS = "▁▂▃▄▅▆▇█", "._-=+*%#"
_BREAKS = re.compile(r"(?<=[/_:;,=&?])(?=.)|(?<=[.-])(?=[^\d\s])")
"""Where a word longer than its column may be broken: never inside a number."""


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        cells: One for each row; a column whose cells are all empty is not shown.
        priority: 0 is always shown; of the others, those with the highest number are left out first.
        text: Cells are text, which wraps at words and stands on the left; otherwise they are never broken.
        detailed: Cells with more detail, such as an interval, shown as long as there is room for them.
        detail_priority: When `detailed` gives way to `cells`; the detail always goes before the column.
        align: Of cells that are not text.
    """

    name: str
    cells: Sequence[str]
    priority: int = 0
    text: bool = False
    detailed: Sequence[str] | None = None
    detail_priority: int = 0
    align: Literal["left", "right"] = "right"


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """The reader (head, less) has seen enough, which is no failure of ours; the library exits with 1."""
        try:
            super().on_broken_pipe()
        except SystemExit:
            raise SystemExit(0) from None


def stdout() -> Console:
    """A console for results."""
    console = _Console(highlight=False, markup=False)
    if console.is_terminal or os.environ.get("COLUMNS", "").isdecimal():  # which the library reads
        return console
    return _Console(highlight=False, markup=False, width=_PIPE_WIDTH)


def print_table(columns: Sequence[Column], *, title: str = "", console: Console | None = None) -> None:
    """Print the columns that fit, and which were left out; with an empty line before, or a title, and one after."""
    console = stdout() if console is None else console
    width = console.width
    table, note = fitted(columns, width)
    # What must be shown is shown whole, even on a terminal that is narrower.
    console.width = max(width, _total(column.width or 0 for column in table.columns))
    with console.capture() as captured:
        console.print(table)
    console.width = width
    lines = [line.rstrip() for line in captured.get().splitlines()]
    print_paragraph(console, title)
    console.out(*lines, sep="\n", highlight=False)  # which carry their styles already
    if note:
        print_paragraph(console, note, indent="    ")
    console.out("")


def fitted(columns: Sequence[Column], width: int) -> tuple[Table, str]:
    """The table of what fits into `width`, and a line that names what does not; the line is empty if all fits."""
    shown, dropped, plain = _choose([_visible(column) for column in columns], width)
    widths = [_least(column) for column in shown]
    _share(widths, [_natural(column) for column in shown], width)
    table = Table(box=_BOX, show_edge=False, pad_edge=False, padding=(0, _GAP - 1, 0, 0), collapse_padding=True)
    headers = [_wrapped(column.name, size) for column, size in zip(shown, widths, strict=True)]
    height = max((len(lines) for lines in headers), default=0)
    for column, size, lines in zip(shown, widths, headers, strict=True):
        header = "\n".join([""] * (height - len(lines)) + lines)
        side: Any = "left" if column.text else column.align
        table.add_column(header, width=size, justify=side, no_wrap=True)
    for row in zip(*(column.cells for column in shown), strict=True):
        cells = (
            _wrapped(cell, size) if column.text else [cell]
            for column, size, cell in zip(shown, widths, row, strict=True)
        )
        table.add_row(*(Text("\n".join(lines)) for lines in cells))
    left_out = [", ".join(dropped)] if dropped else []
    left_out += [f"the intervals of {', '.join(plain)}"] if plain else []
    return table, f"left out at {width} columns: {'; '.join(left_out)} ({_MORE})" if left_out else ""


def _visible(column: Column) -> Column:
    detailed = None if column.detailed is None else [visible(cell) for cell in column.detailed]
    return replace(column, cells=[visible(cell) for cell in column.cells], detailed=detailed)


def _choose(columns: Sequence[Column], width: int) -> tuple[list[Column], list[str], list[str]]:
    """The columns to show, the names of those left out, and of those shown without their detail."""
    columns = [column for column in columns if any(column.cells)]
    steps = sorted(
        (
            *((max(each.priority, each.detail_priority), 1, at) for at, each in enumerate(columns) if each.detailed),
            *((each.priority, 0, at) for at, each in enumerate(columns) if each.priority > 0),
        ),
        reverse=True,
    )
    left_out: set[int] = set()
    plain: set[int] = set()

    def shown() -> list[Column]:
        return [
            column
            if column.detailed is None or at in plain
            else Column(column.name, column.detailed, column.priority, column.text, align=column.align)
            for at, column in enumerate(columns)
            if at not in left_out
        ]

    for _, is_detail, at in steps:
        if _total(_least(column) for column in shown()) <= width:
            break
        (plain if is_detail else left_out).add(at)
    dropped = [column.name for at, column in enumerate(columns) if at in left_out]
    return shown(), dropped, [columns[at].name for at in sorted(plain - left_out)]


def _least(column: Column) -> int:
    """The narrowest that a column can be: its widest cell, or the longest word of a text, up to a limit."""
    longest_word = _widest(column.name.split())
    sizes = range(min(longest_word, _LONG_WORD_OF_HEADER), cell_len(column.name) + 1)
    header = next(size for size in sizes if _fits(_wrapped(column.name, size, anywhere=False), size))
    widest = _widest(column.cells)
    if column.text:
        longest = _widest(word for cell in column.cells for word in cell.split())
        widest = min(widest, max(_NARROW_TEXT, min(longest, _WIDE_WORD)))
    return max(header, widest)


def _natural(column: Column) -> int:
    return max(cell_len(column.name), _widest(column.cells))


def _fits(lines: Sequence[str], width: int) -> bool:
    return len(lines) <= _HEADER_LINES and _widest(lines) <= width


def _widest(texts: Iterable[str]) -> int:
    return max(map(cell_len, texts), default=0)


def _total(widths: Iterable[int]) -> int:
    sizes = list(widths)
    return sum(sizes) + _GAP * (len(sizes) - 1)


def _share(widths: list[int], natural: Sequence[int], width: int) -> None:
    """Hand out what is left of `width`, evenly, up to what each column can use."""
    spare = width - _total(widths)
    hungry = sorted((wanted - size, at) for at, (size, wanted) in enumerate(zip(widths, natural, strict=True)))
    for number, (need, at) in enumerate(hungry):
        given = max(0, min(need, spare // (len(hungry) - number)))
        widths[at] += given
        spare -= given


def _wrapped(text: str, width: int, *, anywhere: bool = True) -> list[str]:
    """Lines of at most `width`, broken at spaces; a longer word is broken after punctuation, or at last anywhere.

    Args:
        anywhere: False leaves what has no punctuation in it too long.
    """
    lines, line = [], ""
    for word in text.split():
        joined = f"{line} {word}" if line else word
        if cell_len(joined) <= width:
            line = joined
            continue
        lines.append(line)
        line = ""
        for piece in [word] if cell_len(word) <= width else _BREAKS.split(word):
            if cell_len(line + piece) > width:
                lines.append(line)
                line = ""
            while anywhere and cell_len(piece) > width:
                cut = next(at for at in range(len(piece), 0, -1) if cell_len(piece[:at]) <= width)
                lines.append(piece[:cut])
                piece = piece[cut:]
            line += piece
    return [each for each in (*lines, line) if each] or [""]


def print_paragraph(console: Console, text: str, indent: str = "") -> None:
    """Print prose, on a terminal wrapped at words and with its further lines indented; paths are never broken."""
    text = visible(text)
    if is_pipe(console):
        console.out(text, highlight=False)
        return
    console.out(
        textwrap.fill(text, console.width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False),
        highlight=False,
    )


def is_pipe(console: Console) -> bool:
    """Whether lines may be as long as they need to be."""
    return console.width >= _PIPE_WIDTH


def plot(values: Sequence[float | None], room: int, console: Console) -> str:
    """One character a value, from the lowest to the highest level; a space where there is none.

    More values than `room` are averaged in equal parts, few are repeated so that steps are seen as such.
    """
    try:
        _BLOCKS.encode(console.encoding)
        levels = _BLOCKS
    except (UnicodeEncodeError, LookupError):
        levels = _ASCII_LEVELS
    known = [value for value in values if value is not None and math.isfinite(value)]
    low, high = min(known, default=0.0), max(known, default=0.0)

    def level(part: Sequence[float | None]) -> str:
        there = [value for value in part if value is not None and math.isfinite(value)]
        if not there:
            return " "
        share = (fmean(there) - low) / (high - low) if high > low else 0.5
        return levels[min(len(levels) - 1, int(share * len(levels)))]

    num = len(values)
    if num > room:
        return "".join(level(values[at * num // room : (at + 1) * num // room]) for at in range(room))
    repeat = max(1, min(_MOST_REPEATED, room // num))
    return "".join(level([value]) * repeat for value in values)


def number(value: Any, form: str, absent: str = "") -> str:
    """A number in a format; `absent` for None."""
    return absent if value is None else format(value, form)


def number_columns(
    values: Callable[[str], Iterable[Any]], described: Iterable[tuple[str, str, str, int]], absent: str = ""
) -> Iterator[Column]:
    """A column of numbers for each (name, key, format, priority).

    Args:
        values: The values of a key, one for each row.
    """
    for name, key, form, priority in described:
        yield Column(name, [number(value, form, absent) for value in values(key)], priority)


def span(low: Any, high: Any, form: str = ".3g") -> str:
    """One value, or "low to high"; "?" where they are not known."""
    if low is None:
        return "?"
    ends = [value if isinstance(value, str) else format(value, form) for value in (low, high)]
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)
