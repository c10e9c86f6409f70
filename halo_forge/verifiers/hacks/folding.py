"""Expressions whose value is the same whatever they are computed from, and that value in their place.

Only what has one reading is folded: what is left as it stands counts as computed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import pairwise

from halo_forge.core.source import KEYWORDS
from halo_forge.verifiers.hacks.known_calls import PURE, PYTHON_PURE

ASSIGNMENTS = frozenset("= := += -= *= /= %= &= |= ^= <<= >>= **= //= @=".split())
STEPS = frozenset(("++", "--"))

_PASSES = 4  # `return (int)(s, *s ? 0 : 0)`; what is nested deeper counts as computed
_LONGEST = 40  # tokens of an operand or a condition, so that the time stays linear
_UNARY = frozenset("* - + ! ~ &".split())
_MEASURES = frozenset(("sizeof", "decltype", "alignof"))
_ZERO = re.compile(r"0[uUlLfF]*|0\.0?[fF]?|0x0+|false|False")
_NUMBER = re.compile(r"\d[\w.]*")
_ENDS_WORD = frozenset("return else in and or not if elif while case yield co_return".split())
_CALLED = PURE | PYTHON_PURE
_NO_CALL = PURE | PYTHON_PURE | KEYWORDS | _ENDS_WORD
_NO_OPERAND = (KEYWORDS | _ENDS_WORD) - {"self", "this", "true", "false"}
_LOOSE_BEFORE = frozenset(("", "return", "(", "=", ",", "[", ":=", "?", ":", ";", "{", "}", "&&", "||"))
_LOOSE_AFTER = frozenset(("", ";", ")", ",", "]", "}", "?", ":", "&&", "||"))
_CHAINED = {"&": frozenset("&|^"), "&&": frozenset(), "^": frozenset("|"), "-": frozenset("+"), "%": frozenset("+")}
_TYPES = frozenset(
    "int unsigned signed char short long float double const bool void size_t ssize_t ptrdiff_t intptr_t uintptr_t"
    " int8_t int16_t int32_t int64_t uint8_t uint16_t uint32_t uint64_t *".split()
)
_HEADS = (["if"], ["while"], ["elif"], ["for"], ["switch"])
_BLOCKS = frozenset((";", "{", "}", "return"))
_CLOSING = {"(": ")", "[": "]", "{": "}"}


def folded(tokens: Sequence[str], language: str) -> list[str]:
    """The tokens with 0 for `x - x`, `x ^ x`, `x % x`, `x * 0`, `x & 0`, `x && 0` and `sizeof x`, with `c` for
    `x ? c : c`, and in C and C++ for `(x, c)`; without casts to numbers.  Linear in their number."""
    kept = list(tokens)
    for _ in range(_PASSES):
        before, kept = kept, _Pass(kept, language).run()
        if kept == before:
            break
    return kept


def operand_end(tokens: Sequence[str], start: int = 0) -> int | None:
    """Behind the operand that begins at `start`; None where none does, or one that does more than give a value."""
    position = start
    limit = min(len(tokens), start + _LONGEST)
    while position < limit and tokens[position] in _UNARY:
        position += 1
    if position >= limit:
        return None
    first = tokens[position]
    if first == "(":
        end = _group_end(tokens, position, limit)
        if end is None:
            return None
        position = end
    elif _is_word(first) or first[:1].isdigit() or first[-1:] in "\"'":
        position += 1
    else:
        return None
    while position < limit:
        token = tokens[position]
        if token in (".", "->", "::") and position + 1 < limit and tokens[position + 1].isidentifier():
            position += 2
        elif token == "[" or (token == "(" and tokens[position - 1] in _CALLED):
            end = _group_end(tokens, position, limit)
            if end is None:
                return None
            position = end
        else:
            return None if token in STEPS or token == "(" else position
    return position if limit == len(tokens) else None


def is_still(tokens: Sequence[str]) -> bool:
    """Whether computing them changes nothing: no assignment, and no call of what is not known to be pure."""
    if not ASSIGNMENTS.isdisjoint(tokens) or not STEPS.isdisjoint(tokens) or not _BLOCKS.isdisjoint(tokens):
        return False
    return all(after != "(" or not token.isidentifier() or token in _NO_CALL for token, after in pairwise(tokens))


def _group_end(tokens: Sequence[str], opening: int, limit: int) -> int | None:
    left, right = tokens[opening], _CLOSING[tokens[opening]]
    depth = 0
    for position in range(opening, limit):
        depth += (tokens[position] == left) - (tokens[position] == right)
        if depth == 0:
            return position + 1 if is_still(tokens[opening + 1 : position]) else None
    return None


def _is_word(token: str) -> bool:
    return token.isidentifier() and token not in _NO_OPERAND


class _Pass:
    def __init__(self, tokens: list[str], language: str) -> None:
        self._tokens = tokens
        self._c = language in ("c", "cpp")
        self._language = language
        self._kept: list[str] = []

    def run(self) -> list[str]:
        rules: tuple[Callable[[int], int | None], ...] = (self._measure, self._choice, self._group, self._comma)
        position = 0
        while position < len(self._tokens):
            after = next((after for rule in rules if (after := rule(position)) is not None), None)
            if after is None and self._begins_operand():
                after = self._operation(position)
            if after is None:
                self._kept.append(self._tokens[position])
                position += 1
            else:
                position = after
        return self._kept

    def _at(self, position: int) -> str:
        return self._tokens[position] if position < len(self._tokens) else ""

    def _begins_operand(self) -> bool:
        before = self._kept[-1] if self._kept else ""
        if before in _ENDS_WORD or before == "":
            return True
        return not (before.isidentifier() or before[:1].isdigit() or before[-1:] in "\"')]" or before in (".", "->"))

    def _stands_alone(self, operator: str, end: int) -> bool:
        """Whether nothing before or behind binds more tightly than the operator."""
        before = self._kept[-1] if self._kept else ""
        around = _CHAINED[operator]
        return (before in _LOOSE_BEFORE | around or before in _ENDS_WORD) and self._at(end) in _LOOSE_AFTER | around

    def _operation(self, position: int) -> int | None:
        middle = operand_end(self._tokens, position)
        operator = "" if middle is None else self._at(middle)
        if middle is None or operator not in ("-", "^", "%", "*", "&", "&&", "if"):
            return None
        if operator == "if":
            return self._python_choice(position, middle)
        end = operand_end(self._tokens, middle + 1)
        if end is None:
            return None
        left, right = self._tokens[position:middle], self._tokens[middle + 1 : end]
        if operator in ("-", "^", "%"):
            gives_zero = left == right and any(map(_is_word, left)) and self._stands_alone(operator, end)
        else:
            gives_zero = any(len(each) == 1 and _ZERO.fullmatch(each[0]) is not None for each in (left, right))
            if operator == "*":
                before = self._kept[-1] if self._kept else ""
                gives_zero = gives_zero and before not in ("/", "%", "**", "//", "::") and self._at(end) != "**"
            else:
                gives_zero = gives_zero and self._language != "python" and self._stands_alone(operator, end)
        if not gives_zero:
            return None
        self._kept.append("0")
        return end

    def _python_choice(self, position: int, middle: int) -> int | None:
        """`c if x else c`."""
        last = min(len(self._tokens), middle + _LONGEST)
        at = next((at for at in range(middle + 1, last) if self._tokens[at] == "else"), None)
        end = None if at is None else operand_end(self._tokens, at + 1)
        if at is None or end is None or self._tokens[position:middle] != self._tokens[at + 1 : end]:
            return None
        if self._at(end) not in _LOOSE_AFTER or not is_still(self._tokens[middle + 1 : at]):
            return None
        self._kept += self._tokens[position:middle]
        return end

    def _measure(self, position: int) -> int | None:
        if self._tokens[position] not in _MEASURES:
            return None
        end: int | None
        if self._at(position + 1) == "(":
            depth, end = 0, position + 1
            while end < len(self._tokens):
                depth += {"(": 1, ")": -1}.get(self._tokens[end], 0)
                end += 1
                if depth == 0:
                    break
        else:
            end = operand_end(self._tokens, position + 1)
        if end is not None:
            self._kept.append("0")
        return end

    def _choice(self, position: int) -> int | None:
        """`x ? c : c`."""
        if not self._c or self._tokens[position] != "?":
            return None
        middle = operand_end(self._tokens, position + 1)
        if middle is None or self._at(middle) != ":":
            return None
        end = operand_end(self._tokens, middle + 1)
        if end is None or self._tokens[position + 1 : middle] != self._tokens[middle + 1 : end]:
            return None
        start, depth = len(self._kept), 0
        while start > 0:
            token = self._kept[start - 1]
            depth += (token in _CLOSING.values()) - (token in _CLOSING)
            stops = token in _BLOCKS or token in ASSIGNMENTS or token in (",", "?", ":")
            if depth < 0 or (depth == 0 and stops):
                break
            start -= 1
            if len(self._kept) - start > _LONGEST:
                return None
        if self._at(end) not in _LOOSE_AFTER or not is_still(self._kept[start:]):
            return None
        self._kept[start:] = self._tokens[position + 1 : middle]
        return end

    def _group(self, position: int) -> int | None:
        """Without a cast, without brackets around a number, and without what stands before a comma in brackets."""
        if self._tokens[position] != "(" or not self._begins_operand() or self._kept[-1:] in _HEADS:
            return None
        end = _group_end(self._tokens, position, min(len(self._tokens), position + _LONGEST))
        inside = [] if end is None else self._tokens[position + 1 : end - 1]
        if end is None or not inside:
            return None
        if len(inside) == 1 and _NUMBER.fullmatch(inside[0]) is not None and self._at(end) not in (".", "[", "("):
            self._kept += inside
            return end
        if not self._c:
            return None
        if _TYPES.issuperset(inside) and inside[0] != "*":
            return end
        comma = _last_comma(inside)
        if comma is None:
            return None
        self._kept += ["(", *inside[comma + 1 :], ")"]
        return end

    def _comma(self, position: int) -> int | None:
        """`return x, c`."""
        if not self._c or self._tokens[position] != "return":
            return None
        line = self._tokens[position + 1 : position + _LONGEST]
        line = line[: line.index(";")] if ";" in line else []
        comma = _last_comma(line)
        if comma is None or "<" in line[:comma] or not is_still(line[:comma]):
            return None
        self._kept.append("return")
        return position + 1 + comma + 1


def _last_comma(tokens: Sequence[str]) -> int | None:
    depth, found = 0, None
    for position, token in enumerate(tokens):
        depth += (token in _CLOSING) - (token in _CLOSING.values())
        if token == "," and depth == 0:
            found = position
    return found if found is not None and found + 1 < len(tokens) else None
