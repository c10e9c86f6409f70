"""Is there anything in a program that does anything?  Decided by its text, where no test decides it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from halo_forge.source import Function, Outline, Tokens, outline, python_tokens

C_LIKE = frozenset(("c", "cpp", "rust", "go"))

# Calls that change nothing which anybody could see, and those that only end the program or pass the time.
_IDLE_CALLS = frozenset(
    "exit _exit _Exit quick_exit abort terminate sleep usleep nanosleep Sleep pause raise assert malloc calloc realloc"
    " free time clock rand srand setlocale setvbuf sync_with_stdio tie defined decltype typeof __builtin_unreachable"
    " __builtin_trap panic unreachable todo unimplemented Some None Ok Err Box vec drop len cap make append recover"
    " sizeof alignof static_cast reinterpret_cast const_cast dynamic_cast va_start va_end".split()
)
_BEFORE_A_CALL = frozenset("return else do case goto throw co_return co_await defer go in if while for match".split())
_STREAMS = frozenset(("cin", "cout", "cerr", "clog", "wcin", "wcout"))
_ASSEMBLY = frozenset(("asm", "__asm__", "__asm", "__asm__volatile"))
_NOT_CALLED = frozenset("if for while switch return catch match loop func fn".split())


def does_nothing(code: str, language: str, entry_point: str | None) -> bool:
    """Whether nothing is left of the program when comments, dead text, constants and unused functions are gone.

    A whole program does something if it reads or writes: calls, from `main` on, anything that is not its own.  A
    function does if it uses a parameter, or calls such a thing.  False for languages that are not known here.
    """
    if language == "python":
        return _python_does_nothing(code, entry_point)
    if language not in C_LIKE:
        return False
    found = outline(code, language)
    by_name: dict[str, list[Function]] = {}
    for function in found.functions:
        by_name.setdefault(function.name, []).append(function)
    program = entry_point is None and "main" in by_name
    if entry_point is not None and entry_point in by_name:
        roots = [entry_point]
    elif program:
        roots = ["main", *_mentioned_at_start(found, by_name)]
    else:
        roots = [each.name for each in found.functions if not {"static", "template"} & set(each.header)] or list(
            by_name
        )
    reached = _reached(roots, by_name)
    return not any(_is_effective(each, by_name.keys(), found, program) for name in reached for each in by_name[name])


def _mentioned_at_start(found: Outline, names: dict[str, list[Function]]) -> Iterator[str]:
    """Functions that the values of global variables are made with."""
    for statement in found.loose:
        if "=" in statement or "(" not in statement:
            yield from (token for token in statement if token in names)


def _reached(roots: list[str], by_name: dict[str, list[Function]]) -> set[str]:
    reached: set[str] = set()
    pending = [name for name in roots if name in by_name]
    while pending:
        name = pending.pop()
        if name in reached:
            continue
        reached.add(name)
        for function in by_name[name]:
            pending += [token for token in function.body if token in by_name and token not in reached]
    return reached


def _is_effective(function: Function, own: object, found: Outline, program: bool) -> bool:
    body = function.body
    if any(_calls(body, own, found)):
        return True
    if program:
        return False
    if function.parameters:
        return any(token in function.parameters for token in body)
    return any(_gives_or_sets(*words) for words in zip(["", *body], body, [*body[1:], ""], strict=False))


def _gives_or_sets(before: str, token: str, following: str) -> bool:
    """`return name`, `name++`, and `name = ...` as a statement; `int name = ...` only makes a variable."""
    if token == "return":
        return following.isidentifier()
    changes = following in ("++", "--") or (len(following) == 2 and following[1] == "=" and following[0] in "+-*/%&|^")
    return token.isidentifier() and (changes or (following == "=" and not before.isidentifier() and before != "*"))


def _calls(body: Tokens, own: object, found: Outline) -> Iterator[bool]:
    """One True for each call of what is not the program's own, and for what else can be seen from outside."""
    for position, token in enumerate(body):
        following = body[position + 1] if position + 1 < len(body) else ""
        before = body[position - 1] if position else ""
        if token in _ASSEMBLY or (token in _STREAMS and following in ("<<", ">>")):
            yield True
        elif token in found.macros and re.search(r"\w\s*\(|<<|>>", found.macros[token]):
            yield True
        elif not token.isidentifier() or token in _IDLE_CALLS or token in _NOT_CALLED or token in own:  # type: ignore[operator]
            continue
        elif following == "!" and body[position + 2 : position + 3] in (["("], ["["], ["{"]):
            yield True
        elif following == "(" and not _declares(before):
            yield True


