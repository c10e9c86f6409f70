"""Is there anything in a program in Python that does anything?  See `trivial`."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterator

from halo_forge.core.source import PYTHON_NAMES, python_tokens
from halo_forge.verifiers.hacks.folding import ASSIGNMENTS, folded
from halo_forge.verifiers.hacks.known_calls import CHANGING, PYTHON_IDLE, PYTHON_OUTPUT, PYTHON_PURE, READING
from halo_forge.verifiers.hacks.slices import CONTROL, Statement, all_give_the_same, needed_names, with_copies

_Line = tuple[int, list[str]]
_HEADERS = frozenset("def class if elif else for while try except finally with match case async".split())
_FALSE = (["0"], ["False"], ["None"], ["not", "True"], ["not", "1"])
_JUMPS = (["return"], ["raise"], ["break"], ["continue"], ["sys", ".", "exit"], ["os", ".", "_exit"], ["exit", "("],
          ["quit", "("])  # fmt: skip
_SINKS = frozenset("return yield raise break continue del await nonlocal global".split())
_COMPARED = re.compile(r"\d{1,9}")
_NAME_IN_TEXT = re.compile(r"[^\W\d]\w*")
_CONVERSION = re.compile(r"\\[nrtvf]")


def python_does_nothing(code: str, entry_point: str | None) -> bool:
    """See `does_nothing`; what stands outside of functions counts where `entry_point` is None or no function."""
    lines = list(_reachable(_lines(code)))
    blocks = _blocks(lines)
    if entry_point is not None:
        named = [block for block in blocks if _defined(block[0][1]) == entry_point]
        if named:
            return not any(_is_effective(block) for block in named)
        if any(_binds(tokens, entry_point) for _, tokens in lines):
            return False
    within = {id(line) for block in blocks for line in block}
    loose = [line for line in lines if id(line) not in within]
    if entry_point is not None and code.lstrip("\n")[:1] in (" ", "\t"):
        # The answer goes on where its prompt ends, so that what it was given is not to be seen in it.
        return not _computes(loose, set())
    return not any(_acts(tokens) for _, tokens in loose) and not any(_is_effective(block) for block in blocks)


def _lines(code: str) -> Iterator[_Line]:
    """(depth of the indentation, tokens) of each line; what follows a `def ...:` on its line is a line of its own."""
    depth = 0
    tokens: list[str] = []
    for _, token in python_tokens(code):
        if re.fullmatch(r"<\d+>", token):
            yield from _split_header(depth, tokens)
            depth, tokens = int(token[1:-1]), []
        elif token == ";":
            yield from _split_header(depth, tokens)
            tokens = []
        else:
            tokens.append(token)
    yield from _split_header(depth, tokens)


def _split_header(depth: int, tokens: list[str]) -> Iterator[_Line]:
    if not tokens:
        return
    if tokens[0] in _HEADERS:
        brackets = 0
        for position, token in enumerate(tokens):
            brackets += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(token, 0)
            if token == ":" and brackets == 0 and position + 1 < len(tokens) and "lambda" not in tokens[:position]:
                yield depth, tokens[: position + 1]
                yield depth + 1, tokens[position + 1 :]
                return
    if "lambda" in tokens[2:] and tokens[0].isidentifier() and not keyword.iskeyword(tokens[0]):
        at = tokens.index("lambda")
        if tokens[at - 1] == "=" and (at == 2 or tokens[1] == ":") and "(" not in tokens[:at]:
            yield from _function(depth, tokens[0], tokens[at + 1 :])
            return
    yield depth, tokens


def _function(depth: int, name: str, words: list[str]) -> Iterator[_Line]:
    """`name = lambda ...: ...` as a function."""
    brackets = 0
    for position, token in enumerate(words):
        brackets += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(token, 0)
        if token == ":" and brackets == 0:
            yield depth, ["def", name, "(", *words[:position], ")", ":"]
            yield depth + 1, ["return", *words[position + 1 :]]
            return
    yield depth, [name, "=", "lambda", *words]


def _reachable(lines: Iterator[_Line]) -> Iterator[_Line]:
    """Without the blocks below `if False:` and the like, and without what follows a `return` in its block."""
    dead: int | None = None
    for depth, tokens in lines:
        if dead is not None and depth >= dead:
            continue
        dead = None
        if tokens[0] in ("if", "while", "elif") and _is_false(tokens[1:-1]):
            dead = depth + 1
        elif any(tokens[: len(jump)] == jump for jump in _JUMPS):
            dead = depth
        yield depth, folded(tokens, "python")


def _is_false(condition: list[str]) -> bool:
    while condition[:1] == ["("] and condition[-1:] == [")"]:
        condition = condition[1:-1]
    if condition in _FALSE or condition[:2] in (["0", "and"], ["False", "and"]):
        return True
    if len(condition) != 3 or not all(_COMPARED.fullmatch(each) for each in condition[::2]):
        return False
    left, right = int(condition[0]), int(condition[2])
    return {"==": left != right, "!=": left == right, "<": left >= right, ">": left <= right}.get(condition[1], False)


def _defined(tokens: list[str]) -> str | None:
    words = tokens[1:] if tokens[:1] == ["async"] else tokens
    return words[1] if len(words) > 1 and words[0] in ("def", "class") else None


def _binds(tokens: list[str], name: str) -> bool:
    """`name = ...` of anything that is not a constant; a lambda or another function among them."""
    if tokens[0] != name or ASSIGNMENTS.isdisjoint(tokens):
        return False
    return "lambda" in tokens or any(token.isidentifier() and token not in _CONSTANT_NAMES for token in tokens[2:])


_CONSTANT_NAMES = frozenset("None True False Ellipsis NotImplemented".split())


def _blocks(lines: list[_Line]) -> list[list[_Line]]:
    """Each outermost function or class with its lines."""
    found: list[list[_Line]] = []
    inside: int | None = None
    for line in lines:
        depth, tokens = line
        if inside is not None and depth > inside:
            found[-1].append(line)
            continue
        inside = depth if _defined(tokens) is not None else None
        if inside is not None:
            found.append([line])
    return found


def _is_effective(block: list[_Line]) -> bool:
    header, body = block[0][1], block[1:]
    if "class" in header[:2]:
        inner = _blocks(body)
        return any(_is_effective(each) for each in inner)
    return _computes(body, _parameters(header))


def _computes(body: list[_Line], parameters: set[str]) -> bool:
    """Whether a body acts, or gives what is computed from a parameter; from any name where there is no parameter."""
    if any(_acts(tokens) for _, tokens in body):
        return True
    statements = _statements(body)
    sinks = [each for each in statements if _is_sink(each)]
    if all_give_the_same(statements, sinks, lambda name: name in parameters or _is_value(name)):
        return False
    needed = needed_names(statements, sinks)
    return any(name in parameters if parameters else _is_value(name) for name in needed)


def _parameters(header: list[str]) -> set[str]:
    found: set[str] = set()
    depth = 0
    before = ""
    for token in header:
        if depth == 1 and before in ("(", ",", "*", "**") and token.isidentifier():
            found.add(token)
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(token, 0)
        before = token
    return found


def _statements(lines: list[_Line]) -> list[Statement]:
    statements: list[Statement] = []
    heads: list[tuple[int, Statement]] = []
    last_heads: dict[int, Statement] = {}
    for depth, tokens in lines:
        while heads and heads[-1][0] >= depth:
            heads.pop()
        around = (heads[-1][1],) if heads else ()
        statement = Statement(tokens, around, names=list(_names(tokens)))
        if tokens[0] in ("elif", "else", "except", "finally") and depth in last_heads:
            statement.heads = (*around, last_heads[depth])
        if tokens[0] in _HEADERS and tokens[-1] == ":":
            heads.append((depth, statement))
            last_heads[depth] = statement
            if _defined(tokens) is None:
                continue
        statements.append(statement)
    with_copies(statements, "python")
    return statements


def _names(tokens: list[str]) -> Iterator[str]:
    for token in tokens:
        if token.isidentifier() and not keyword.iskeyword(token):
            yield token
        elif _is_filled_in(token):
            yield from _NAME_IN_TEXT.findall(token)


def _is_filled_in(token: str) -> bool:
    return re.match(r"[rR]?[fFtT][rR]?['\"]", token) is not None and "{" in token


def _is_value(token: str) -> bool:
    return token.isidentifier() and token not in PYTHON_NAMES


def _is_sink(statement: Statement) -> bool:
    tokens = statement.tokens
    if statement.heads and statement.heads[0].tokens == ["try", ":"] and len(tokens) > 1:
        return True  # what it raises decides how the function goes on
    if not _SINKS.isdisjoint(tokens) or any(name in CHANGING or name in READING for name in _called(tokens)):
        return True
    places = [at for at, token in enumerate(tokens) if token in ASSIGNMENTS]
    return bool(places) and not {".", "]"}.isdisjoint(tokens[: places[-1]])


def _called(tokens: list[str]) -> Iterator[str]:
    for position, token in enumerate(tokens[:-1]):
        if tokens[position + 1] == "(" and token.isidentifier() and _defined(tokens) is None:
            yield token


def _acts(tokens: list[str]) -> bool:
    """Whether it prints, or calls something of which it is not known that it does nothing."""
    if tokens[0] in ("import", "from") or _defined(tokens) is not None:
        return False
    for name in _called(tokens):
        if name in PYTHON_OUTPUT:
            if _prints(tokens):
                return True
        elif name not in PYTHON_PURE | PYTHON_IDLE | CHANGING | READING | PYTHON_NAMES:
            return True
    return tokens[0] not in CONTROL and "exec" in tokens


def _prints(tokens: list[str]) -> bool:
    for position, token in enumerate(tokens):
        after = tokens[position + 1 : position + 2]
        if token[-1:] in "'\"":
            if _is_filled_in(token) or _CONVERSION.sub("", token).strip("rRbBuUfF'\"").strip():
                return True
        elif token[:1].isdigit():
            return True
        elif token.isidentifier() and after not in (["("], ["."], ["="]):
            return True
    return False
