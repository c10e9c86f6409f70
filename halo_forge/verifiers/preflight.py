"""Before any sampling: are the tools installed, and do they work under the configured limits?"""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Iterator
from typing import Any

from halo_forge.core.errors import ToolMissing
from halo_forge.core.output_rule import OutputRule
from halo_forge.core.records import CheckResult
from halo_forge.sandbox.job import SandboxError
from halo_forge.sandbox.local import open_sandbox
from halo_forge.verifiers.checker import Checker
from halo_forge.verifiers.checks import Stdio, StdioCase, Tests
from halo_forge.verifiers.diagnostics import readable
from halo_forge.verifiers.spec import ProgramSpec
from halo_forge.verifiers.toolchain import find_tool

# By the default rule: the configured one may accept more, or be a checker for other programs.
_RIGHT = Stdio(
    cases=(StdioCase(stdin="20 22\n", stdout="42\n"), StdioCase(stdin="-1 1\n", stdout="0\n")), compare=OutputRule()
)
_WRONG = Stdio(cases=(StdioCase(stdin="20 22\n", stdout="43\n"),), compare=OutputRule())

# gcc says the first, clang the second.
_UNKNOWN_STANDARD = re.compile(r"unrecognized command[- ]line option .-std=|invalid value '[^']*' in '-std=")


def find_tools(spec: ProgramSpec) -> dict[str, str]:
    """Name -> absolute path of every tool.

    Raises:
        ToolMissing: One is not there.
    """
    paths = {name: find_tool(name) for name in spec.requires()}
    missing = [name for name, path in paths.items() if path is None]
    if missing:
        raise ToolMissing(f"verifier.kind {_kind(spec)!r} needs {_not_there(missing)}", spec.install_hint())
    return {name: path for name, path in paths.items() if path is not None}


def _not_there(missing: list[str]) -> str:
    found = [_why_missing(name) for name in missing if "/" in name]
    names = [name for name in missing if "/" not in name]
    if names:
        found.append(f"{', '.join(names)}, not found in PATH ({os.environ.get('PATH')})")
    return "; ".join(found)


def _why_missing(name: str) -> str:
    if not os.path.lexists(name):
        return f"{name}: there is no such file"
    return f"{name}: it is {'a directory' if os.path.isdir(name) else 'not executable (chmod +x makes it so)'}"


def _kind(spec: ProgramSpec) -> str:
    return str(getattr(spec, "kind"))  # noqa: B009 -- declared by each language


def check_tools(spec: ProgramSpec, checker: Checker) -> dict[str, Any]:
    """Check programs whose verdict is known, and describe the toolchain.

    Raises:
        ToolMissing: A verdict is not what it must be, or the sandbox does not work.
    """
    _refuse_low_stack(spec)
    try:
        sandbox = open_sandbox(spec.isolation, spec.read_only_paths(find_tools(spec)))
        try:
            version = checker.version(sandbox)
            if not version.clean:
                late = version.timed_out is not None
                raise _unfit(spec, f"does not print its version: {readable(version.stderr)[:500]}", late)
            for source, tests, wanted in _controls(spec):
                result = checker.check(source, tests, sandbox)
                if result.status != wanted[1] or wanted[0] not in (None, result.stage):
                    raise _unfit(spec, _unexpected(result, wanted), result.status == "timeout")
            isolation = sandbox.isolation
        finally:
            sandbox.close()
    except SandboxError as error:
        raise _unfit(spec, f"cannot be run in the sandbox: {error}") from error
    return {
        "compiler": spec.requires()[0],
        "version": readable(version.stdout).partition("\n")[0],
        **spec.settings_in_force(),
        "isolation": isolation.level,
        "isolation_notes": list(isolation.notes),
    }


def _refuse_low_stack(spec: ProgramSpec) -> None:
    """A program cannot have more than this process may give."""
    hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
    if hard != resource.RLIM_INFINITY and hard < spec.stack_bytes:
        raise ToolMissing(
            f"programs need a stack of {spec.stack_bytes} bytes, but the hard limit of this session is {hard} bytes",
            f"raise it (`ulimit -Hs`, in KiB), or set verifier.stack_limit_bytes to {hard} or less",
        )


def _controls(spec: ProgramSpec) -> Iterator[tuple[str, Tests, tuple[str | None, str]]]:
    if (own := spec.own_controls()) is not None:
        yield from own
        return
    controls = spec.controls()
    yield controls.passing, _RIGHT, (spec.stages[-1], "passed")
    yield controls.broken, _RIGHT, ("compile", "failed")
    if "tests" in spec.stages:
        yield controls.passing, _WRONG, ("tests", "failed")


def _unexpected(result: CheckResult, wanted: tuple[str | None, str]) -> str:
    stage = "any stage" if wanted[0] is None else f"stage {wanted[0]}"
    return (
        f"fails a self-test: expected {wanted[1]} at {stage}, found {result.status} at stage {result.stage}"
        f" (exit code {result.exit_code}, signal {result.signal}): {result.diagnostics[:1000]}"
    )


def _unfit(spec: ProgramSpec, message: str, late: bool = False) -> ToolMissing:
    times = (
        f"timeout_seconds (now {spec.timeout_seconds:g}) or compile_timeout_seconds"
        f" (now {spec.compile_timeout_seconds:g})"
    )
    if _UNKNOWN_STANDARD.search(message):
        return ToolMissing(
            f"verifier.kind {_kind(spec)!r}: {spec.requires()[0]} {message}",
            "set verifier.standard to one that this compiler knows, such as gnu17 or gnu++17",
        )
    install = f"{spec.install_hint()}; if it is installed completely, raise"
    return ToolMissing(
        f"verifier.kind {_kind(spec)!r}: {spec.requires()[0]} {message}",
        # What was late is there: more time is what helps first.
        f"try again when the machine is less busy, or raise verifier.{times}; otherwise {spec.install_hint()}"
        if late
        else f"{install} verifier.memory_limit_bytes (now {spec.memory_limit_bytes}), {times}",
    )
