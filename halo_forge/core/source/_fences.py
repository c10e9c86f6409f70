"""Lines that open and close fenced blocks, and special tokens at both ends of a completion."""

from __future__ import annotations

import re

_SPECIAL = r"(?:<\|[A-Za-z0-9_]{1,40}\|>|</s>|<eos>|<end_of_turn>|<\uff5c[\w\u2581]{1,40}\uff5c>)"
_SPECIAL_TOKEN = re.compile(_SPECIAL)
_FIRST_TOKENS = re.compile(rf"\s*(?:{_SPECIAL}\s*)+")
_LAST_TOKEN = re.compile(rf"{_SPECIAL}\Z")
_LONGEST_TOKEN = 44
# Around a fence they are no part of a program; zero-width marks are dropped.
_PLAIN_SPACES = dict.fromkeys([0xA0, 0x1680, *range(0x2000, 0x200B), 0x202F, 0x205F, 0x3000], " ") | dict.fromkeys(
    [0xAD, *range(0x200B, 0x2010), 0x2060, 0xFEFF], ""
)
_FENCE = re.compile(r"(?P<prefix>[ \t]*(?:>[ \t]*)*)(?P<marker>`{3,}|~{3,})[ \t]*(?P<info>.*)")
_FENCE_AFTER_PROSE = re.compile(r"[^`~]*(?P<prefix>)(?P<marker>`{3,}|~{3,})[ \t]*(?P<info>.*)")


def start_after_tokens(text: str) -> int:
    """Where the text begins after special tokens."""
    found = _FIRST_TOKENS.match(text)
    return 0 if found is None else found.end()


def end_of_text(text: str) -> int:
    """Where the text ends before its last special tokens."""
    end, before = len(text), len(text)
    while True:
        while before > 0 and text[before - 1].isspace():
            before -= 1
        found = _LAST_TOKEN.search(text[max(0, before - _LONGEST_TOKEN) : before])
        if found is None:
            return end
        end = before = before - len(found[0])


def opening_fence(line: str, after_prose: bool = False) -> re.Match[str] | None:
    """The `prefix`, `marker` and `info` of a line that opens a fenced block.

    With `after_prose` other words may precede it.
    """
    plain = _plain(line)
    opening = (
        (_FENCE.fullmatch(plain) or _FENCE_AFTER_PROSE.fullmatch(plain)) if after_prose else _FENCE.fullmatch(plain)
    )
    # CommonMark: the info string of a backtick fence contains no backtick, else it is inline code.
    return None if opening is None or (opening["marker"][0] == "`" and "`" in opening["info"]) else opening


def closes_fence(line: str, marker: str) -> bool:
    """Whether the line closes a block that was opened with `marker`."""
    stripped = _plain(line).strip()
    return len(stripped) >= len(marker) and set(stripped) == {marker[0]}


def _plain(line: str) -> str:
    """The line without special tokens, and with plain spaces for other ones, if it can be a fence."""
    if "```" not in line and "~~~" not in line:
        return line
    return _SPECIAL_TOKEN.sub("", line).translate(_PLAIN_SPACES)
