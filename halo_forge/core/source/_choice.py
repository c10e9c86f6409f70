"""Which of several blocks in the right language is the program.

The last complete one, as in LiveCodeBench: a draft comes before its correction.  Against mere snippets, which lack what
they use or have no `main`, it is the longest.
"""

from __future__ import annotations

import builtins
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from halo_forge.core.source._blocks import Block
from halo_forge.core.source._functions import outline, without_comments
from halo_forge.core.source._normal import C_LIBRARY, KEYWORDS, c_tokens, python_tokens

_READS_INPUT = re.compile(r"\binput[ \t]*\(|\bstdin\b|\bopen[ \t]*\([ \t]*0\b")
_PYTHON_DEFINED = re.compile(r"^(?:async[ \t]+)?(?:def|class)[ \t]+(\w+)", re.MULTILINE)
# Local names that a program can call: nested functions, parameters, targets of `for` and of assignments.
_PYTHON_LOCAL = re.compile(
    r"\b(?:def|class)[ \t]{1,20}(\w{1,80})|\blambda\b([^:\n]{0,200}):|\bfor\b([^\n]{0,200}?)\bin\b"
    r"|\bas[ \t]{1,20}(\w{1,80})"
    r"|^[ \t]{0,80}(?!(?P<name>\w{1,80})[ \t]{0,20}=[ \t]{0,20}(?P=name)\()(\w[\w \t,]{0,200}?)[ \t]{0,20}=(?!=)",
    re.MULTILINE,
)
_PYTHON_PROSE = re.compile(r"\"{3}.*?\"{3}|'{3}.*?'{3}|#[^\n]*", re.DOTALL)
_PYTHON_PARAMETERS = re.compile(r"\bdef[ \t]{1,20}\w{1,80}[ \t]{0,20}\(([^()]{0,1000})")
_PARAMETER = re.compile(r"(?:\A|,)\s{0,80}\*{0,2}(\w{1,80})")
# Closures, variables of a template type, and pointers to functions.
_LOCAL = re.compile(
    r"\b(\w{1,80})\s{0,20}(?::(?!:)[^=;{}\n]{0,200})?:?=\s{0,20}"
    r"(?:\[[^\]]{0,200}\]\s{0,20}[({]|func\s{0,20}\(|(?:move\s{1,20})?\|)"
    r"|\w<[\w\s:,<>()*]{0,200}>[&*\s]{0,20}\b(\w{1,80})\s{0,20}[=;{,)]|\(\s{0,20}\*\s{0,20}(\w{1,80})\s{0,20}\)\s{0,20}\("
    r"|\b(\w{1,80})\s{1,20}func\s{0,20}\(|\b(\w{1,80})\s{0,20}:[&\w\s<]{0,100}?\b(?:Fn|FnMut|FnOnce|fn)\s{0,20}\("
)
_PYTHON_IMPORT = re.compile(r"^[ \t]*from[ \t]+([\w.]+)[ \t]+import[ \t]+([^\n#]+)", re.MULTILINE)
_USE = re.compile(r"^[ \t]*(?:pub[ \t]+)?(?:use|using)\b([^;]*);", re.MULTILINE)
_WORD = re.compile(r"[^\W\d]\w*")
# What `using namespace std` brings in that programs also write by hand.
_STD = frozenset(
    "abs accumulate binary_search bind clamp copy count distance equal exchange fill find gcd generate hash invoke iota"
    " lcm lower_bound max merge midpoint min mismatch move next next_permutation partition pow prev reduce remove"
    " replace reverse rotate search shuffle sort sqrt stoi swap to_string transform unique upper_bound".split()
)
_BUILTINS = frozenset(dir(builtins))
_LIBRARY = {"c": C_LIBRARY, "cpp": C_LIBRARY, "go": frozenset(("clear", "max", "min"))}
"""Functions of each language that drafts define themselves, and later programs call without naming their origin."""


def choose(blocks: Sequence[Block], entry_point: str | None, language: str) -> Block:
    """The block that is the program; `blocks` holds at least one."""
    if len(blocks) == 1:
        return blocks[0]
    complete = _complete(blocks, language)
    is_complete = {id(block) for block in complete}
    if entry_point is not None:
        # Completions often show a call of the function afterwards; that call is not the program.
        for pattern in (_definition(entry_point, language), _mention(entry_point)):
            found = [block for block in blocks if pattern.search(block.code)]
            if found:
                return ([block for block in found if id(block) in is_complete] or found)[-1]
    programs = [block for block in complete if _is_whole_program(block.code, language)]
    if programs and language == "python":
        programs = [block for block in programs if _READS_INPUT.search(block.code)] or programs
    if programs:
        return programs[-1]
    return max(_newest(complete, language) or blocks, key=lambda block: len(block.code))


