"""Which part of a completion is reasoning, and where its turn ends."""

from __future__ import annotations

import functools
import re

from halo_forge.core.source._fences import closes_fence, opening_fence

ReasoningMarks = tuple[str, str]
"""What opens and what closes a model's reasoning."""

REASONING_MARKS: tuple[ReasoningMarks, ...] = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("\u25c1think\u25b7", "\u25c1/think\u25b7"),
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
)
"""The marks of published models; a model with others names them in `verifier.reasoning_marks`."""

# `<|end|>` also separates the channels of one turn.
_END_OF_TURN = re.compile(
    r"<\|(?:im_end|eot_id|eom_id|eot|eom|endoftext|end_of_text|return|END_OF_TURN_TOKEN|end(?!\|>\s*<\|start\|>assistant))\|>"
    r"|</s>|<eos>|<end_of_turn>|<\uff5cend\u2581of\u2581sentence\uff5c>"
)
_START_OF_TURN = re.compile(
    r"\s*(?:<\|(?:im_start|start_header_id|header_start|start|user|system|begin_of_text|START_OF_TURN_TOKEN)\|>"
    r"|<start_of_turn>|<s>|\[INST\]|<bos>|<\uff5c(?:User|begin\u2581of\u2581sentence)\uff5c>)"
)
_QUOTES = re.compile(r"[\"`]|(?<!\w)'|'(?!\w)")  # not the apostrophe of "don't"


@functools.lru_cache(maxsize=8)
def _patterns(marks: ReasoningMarks | None) -> tuple[re.Pattern[str], re.Pattern[str], re.Pattern[str]]:
    """Any mark, an opening mark at the beginning of a line, and a closing mark."""
    known = REASONING_MARKS if marks is None else (marks, *REASONING_MARKS)
    opening = "|".join(re.escape(each) for each, _ in known)
    closing = "|".join(re.escape(each) for _, each in known)
    return re.compile(f"{opening}|{closing}"), re.compile(rf"[ \t]*(?:{opening})"), re.compile(closing)


def opened_reasoning(prompt: str, marks: ReasoningMarks | None = None) -> str:
    """What a rendered prompt ends with if it ends within the reasoning that it opens, such as `<think>\\n`; else "".

    Args:
        marks: Those of the model, if they are not among `REASONING_MARKS`.
    """
    known = REASONING_MARKS if marks is None else (marks, *REASONING_MARKS)
    end = len(prompt.rstrip())
    opening = next((each for each, _ in known if prompt.endswith(each, 0, end)), None)
    return "" if opening is None else prompt[end - len(opening) :]


def end_of_reasoning(text: str, marks: ReasoningMarks | None = None) -> tuple[int, bool]:
    """Where the completion begins after its reasoning, and whether the reasoning is unfinished.

    Marks inside fenced blocks do not count: there they are part of the program.  A block that is still open where the
    reasoning ends is closed there.
    """
    any_mark, opening, closings = _patterns(marks)
    if any_mark.search(text) is None:
        return 0, False
    start, position = 0, 0
    unfinished = False
    marker: str | None = None
    has_own_marks = False
    for line in text.split("\n"):
        first, position = position, position + len(line) + 1
        opens = opening.match(line) is not None
        closing = next(reversed(list(closings.finditer(line))), None)
        if marker is not None:
            if closes_fence(line, marker):
                marker = None
                continue
            has_own_marks |= opens
            if closing is None or has_own_marks or _is_text(line[: closing.start()], unfinished):
                continue
        if closing is not None:
            start = first + closing.end()
            unfinished = opening.match(line, closing.end()) is not None
            marker = _marker(line[closing.end() :])
        else:
            unfinished |= opens
            marker = _marker(line)
        has_own_marks = False
    return start, unfinished


def end_of_turn(text: str) -> int:
    """Where the model's own turn ends: before the first end-of-turn mark that is not part of a program.

    In a fenced block only a mark before the start of the next turn counts, elsewhere every mark that is not quoted.
    """
    if _END_OF_TURN.search(text) is None:
        return len(text)
    marker: str | None = None
    position = 0
    for line in text.split("\n"):
        first, position = position, position + len(line) + 1
        was_open = marker is not None
        if marker is not None:
            marker = None if closes_fence(line, marker) else marker
        else:
            marker = _marker(line)
        counted, num_quotes = 0, {'"': 0, "'": 0, "`": 0}
        for mark in _END_OF_TURN.finditer(line):
            if _START_OF_TURN.match(text, first + mark.end()) is not None:
                return first + mark.start()
            for quote in _QUOTES.finditer(line, counted, mark.start()):
                num_quotes[quote[0]] += 1
            counted = mark.start()
            is_outside = marker is None and not (was_open and mark.start() == 0)
            is_struck_out = mark[0] == "</s>" and "<s>" in line
            if is_outside and not is_struck_out and not any(num % 2 for num in num_quotes.values()):
                return first + mark.start()
    return len(text)


def _is_text(before: str, unfinished: bool) -> bool:
    """Whether what follows `before` in a line of a fenced block is part of the program."""
    return "'" in before or '"' in before if unfinished else before.strip(" \t`~") != ""


def _marker(line: str) -> str | None:
    opening = opening_fence(line)
    return None if opening is None else opening["marker"]
