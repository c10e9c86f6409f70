"""Before any completion is drawn: are the tools there, and do they do their work under the configured limits?"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any

from halo_forge.errors import ToolMissing
from halo_forge.sandbox.job import SandboxError
from halo_forge.sandbox.local import open_sandbox
from halo_forge.verifiers._checks import Case, Stdio
from halo_forge.verifiers._diagnostics import readable
from halo_forge.verifiers._facts import Facts
from halo_forge.verifiers._spec import CompiledSpec
from halo_forge.verifiers._stages import Stages

_RIGHT = Stdio(cases=(Case(stdin="20 22\n", stdout="42\n"), Case(stdin="-1 1\n", stdout="0\n")))
_WRONG = Stdio(cases=(Case(stdin="20 22\n", stdout="43\n"),))


def find_tools(spec: CompiledSpec) -> dict[str, str]:
    """Name -> absolute path of every tool.

    Raises:
        ToolMissing: One is not there.
    """
    paths = {name: shutil.which(name) for name in spec.requires()}
    missing = [name for name, path in paths.items() if path is None]
    if missing:
        raise ToolMissing(
            f"verifier.kind {spec.language!r} needs {', '.join(missing)}, not found in PATH ({os.environ.get('PATH')})",
            spec.install_hint(),
        )
    return {name: os.path.abspath(path) for name, path in paths.items() if path is not None}


def check_tools(stages: Stages) -> dict[str, Any]:
    """Check programs whose verdict is known, and describe the toolchain.

    Raises:
        ToolMissing: A verdict is not what it must be, or the sandbox does not work.
    """
    try:
        sandbox = open_sandbox()
        try:
            version = stages.tool(stages.spec.version_command(stages.compiler), {}, None, sandbox)
            if not version.clean:
                raise _unfit(stages, f"does not tell its version: {readable(version.stderr)[:500]}")
            for source, tests, wanted in _controls(stages.spec):
                facts = stages.check(source, tests, sandbox)
                if (facts.stage, facts.status) != wanted:
                    raise _unfit(stages, _unexpected(facts, wanted))
            isolation = sandbox.isolation
        finally:
            sandbox.close()
    except SandboxError as error:
        raise _unfit(stages, f"cannot be run in the sandbox: {error}") from error
    return {
        "compiler": stages.spec.requires()[0],
        "version": readable(version.stdout).partition("\n")[0],
        **stages.spec.settings_in_force(),
        "isolation": isolation.level,
        "isolation_notes": list(isolation.notes),
    }


def _controls(spec: CompiledSpec) -> Iterator[tuple[str, Stdio, tuple[str, str]]]:
    controls = spec.controls()
    yield controls.passing, _RIGHT, (spec.stages[-1], "passed")
    yield controls.broken, _RIGHT, ("compile", "failed")
    if "tests" in spec.stages:
        yield controls.passing, _WRONG, ("tests", "failed")


def _unexpected(facts: Facts, wanted: tuple[str, str]) -> str:
    return (
        f"fails a self-test: expected {wanted[1]} at stage {wanted[0]}, found {facts.status} at stage {facts.stage}"
        f" (exit code {facts.exit_code}, signal {facts.signal}): {facts.diagnostics[:1000]}"
    )


def _unfit(stages: Stages, message: str) -> ToolMissing:
    spec = stages.spec
    return ToolMissing(
        f"{stages.compiler} {message}",
        f"{spec.install_hint()}; if it is complete, raise verifier.memory_limit_bytes (now {spec.memory_limit_bytes}),"
        f" timeout_seconds (now {spec.timeout_seconds:g}) or compile_timeout_seconds"
        f" (now {spec.compile_timeout_seconds:g})",
    )
