"""Runs the checker of a prompt or of a set: a program of the author of the tests that judges an output.

The author is trusted as the tests are, but the program reads what a model's program printed, so it runs in the sandbox
like that one, in a directory of its own.  It is called as testlib's checkers are: `checker INPUT OUTPUT EXPECTED`.
"""

from __future__ import annotations

import shutil
from typing import Any

from halo_forge.core.errors import ConfigError, ToolMissing
from halo_forge.core.output_rule import CheckerProgram
from halo_forge.core.source import digest
from halo_forge.sandbox.job import JobResult, SandboxError
from halo_forge.verifiers.comparison import encoded
from halo_forge.verifiers.context import STANDARD_PATH, BuildContext
from halo_forge.verifiers.diagnostics import clip, ending, readable
from halo_forge.verifiers.toolchain import find_tool

_COMPILERS = {"c": ("gcc", "gnu17", "checker.c"), "cpp": ("g++", "gnu++20", "checker.cpp")}
_SCRIPT = "checker.py"
_FILES = ("input.txt", "output.txt", "expected.txt")
# testlib's: wrong answer, presentation error, and the two that it says for what is left over or missing at the end.
_WRONG = frozenset((1, 2, 4, 8))
_FAIL = 3


def judge(context: BuildContext, checker: CheckerProgram, stdin: str, expected: str, output: bytes) -> str | None:
    """None where the checker accepts the output, else what it says.

    What it costs counts towards the cost of the program that printed the output.

    Raises:
        SandboxError: It failed; nothing is known about the output.
    """
    outcome = _run(context, checker, stdin, expected, output)
    context.outcomes.append(outcome)
    if outcome.clean:
        return None
    said = " ".join(readable(outcome.stderr or outcome.stdout).split())[:300]
    if _finds_fault(outcome):
        return f"the checker says: {said or 'wrong'} (exit code {outcome.exit_code})"
    how = ending(outcome, context.limits)
    # A checker that works on what is expected has met an output that it cannot read.
    if outcome.exit_code != _FAIL and expected and _works(context, checker, stdin, expected):
        return f"the checker has no verdict on this output: it {how} {said}".rstrip()
    raise SandboxError(f"the checker of the tests failed: {how} {said}".rstrip())


def check_checker(context: BuildContext, checker: CheckerProgram, cases: list[tuple[str, str]]) -> None:
    """Find out, before there is any output, whether a checker works.

    Args:
        cases: (input, expected output); the first with an expected output is tried.

    Raises:
        ConfigError: It does not compile, or finds fault with what is expected.
        ToolMissing: The compiler or interpreter for it is missing.
        SandboxError: The verifier itself failed.
    """
    _program(context, checker)
    stdin, expected = next((case for case in cases if case[1]), ("", ""))
    if not expected:
        return
    outcome = _run(context, checker, stdin, expected, encoded(expected))
    if not outcome.clean:
        said = clip(readable(outcome.stdout + outcome.stderr)).strip()
        raise ConfigError(
            f"the checker of the tests refuses the expected output itself ({ending(outcome, context.limits)}): {said}",
            "fix `compare.checker`: it is called as `checker INPUT OUTPUT EXPECTED` and exits with 0 for a right"
            " output, 1 or 2 for a wrong one; a case without an expected output has an empty `stdout`",
        )


def _finds_fault(outcome: JobResult) -> bool:
    over = outcome.timed_out is not None or outcome.out_of_memory or outcome.output_limit or outcome.process_limit
    return outcome.exit_code in _WRONG and not over


def _works(context: BuildContext, checker: CheckerProgram, stdin: str, expected: str) -> bool:
    key = ("checker works", checker.language, digest(checker.source), digest(stdin), digest(expected))
    return context.once(key, lambda: _run(context, checker, stdin, expected, encoded(expected)).clean)


def _run(context: BuildContext, checker: CheckerProgram, stdin: str, expected: str, output: bytes) -> JobResult:
    start, files = _program(context, checker)
    given = dict(zip(_FILES, (encoded(stdin), output, encoded(expected)), strict=True))
    return context.run([*start, *_FILES], {**files, **given}, None)


def _program(context: BuildContext, checker: CheckerProgram) -> tuple[list[str], dict[str, bytes]]:
    """How the checker is started, and the files that it consists of."""
    key = ("checker", checker.language, digest(checker.source))
    made: Any = context.once(key, lambda: _make(context, checker))
    return made  # type: ignore[no-any-return]


def _make(context: BuildContext, checker: CheckerProgram) -> tuple[list[str], dict[str, bytes]]:
    source = encoded(checker.source)
    if checker.language == "python":
        start, files = [_tool("python3", checker), _SCRIPT], {_SCRIPT: source}
        parse = f"compile(open({_SCRIPT!r}, 'rb').read(), {_SCRIPT!r}, 'exec')"
        outcome = context.run([start[0], "-c", parse], files, None)
    else:
        compiler, standard, name = _COMPILERS[checker.language]
        command = [_tool(compiler, checker), f"-std={standard}", "-O2", "-w", name, "-o", "checker", "-lm"]
        outcome = context.run(command, {name: source}, "checker")
        start, files = ["./checker"], {"checker": outcome.fetched or b""}
    if not outcome.clean:
        said = clip(readable(outcome.stderr)) or ending(outcome, context.limits)
        raise ConfigError(
            f"the checker of the tests does not compile: {said}",
            "fix `compare.checker.source`; headers such as testlib.h have to be where the compiler looks for them,"
            " for example in /usr/local/include",
        )
    return start, files


def _tool(name: str, checker: CheckerProgram) -> str:
    # Of the system: whatever else is in PATH may not be visible in the sandbox.
    found = shutil.which(name, path=STANDARD_PATH)
    path = None if found is None else find_tool(found)
    if path is None:
        raise ToolMissing(
            f"a checker in {checker.language!r} needs {name}, not found in {STANDARD_PATH}", f"install {name}"
        )
    return path
