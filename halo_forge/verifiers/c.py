"""C, by gcc or any compiler that takes its options (clang)."""

from __future__ import annotations

import os
from typing import Any, Literal

from pydantic import Field, field_validator

from halo_forge.verifiers._spec import CompiledSpec, Controls

_WARNINGS = ["-Wall", "-Wextra"]
# -pipe keeps the random names of temporary files out of the assembler's messages.
_MESSAGES = ["-pipe", "-fmax-errors=20", "-fdiagnostics-color=never"]


class Spec(CompiledSpec):
    """The answer is C, alone in its translation unit.

    Attributes:
        compiler: Name or path.
        standard: For -std=.
        flags: More options, for compiling and linking; after -Wall -Wextra, which are always given.
    """

    kind: Literal["c"] = "c"
    compiler: str = Field(default="gcc", min_length=1)
    standard: str = Field(default="c17", pattern=r"^[a-z0-9+:]+$")
    flags: list[str] = Field(default_factory=lambda: ["-O1"])

    @field_validator("flags")
    @classmethod
    def _warnings_stay(cls, flags: list[str]) -> list[str]:
        if "-w" in flags:
            raise ValueError("-w silences every warning, so that `rewards.compiles_with_warnings` is never given")
        return flags

    def requires(self) -> list[str]:
        return [self.compiler, "nm"]

    def install_hint(self) -> str:
        package = "clang" if "clang" in os.path.basename(self.compiler) else "gcc"
        return (
            f"Debian, Ubuntu: sudo apt-get install {package} libc6-dev binutils;"
            f" Fedora: sudo dnf install {package} glibc-devel binutils; or set verifier.compiler"
        )

    def source_name(self, stem: str) -> str:
        return f"{stem}.c"

    def compile_command(self, compiler: str, source: str, target: str) -> list[str]:
        return [compiler, f"-std={self.standard}", *_WARNINGS, *self.flags, *_MESSAGES, "-c", source, "-o", target]

    def link_command(self, compiler: str, objects: list[str], target: str) -> list[str]:
        return [compiler, *self.flags, *objects, "-o", target, "-Wl,-z,muldefs", "-lm"]

    def version_command(self, compiler: str) -> list[str]:
        return [compiler, "--version"]

    def settings_in_force(self) -> dict[str, Any]:
        return {"standard": self.standard, "flags": [*_WARNINGS, *self.flags]}

    def needs_address_space(self) -> bool:
        return any(flag.startswith("-fsanitize") for flag in self.flags)

    def controls(self) -> Controls:
        return Controls(
            passing="#include <math.h>\n#include <stdio.h>\n\nint main(void) {\n    int a, b;\n"
            '    if (scanf("%d %d", &a, &b) != 2) return 1;\n    printf("%.0f\\n", floor(a + b + 0.25));\n'
            "    return 0;\n}\n",
            broken="int main(void) { return not_declared_anywhere; }\n",
        )
