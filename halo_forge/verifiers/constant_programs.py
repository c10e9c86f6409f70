"""Programs that do nothing of a task: tests that one of them passes prove nothing.

Where nothing is put into the program (a function without parameters, a program without input), a constant result is
what is asked for, and there are none.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator

from halo_forge.verifiers.checks import CompileOnly, Harness, PythonTests, Stdio, Tests
from halo_forge.verifiers.python.driver.assertions import name_of

_ALWAYS = ("None", "True", "False", "0", "1", "''", "[]", "{}")
_MOST_LITERALS = 4
# The bodies that a function may have in place of its own; those that do not fit its type do not compile.
_BODIES = {
    "c": ("", "return 0;", "return 1;", "return -1;"),
    "cpp": ("", "return {};", "return 1;", "return -1;"),
    "rust": ("", "Default::default()", "true", "1", "None"),
    "go": ("", "return 0", "return 1", "return true", "return false", 'return ""', "return nil"),
}
_PRINTS = {
    "c": "#include <stdio.h>\nint main(void) {{ fputs({text}, stdout); return 0; }}\n",
    "cpp": "#include <iostream>\nint main() {{ std::cout << {text}; }}\n",
    "rust": 'fn main() {{ print!("{{}}", {text}); }}\n',
    "go": 'package main\n\nimport "fmt"\n\nfunc main() {{ fmt.Print({text}) }}\n',
    "python": 'print({text}, end="")\n',
}


def constant_programs(tests: Tests, reference: str, language: str) -> Iterator[tuple[str, str]]:
    """(what it does, source) of each; none for a language or kind of tests that is not known here.

    Args:
        reference: A right program, whose functions compiled languages are given another body; "" where there is none.
    """
    if isinstance(tests, Stdio) and language in _PRINTS and any(case.stdin.strip() for case in tests.cases):
        first = tests.cases[0].stdout
        texts = (first,) if isinstance(first, str) else first[:1]
        for text in ("", *texts):
            printed = json.dumps(text, ensure_ascii=False)
            yield f"prints {printed[:60]} whatever it reads", _PRINTS[language].format(text=printed)
    elif language == "python" and not isinstance(tests, CompileOnly | Stdio):
        yield from _python(tests)
    elif isinstance(tests, Harness) and language in _BODIES:
        for body in _BODIES[language]:
            source = with_body(reference, tests.entry, body)
            if source is not None and (body or language not in ("c", "cpp") or _returns_nothing(source, tests.entry)):
                yield f"does nothing but `{body}`" if body else "does nothing", source


def _returns_nothing(source: str, name: str) -> bool:
    """Whether a C function needs no `return`: without one the result of another would be any value."""
    return re.search(rf"\bvoid\s+{re.escape(name)}\s*\(", source) is not None


def _python(tests: Harness | PythonTests) -> Iterator[tuple[str, str]]:
    pairs = [(tests.entry, tests.entry)] if isinstance(tests, Harness) else tests.prepared.names
    sources = [tests.source] if isinstance(tests, Harness) else [source for _, source in tests.prepared.steps]
    called = {name for source in sources for name in _called_with_input(source)}
    if not any(ours in called for ours, _ in pairs):
        return
    names = sorted({theirs for _, theirs in pairs})
    for value in dict.fromkeys((*_ALWAYS, *_literals(tests))):
        yield (
            f"returns {value[:60]} whatever it gets",
            "".join(f"def {name}(*args, **kwargs):\n    return {value}\n" for name in names),
        )


def _called_with_input(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and (node.args or node.keywords):
            yield name_of(node.func)


def _literals(tests: Harness | PythonTests) -> list[str]:
    """The values that the first check compares with: a constant result that passes all checks passes that one."""
    if isinstance(tests, Harness):
        return []
    first = next(source for is_check, source in tests.prepared.steps if is_check)
    compared = [node for node in ast.walk(ast.parse(first)) if isinstance(node, ast.Compare)]
    found = [ast.unparse(side) for node in compared for side in (node.left, *node.comparators) if _is_literal(side)]
    return found[:_MOST_LITERALS]


def _is_literal(node: ast.expr) -> bool:
    try:
        ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError):
        return False
    return True


def with_body(source: str, name: str, body: str) -> str | None:
    """`source` with another body of the function `name`; None where it is not found, or takes nothing."""
    plain = name.rpartition("::")[2]
    for found in re.finditer(rf"(?<![\w.]){re.escape(plain)}\s*(?:<[^>{{;]*>\s*)?\(", source):
        opening = source.find("{", found.end())
        if re.match(r"\s*(?:void\s*)?\)", source[found.end() :]):
            return None  # it takes nothing
        if opening < 0 or ";" in source[found.end() : opening]:
            continue  # a declaration or a call
        depth = 0
        for position in range(opening, len(source)):
            depth += {"{": 1, "}": -1}.get(source[position], 0)
            if depth == 0:
                return f"{source[: opening + 1]} {body} {source[position:]}"
    return None
