"""The functions of a C, C++, Rust or Go program, found by their brackets: for heuristics, not for compiling."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from halo_forge.core.source._normal import KEYWORDS, c_tokens

Tokens = Sequence[str]

_DIRECTIVE = re.compile(r"[ \t]*#[ \t]*(\w+)(.*)", re.DOTALL)
_CONTAINERS = frozenset(("struct", "class", "union", "enum", "namespace", "impl", "trait", "mod", "interface"))
_LONGEST_HEADER = 200
_CLOSING = {"(": ")", "[": "]", "{": "}"}


@dataclass(frozen=True, slots=True)
class Function:
    """One function with a body.

    Attributes:
        header: The tokens before its body, without attributes.
        body: The tokens between its braces.
    """

    name: str
    header: Tokens
    body: Tokens


@dataclass(frozen=True, slots=True)
class Outline:
    """A program without comments, `#if 0` and directives.

    Attributes:
        functions: In source order.
        loose: Statements outside of functions, as tokens, including those in the bodies of containers.
        macros: Name -> replacement of every macro that it defines.
    """

    functions: tuple[Function, ...]
    loose: tuple[Tokens, ...]
    macros: dict[str, str]


@functools.lru_cache(maxsize=16)  # several rules look at the same program in a row
def outline(code: str, language: str) -> Outline:
    """The functions of a program without comments, `#if 0` and directives.

    Linear in the length of the code; text that is not a program gives some result too.
    """
    macros: dict[str, str] = {}
    if language in ("c", "cpp"):
        code = _without_directives(without_comments(code), macros)
    tokens = _without_attributes([token for kind, token in c_tokens(code) if kind != "include"])
    functions: list[Function] = []
    loose: list[Tokens] = []
    statement: list[str] = []
    position = 0
    while position < len(tokens):
        token = tokens[position]
        position += 1
        if token == "{":
            kind = _kind(statement, language)
            if kind == "container":
                statement = []
                continue
            end = _matching(tokens, position - 1)
            if kind == "function":
                functions.append(_function(statement, tokens[position:end], language))
                statement = []
            else:
                statement[_LONGEST_HEADER:] = ["{}"]  # an initialiser, after which the statement continues
            position = end + 1
        elif token in (";", "}"):
            loose.append(statement)
            statement = []
        else:
            statement.append(token)
    loose.append(statement)
    return Outline(tuple(functions), tuple(each for each in loose if each), macros)


def without_comments(code: str) -> str:
    """The code with every comment replaced by a space; literals and line breaks outside of comments are kept."""
    kept = []
    last = 0
    for match in _COMMENT_OR_TEXT.finditer(code):
        if match["comment"] is not None:
            kept += [code[last : match.start()], " "]
            last = match.end()
    return "".join([*kept, code[last:]])


_COMMENT_OR_TEXT = re.compile(
    r"(?P<comment>//[^\n]*|/\*.*?(?:\*/|\Z))|\"(?:\\.|[^\"\\\n])*\"?|'(?:\\.|[^'\\\n]){1,10}'", re.DOTALL
)


def _without_directives(code: str, macros: dict[str, str]) -> str:
    """The code without directives and without what is inside `#if 0`; macros are added to `macros`."""
    kept: list[str] = []
    dead: list[bool] = []
    for line in code.replace("\\\n", " ").split("\n"):
        directive = _DIRECTIVE.fullmatch(line)
        if directive is None:
            if not any(dead):
                kept.append(line)
            continue
        name, rest = directive[1], directive[2].strip()
        if name in ("if", "ifdef", "ifndef"):
            dead.append(name == "if" and rest.strip("()").strip() in ("0", "false"))
        elif name in ("else", "elif") and dead:
            dead[-1] = False
        elif name == "endif" and dead:
            dead.pop()
        elif name == "define" and not any(dead):
            words = rest.split(None, 1)
            if words:
                macros[words[0].partition("(")[0]] = rest[len(words[0].partition("(")[0]) :]
    return "\n".join(kept)


def _without_attributes(tokens: list[str]) -> list[str]:
    kept: list[str] = []
    position = 0
    while position < len(tokens):
        token = tokens[position]
        if token in ("__attribute__", "__declspec", "alignas") and tokens[position + 1 : position + 2] == ["("]:
            position = _matching(tokens, position + 1) + 1
        elif token == "#" and tokens[position + 1 : position + 2] in (["["], ["!"]):
            opening = position + (1 if tokens[position + 1] == "[" else 2)
            position = _matching(tokens, opening) + 1 if tokens[opening : opening + 1] == ["["] else position + 1
        elif token == "[" and tokens[position + 1 : position + 2] == ["["]:
            position = _matching(tokens, position) + 1
        else:
            kept.append(token)
            position += 1
    return kept


def _matching(tokens: Tokens, opening: int) -> int:
    """Where the bracket at `opening` is closed; the end of the tokens if it is not."""
    depth = 0
    left, right = tokens[opening], _CLOSING[tokens[opening]]
    for position in range(opening, len(tokens)):
        if tokens[position] == left:
            depth += 1
        elif tokens[position] == right:
            depth -= 1
            if depth == 0:
                return position
    return len(tokens)


def _kind(header: Tokens, language: str) -> str:
    if language in ("rust", "go"):
        if "fn" in header or "func" in header:
            return "function"
        return "container" if _CONTAINERS & set(header) or header[:1] == ["extern"] else "other"
    if "(" in header and "=" not in header[: header.index("(")]:
        # `struct point f(...)` returns a struct, `struct alignas(8) point` defines one.
        return "function" if not _CONTAINERS & set(header[:1]) or header.index("(") > 2 else "container"
    return "container" if _CONTAINERS & set(header) or header[:1] == ["extern"] else "other"


def _function(header: Tokens, body: Tokens, language: str) -> Function:
    opening = header.index("(") if "(" in header else len(header)
    if language == "go" and opening and header[opening - 1] == "func":
        after = _matching(header, opening) + 1 if opening < len(header) else opening
        opening = next((at for at in range(after, len(header)) if header[at] == "("), opening)
    name = next((each for each in reversed(header[:opening]) if _is_name(each)), "")
    if language == "rust" and "fn" in header[:-1]:
        name = header[list(header).index("fn") + 1]
    return Function(name, header, body)


def _is_name(token: str) -> bool:
    return (token[:1].isalpha() or token[:1] == "_") and token not in KEYWORDS and "'" not in token and '"' not in token
