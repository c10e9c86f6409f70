"""Which names the effects of a function are computed from: its slice, found by names alone.

Where it errs it takes too many names: a statement that can be read as setting a name counts as setting it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

ASSIGNMENTS = frozenset("= := += -= *= /= %= &= |= ^= <<= >>= **= //= @=".split())
STEPS = frozenset(("++", "--"))
CONTROL = frozenset(
    "if else elif for while do switch match loop try catch except finally unsafe select case default with async".split()
)
_FOLDS = frozenset(("-", "^", "%"))
_BEFORE_OPERAND = frozenset(("", "return", "(", "=", ",", "+", "[", ":="))
_AFTER_OPERAND = frozenset(("", ";", ")", ",", "]", "+", "}"))


@dataclass(eq=False, slots=True)
class Statement:
    """A statement, or the head of a block.

    Attributes:
        tokens: Its tokens without the `;`, without the statements of its block.
        heads: The heads of the blocks around it, and for an `else` what it belongs to.
        tail: It stands at the end of its block without a `;`: in Rust the value of the block.
    """

    tokens: list[str]
    heads: tuple[Statement, ...] = ()
    tail: bool = False
    names: list[str] = field(default_factory=list)


def needed_names(statements: Iterable[Statement], sinks: Iterable[Statement]) -> set[str]:
    """The names that `sinks` are computed from, those of the heads around them included."""
    setting: dict[str, list[Statement]] = {}
    seen: set[int] = set()
    for statement in with_heads(statements):
        for name in _set_by(statement):
            setting.setdefault(name, []).append(statement)
    needed: set[str] = set()
    pending = list(sinks)
    while pending:
        statement = pending.pop()
        if id(statement) in seen:
            continue
        seen.add(id(statement))
        pending += statement.heads
        for name in statement.names:
            if name not in needed:
                needed.add(name)
                pending += setting.get(name, ())
    return needed


def with_heads(statements: Iterable[Statement]) -> Iterator[Statement]:
    """The statements and the heads around them, each once."""
    seen: set[int] = set()
    pending = list(statements)
    while pending:
        statement = pending.pop()
        if id(statement) not in seen:
            seen.add(id(statement))
            pending += statement.heads
            yield statement


def _set_by(statement: Statement) -> Iterable[str]:
    tokens = statement.tokens
    if not tokens:
        return ()
    several = tokens[0] in CONTROL or any(token in (",", "(", "[", "{", ">>", ";") for token in tokens)
    if several or not ASSIGNMENTS.isdisjoint(tokens):
        if several:
            return statement.names
        last = max(position for position, token in enumerate(tokens) if token in ASSIGNMENTS)
        targets = set(tokens[:last])
        return [name for name in statement.names if name in targets]
    return statement.names if not STEPS.isdisjoint(tokens) else ()


def folded(tokens: list[str]) -> list[str]:
    """With 0 for `name - name`, `name ^ name`, `name % name`, and for `sizeof (...)`."""
    kept: list[str] = []
    position = 0
    while position < len(tokens):
        token = tokens[position]
        around = (kept[-1] if kept else "", "".join(tokens[position + 3 : position + 4]))
        same = tokens[position + 2 : position + 3] == [token] and token.isidentifier()
        if same and tokens[position + 1] in _FOLDS and around[0] in _BEFORE_OPERAND and around[1] in _AFTER_OPERAND:
            kept.append("0")
            position += 3
        elif token in ("sizeof", "decltype", "alignof") and tokens[position + 1 : position + 2] == ["("]:
            depth, position = 0, position + 1
            while position < len(tokens):
                depth += {"(": 1, ")": -1}.get(tokens[position], 0)
                if depth == 0:
                    break
                position += 1
            kept.append("0")
            position += 1
        else:
            kept.append(token)
            position += 1
    return kept


def all_give_the_same(statements: list[Statement], sinks: list[Statement], is_value: Callable[[str], bool]) -> bool:
    """Whether every way out returns one and the same constant.

    Args:
        is_value: Whether a name that no statement sets stands for something that is not constant.
    """
    if not sinks or statements[-1].tokens[:1] != ["return"] or statements[-1].heads:
        return False
    given, names = statements[-1].tokens, statements[-1].names
    if any(is_value(name) for name in names) or any(each.tokens[-len(given) :] != given for each in sinks):
        return False
    return not any(name in names for each in with_heads(statements) for name in _set_by(each))
