"""C and C++ for Windows: programs are compiled and linked here, and never run."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import Any

import pytest
from languages import CPP, STDIO, answer, prompt
from pydantic import ValidationError

from halo_forge.verifiers import open_verifier
from halo_forge.verifiers.compiled.c_family import CFamilySpec
from halo_forge.verifiers.languages import c, cpp

C_MINGW, CPP_MINGW = "x86_64-w64-mingw32-gcc", "x86_64-w64-mingw32-g++"


@pytest.mark.parametrize("compiler", [C_MINGW, CPP_MINGW, "/opt/cross/bin/x86_64-w64-mingw32-gcc-posix"])
@pytest.mark.parametrize("settings", [{}, {"stages": ["compile", "run"]}, {"stages": ["compile", "run", "tests"]}])
def test_programs_for_windows_cannot_be_run(compiler: str, settings: Mapping[str, Any]) -> None:
    with pytest.raises(ValidationError, match=r"stages must be \[compile\], found .*makes programs for Windows"):
        c.Spec(compiler=compiler, **settings)
    assert c.Spec(compiler=compiler, stages=["compile"]).max_reward(has_tests=True) == 0.5


@pytest.mark.parametrize(
    ("compiler", "symbol_tool"),
    [
        (C_MINGW, "x86_64-w64-mingw32-nm"),
        ("/opt/cross/bin/i686-w64-mingw32-gcc-win32", "/opt/cross/bin/i686-w64-mingw32-nm"),
        ("gcc-13", "nm"),
        ("/opt/mingw32/bin/gcc", "nm"),
    ],
)
def test_the_symbols_are_listed_by_the_compilers_own_tool(compiler: str, symbol_tool: str) -> None:
    assert c.Spec(compiler=compiler, stages=["compile"]).requires() == [compiler, symbol_tool]


def test_names_have_an_underscore_in_32_bit_windows_only() -> None:
    short, long = (c.Spec(compiler=f"{machine}-w64-mingw32-gcc", stages=["compile"]) for machine in ("i686", "x86_64"))
    assert short.is_entry("_add", "add") and not long.is_entry("_add", "add") and long.is_entry("add", "add")


@pytest.mark.parametrize("spec", [c.Spec, cpp.Spec])
def test_compiling_and_linking_is_all_that_is_done(spec: type[CFamilySpec]) -> None:
    compiler = C_MINGW if spec is c.Spec else CPP_MINGW
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    kind = "c" if spec is c.Spec else "cpp"
    program = '#include <stdio.h>\n#include <windows.h>\nint main(void) { printf("%lu", GetTickCount()); return 1; }\n'
    function = "int add(int a, int b) { int unused; return a + b; }\n"
    compile_add = {"kind": "compile", "entry_point": "add"}
    rows: list[tuple[str, Mapping[str, Any] | None, str, float]] = [
        (program, STDIO, "passed", 0.5),
        (function, STDIO, "failed", 0.0),
        (function, compile_add, "passed", 0.3),
        (function.replace("add", "sum"), compile_add, "failed", 0.0),
        (program.replace("GetTickCount", "fork"), STDIO, "failed", 0.0),
    ]
    if spec is cpp.Spec:
        rows.append((CPP.adding(CPP.sum), CPP.tests, "passed", 0.5))
    with open_verifier(spec(compiler=compiler, stages=["compile"], workers=2)) as verifier:  # type: ignore[call-arg]
        assert "mingw32" in verifier.toolchain()["version"] or "GCC" in verifier.toolchain()["version"]
        verdicts = list(verifier.verify([(prompt(kind, tests), answer(kind, code)) for code, tests, _, _ in rows]))
    for (code, tests, status, reward), verdict in zip(rows, verdicts, strict=True):
        assert (verdict.stage, verdict.status, verdict.reward) == ("compile", status, reward), (code, tests, verdict)
