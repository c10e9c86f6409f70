"""Wording shared by the sentences that are printed: messages, advice and reasons."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping


def counted(number: float, noun: str) -> str:
    """The number with its noun, such as "1 optimizer step" and "0 optimizer steps".

    Args:
        number: A count; metrics keep theirs as floats.
        noun: In the singular; its plural ends in "s".
    """
    return f"{number:.0f} {noun}" if number == 1 else f"{number:.0f} {noun}s"


def duration(seconds: float) -> str:
    """Such as "42 s", "3 min 5 s" or "2 h 10 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def outcome_in_words(outcome: str, opposed: Mapping[str, Mapping[str, float]]) -> str:
    """The outcome of a comparison, such as "ahead, but compile rate -0.094".

    Args:
        opposed: Metric -> its comparison, of those that moved the other way.
    """
    words = outcome.replace("_", " ")
    other = ", ".join(f"{name.replace('_', ' ')} {row['difference']:+.3f}" for name, row in opposed.items())
    return f"{words}, but {other}" if other else words


def roughly(seconds: float) -> str:
    """An estimate, with no more digits than it has: "about 40 min", "about 1 h 20 min", "about 3 days"."""
    minutes = seconds / 60
    if minutes < 1:
        return "less than 1 min"
    if minutes < 57.5:
        step = 1 if minutes < 9.5 else 5
        return f"about {step * round(minutes / step)} min"
    if minutes < 595:
        hours, rest = divmod(10 * round(minutes / 10), 60)
        return f"about {hours} h {rest} min" if rest else f"about {hours} h"
    hours = round(minutes / 60)
    return f"about {hours} h" if hours < 72 else f"about {round(hours / 24)} days"


_SHOWN_AS_THEY_ARE = frozenset("\n\t")
_INVISIBLE = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))
"""Categories of characters that are not printed themselves, but may change how others are."""


def visible(text: str) -> str:
    """The text with every character that could act on a terminal or reorder others written as an escape.

    That is control characters (escape sequences, NUL, backspace, carriage return), marks of the text direction,
    zero-width characters, surrogates and line separators; line feeds and tabs stay.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(each if is_shown(each) else escaped(each) for each in text)


def is_shown(character: str) -> bool:
    """Whether `visible` leaves a character as it is."""
    return (
        character.isprintable() or character in _SHOWN_AS_THEY_ARE or unicodedata.category(character) not in _INVISIBLE
    )


def escaped(character: str) -> str:
    r"""A character as an escape of JSON and Python: `\x1b`, `\u202e`, `\U000e0001`."""
    number = ord(character)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
