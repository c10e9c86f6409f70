"""Limits that make right programs fail: found before there is any program, and named where one was reached."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from halo_forge.core.errors import ConfigError
from halo_forge.core.records import CheckResult
from halo_forge.verifiers.checks import Harness, Stdio, Tests
from halo_forge.verifiers.comparison import encoded, texts
from halo_forge.verifiers.spec import ProgramSpec

_SIGSEGV = 11
# As `diagnostics.ending` writes it; a program writes its own text on lines of its own.
_MUCH_OUTPUT = re.compile(r"^(?:case \d+|the program): wrote more than its limit of ", re.MULTILINE)
_MANY_PROCESSES = re.compile(r"^(?:case \d+|the program): started more than \d+ processes", re.MULTILINE)
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class ReferenceFailure:
    """A reference solution that does not pass the tests of its own prompt.

    Attributes:
        limit: The limit that it reached, as `reached_limit` names it; None where it is wrong by the tests.
    """

    prompt_id: str
    result: CheckResult
    limit: str | None


def refuse_long_outputs(spec: ProgramSpec, tests_of: Iterable[tuple[str, Tests]]) -> None:
    """Refuse prompts whose expected output no program may print.

    Args:
        tests_of: (prompt id, tests).

    Raises:
        ConfigError: The expected output of one does not fit into `verifier.output_limit_bytes`.
    """
    limit = spec.output_limit_bytes
    found = [(size, name, what) for name, tests in tests_of for size, what in [_longest(tests)] if size >= limit]
    if not found:
        return
    _, name, what = found[0]
    longest = max(size for size, _, _ in found)
    others = f"; {len(found)} prompts are affected" if len(found) > 1 else ""
    raise ConfigError(
        f"prompt {name!r}: {what} has {found[0][0]:,} bytes, but verifier.output_limit_bytes is {limit:,}: no program"
        f" could be right{others}",
        f"set verifier.output_limit_bytes to {longest + longest // 4 + 1024} or more, or remove such prompts",
    )


def _longest(tests: Tests) -> tuple[int, str]:
    """The size of the longest expected output, in bytes, and what it is."""
    if isinstance(tests, Stdio):
        sizes = [max(len(encoded(each)) for each in texts(case.stdout)) for case in tests.cases]
        number = max(range(len(sizes)), key=sizes.__getitem__)
        return sizes[number], f"the expected output of case {number + 1}"
    if isinstance(tests, Harness):
        lines = [max(len(encoded(each)) for each in texts(line)) + 1 for line in tests.expected]
        return sum(lines), "the expected output of the harness"
    return 0, ""


def reached_limit(result: CheckResult, spec: ProgramSpec) -> str | None:
    """The key and value of the limit that ended a program; None where none did."""
    at_run = result.stage != "compile"
    if result.status == "timeout":
        if at_run:
            return f"verifier.timeout_seconds (now {spec.timeout_seconds:g})"
        return f"verifier.compile_timeout_seconds (now {spec.compile_timeout_seconds:g})"
    if result.status == "out_of_memory":
        if at_run:
            return f"verifier.memory_limit_bytes (now {spec.memory_limit_bytes})"
        return f"verifier.compile_memory_limit_bytes (now {spec.compile_memory_limit_bytes})"
    if result.status != "failed" or result.stage != "run":
        return None
    if _MUCH_OUTPUT.search(result.diagnostics):
        return f"verifier.output_limit_bytes (now {spec.output_limit_bytes})"
    if _MANY_PROCESSES.search(result.diagnostics):
        return f"verifier.process_limit (now {spec.process_limit})"
    if result.signal == _SIGSEGV:
        return f"perhaps verifier.stack_limit_bytes (now {spec.stack_bytes})"
    return None


def reference_warnings(failures: Iterable[ReferenceFailure]) -> tuple[str, ...]:
    """What to say before a run about references that fail, one sentence for each limit."""
    by_limit: dict[str | None, list[str]] = {}
    for failure in failures:
        by_limit.setdefault(failure.limit, []).append(failure.prompt_id)
    said = []
    for limit, ids in by_limit.items():
        shown = ", ".join(repr(each) for each in ids[:_SHOWN]) + (", ..." if len(ids) > _SHOWN else "")
        count = "1 prompt" if len(ids) == 1 else f"{len(ids)} prompts"
        said.append(
            f"the reference solution of {count} does not pass the tests ({shown}): tasks check says why"
            if limit is None
            else f"the reference solution of {count} reaches a limit on this machine ({shown}), so right programs may"
            f" fail: raise {limit}"
        )
    return tuple(said)
