"""What the statements of a function change: what is its own, or what stays when it returns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from halo_forge.core.source import KEYWORDS, Function, Tokens
from halo_forge.verifiers.hacks.folding import ASSIGNMENTS, STEPS
from halo_forge.verifiers.hacks.slices import CONTROL

_CHANGED_MEMBER = frozenset(("*", "->", ".", "]"))


def changes_what_stays(tokens: list[str], stays: set[str]) -> bool:
    """Whether it assigns through a pointer, to a member, or to what has a name in `stays`."""
    return any(
        not stays.isdisjoint(changed) or (not _CHANGED_MEMBER.isdisjoint(changed) and not _is_declared(changed))
        for changed in _changed(tokens)
    )


def references(function: Function) -> set[str]:
    """The names in it that stand for something else: references, and parameters where one of them is a reference."""
    body = function.body
    found = {
        name for mark, name, after in zip(body, body[1:], body[2:], strict=False)
        if mark in ("&", "&&") and after in ("=", ":") and name.isidentifier()
    }  # fmt: skip
    return found | function.parameters if "&" in function.header or "&&" in function.header else found


def _is_declared(changed: list[str]) -> bool:
    """`char *p`, `FILE *f`, `let x`: what is set here has its name from here."""
    first = changed[0]
    return first.isidentifier() and first not in ("self", "this") and (first in KEYWORDS or changed[1:2] == ["*"])


def _changed(tokens: list[str]) -> Iterator[list[str]]:
    """What stands before each assignment, and what each `++` or `--` belongs to."""
    for at, token in enumerate(tokens):
        if token in ASSIGNMENTS:
            start = _start_of_target(tokens, at)
            if start < at:
                yield tokens[start:at]
        elif token in STEPS:
            before = tokens[at - 1] if at else ""
            if before in (")", "]"):
                yield ["*"]
            elif before.isidentifier() and before not in CONTROL | {"return"}:
                yield tokens[max(0, at - 2) : at] if tokens[at - 2 : at - 1] in (["."], ["->"]) else [before]
            else:
                yield [each for each in tokens[at + 1 : at + 4] if each not in (";", ")", ",")]


def _start_of_target(tokens: list[str], at: int) -> int:
    depth = 0
    for position in range(at - 1, -1, -1):
        token = tokens[position]
        if token in (")", "]"):
            depth += 1
        elif token in ("(", "["):
            depth -= 1
            if depth < 0:
                return position + 1
            if depth == 0 and position and tokens[position - 1] in CONTROL:
                return tokens.index(")", position) + 1 if token == "(" else position
        elif depth == 0 and (token in (";", "{", "}", "else", "do") or token in ASSIGNMENTS):
            return position + 1
    return 0


def pointers(texts: list[Tokens], functions: Iterable[str]) -> dict[str, str]:
    """Pointers to functions of this program that are set once: their names, and that of the function."""
    known = set(functions)
    found: dict[str, set[str]] = {}
    for text in texts:
        for at, token in enumerate(text):
            if token != "=":
                continue
            value = list(text[at + 1 : at + 4])
            value = value[1:] if value[:1] == ["&"] else value
            name = _pointer_before(text, at)
            if name is not None and name not in known:
                whole = value[:1] and value[0] in known and value[1:2] in ([], [";"])
                found.setdefault(name, set()).add(value[0] if whole else "")
    return {name: next(iter(each)) for name, each in found.items() if len(each) == 1 and "" not in each}


def _pointer_before(text: Tokens, at: int) -> str | None:
    """The name in `int (*name)(int) =`, or the one right before the `=`."""
    before = text[at - 1] if at else ""
    if before.isidentifier():
        return before
    if before != ")":
        return None
    for position in range(at - 2, max(0, at - 40), -1):
        if text[position - 1] == "*" and text[position + 1] == ")" and text[position].isidentifier():
            return text[position]
    return None
