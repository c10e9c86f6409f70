"""C, by gcc or any compiler that takes its options (clang, and gcc for Windows)."""

from __future__ import annotations

import os
from typing import Literal

from pydantic import Field

from halo_forge.verifiers.compiled.c_family import CFamilySpec
from halo_forge.verifiers.spec import Controls


class Spec(CFamilySpec):
    """The answer is C, alone in its translation unit."""

    kind: Literal["c"] = "c"
    compiler: str = Field(default="gcc", min_length=1)
    standard: str = Field(default="gnu17", pattern=r"^[a-z0-9+:]+$")

    def install_hint(self) -> str:
        name = os.path.basename(self.compiler)
        if "mingw" in name:
            return self.install_packages("gcc-mingw-w64", "mingw64-gcc")
        package = "clang" if "clang" in name else "gcc"
        return self.install_packages(f"{package} libc6-dev binutils", f"{package} glibc-devel binutils")

    def source_name(self, stem: str) -> str:
        return f"{stem}.c"

    def libraries(self) -> list[str]:
        return ["libc.so.6", "libm.so.6"]

    def controls(self) -> Controls:
        return Controls(
            passing="#include <math.h>\n#include <stdio.h>\n\nint main(void) {\n    int a, b;\n"
            '    if (scanf("%d %d", &a, &b) != 2) return 1;\n    printf("%.0f\\n", floor(a + b + 0.25));\n'
            "    return 0;\n}\n",
            broken="int main(void) { return not_declared_anywhere; }\n",
        )
