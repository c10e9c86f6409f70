"""Where a completion begins and ends: fences, reasoning marks, and special tokens around them."""

from __future__ import annotations

import re

_SPECIAL = r"(?:<\|[A-Za-z0-9_]{1,40}\|>|</s>|<eos>|<end_of_turn>)"
_SPECIAL_TOKEN = re.compile(_SPECIAL)
_FIRST_TOKENS = re.compile(rf"\s*(?:{_SPECIAL}\s*)+")
_LAST_TOKEN = re.compile(rf"{_SPECIAL}\Z")
_LONGEST_TOKEN = 44
_FENCE = re.compile(r"(?P<prefix>[ \t]*(?:>[ \t]*)*)(?P<marker>`{3,}|~{3,})[ \t]*(?P<info>.*)")
_FENCE_AFTER_PROSE = re.compile(r"[^`~]*(?P<prefix>)(?P<marker>`{3,}|~{3,})[ \t]*(?P<info>.*)")
_OPEN_REASONING = re.compile(r"[ \t]*<think(?:ing)?>")
_CLOSE_REASONING = re.compile(r"</think(?:ing)?>")


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
    """The line without special tokens, if it can be a fence."""
    return _SPECIAL_TOKEN.sub("", line) if "```" in line or "~~~" in line else line


def end_of_reasoning(text: str) -> tuple[int, bool]:
    """Where the completion begins after its reasoning, and whether the reasoning is unfinished.

    Marks inside fenced blocks do not count: there they are part of the program.  A block that is still open where the
    reasoning ends is closed there.
    """
    if "<think" not in text and "</think" not in text:
        return 0, False
    start, position = 0, 0
    unfinished = False
    marker: str | None = None
    has_own_marks = False
    for line in text.split("\n"):
        first, position = position, position + len(line) + 1
        opens = _OPEN_REASONING.match(line) is not None
        closing = next(reversed(list(_CLOSE_REASONING.finditer(line))), None)
        if marker is not None:
            if closes_fence(line, marker):
                marker = None
                continue
            has_own_marks |= opens
            if closing is None or has_own_marks or _is_text(line[: closing.start()], unfinished):
                continue
        if closing is not None:
            start = first + closing.end()
            unfinished = _OPEN_REASONING.match(line, closing.end()) is not None
            marker = _marker(line[closing.end() :])
        else:
            unfinished |= opens
            marker = _marker(line)
        has_own_marks = False
    return start, unfinished


def _is_text(before: str, unfinished: bool) -> bool:
    """Whether what follows `before` in a line of a fenced block is part of the program."""
    return "'" in before or '"' in before if unfinished else before.strip(" \t`~") != ""


def _marker(line: str) -> str | None:
    opening = opening_fence(line)
    return None if opening is None else opening["marker"]
