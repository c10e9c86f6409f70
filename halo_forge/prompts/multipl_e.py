"""MultiPL-E rows (Cassano et al. 2022, arXiv:2208.08227): HumanEval and MBPP translated to C++, Rust and Go.

A row has the opening of a function and the end of a program whose `main` (or test function) asserts.  Here a completion
is a whole function in a file of its own, and the asserts become a harness that prints a line for each of them: so one
that fails hides none after it, and a program that exits early, or prints what it guesses, does not pass.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from halo_forge.core.records import Prompt
from halo_forge.prompts._row import Row, shown
from halo_forge.prompts._unread import kept_as_info

NAME = "MultiPL-E rows"
COLUMNS = ("name", "language", "prompt", "tests", "stop_tokens")
_READ = (*COLUMNS, "doctests", "original", "prompt_terminology")
_HINT = (
    "keep the row as the data set has it, or write it as `prompt` and `tests` of the kind harness"
    " (`halo-forge docs prompts`)"
)
_ASK = (
    "Complete the following {word} function. Answer with the whole function, with everything it needs{also}, in one"
    " code block.\n\n```{fence}\n{head}\n```"
)


@dataclass(frozen=True, slots=True)
class _Language:
    """One language of the data set.

    Attributes:
        language: What we call it.
        also: What a whole file of it needs besides.
        entry: The name of the function, in the line of the tests that gives it to `candidate`.
        harness: (opening of the function, tests, name of the function) -> source and number of checks.
    """

    language: str
    word: str
    also: str
    entry: re.Pattern[str]
    harness: Callable[[str, Sequence[str], str], tuple[str, int]]


class _Unlike(ValueError):
    """The tests of a row are not what the data set writes."""


def _cpp(head: str, tests: Sequence[str], name: str) -> tuple[str, int]:
    """The opening as a declaration, and a `main` that prints the value of every condition."""
    checks = _between(tests, "int main() {", "}")
    conditions = [_inside(line, r"assert\((.*)\);") for line in checks]
    if not head.endswith("{"):
        raise _Unlike("`prompt` does not end with the opening of a function")
    lines = [f'    std::puts(({each}) ? "ok" : "wrong");' for each in conditions]
    declaration = f"{head[:-1].rstrip()};"
    main = ["int main() {", f"    auto candidate = {name};", *lines, "}\n"]
    return "\n".join(["#include <cstdio>", declaration, *main]), len(lines)


def _rust(head: str, tests: Sequence[str], name: str) -> tuple[str, int]:
    """A `main` whose `candidate` has the type of the opening: no type of the completion decides what is equal."""
    signature = re.search(rf"^fn {re.escape(name)}(\(.*\)(?: -> .*)?) \{{$", head, re.MULTILINE)
    if signature is None:
        raise _Unlike("`prompt` does not end with the opening of a function")
    checks = _between(tests, "fn main() {", "}")
    pairs = [_inside(line, r"assert_eq!\((.*)\);") for line in checks]
    macro = 'macro_rules! check { ($a:expr, $b:expr) => { println!("{}", if $a == $b { "ok" } else { "wrong" }) } }'
    lines = [f"    check!({each});" for each in pairs]
    candidate = f"    let candidate: fn{signature[1]} = {name};"
    return "\n".join([macro, "fn main() {", candidate, *lines, "}\n"]), len(lines)


_GO_CHECK = """package main

import "fmt"

