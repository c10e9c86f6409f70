"""The statements of a function in C, C++, Rust or Go, each with the heads of the blocks around it."""

from __future__ import annotations

import re

from halo_forge.core.source import KEYWORDS, Tokens
from halo_forge.verifiers.hacks.folding import folded
from halo_forge.verifiers.hacks.slices import CONTROL, Statement, with_copies

_OPENING = frozenset("([{")
_CLOSING = frozenset(")]}")
_JUMPS = frozenset("return break continue goto throw".split())
_ENDS = frozenset("exit _exit _Exit quick_exit abort terminate Exit panic unreachable todo unimplemented".split())
_ENDLESS = (["for", "(", ";", ";", ")", ";"], ["while", "(", "1", ")", ";"], ["while", "(", "true", ")", ";"],
            ["for", "(", ";", ";", ")", "{", "}"], ["while", "(", "1", ")", "{", "}"],
            ["while", "(", "true", ")", "{", "}"], ["loop", "{", "}"], ["for", "{", "}"])  # fmt: skip
_LONGEST_ENDLESS = 7
_NO_NAMES = KEYWORDS - {"self", "this"}
_NAME = re.compile(r"[^\W\d]\w*")
_NUMBER = re.compile(r"(\d{1,9})[uUlL]{0,3}")


def statements_of(body: Tokens, language: str) -> list[Statement]:
    """The statements that can be reached; heads of blocks without any are not among them."""
    builder = _Builder(language)
    for token in _reachable(folded(body, language)):
        builder.add(token)
    builder.finish()
    with_copies(builder.statements, language)
    return builder.statements


class _Builder:
    def __init__(self, language: str) -> None:
        self.statements: list[Statement] = []
        self._rust = language == "rust"
        self._heads: list[Statement] = []
        self._current: list[str] = []
        self._depth = 0
        # What came last at this level: an `else` belongs to it, and the `while` of a `do`.
        self._last: Statement | None = None

    def add(self, token: str) -> None:
        if self._depth > 0 or token in "([" or (token == "{" and not self._is_head()):
            self._depth += (token in _OPENING) - (token in _CLOSING)
            self._current.append(token)
        elif token == "{":
            head = self._statement()
            self._heads.append(head)
            self._last = None
        elif token == "}":
            self._end(tail=self._rust)
            self._last = self._heads.pop() if self._heads else None
        elif token == ";":
            self._end()
        else:
            self._current.append(token)

    def finish(self) -> None:
        self._end(tail=self._rust and not self._heads)

    def _is_head(self) -> bool:
        first = self._current[:4]
        label = first[:1] == ["'"] or first[1:2] == [":"]
        return (
            not first or first[0] in CONTROL or (label and not CONTROL.isdisjoint(first)) or self._current[-1] == "=>"
        )

    def _end(self, tail: bool = False) -> None:
        if not self._current:
            return
        last = self._last
        if self._current[0] == "while" and last is not None and last.tokens[:1] == ["do"]:
            last.tokens += self._current
            last.names += _names(self._current)
            self._current = []
            return
        self._last = self._statement(tail)
        self.statements.append(self._last)

    def _statement(self, tail: bool = False) -> Statement:
        tokens, self._current = self._current, []
        belongs = (self._last,) if tokens[:1] == ["else"] and self._last is not None else ()
        # Only the innermost head: it has the others around itself.
        return Statement(tokens, (*self._heads[-1:], *belongs), tail, _names(tokens))


def _names(tokens: Tokens) -> list[str]:
    found: list[str] = []
    for token in tokens:
        if token.isidentifier() and token not in _NO_NAMES:
            found.append(token)
        elif ".." in token:
            # Rust's `0..n` looks like one number.
            found += _NAME.findall(token.rpartition("..")[2])
    return found


def _reachable(body: list[str]) -> list[str]:
    """Without what follows a `return` or the like in its block, and without blocks below a false constant."""
    kept: list[str] = []
    partners = _partners(body)
    position = 0
    while position < len(body):
        token = body[position]
        starts = not kept or kept[-1] in ("{", "}", ";")
        if token in ("if", "while") and (after := _after_false(body, position, partners)) is not None:
            position = after
            if body[position : position + 1] == ["else"]:
                position += 1
        elif starts and _leaves(body, position):
            end = _end_of_block(body, position, partners)
            while not _is_endless(body, position) and position < end and body[position] != ";":
                until = partners.get(position, position) + 1
                kept += body[position:until]
                position = until
            kept.append(";")
            position = end
        else:
            kept.append(token)
            position += 1
    return kept


def _partners(body: list[str]) -> dict[int, int]:
    """Where each opening bracket is closed."""
    partners: dict[int, int] = {}
    opened: list[int] = []
    for position, token in enumerate(body):
        if token in _OPENING:
            opened.append(position)
        elif token in _CLOSING and opened:
            partners[opened.pop()] = position
    return partners


def _leaves(body: list[str], position: int) -> bool:
    if body[position] in _JUMPS or _is_endless(body, position):
        return True
    for token in body[position : position + _LONGEST_ENDLESS]:
        if token in _ENDS:
            return True
        if not (token.isidentifier() or token in ("::", ".")):
            return False
    return False


def _is_endless(body: list[str], position: int) -> bool:
    return any(body[position : position + len(each)] == each for each in _ENDLESS)


def _end_of_block(body: list[str], position: int, partners: dict[int, int]) -> int:
    """The `}` of the block around `position`, or a label before it, to which something can jump."""
    while position < len(body) and body[position] != "}":
        label = body[position].isidentifier() and body[position + 1 : position + 2] == [":"]
        if body[position] in ("case", "default") or (label and body[position - 1] in (";", "}")):
            return position
        position = partners.get(position, position) + 1
    return position


def _after_false(body: list[str], position: int, partners: dict[int, int]) -> int | None:
    """Behind the statement that a condition guards which is a false constant; None where it is not."""
    start = position + 1
    if body[start : start + 1] == ["("]:
        end = partners.get(start, len(body))
        condition, start = body[start + 1 : min(end, start + 6)] if end - start <= 6 else [], end + 1
    else:
        end = next((at for at in range(start, min(start + 5, len(body))) if body[at] == "{"), start)
        condition, start = body[start:end], end
    if not _is_false(condition):
        return None
    if start in partners and body[start] == "{":
        return partners[start] + 1
    while start < len(body) and body[start] != ";":
        start = partners.get(start, start) + 1
    return start + 1


def _is_false(condition: list[str]) -> bool:
    while condition[:1] == ["("] and condition[-1:] == [")"]:
        condition = condition[1:-1]
    if len(condition) == 1:
        return condition[0] in ("0", "false", "NULL", "nullptr")
    if len(condition) == 2:
        return condition[0] == "!" and condition[1] in ("1", "true")
    numbers = [_NUMBER.fullmatch(token) for token in condition[::2]]
    if len(condition) != 3 or numbers[0] is None or numbers[1] is None:
        return condition[:2] in (["0", "&&"], ["false", "&&"])
    left, right = int(numbers[0][1]), int(numbers[1][1])
    return {"==": left != right, "!=": left == right, "<": left >= right, ">": left <= right}.get(condition[1], False)
