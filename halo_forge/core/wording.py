"""Wording shared by the sentences that are printed: messages, advice and reasons."""

from __future__ import annotations


def counted(number: float, noun: str) -> str:
    """The number with its noun, such as "1 optimizer step" and "0 optimizer steps".

    Args:
        number: A count; metrics keep theirs as floats.
        noun: In the singular; its plural ends in "s".
    """
    return f"{number:.0f} {noun}" if number == 1 else f"{number:.0f} {noun}s"
