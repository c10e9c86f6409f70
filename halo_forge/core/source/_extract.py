"""Finds the part of a completion that is the program."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from halo_forge.core.source._blocks import MAX_INLINE_TAG, Block, code_tags, fenced_blocks, without_wrapping
from halo_forge.core.source._choice import choose, is_program
from halo_forge.core.source._fences import end_of_text, opening_fence, start_after_tokens
from halo_forge.core.source._languages import PYTHON_BODY_START, STARTS, canonical
from halo_forge.core.source._normal import lines_within_text, returns_outside_functions
from halo_forge.core.source._reasoning import ReasoningMarks, end_of_reasoning, end_of_turn

How = Literal["fence", "code_tag", "raw", "none"]

_FENCE: How = "fence"
_CODE_TAG: How = "code_tag"
_NO_LANGUAGE = frozenset(("text", "txt", "plaintext"))

_TOOL_CALL = re.compile(r"<tool_?call>|<function_?call>|<function=|<\|python_tag\|>|\[TOOL_CALLS\]|\"arguments\"\s*:")
# An unclosed string extends to the end of its line: failing instead would retry at every quote of the line.
_STRING = re.compile(r"\"(?:\\.|[^\"\\\n])*\"?|'(?:\\.|[^'\\\n])*'?")
_ENTITY = re.compile(r"&(?:lt|gt|amp|quot|apos|#\d{1,6}|#x[0-9a-fA-F]{1,6});")
# Spaces that a compiler does not accept as such, zero-width marks, and marks that change the text direction.
_INVISIBLE = re.compile("[\u00a0\u00ad\u2000-\u200f\u2028-\u202f\u205f-\u2064\u2066-\u2069\u3000\ufeff]")


@dataclass(frozen=True, slots=True)
class Extraction:
    """The program found in a completion.

    Attributes:
        code: The program, None if there is none.
        how: Whether it came from a fenced block or an HTML element `<code>`, or is the completion itself.
        tag: The language tag of its block, as a canonical name if it is known; None without one.
        num_blocks: Blocks in the completion, in any language.
        flags: Sorted; of "after_end_of_turn" (text that was cut off), "closing_fence_inline", "indentation_restored",
            "no_code", "no_fence", "several_blocks", "unfinished_reasoning", "unterminated_fence", and oddities that are
            reported but not repaired: "escaped_newlines", "html_escaped", "invisible_characters", "tool_call".
        lines: Numbers of its first and last line in the completion, counted from 1; None if there is no program.
    """

    code: str | None
    how: How
    tag: str | None
    num_blocks: int
    flags: tuple[str, ...]
    lines: tuple[int, int] | None = None

    def to_row(self) -> dict[str, Any]:
        """How and where the program was found, for `Verdict.extraction`."""
        return {"how": self.how, "tag": self.tag, "num_blocks": self.num_blocks, "lines": self.lines}


def extract(
    text: str, language: str, entry_point: str | None = None, reasoning_marks: ReasoningMarks | None = None
) -> Extraction:
    """The program in `language` that a completion contains.

    Of the fenced blocks tagged with the language (else of the untagged ones, never of those in another language) it is
    the last complete one that defines `entry_point`, else the last that mentions it, else the last whole program, else
    the longest; see `_choice`.  Without a fence it is the completion itself, if that starts like code; in Python also
    if it is the body of `entry_point`.

    Args:
        reasoning_marks: Those of the model, if they are not among `REASONING_MARKS`.
    """
    language = canonical(language) or language
    text = text.replace("\r\n", "\n").replace("\r", "\n").removeprefix("\ufeff")
    noticed = {"tool_call"} if _TOOL_CALL.search(text) else set()
    text = text[: end_of_text(text)]
    if (end := end_of_turn(text)) < len(text):
        text, noticed = text[:end], noticed | {"after_end_of_turn"}
    start, unfinished = end_of_reasoning(text, reasoning_marks)
    if unfinished:
        return Extraction(None, "none", None, 0, tuple(sorted({"no_code", "unfinished_reasoning"} | noticed)))
    num_before = text.count("\n", 0, start)
    text = text[start:]
    if (marker := _marker_opened_before(text, language, entry_point)) is not None:
        text, num_before = f"{marker}{language}\n{text}", num_before - 1
    blocks = without_wrapping(fenced_blocks(text), language)
    candidates, how = _candidates(blocks, language), _FENCE
    if not candidates:
        raw = _nothing(text, len(blocks), noticed) if blocks else _raw(text, language, entry_point, num_before, noticed)
        if raw.code is not None:
            return raw
        blocks = fenced_blocks(text, after_prose=True)
        if not (candidates := _candidates(blocks, language)):
            blocks, how = code_tags(text), _CODE_TAG
            if not (candidates := _candidates(blocks, language)):
                return raw
    chosen = choose(candidates, entry_point, language)
    if chosen.flag is not None:
        noticed.add(chosen.flag)
    if len(candidates) > 1:
        noticed.add("several_blocks")
    lines = _lines(chosen.code, num_before + chosen.first_line)
    code = chosen.code
    if language == "python" and entry_point is not None:
        restored = _with_lost_indentation(code, entry_point)
        if restored is not None:
            noticed.add("indentation_restored")
            code = restored
    flags = tuple(sorted(noticed | _oddities(code)))
    return Extraction(code, how, chosen.tag, len(blocks), flags, lines)


def _candidates(blocks: list[Block], language: str) -> list[Block]:
    """Blocks in the language, else those without a tag, else those whose tag is not a language; without empty ones."""
    for wanted in ({language}, {None}, _NO_LANGUAGE):
        found = [block for block in blocks if block.tag in wanted]
        if found:
            return [block for block in found if block.code.strip()]
    return []


def _marker_opened_before(text: str, language: str, entry_point: str | None) -> str | None:
    """The marker of the fence that the prompt has opened, if the text begins with a program up to a closing fence."""
    lines = text.split("\n")
    fences = [(number, found) for number, line in enumerate(lines) if (found := opening_fence(line)) is not None]
    if len(fences) % 2 == 0 or fences[0][1]["info"].strip() or fences[0][1]["prefix"]:
        return None
    before = lines[: fences[0][0]]
    if language == "python":  # "# Solution" may be a heading
        before = [line for line in before if not line.startswith("#")]
    code = "\n".join(before)
    start = STARTS.get(language)
    is_body = language == "python" and entry_point is not None and code.lstrip("\n")[:1] in (" ", "\t")
    if is_body:
        start = PYTHON_BODY_START
    if start is None or re.match(start, code.lstrip(), re.MULTILINE) is None:
        return None
    return fences[0][1]["marker"] if is_body or is_program(code, entry_point, language) else None


def _nothing(text: str, num_blocks: int, noticed: set[str]) -> Extraction:
    flags = {"no_code"} | noticed | _oddities(text)
    return Extraction(None, "none", None, num_blocks, tuple(sorted(flags)))


def _lines(code: str, first_line: int) -> tuple[int, int]:
    return first_line, first_line + code.removesuffix("\n").count("\n")


def _oddities(code: str) -> set[str]:
    """Flags for oddities outside of string literals; they are reported, not repaired."""
    outside = _STRING.sub('""', code)
    found = set()
    if _ENTITY.search(outside):
        found.add("html_escaped")
    if _INVISIBLE.search(outside):
        found.add("invisible_characters")
    # An escaped program is one line of text, with more written line ends than real ones.
    if outside.count("\\n") > max(1, outside.count("\n")):
        found.add("escaped_newlines")
    return found


def _raw(text: str, language: str, entry_point: str | None, num_before: int, noticed: set[str]) -> Extraction:
    start_of_text = start_after_tokens(text)
    num_before += text.count("\n", 0, start_of_text)
    text = text[start_of_text:]
    first, _, rest = text.lstrip().partition("\n")
    tag = canonical(first) if len(first) <= MAX_INLINE_TAG else None
    code = rest if tag == language else text
    skipped = text[: len(text) - len(code.lstrip("\n"))]
    start = STARTS.get(language)
    if language == "python" and entry_point is not None:
        restored = _with_lost_indentation(code, entry_point)
        if restored is not None:
            noticed.add("indentation_restored")
            code = restored
        if code.lstrip("\n")[:1] in (" ", "\t"):
            start = PYTHON_BODY_START  # the completion continues the function head in its prompt
    if not code.strip() or start is None or re.match(start, code.lstrip(), re.MULTILINE) is None:
        return _nothing(text, 0, noticed)
    stripped = code.strip("\n") + "\n"
    flags = tuple(sorted({"no_fence"} | noticed | _oddities(stripped)))
    lines = _lines(stripped, num_before + skipped.count("\n") + 1)
    return Extraction(stripped, "raw", tag if tag == language else None, 0, flags, lines)


def _with_lost_indentation(code: str, entry_point: str) -> str | None:
    """The body of `entry_point` that lost its indentation, or that of its first line; None if it is anything else.

    Some tokenizers and servers drop the white space at the beginning of a completion, and models write the body into a
    fence as if it were a program.
    """
    lines = code.strip("\n").split("\n")
    if lines[0][:1].isspace() or re.match(PYTHON_BODY_START, lines[0]) is None:
        return None
    if re.search(rf"^(?:async[ \t]+)?(?:def|class)[ \t]+{re.escape(entry_point)}\b", code, re.MULTILINE) is not None:
        return None
    if returns_outside_functions("\n".join(lines[1:])):
        within = lines_within_text("\n".join(lines))
        return "\n".join(line if at in within else f"    {line}" for at, line in enumerate(lines)) + "\n"
    following = [line for line in lines[1:] if line.strip() and line.lstrip()[0] != "#"]
    widths = [line[: len(line) - len(line.lstrip())] for line in following]
    if not following or not widths[0]:
        return "\n".join(["    " + lines[0], *lines[1:]]) + "\n" if re.match(r"return\b", lines[0]) else None
    shortest = min(filter(None, widths), key=len)
    if lines[0].rstrip().endswith(":") and shortest == widths[0]:
        # All that follows is within the block that the first line opens.
        shortest = shortest[: max(1, len(shortest) // 2)]
    return "\n".join([shortest + lines[0], *lines[1:]]) + "\n"