func haloForgeCheck(actual interface{}, expected interface{}) {
    if fmt.Sprintf("%v", actual) == fmt.Sprintf("%v", expected) {
        fmt.Println("ok")
    } else {
        fmt.Println("wrong")
    }
}
"""


def _go(head: str, tests: Sequence[str], name: str) -> tuple[str, int]:
    """A `main` that prints, for each row of the table, whether both values are written alike: so the set compares."""
    signature = re.search(rf"^func {re.escape(name)}(\(.*\).*) \{{$", head, re.MULTILINE)
    if signature is None:
        raise _Unlike("`prompt` does not end with the opening of a function")
    rows = [re.fullmatch(r"\{ actual: (.*), expected: (.*) \},", line.strip()) for line in _table(tests)]
    if not all(rows):
        raise _Unlike("a row of the table of tests is not `{ actual: ..., expected: ... },`")
    lines = [f"    haloForgeCheck({each[1]}, {each[2]})" for each in rows if each is not None]
    main = ["func main() {", f"    var candidate func{signature[1]} = {name}", *lines, "}\n"]
    return "\n".join([_GO_CHECK, *main]), len(lines)


def _table(tests: Sequence[str]) -> list[str]:
    starts = [at for at, line in enumerate(tests) if line.strip() == "tests := []test{"]
    ends = [at for at, line in enumerate(tests) if line.strip() == "}" and starts and at > starts[0]]
    if not ends:
        raise _Unlike("`tests` has no table `tests := []test{`")
    return [line for line in tests[starts[0] + 1 : ends[0]] if line.strip()]


def _between(tests: Sequence[str], opening: str, closing: str) -> list[str]:
    """The lines of the function `main`, without that which names the candidate."""
    lines = [line.strip() for line in tests]
    if opening not in lines or lines[-1] != closing:
        raise _Unlike(f"`tests` does not end with the function {opening} ... {closing}")
    body = lines[lines.index(opening) + 1 : -1]
    return [line for line in body if line and not re.fullmatch(r"(?:auto|let) candidate = \w+;", line)]


def _inside(line: str, pattern: str) -> str:
    found = re.fullmatch(pattern, line)
    if found is None:
        raise _Unlike(f"`tests` has the line {line[:80]!r}, which is no assert of one line")
    return found[1]


_LANGUAGES = {
    "cpp": _Language("cpp", "C++", " (includes and types)", re.compile(r"auto candidate = (\w+);"), _cpp),
    "rs": _Language("rust", "Rust", "", re.compile(r"let candidate = (\w+);"), _rust),
    "go": _Language("go", "Go", ", as a file of the package main", re.compile(r"candidate := (\w+)"), _go),
}
_GO_FILE = re.compile(r"\Apackage \w+\s+import \([^)]*\)\s+")


def recognises(columns: Collection[str]) -> bool:
    """Whether all five columns are there."""
    return set(COLUMNS) <= set(columns)


def to_prompt(row: Row) -> Prompt:
    """The prompt of one row; its `id` is `language/name`, its tests are of the kind `harness`.

    Raises:
        ConfigError: A column is missing or of the wrong type, the language is another one, or the tests are not in the
            form that the data set writes.
    """
    name, given, head, tests = (row.text(column) for column in COLUMNS[:4])
    found = _LANGUAGES.get(given)
    if found is None:
        raise row.error(
            f"`language` is {shown(given)}; of MultiPL-E {', '.join(_LANGUAGES)} are read", "use rows in one of these"
        )
    entry = found.entry.search(tests)
    if entry is None:
        raise row.error("`tests` gives no function to `candidate`", _HINT)
    lines = [line.rstrip() for line in tests.strip().split("\n")]
    opening = _GO_FILE.sub("", head.strip())
    try:
        source, num_checks = found.harness(opening, lines, entry[1])
    except _Unlike as error:
        raise row.error(str(error), _HINT) from error
    if num_checks == 0:
        raise row.error("`tests` asserts nothing", _HINT)
    asked = _ASK.format(word=found.word, also=found.also, fence=found.language, head=opening)
    return Prompt(
        id=f"{given}/{name}",
        messages=({"role": "user", "content": asked},),
        language=found.language,
        tests={"kind": "harness", "entry_point": entry[1], "source": source, "expected": ["ok"] * num_checks},
        info=kept_as_info(row, _READ),
    )
