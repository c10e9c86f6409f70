"""Python: programs that read and print, and functions, whose tests run in another process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from halo_forge.core.records import Prompt
from halo_forge.verifiers.checker import Checker
from halo_forge.verifiers.checks import Tests
from halo_forge.verifiers.context import BuildContext
from halo_forge.verifiers.python import stages
from halo_forge.verifiers.python.interpreter import locate
from halo_forge.verifiers.python.tests import refuse_undefined
from halo_forge.verifiers.spec import Controls
from halo_forge.verifiers.stages import BuiltSpec


class Spec(BuiltSpec):
    """The program is Python.

    Attributes:
        compiler: Name or path of the interpreter, Python 3.8 or later.
        packages: Let the program import what is installed for that interpreter, not the standard library alone.
    """

    kind: Literal["python"] = "python"
    compiler: str = Field(default="python3", min_length=1)
    packages: bool = False

    def requires(self) -> list[str]:
        return [self.compiler]

    def install_hint(self) -> str:
        return (
            "Debian, Ubuntu: sudo apt-get install python3; Fedora: sudo dnf install python3; or set verifier.compiler"
            " to an interpreter that every user may read"
        )

    def source_name(self, stem: str) -> str:
        return f"{stem}.py"

    def version_command(self, compiler: str) -> list[str]:
        return [compiler, "--version"]

    def options(self) -> list[str]:
        """Options of the interpreter, whatever it runs."""
        return ["-s", "-B"] if self.packages else ["-s", "-B", "-S"]

    def settings_in_force(self) -> dict[str, Any]:
        return {"packages": self.packages}

    def needs_address_space(self) -> bool:
        return self.packages

    def read_only_paths(self, tools: Mapping[str, str]) -> list[str]:
        return list(locate(tools[self.compiler], self.packages).read_only)

    def tool_environment(self) -> dict[str, str]:
        return self.program_environment()

    def program_environment(self) -> dict[str, str]:
        # The order of a set is the same in every run.  Numerical libraries start a thread for each core as they are
        # imported, which may be more than a program may have.
        threads = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")} if self.packages else {}
        return {"PYTHONHASHSEED": "0", **threads}

    def tests_of(self, prompt: Prompt) -> tuple[Tests, str]:
        tests, digest = super().tests_of(prompt)
        # MBPP is taken as it is: of one of its tasks the tests use a name that nothing defines.
        reference = prompt.info.get("reference")
        if tests.kind == "asserts" and isinstance(reference, str):
            refuse_undefined(prompt.id, tests.prepared, reference)
        return tests, digest

    def controls(self) -> Controls:
        return Controls(
            passing="import math\n\na, b = map(int, input().split())\nprint(math.floor(a + b + 0.25))\n",
            broken="def f(:\n    pass\n",
        )

    def build(self, context: BuildContext, source: bytes, tests: Tests) -> bytes | None:
        return stages.build(self, context, source, tests)

    def check_tests(self, context: BuildContext, tests: Tests) -> None:
        stages.check_tests(self, context, tests)

    def checker(self, tools: Mapping[str, str]) -> Checker:
        """The shared stages, and the two processes of `driver` for the tests that are in Python."""
        return stages.PythonStages(self, {self.compiler: locate(tools[self.compiler], self.packages).executable})
