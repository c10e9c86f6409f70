"""The comparison of what a program printed with what is expected, under an `OutputRule`.

It is on bytes: output that is not UTF-8 is as good as any other wrong output.
"""

from __future__ import annotations

import decimal
import re
from collections.abc import Sequence
from dataclasses import dataclass

from halo_forge.core.output_rule import OutputRule

_MAX_MISMATCHES = 5
_SHOWN = 160
_NUMBER = re.compile(rb"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_SPACES = re.compile(rb"(\s+)")
# Exact for every number that programs print; 0.7 and 0.6 differ by 0.1 in it, and by a little less in binary.
_EXACT = decimal.Context(prec=60, Emax=decimal.MAX_EMAX, Emin=decimal.MIN_EMIN, traps=[])


@dataclass(frozen=True, slots=True)
class Comparison:
    """The number of correct lines, whether the whole output is correct, and the first differences as text."""

    num_equal: int
    right: bool
    differences: tuple[str, ...]


def compare_lines(
    output: bytes, expected: Sequence[str | Sequence[str]], complete: bool, rule: OutputRule | None = None
) -> Comparison:
    """Compare line by line.

    Args:
        output: What the program wrote.
        expected: The text of each line; where several are right, all of them.
        complete: The program ran to its end; if it did not, an unfinished last line is ignored.
        rule: None for the default.
    """
    rule = OutputRule() if rule is None else rule
    lines = output.split(b"\n", len(expected) + 1)
    if len(lines) <= len(expected) + 1 and (lines[-1] == b"" or not complete):
        lines.pop()
    num_equal = 0
    differences: list[str] = []
    for number, (wanted, found) in enumerate(zip(expected, lines, strict=False), start=1):
        if any(_same_line(found, encoded(each), rule) for each in texts(wanted)):
            num_equal += 1
        elif len(differences) < _MAX_MISMATCHES:
            differences.append(f"check {number}: expected {_show(encoded(texts(wanted)[0]))}, found {_show(found)}")
    if len(lines) < len(expected):
        missing = _show(encoded(texts(expected[len(lines)])[0]))
        differences.append(f"check {len(lines) + 1}: expected {missing}, found the end of the output")
    if len(lines) > len(expected):
        differences.append(f"more than the {len(expected)} expected lines: {_show(lines[len(expected)])}")
    return Comparison(num_equal, not differences, tuple(differences))


def compare_output(output: bytes, expected: str | Sequence[str], rule: OutputRule | None = None) -> str | None:
    """None where the output is one of the expected texts; else where it differs from the first of them.

    Args:
        rule: None for the default; it has no checker.
    """
    rule = OutputRule() if rule is None else rule
    found = _parts(output, rule)
    first = None
    for text in texts(expected):
        difference = _difference(found, _parts(encoded(text), rule), rule)
        if difference is None:
            return None
        first = difference if first is None else first
    return first


def texts(value: str | Sequence[str]) -> Sequence[str]:
    """The right texts, where one may stand for a list of one."""
    return (value,) if isinstance(value, str) else value


def encoded(text: str) -> bytes:
    """The bytes of a text; a lone surrogate becomes an escape sequence."""
    return text.encode("utf-8", errors="backslashreplace")


def _parts(text: bytes, rule: OutputRule) -> list[bytes]:
    if rule.whitespace == "tokens":
        return text.split()
    if rule.whitespace == "exact":
        return text.split(b"\n")
    return [line.rstrip() for line in text.rstrip().split(b"\n")]


def _difference(found: list[bytes], wanted: list[bytes], rule: OutputRule) -> str | None:
    if found == wanted:
        return None
    pairs = enumerate(zip(wanted, found, strict=False))
    number = next((i for i, (a, b) in pairs if not _same(b, a, rule)), min(len(wanted), len(found)))
    if number == len(wanted) == len(found):
        return None
    first, second = (each[number] if number < len(each) else None for each in (wanted, found))
    what = "token" if rule.whitespace == "tokens" else "line"
    return f"{what} {number + 1}: expected {_show(first)}, found {_show(second)}"


def _same_line(found: bytes, wanted: bytes, rule: OutputRule) -> bool:
    if rule.whitespace == "tokens":
        ours, theirs = found.split(), wanted.split()
        return len(ours) == len(theirs) and all(_same(a, b, rule) for a, b in zip(ours, theirs, strict=True))
    if rule.whitespace == "exact":
        return _same(found, wanted, rule)
    return _same(found.rstrip(), wanted.rstrip(), rule)


def _same(found: bytes, wanted: bytes, rule: OutputRule) -> bool:
    """Whether two lines or tokens are equal, white space included, but for numbers within the tolerance."""
    if found == wanted:
        return True
    if not rule.has_tolerance:
        return False
    ours, theirs = _SPACES.split(found), _SPACES.split(wanted)
    return len(ours) == len(theirs) and all(a == b or _near(a, b, rule) for a, b in zip(ours, theirs, strict=True))


def _near(found: bytes, wanted: bytes, rule: OutputRule) -> bool:
    """Whether both are numbers within the tolerance: |a - b| <= absolute, or |a - b| <= relative * |expected|."""
    if _NUMBER.fullmatch(found) is None or _NUMBER.fullmatch(wanted) is None:
        return False
    a, b = (_EXACT.create_decimal(each.decode("ascii")) for each in (found, wanted))
    apart = _EXACT.subtract(a, b).copy_abs()
    if not apart.is_finite():
        return False
    if rule.absolute_tolerance is not None and apart <= decimal.Decimal(repr(rule.absolute_tolerance)):
        return True
    relative = rule.relative_tolerance
    return relative is not None and apart <= _EXACT.multiply(decimal.Decimal(repr(relative)), b.copy_abs())


def _show(line: bytes | None) -> str:
    if line is None:
        return "nothing"
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        return repr(line[:_SHOWN])[1:] + ("..." if len(line) > _SHOWN else "")
    return repr(text[:_SHOWN]) + ("..." if len(text) > _SHOWN else "")
