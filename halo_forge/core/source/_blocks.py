"""The fenced blocks of a completion, and what comes near to one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from halo_forge.core.source._fences import closes_fence, opening_fence
from halo_forge.core.source._languages import STARTS, canonical

MAX_INLINE_TAG = 12
_MARKDOWN = ("markdown", "md")
_PYTHON_AFTER_TAG = r"(?:import|from|(?:async\s+)?def|class|for|while|if|with)\s+\w|@\w|try\s*:|print\("
_ELEMENTS = {
    name: re.compile(rf"<{name}(?P<attributes>\s[^<>\n]{{0,200}})?>(?P<code>.*?)(?:</{name}>|\Z)", re.DOTALL)
    for name in ("code", "answer")
}
_CODE_CLASS = re.compile(r"(?:class|data-lang)=[\"'](?:lang(?:uage)?-)?([\w+#]{1,20})")


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block.

    Attributes:
        tag: Its language, as a canonical name if it is known; None without one.
        flag: "unterminated_fence" or "closing_fence_inline", None if it is closed by a fence of its own.
        first_line: The number of its first line in the text, from 1.
    """

    tag: str | None
    code: str
    flag: str | None
    first_line: int


def fenced_blocks(text: str, after_prose: bool = False) -> list[Block]:
    """The fenced blocks of a text.

    A tagged fence at the indentation of a block that is still open opens the next one, as completions do whose response
    prefix has opened a fence already.  One that is indented deeper belongs to the program, with the fence closing it.
    """
    lines = text.split("\n")
    blocks: list[Block] = []
    position = 0
    while position < len(lines):
        opening = opening_fence(lines[position], after_prose)
        position += 1
        if opening is not None:
            block, position = _block_from(lines, position, opening)
            if block is not None:
                blocks.append(block)
    return blocks


def without_wrapping(blocks: Sequence[Block], language: str) -> list[Block]:
    """The blocks, with those in a block of Markdown, such as a whole reply within four backticks, in its place."""
    found: list[Block] = []
    for block in blocks:
        inner = []
        if block.tag in _MARKDOWN or (block.tag is None and not _begins_program(language, block.code.split("\n"))):
            inner = fenced_blocks(block.code)
        found += [replace(each, first_line=block.first_line - 1 + each.first_line) for each in inner] or [block]
    return found


def code_tags(text: str) -> list[Block]:
    """The elements `<code>` of a text, else those called `<answer>`, that span more than one line, as blocks."""
    return _elements(text, "code") or _elements(text, "answer")


def _elements(text: str, name: str) -> list[Block]:
    blocks = []
    line, counted = 1, 0
    for found in _ELEMENTS[name].finditer(text):
        line += text.count("\n", counted, found.start("code"))
        counted = found.start("code")
        body = found["code"].split("\n")
        if len(body) > 1:
            named = _CODE_CLASS.search(found["attributes"] or "")
            skipped = 0 if body[0].strip() else 1
            tag = None if named is None else _tag(named[1])
            flag = None if found[0].endswith(f"</{name}>") else "unterminated_fence"
            blocks.append(_block(tag, body[skipped:], flag, line + skipped))
    return blocks


def _block_from(lines: Sequence[str], position: int, opening: re.Match[str]) -> tuple[Block | None, int]:
    """The block whose opening fence is before `position`, and where what follows it begins."""
    marker, tag = opening["marker"], _tag(opening["info"])
    first_line = position + 1
    body: list[str] = []
    flag: str | None = "unterminated_fence"
    is_nested = is_interrupted = False
    while position < len(lines):
        line = _without_prefix(lines[position], opening["prefix"])
        is_deeper = line[:1] in (" ", "\t")
        if closes_fence(line, marker) and not (is_nested and is_deeper):
            position += 1
            if _is_opened_again(tag, body, lines, position):
                body, first_line = [], position + 1
                continue
            flag = None
            break
        if _opens_tagged(line, marker):
            if not is_deeper:
                is_interrupted = True
                break
            is_nested = True
        elif is_nested and closes_fence(line, marker):
            is_nested = False
        body.append(line)
        position += 1
    if is_interrupted and not _begins_program(tag, body):
        return None, position  # words between the response prefix and the fence of the program
    if flag is not None and body and body[-1].rstrip().endswith(marker):
        # A stop string can end the completion with the fence on the same line as code.
        body[-1] = body[-1].rstrip().removesuffix(marker)
        flag = "closing_fence_inline"
    first = _code_after_tag(opening["info"], tag)
    if first is not None:
        body, first_line = [first, *body], first_line - 1
    return _block(tag, body, flag, first_line), position


def _opens_tagged(line: str, marker: str) -> bool:
    opening = opening_fence(line)
    if opening is None or opening["prefix"].strip() or not opening["marker"].startswith(marker):
        return False
    return re.match(r"\{?\.?[A-Za-z]", opening["info"]) is not None


def _is_opened_again(tag: str | None, body: Sequence[str], lines: Sequence[str], position: int) -> bool:
    """Whether a fence that would close an empty block opens it once more, because a program follows."""
    if any(line.strip() for line in body):
        return False
    following = next((line for line in lines[position:] if line.strip()), None)
    return following is not None and _begins_program(tag, [following])


def _begins_program(tag: str | None, body: Sequence[str]) -> bool:
    start = None if tag is None else STARTS.get(tag)
    first = next((number for number, line in enumerate(body) if line.strip()), len(body))
    text = "\n".join(body[first : first + 20]).lstrip()
    return start is not None and re.match(start, text, re.MULTILINE) is not None


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


def _without_prefix(line: str, prefix: str) -> str:
    for mark in prefix:
        if mark == ">":
            line = line.lstrip(" \t").removeprefix(">")
        elif line[:1] in (" ", "\t"):
            line = line[1:]
    return line


def _block(tag: str | None, body: list[str], flag: str | None, first_line: int) -> Block:
    if tag is None and body and len(body[0].strip()) <= MAX_INLINE_TAG and canonical(body[0]) is not None:
        tag, body, first_line = canonical(body[0]), body[1:], first_line + 1
    code = "\n".join(body)
    return Block(tag, code if code.endswith("\n") or not code else code + "\n", flag, first_line)