def _declares(before: str) -> bool:
    """`int x(5);` declares x; `return f(5)` calls f."""
    return before == ">" or (before.isidentifier() and before not in _BEFORE_A_CALL)


_Line = tuple[int, list[str]]
_PYTHON_IDLE = frozenset("import from pass global nonlocal @ ... assert try finally break continue".split())
_ENDS = (["sys", ".", "exit"], ["os", ".", "_exit"], ["exit"], ["quit"], ["raise", "SystemExit"],
         ["raise", "NotImplementedError"])  # fmt: skip
_NEVER = (["if", "0", ":"], ["if", "False", ":"], ["while", "0", ":"], ["while", "False", ":"])
_HEADERS = frozenset("def class async else except".split())


def _python_does_nothing(code: str, entry_point: str | None) -> bool:
    lines = list(_alive(_python_lines(code)))
    if entry_point is not None:
        lines = _block_of(lines, entry_point) or lines
    return all(_is_idle(tokens) for _, tokens in lines)


def _python_lines(code: str) -> Iterator[_Line]:
    """(depth of the indentation, tokens) of each line; what follows a `def ...:` on its line is a line of its own."""
    depth = 0
    tokens: list[str] = []
    for _, token in python_tokens(code):
        if re.fullmatch(r"<\d+>", token) and token != "<>":
            if tokens:
                yield from _split_header(depth, tokens)
            depth, tokens = int(token[1:-1]), []
        elif token == ";":
            yield from _split_header(depth, tokens)
            tokens = []
        else:
            tokens.append(token)
    if tokens:
        yield from _split_header(depth, tokens)


def _split_header(depth: int, tokens: list[str]) -> Iterator[_Line]:
    if tokens and tokens[0] in _HEADERS | {"if", "while", "try", "finally"}:
        brackets = 0
        for position, token in enumerate(tokens):
            brackets += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(token, 0)
            if token == ":" and brackets == 0 and position + 1 < len(tokens):
                yield depth, tokens[: position + 1]
                yield depth + 1, tokens[position + 1 :]
                return
    yield depth, tokens


def _alive(lines: Iterator[_Line]) -> Iterator[_Line]:
    dead: int | None = None
    for depth, tokens in lines:
        if dead is not None and depth > dead:
            continue
        dead = depth if tokens[:3] in _NEVER else None
        yield depth, tokens


def _block_of(lines: list[_Line], name: str) -> list[_Line]:
    found: list[_Line] = []
    inside: int | None = None
    for depth, tokens in lines:
        if inside is not None and depth > inside:
            found.append((depth, tokens))
            continue
        words = tokens[1:] if tokens[:1] == ["async"] else tokens
        inside = depth if words[:1] in (["def"], ["class"]) and words[1:2] == [name] else None
        if inside is not None:
            found.append((depth, tokens))
    return found


def _is_idle(tokens: list[str]) -> bool:
    if not tokens or tokens[0] in _PYTHON_IDLE or tokens[0] in _HEADERS or tokens[:3] in _NEVER:
        return True
    if any(tokens[: len(end)] == end for end in _ENDS) or tokens[:2] in (["if", "__name__"], ["while", "True"]):
        return True
    if tokens[:2] == ["while", "1"] or tokens[0] == ".":
        return True
    rest = tokens[1:] if tokens[0] == "return" else tokens
    if len(tokens) > 2 and tokens[0].isidentifier() and "=" in tokens[1:] and tokens[1] in ("=", ":"):
        rest = tokens[tokens.index("=") + 1 :]
    return all(_is_constant(token) for token in rest)


def _is_constant(token: str) -> bool:
    """Literals and signs are; a call or a variable has a name in it, and so has a string that is filled in."""
    if token.isidentifier():
        return token in ("None", "True", "False", "Ellipsis", "NotImplemented")
    return re.match(r"[rR]?[fFtT][rR]?['\"]", token) is None or "{" not in token