def is_program(code: str, entry_point: str | None, language: str) -> bool:
    """Whether it defines the function that is asked for; where none is, whether it runs on its own."""
    if entry_point is None:
        return _is_whole_program(code, language)
    return _definition(entry_point, language).search(code) is not None


def _definition(name: str, language: str) -> re.Pattern[str]:
    before = rf"(?<!\w){re.escape(name)}"
    if language == "python":
        pattern = rf"\b(?:def|class)\s+{before}(?!\w)|^{before}[ \t]*(?::[^=\n]{{0,200}})?=(?!=)"
    else:
        pattern = rf"{before}\s*\((?:[^;{{}}()]|\([^;{{}}()]*\))*\)[^;{{}}()=?:]*\{{"
    return re.compile(pattern, re.MULTILINE)


def _mention(name: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(name)}(?!\w)")


def _is_whole_program(code: str, language: str) -> bool:
    """Whether it runs on its own: it has a `main`; in Python it reads its input or prints."""
    if language == "python":
        return _READS_INPUT.search(code) is not None or "print(" in code
    return _definition("main", language).search(code) is not None


def _complete(blocks: Sequence[Block], language: str) -> list[Block]:
    """Those that call nothing which only another block defines, unlike uses, tests, and parts of a program."""
    uses = [_uses(block.code, language) for block in blocks]
    num_definitions = Counter(name for each in uses for name in each.defined)
    return [
        block
        for block, each in zip(blocks, uses, strict=True)
        if not any(name not in each.defined and num_definitions[name] for name in each.called)
    ]


def _newest(blocks: Sequence[Block], language: str) -> list[Block]:
    """Without those whose functions are all defined once more by later ones."""
    later: set[str] = set()
    kept = []
    for block in reversed(blocks):
        defined = _uses(block.code, language).defined
        if not defined or not defined <= later:
            kept.append(block)
        later |= defined
    return kept[::-1]


@dataclass(frozen=True, slots=True)
class _Uses:
    """The functions that a block defines, without `main`, and those that it calls and gets from nowhere else."""

    defined: frozenset[str]
    called: frozenset[str]


def _uses(code: str, language: str) -> _Uses:
    if language == "python":
        return _uses_of_python(code)
    found = outline(code, language)
    known = set(found.macros) | {word for each in _USE.findall(code) for word in _WORD.findall(each)}
    if language not in ("c", "cpp") or "#include" in code:
        known |= _LIBRARY.get(language, frozenset())
    known |= _local(_LOCAL, without_comments(code))
    if {"namespace", "std"} <= known:
        known |= _STD
    called = set(_called([token for kind, token in c_tokens(code) if kind != "include"])) - known
    return _Uses(frozenset({each.name for each in found.functions} - {"main"}), frozenset(called))


def _uses_of_python(code: str) -> _Uses:
    defined = set(_PYTHON_DEFINED.findall(code))
    plain = _PYTHON_PROSE.sub("", code)
    known = _BUILTINS | _local(_PYTHON_LOCAL, plain)
    known |= {name for each in _PYTHON_PARAMETERS.findall(plain) for name in _PARAMETER.findall(each)}
    called = set(_called([token for _, token in python_tokens(code)]))
    for module, names in _PYTHON_IMPORT.findall(code):
        imported = set(_WORD.findall(names))
        if module.partition(".")[0] not in sys.stdlib_module_names:
            called |= imported
        elif "*" in names:
            return _Uses(frozenset(defined), frozenset())
        else:
            known |= imported
    return _Uses(frozenset(defined), frozenset(called - known))


def _local(pattern: re.Pattern[str], code: str) -> set[str]:
    """The names in the groups of a pattern, wherever it matches."""
    return {word for groups in pattern.findall(code) for group in groups for word in _WORD.findall(group)}


def _called(tokens: Sequence[str]) -> Iterator[str]:
    """Names before an opening parenthesis that are neither members, nor qualified, nor being defined."""
    for position in range(1, len(tokens)):
        name = tokens[position - 1]
        if tokens[position] == "(" and name not in KEYWORDS and (name[0].isalpha() or name[0] == "_"):
            before = tokens[position - 2] if position > 1 else ""
            is_declared = (before[:1].isalpha() or before[:1] == "_") and before not in _BEFORE_CALLS
            if before not in (".", "->", "::") and not is_declared:
                yield name


# Words after which a name and a parenthesis are a call; after any other they are a definition or a declaration.
_BEFORE_CALLS = frozenset(
    "return case else do throw new delete sizeof in not and or is if elif while assert yield await lambda raise from"
    " match go defer co_return co_await co_yield del".split()
)
