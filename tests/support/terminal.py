"""What a person sees: text as it was printed, with its tables taken apart again."""

from __future__ import annotations

import re
from collections import Counter

_STYLES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
_NUMBER = re.compile(r"(?<![\w.])[+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?%?|\bnan\b|\binf\b")


def plain(text: str) -> str:
    """Without colours and cursor movements."""
    return _STYLES.sub("", text)


def numbers(text: str) -> Counter[str]:
    """Every number of a text, as it stands there."""
    return Counter(_NUMBER.findall(text))


def tables(text: str) -> tuple[list[dict[str, list[str]]], list[str]]:
    """The tables (header -> cells) of a text that was printed into a pipe, and its other lines.

    Columns are separated by at least two spaces in all rows.
    """
    lines = text.splitlines()
    rules = [at for at, line in enumerate(lines) if line and set(line) == {"-"}]
    found, inside = [], set()
    for rule in rules:
        end = next((at for at in range(rule, len(lines)) if not lines[at]), len(lines))
        block = [lines[rule - 1], *lines[rule + 1 : end]]
        inside |= set(range(rule - 1, end))
        width = max(map(len, block))
        block = [line.ljust(width) for line in block]
        empty = [all(line[at] == " " for line in block) for at in range(width)]
        gaps = [at for at in range(1, width) if empty[at - 1] and empty[at]]
        starts = [0, *(at + 1 for at in gaps if at + 1 < width and not empty[at + 1])]
        columns = {}
        for start, stop in zip(starts, [*starts[1:], width], strict=True):
            header, *cells = (line[start:stop].strip() for line in block)
            columns[header] = cells
        found.append(columns)
    return found, [line for at, line in enumerate(lines) if at not in inside]


def assert_fits(narrow: str, piped: str, width: int) -> list[str]:
    """`narrow` is what a terminal of `width` shows of `piped`; returns the names of the columns that it leaves out.

    Lines are not too long; every number of every column and sentence is whole, but for columns that are named as left
    out; no word is cut off.
    """
    narrow = plain(narrow)
    too_long = [line for line in narrow.splitlines() if len(line.rstrip()) > width and " " in line.strip()]
    assert too_long == [], "\n".join(too_long)
    assert "…" not in narrow
    notes = re.findall(r"left out at \d+ columns: (.*?)\s+\([^()]*\)", narrow, re.DOTALL)
    printed, other = tables(piped)
    expected = numbers("\n".join(other))
    left_out: list[str] = []
    shown_text = " ".join(narrow.split())
    for note in notes:
        names, _, intervals = " ".join(note.split()).partition("the intervals of ")
        left_out += [name for name in re.split(", |; ?", names) if name]
        left_out += [f"{name} interval" for name in re.split(", ", intervals) if name]
    for table in printed:
        for header, cells in table.items():
            if header in left_out:
                continue
            text = "\n".join(cells)
            expected += numbers(re.sub(r"\[.*?\]", "", text) if f"{header} interval" in left_out else text)
            for word in header.split():
                assert word in shown_text or len(word) > 18, header
    missing = expected - numbers(re.sub(r"left out at \d+ columns", "", narrow))
    assert not missing, missing
    return left_out
