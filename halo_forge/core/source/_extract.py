"""Finds the part of a completion that is the program."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from halo_forge.core.source._fences import (
    closes_fence,
    end_of_reasoning,
    end_of_text,
    opening_fence,
    start_after_tokens,
)
from halo_forge.core.source._functions import outline
from halo_forge.core.source._languages import PYTHON_BODY_START, STARTS, canonical

How = Literal["fence", "raw", "none"]

_MAX_INLINE_TAG = 12
_NO_LANGUAGE = frozenset(("text", "txt", "plaintext"))
_PYTHON_AFTER_TAG = r"(?:import|from|(?:async\s+)?def|class|for|while|if|with)\s+\w|@\w|try\s*:|print\("
_PYTHON_DEFINED = re.compile(r"^(?:async[ \t]+)?(?:def|class)[ \t]+(\w+)", re.MULTILINE)
_WORD = re.compile(r"[^\W\d]\w*")

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
        how: Whether it came from a fenced block, or is the completion itself.
        tag: The language tag of its block, as a canonical name if it is known; None without one.
        num_blocks: Fenced blocks in the completion, in any language.
        flags: Sorted; of "closing_fence_inline", "no_code", "no_fence", "several_blocks", "unfinished_reasoning",
            "unterminated_fence", and oddities that are reported but not repaired: "escaped_newlines", "html_escaped",
            "invisible_characters", "tool_call".
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


@dataclass(frozen=True, slots=True)
class _Block:
    tag: str | None
    code: str
    flag: str | None
    first_line: int


def extract(text: str, language: str, entry_point: str | None = None) -> Extraction:
    """The program in `language` that a completion contains.

    Of the fenced blocks tagged with the language (else of the untagged ones, never of those in another language) it is
    the last that defines `entry_point`, else the last that mentions it, else the longest that does not only use what
    another one defines.  Without a fence it is the completion itself, if that starts like code; in Python also if it is
    the indented body of `entry_point`.
    """
    language = canonical(language) or language
    text = text.replace("\r\n", "\n").replace("\r", "\n").removeprefix("\ufeff")
    noticed = {"tool_call"} if _TOOL_CALL.search(text) else set()
    text = text[: end_of_text(text)]
    start, unfinished = end_of_reasoning(text)
    if unfinished:
        return Extraction(None, "none", None, 0, ("no_code", "unfinished_reasoning"))
    num_before = text.count("\n", 0, start)
    text = text[start:]
    blocks = _blocks(text)
    candidates = _candidates(blocks, language)
    if not candidates:
        raw = _nothing(text, len(blocks), noticed) if blocks else _raw(text, language, entry_point, num_before, noticed)
        late = _blocks(text, after_prose=True) if raw.code is None else []
        candidates = _candidates(late, language)
        if not candidates:
            return raw
        blocks = late
    chosen = _choose(candidates, entry_point, language)
    if chosen.flag is not None:
        noticed.add(chosen.flag)
    if len(candidates) > 1:
        noticed.add("several_blocks")
    flags = tuple(sorted(noticed | _oddities(chosen.code)))
    lines = _lines(chosen.code, num_before + chosen.first_line)
    return Extraction(chosen.code, "fence", chosen.tag, len(blocks), flags, lines)


def _candidates(blocks: list[_Block], language: str) -> list[_Block]:
    """Blocks in the language, else those without a tag, else those whose tag is not a language; without empty ones."""
    for wanted in ({language}, {None}, _NO_LANGUAGE):
        found = [block for block in blocks if block.tag in wanted]
        if found:
            return [block for block in found if block.code.strip()]
    return []


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


def _tag(info: str) -> str | None:
    words = re.split(r"[\s,:{}]+", info.strip().strip("{}"))
    word = next((word for word in words if word and "=" not in word), None)
    if word is None:
        return None
    return canonical(word) or ("." in word and canonical(word.rpartition(".")[2])) or word.lower()


def _code_after_tag(info: str, tag: str | None) -> str | None:
    """The first line of a program, if it is on the same line as the tag; attributes of the block do not count."""
    rest = info.strip().partition(" ")[2].strip()
    start = _PYTHON_AFTER_TAG if tag == "python" else STARTS.get(tag) if tag is not None else None
    return rest if rest and start is not None and re.match(start, rest) else None


def _blocks(text: str, after_prose: bool = False) -> list[_Block]:
    lines = text.split("\n")
    blocks: list[_Block] = []
    position = 0
    while position < len(lines):
        opening = opening_fence(lines[position], after_prose)
        position += 1
        if opening is None:
            continue
        first_line = position + 1
        body: list[str] = []
        flag: str | None = "unterminated_fence"
        while position < len(lines):
            line = _without_prefix(lines[position], opening["prefix"])
            position += 1
            if closes_fence(line, opening["marker"]):
                flag = None
                break
            body.append(line)
        if flag is not None and body and body[-1].rstrip().endswith(opening["marker"]):
            # A stop string can end the completion with the fence on the same line as code.
            body[-1] = body[-1].rstrip().removesuffix(opening["marker"])
            flag = "closing_fence_inline"
        tag = _tag(opening["info"])
        first = _code_after_tag(opening["info"], tag)
        if first is not None:
            body, first_line = [first, *body], first_line - 1
        blocks.append(_block(tag, body, flag, first_line))
    return blocks


def _without_prefix(line: str, prefix: str) -> str:
    for mark in prefix:
        if mark == ">":
            line = line.lstrip(" \t").removeprefix(">")
        elif line[:1] in (" ", "\t"):
            line = line[1:]
    return line


def _block(tag: str | None, body: list[str], flag: str | None, first_line: int) -> _Block:
    if tag is None and body and len(body[0].strip()) <= _MAX_INLINE_TAG and canonical(body[0]) is not None:
        tag, body, first_line = canonical(body[0]), body[1:], first_line + 1
    code = "\n".join(body)
    return _Block(tag, code if code.endswith("\n") or not code else code + "\n", flag, first_line)


def _choose(candidates: list[_Block], entry_point: str | None, language: str) -> _Block:
    if entry_point is not None:
        name = rf"(?<!\w){re.escape(entry_point)}"
        # Completions often show a call of the function afterwards; that call is not the program.
        if language == "python":
            defines = rf"\b(?:def|class)\s+{name}(?!\w)|^{name}[ \t]*(?::[^=\n]{{0,200}})?=(?!=)"
        else:
            defines = rf"{name}\s*\((?:[^;{{}}()]|\([^;{{}}()]*\))*\)[^;{{}}()=?:]*\{{"
        for pattern in (defines, rf"{name}(?!\w)"):
            found = [block for block in candidates if re.search(pattern, block.code, re.MULTILINE)]
            if found:
                return found[-1]
    elif len(candidates) > 1:
        candidates = _without_usage(candidates, language)
    return max(candidates, key=lambda block: len(block.code))


def _without_usage(candidates: list[_Block], language: str) -> list[_Block]:
    """Without blocks that only use or test what another one defines."""
    defined = [_defined(block.code, language) for block in candidates]
    words = [set(_WORD.findall(block.code)) for block in candidates]
    kept = [
        block
        for at, block in enumerate(candidates)
        if not any((others - defined[at]) & words[at] for other, others in enumerate(defined) if other != at)
    ]
    return kept or candidates


def _defined(code: str, language: str) -> set[str]:
    if language == "python":
        return set(_PYTHON_DEFINED.findall(code))
    return {each.name for each in outline(code, language).functions} - {"main"}


def _raw(text: str, language: str, entry_point: str | None, num_before: int, noticed: set[str]) -> Extraction:
    start_of_text = start_after_tokens(text)
    num_before += text.count("\n", 0, start_of_text)
    text = text[start_of_text:]
    first, _, rest = text.lstrip().partition("\n")
    tag = canonical(first) if len(first) <= _MAX_INLINE_TAG else None
    code = rest if tag == language else text
    start = STARTS.get(language)
    if language == "python" and entry_point is not None and code.lstrip("\n")[:1] in (" ", "\t"):
        start = PYTHON_BODY_START  # the completion continues the function head in its prompt
    if not code.strip() or start is None or re.match(start, code.lstrip(), re.MULTILINE) is None:
        return _nothing(text, 0, noticed)
    stripped = code.strip("\n") + "\n"
    skipped = text[: len(text) - len(code.lstrip("\n"))]
    flags = tuple(sorted({"no_fence"} | noticed | _oddities(stripped)))
    lines = _lines(stripped, num_before + skipped.count("\n") + 1)
    return Extraction(stripped, "raw", tag if tag == language else None, 0, flags, lines)
