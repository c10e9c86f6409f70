"""Which names the effects of a function are computed from: its slice, found by names alone.

Where it errs it takes too many names: a statement that can be read as setting a name counts as setting it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from halo_forge.verifiers.hacks.folding import ASSIGNMENTS, STEPS, folded, operand_end

CONTROL = frozenset(
    "if else elif for while do switch match loop try catch except finally unsafe select case default with async".split()
)


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


def all_give_the_same(
    statements: list[Statement], sinks: list[Statement], is_value: Callable[[str], bool], ends: bool = False
) -> bool:
    """Whether every way out returns one and the same constant.

    Args:
        is_value: Whether a name that no statement sets stands for something that is not constant.
        ends: The end of the function cannot be reached without a `return`.
    """
    if not sinks or not (ends or _returns_last(statements[-1])):
        return False
    given = _given(sinks[0])
    if given is None or any(_given(each) != given for each in sinks):
        return False
    names = [name for name in sinks[0].names if any(name in token for token in given)]
    if any(is_value(name) for name in names):
        return False
    return not any(name in names for each in with_heads(statements) for name in _set_by(each))


def _given(sink: Statement) -> list[str] | None:
    """What it returns; None where it does something else."""
    tokens = sink.tokens
    if "return" in tokens:
        return tokens[len(tokens) - tokens[::-1].index("return") :]
    return tokens if sink.tail else None


def _returns_last(statement: Statement) -> bool:
    if statement.tokens[0] == "else":
        return "return" in statement.tokens
    around = statement.heads[0].tokens[0] if statement.heads else "else"
    return statement.tokens[0] == "return" and around == "else"


def with_copies(statements: list[Statement], language: str) -> None:
    """Puts into each `return` what its names stand for, where that is set once and stays the same, and folds it."""
    num_set: dict[str, int] = {}
    for statement in with_heads(statements):
        for name in _set_by(statement):
            num_set[name] = num_set.get(name, 0) + 1
    copies: dict[str, Statement] = {}
    for statement in statements:
        tokens = statement.tokens
        if statement.heads or tokens[0] in CONTROL or tokens[0] == "return" or tokens.count("=") != 1:
            continue
        at = tokens.index("=")
        name = tokens[at - 1] if at else ""
        value = Statement(tokens[at + 1 :], names=[each for each in statement.names if each in tokens[at + 1 :]])
        if (
            num_set.get(name) == 1
            and not {".", "->", "]", ",", "("} & set(tokens[:at])
            and not any(each in num_set for each in value.names)
            and operand_end(value.tokens) == len(value.tokens)
        ):
            copies[name] = value
    for statement in statements:
        if statement.tokens[0] == "return" and not copies.keys().isdisjoint(statement.tokens):
            tokens = [
                part for token in statement.tokens for part in (copies[token].tokens if token in copies else [token])
            ]
            if (simpler := folded(tokens, language)) != tokens:
                left = [part for name in statement.names for part in (copies[name].names if name in copies else [name])]
                statement.tokens, statement.names = simpler, [name for name in left if name in simpler]
