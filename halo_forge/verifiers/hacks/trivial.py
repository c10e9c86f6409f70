"""Is there anything in a program that does anything?  Decided by its text, where no test decides it.

A whole program does something that is seen from outside; a function gives or changes something that is computed from
what it was given.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

from halo_forge.core.source import C_LIBRARY, KEYWORDS, Function, Outline, Tokens, outline, without_comments
from halo_forge.verifiers.hacks.assignments import changes_what_stays, pointers, references
from halo_forge.verifiers.hacks.c_statements import statements_of
from halo_forge.verifiers.hacks.folding import ASSIGNMENTS, STEPS
from halo_forge.verifiers.hacks.known_calls import ASSEMBLY, CHANGING, IDLE, OUTPUT, PURE, READING, STREAMS
from halo_forge.verifiers.hacks.slices import (
    Statement,
    all_give_the_same,
    needed_names,
    with_heads,
)
from halo_forge.verifiers.hacks.trivial_python import python_does_nothing

C_LIKE = frozenset(("c", "cpp", "rust", "go"))

_BEFORE_A_CALL = frozenset(
    "return else do case goto throw co_return co_await defer go in if while for match loop unsafe move".split()
)
_NOT_CALLED = frozenset("if for while switch return catch match loop func fn".split())
_ENDINGS = frozenset("exit _exit _Exit quick_exit Exit".split())
_JUMPS = frozenset("break continue goto throw delete co_return co_yield co_await defer".split())
_CONSTANTS = KEYWORDS | frozenset(name for name in C_LIBRARY if name.isupper()) | PURE | {"_", "nil", "None"}
_GO_LINE_END = re.compile(r"(?<=[\w\"'`)\]}])[ \t]*$|(?<=\+\+|--)[ \t]*$", re.MULTILINE)
_CONVERSION = re.compile(r"%[-+ #0-9.*]*(?:hh|h|ll|l|z|t|j|L)?[a-zA-Z]|\{[^{}]*\}|\\[nrtvf0]")


def does_nothing(code: str, language: str, entry_point: str | None) -> bool:
    """Whether nothing is left of the program when comments, dead text, constants and unused functions are gone.

    A whole program must print something other than white space, call, from `main` on, what is not known to be
    harmless, or return what it read.  A function must compute something from its parameters, or call such a thing.
    False for languages that are not known here.  Linear in the length of the code.
    """
    if language == "python":
        return python_does_nothing(code, entry_point)
    if language not in C_LIKE:
        return False
    if language == "go":
        # Where a line ends, the statement does.
        code = _GO_LINE_END.sub(";", without_comments(code))
    return not _Program(outline(code, language), language, entry_point).is_effective()


class _Program:
    def __init__(self, found: Outline, language: str, entry_point: str | None) -> None:
        self._language = language
        self._macros = {name for name, text in found.macros.items() if re.search(r"\w\s*\(|<<|>>", text)}
        self._by_name: dict[str, list[Function]] = {}
        for function in found.functions:
            self._by_name.setdefault(function.name, []).append(function)
        stands_for = pointers([*found.loose, *(each.body for each in found.functions)], self._by_name.keys())
        self._bodies = {
            id(each): statements_of([stands_for.get(token, token) for token in each.body], language)
            for each in found.functions
        }
        self._outside = {token for statement in found.loose for token in statement if token.isidentifier()} - KEYWORDS
        # Declared here and defined nowhere: where nothing is linked, they are promises.
        self._promised = {
            token for statement in found.loose if "=" not in statement for token, after in pairwise(statement)
            if after == "(" and token not in self._by_name and token.isidentifier()
        } - OUTPUT - READING - CHANGING  # fmt: skip
        self._whole = entry_point is None and "main" in self._by_name
        self._roots = self._find_roots(found, entry_point)
        self._inert: set[str] = set()

    def _find_roots(self, found: Outline, entry_point: str | None) -> list[str]:
        if entry_point is not None and entry_point in self._by_name:
            return [entry_point]
        if self._whole:
            # Functions that the values of global variables are made with run before `main`.
            starting = (each for each in found.loose if "=" in each or "(" not in each)
            return ["main", *(token for each in starting for token in each if token in self._by_name)]
        visible = [each.name for each in found.functions if not {"static", "template"} & set(each.header)]
        return visible or list(self._by_name)

    def is_effective(self) -> bool:
        reached = self._reached()
        if any(self._acts(each) for name in reached for each in self._by_name[name]):
            return True
        if self._whole:
            return self._gives_what_it_read(reached)
        # What calls only functions that give nothing gives nothing either; chains longer than this are taken to give.
        for _ in range(4):
            inert = {name for name in reached if not any(self._gives(each) for each in self._by_name[name])}
            if inert <= self._inert:
                break
            self._inert |= inert
        return any(name not in self._inert for name in self._roots if name in self._by_name)

    def _reached(self) -> set[str]:
        reached: set[str] = set()
        pending = [name for name in self._roots if name in self._by_name]
        while pending:
            name = pending.pop()
            if name in reached:
                continue
            reached.add(name)
            for function in self._by_name[name]:
                pending += [each for each in self._names_of(function) if each in self._by_name and each not in reached]
        return reached

    def _names_of(self, function: Function) -> Iterator[str]:
        for statement in with_heads(self._bodies[id(function)]):
            yield from statement.names

    def _acts(self, function: Function) -> bool:
        """Whether it prints, or calls something of which it is not known that it does nothing."""
        return any(self._acts_here(each) for each in with_heads(self._bodies[id(function)]))

    def _acts_here(self, statement: Statement) -> bool:
        tokens = statement.tokens
        if not ASSEMBLY.isdisjoint(tokens) or not self._macros.isdisjoint(tokens):
            return True
        if not STREAMS.isdisjoint(tokens) and "<<" in tokens and _prints(tokens):
            return True
        for name in _called(tokens):
            if name in OUTPUT:
                if _prints(tokens):
                    return True
            elif name not in self._by_name and name not in self._promised and not _is_known(name):
                return True
        return False

    def _gives(self, function: Function) -> bool:
        """Whether what it gives or changes is computed from what it was given."""
        statements = self._bodies[id(function)]
        if ":" in _after_parameters(function.header):
            return True  # a constructor that initialises members
        if not function.parameters:
            return any(self._sets_or_returns(each) for each in statements if not self._only_inert(each, function))
        # In Go a result can have a name.
        results = _after_parameters(function.header) - KEYWORDS if self._language == "go" else set()
        stays = self._outside | results | references(function) | {"self", "this"}
        sinks = [each for each in statements if self._is_sink(each, function, stays)]
        if all_give_the_same(
            statements, sinks, lambda name: name in function.parameters or self._is_value(name), ends=True
        ):
            return False
        return not needed_names(statements, sinks).isdisjoint(function.parameters)

    def _is_value(self, token: str) -> bool:
        return token.isidentifier() and token not in _CONSTANTS and token not in self._inert

    def _sets_or_returns(self, statement: Statement) -> bool:
        """For a function without parameters: it gives a name, or changes one."""
        tokens = statement.tokens
        if tokens[0] == "return" or statement.tail:
            return any(self._is_value(token) for token in tokens)
        return not STEPS.isdisjoint(tokens) or any(
            after in ASSIGNMENTS and token.isidentifier() and not before.isidentifier() and before != "*"
            for before, token, after in zip(["", *tokens], tokens, tokens[1:], strict=False)
        )

    def _is_sink(self, statement: Statement, function: Function, stays: set[str]) -> bool:
        tokens = statement.tokens
        if tokens[0] == "return" or statement.tail or not _JUMPS.isdisjoint(tokens) or "return" in tokens:
            return not self._only_inert(statement, function)
        if self._language == "rust" and "?" in tokens:
            return True
        if statement.heads and statement.heads[0].tokens[:1] == ["try"] and "(" in tokens:
            return True  # what it throws decides how the function goes on
        if any(name in CHANGING or name in OUTPUT or name in _ENDINGS or name in READING for name in _called(tokens)):
            return True
        if any(name in self._by_name and name not in self._inert for name in _called(tokens)):
            return True
        return changes_what_stays(tokens, stays)

    def _only_inert(self, statement: Statement, function: Function) -> bool:
        """Whether it is one call of a function that gives nothing or is defined nowhere, or of `function` itself."""
        tokens = statement.tokens
        words = tokens[1:] if tokens[:1] == ["return"] else tokens
        if len(words) < 3 or words[1] != "(" or words[0] not in self._inert | self._promised | {function.name}:
            return False
        depth = 0
        for position, token in enumerate(words):
            depth += (token == "(") - (token == ")")
            if depth == 0 and position > 0:
                return position + 1 == len(words)
        return False

    def _gives_what_it_read(self, reached: set[str]) -> bool:
        reads = any(not READING.isdisjoint(self._names_of(each)) for name in reached for each in self._by_name[name])
        for main in self._by_name["main"]:
            statements = self._bodies[id(main)]
            sinks = [each for each in statements if "return" in each.tokens or not _ENDINGS.isdisjoint(each.tokens)]
            if all_give_the_same(statements, sinks, self._is_value):
                continue
            needed = needed_names(statements, sinks)
            own = self._by_name.keys() if reads else set()
            if not needed.isdisjoint(READING | main.parameters | own):
                return True
        return False


def _called(tokens: list[str]) -> Iterator[str]:
    for position, token in enumerate(tokens[:-1]):
        if not token.isidentifier() or token in _NOT_CALLED:
            continue
        after = tokens[position + 1]
        before = tokens[position - 1] if position else ""
        macro = after == "!" and tokens[position + 2 : position + 3] in (["("], ["["], ["{"])
        if macro or (after == "(" and not _declares(before)):
            yield token


def _declares(before: str) -> bool:
    """`int x(5);` declares x; `return f(5)` calls f."""
    return before == ">" or (before.isidentifier() and before not in _BEFORE_A_CALL)


def _is_known(name: str) -> bool:
    return name in IDLE or name in PURE or name in CHANGING or name in READING or name in KEYWORDS


def _prints(tokens: list[str]) -> bool:
    """Whether something other than white space is printed by these tokens."""
    for position, token in enumerate(tokens):
        if token[:1] in "\"'`" or token[-1:] in "\"'":
            text = token[token.find('"') + 1 :].strip("\"'`")
            if _CONVERSION.sub("", text).strip():
                return True
        elif token[:1].isdigit():
            return True
        elif token.isidentifier() and tokens[position + 1 : position + 2] not in (["("], ["!"], ["."], ["::"]):
            if token not in STREAMS and token not in ("stdout", "stderr", "std", "endl", "flush", "Stdout", "Stderr"):
                return True
    return False


def _after_parameters(header: Tokens) -> set[str]:
    tokens = list(header)
    return set(tokens[tokens.index(")") + 1 :]) if ")" in tokens else set()
