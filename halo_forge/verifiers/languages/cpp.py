"""C++, by g++ or any compiler that takes its options (clang++, and g++ for Windows)."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from halo_forge.verifiers.compiled import elf, precompiled
from halo_forge.verifiers.compiled.c_family import CFamilySpec
from halo_forge.verifiers.compiled.elf import CompiledFunction
from halo_forge.verifiers.context import BuildContext
from halo_forge.verifiers.spec import Controls

# The function that initialises an object's global variables, and the names it needs if those are the standard streams.
_SET_UP = "_GLOBAL__sub_I_"
_ONLY_STREAMS = frozenset(
    "_ZNSt8ios_base4InitC1Ev _ZNSt8ios_base4InitD1Ev __cxa_atexit __cxa_finalize __dso_handle _GLOBAL_OFFSET_TABLE_"
    " __libc_start_main __gmon_start__ _ITM_registerTMCloneTable _ITM_deregisterTMCloneTable".split()
)


class Spec(CFamilySpec):
    """The answer is C++, alone in its translation unit.

    An answer that begins with `#include <bits/stdc++.h>` gets that header precompiled; see `precompiled`.
    """

    kind: Literal["cpp"] = "cpp"
    compiler: str = Field(default="g++", min_length=1)
    standard: str = Field(default="gnu++20", pattern=r"^[a-z0-9+:]+$")
    compile_timeout_seconds: float = Field(default=20.0, gt=0.0, le=3600.0)

    def install_hint(self) -> str:
        name = os.path.basename(self.compiler)
        if "mingw" in name:
            return self.install_packages("g++-mingw-w64", "mingw64-gcc-c++")
        if "clang" in name:
            return self.install_packages("clang g++ binutils", "clang libstdc++-devel binutils")
        return self.install_packages("g++ binutils", "gcc-c++ binutils")

    def source_name(self, stem: str) -> str:
        return f"{stem}.cpp"

    def libraries(self) -> list[str]:
        return ["libc.so.6", "libm.so.6", "libstdc++.so.6", "libc++.so.1", "libc++abi.so.1", "libgcc_s.so.1"]

    def compiled_functions(self, context: BuildContext, source: bytes) -> list[CompiledFunction]:
        """See `BuiltSpec.compiled_functions`; without the setup of the standard streams, if that is all there is."""
        if any("control reaches end of non-void" in note for note in context.notes):
            return []  # undefined in C++, whose optimiser drops what leads there
        found = super().compiled_functions(context, source)
        needed = {name.partition("@")[0] for name in elf.read(context.made_of_answer).undefined} if found else set()
        if needed <= _ONLY_STREAMS:
            return [function for function in found if not function.name.startswith(_SET_UP)]
        return found

    def is_entry(self, symbol: str, entry_point: str) -> bool:
        symbol = self.undecorated(symbol)
        if entry_point == "main" and symbol.startswith(_SET_UP):
            return True
        # The C++ ABI of gcc and clang: _Z, the length of the name and the name, then what it takes; N ... E around a
        # name in namespaces or classes, with K for a const member.
        parts = "".join(f"{len(part)}{part}" for part in entry_point.split("::"))
        mangled = rf"_Z{re.escape(parts)}." if "::" not in entry_point else rf"_ZNK?{re.escape(parts)}[EI]"
        return symbol == entry_point or re.match(mangled, symbol) is not None

    def read_only_paths(self, tools: Mapping[str, str]) -> list[str]:
        return sorted({*super().read_only_paths(tools), *precompiled.places(self)})

    def make_of_answer(self, context: BuildContext, source: bytes, command: list[str], target: str) -> bytes:
        return super().make_of_answer(context, source, [*command, *precompiled.options(self, context, source)], target)

    def controls(self) -> Controls:
        return Controls(
            passing="#include <cmath>\n#include <iostream>\n#include <vector>\n\nint main() {\n"
            "    std::vector<int> read(2);\n    for (int &number : read)\n"
            "        if (!(std::cin >> number)) return 1;\n"
            "    std::cout << std::floor(read[0] + read[1] + 0.25) << '\\n';\n}\n",
            broken="#include <iostream>\n\nint main() { return not_declared_anywhere; }\n",
        )
