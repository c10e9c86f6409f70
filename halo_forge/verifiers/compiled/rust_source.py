"""Which parts of a Rust source are code, and which of them bypass a harness."""

from __future__ import annotations

import re

# Raw strings first, then everything else that a quote or a slash can begin; a lifetime is not a character literal.
_NO_CODE = re.compile(
    r'(?<!\w)(?:b|c)?r(?P<fence>#*)".*?(?:"(?P=fence)|\Z)|"(?:\\.|[^"\\])*\\?(?:"|\Z)'
    r"|'(?:\\u\{[^}']*\}|\\x\w\w|\\.|[^\\'\n])'|(?P<lifetime>'\w+)|//[^\n]*|(?P<block>/\*)",
    re.DOTALL,
)
_BLOCK_EDGE = re.compile(r"/\*|\*/")

_MACROS = r"(?:(?:global_|naked_)?asm|include(?:_str|_bytes)?)"
_ATTRIBUTES = r"(?:no_mangle|export_name|link_section)"
# With these an answer could run before `main`, replace functions of the C library, or read the harness.
_REACHING = re.compile(
    rf"\b{_MACROS}\s*!|\buse\b[^;]{{0,400}}\b{_MACROS}\s+as\b"
    rf"|\#\s*!?\s*\[(?:[^\[\]]|\[[^\[\]]*\]){{0,400}}?\b{_ATTRIBUTES}\b"
)
# A macro may be passed such a word, and add the rest.
_REACHING_BY_MACRO = re.compile(rf"\b(?:{_MACROS}|{_ATTRIBUTES})\b")


def strip_literals(code: str) -> str:
    """The code with blanks for comments, strings and characters; its lines stay."""
    kept: list[str] = []
    last = 0
    while (found := _NO_CODE.search(code, last)) is not None:
        end = found.end() if found["block"] is None else _end_of_block(code, found.end())
        inside = code[found.start() : end]
        kept += [code[last : found.start()], inside if found["lifetime"] else re.sub(r"[^\n]", " ", inside)]
        last = end
    return "".join([*kept, code[last:]])


def harness_bypass(code: str) -> str | None:
    """The first construct that bypasses a harness; None where there is none."""
    text = strip_literals(code)
    found = _REACHING.search(text) or ("macro_rules" in text and _REACHING_BY_MACRO.search(text)) or None
    return None if found is None else " ".join(found[0].split())


def _end_of_block(code: str, start: int) -> int:
    """Where a comment ends that may hold others."""
    depth = 1
    for edge in _BLOCK_EDGE.finditer(code, start):
        depth += 1 if edge[0] == "/*" else -1
        if depth == 0:
            return edge.end()
    return len(code)
