"""What C and C++ share: compilers that take gcc's options, and those that make programs for another system."""

from __future__ import annotations

import functools
import os
import re
import shutil
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from halo_forge.verifiers.compiled.elf import CompiledFunction
from halo_forge.verifiers.compiled.harness import START
from halo_forge.verifiers.compiled.spec import CompiledSpec
from halo_forge.verifiers.context import BuildContext
from halo_forge.verifiers.diagnostics import silences_warnings

_WARNINGS = ["-Wall", "-Wextra"]
# -pipe keeps the random names of temporary files out of the assembler's messages.
_MESSAGES = ["-pipe", "-fdiagnostics-color=never"]
_WINDOWS = re.compile(r"(?P<prefix>(?P<machine>\w+)-(?:\w+-)*mingw32)-(?:gcc|g\+\+|c\+\+|clang|clang\+\+)(?:-[\w.-]+)?")
_FOR_WINDOWS = re.compile(r"(?:[\w.]+-)+mingw32|--target=.*(?:mingw|windows)")


# Warnings of functions that do something, and of which undefined behaviour may leave a constant.
_UNDEFINED = re.compile(r"in all control paths|\[-W[\w-]*uninitialized\]")


@functools.cache
def _has_gold() -> bool:
    return shutil.which("ld.gold") is not None


class CFamilySpec(CompiledSpec):
    """The answer is alone in its translation unit.

    Attributes:
        compiler: Name or path.
        standard: For -std=.
        flags: More options, for compiling and linking; -Wall -Wextra are always given too.
    """

    compiler: str = Field(min_length=1)
    standard: str = Field(pattern=r"^[a-z0-9+:]+$")
    flags: list[str] = Field(default_factory=lambda: ["-O1"])

    @field_validator("flags")
    @classmethod
    def _warnings_stay(cls, flags: list[str]) -> list[str]:
        if "-w" in flags:
            raise ValueError("-w silences every warning, so that `rewards.compiles_with_warnings` is never given")
        for flag in flags:
            if flag.startswith("-std="):
                raise ValueError(f"{flag} belongs in verifier.standard, without -std=")
            if flag == "-fsyntax-only":
                raise ValueError("-fsyntax-only makes no object, so that nothing could be linked or run")
            if flag.startswith("-flto"):
                raise ValueError(f"{flag} makes objects without symbols, in which tampering could not be looked for")
        return flags

    @model_validator(mode="after")
    def _programs_for_windows_do_not_run_here(self) -> Self:
        names = [flag for flag in [os.path.basename(self.compiler), *self.flags] if _FOR_WINDOWS.match(flag)]
        if names and self.stages != ["compile"]:
            raise ValueError(
                f"stages must be [compile], found {self.stages}: {names[0]} makes programs for Windows, which do not"
                " run here"
            )
        return self

    def _windows(self) -> re.Match[str] | None:
        return _WINDOWS.fullmatch(os.path.basename(self.compiler))

    def requires(self) -> list[str]:
        return [self.compiler, self.symbol_tool()]

    def symbol_tool(self) -> str:
        windows = self._windows()
        return "nm" if windows is None else os.path.join(os.path.dirname(self.compiler), f"{windows['prefix']}-nm")

    def is_entry(self, symbol: str, entry_point: str) -> bool:
        return self.undecorated(symbol) == entry_point

    def undecorated(self, symbol: str) -> str:
        """A symbol without what the platform puts in front of it."""
        windows = self._windows()
        is_decorated = windows is not None and re.fullmatch(r"i\d86", windows["machine"]) is not None
        return symbol.removeprefix("_") if is_decorated else symbol

    def make_of_answer(self, context: BuildContext, source: bytes, command: list[str], target: str) -> bytes:
        made = super().make_of_answer(context, source, command, target)
        if silences_warnings(source.decode("utf-8")):
            # Nobody knows what the compiler would have said, so such a program does not count as clean.
            context.num_warnings += 1
            context.notes.append("directives in the program can hide warnings: counted as one warning")
        return made

    def compiled_functions(self, context: BuildContext, source: bytes) -> list[CompiledFunction]:
        """See `BuiltSpec.compiled_functions`; none where undefined behaviour makes them another program."""
        if any(_UNDEFINED.search(note) for note in context.notes):
            return []
        return super().compiled_functions(context, source)

    def start_source(self) -> str | None:
        return START if "run" in self.stages else None  # and programs for Windows never run here

    def program_name(self) -> str:
        return "program" if self._windows() is None else "program.exe"

    def compile_command(self, compiler: str, source: str, target: str) -> list[str]:
        # The warnings come last, so that -Wno-all does not undo them; an option of one warning wins wherever it is.
        options = [f"-std={self.standard}", *self.flags, *_WARNINGS, *_MESSAGES, self._error_limit()]
        return [compiler, *options, "-c", source, "-o", target]

    def _error_limit(self) -> str:
        return "-ferror-limit=20" if "clang" in os.path.basename(self.compiler) else "-fmax-errors=20"

    def program_command(self, compiler: str, source: str, target: str) -> list[str]:
        compile_only = self.compile_command(compiler, source, target)
        return [*(word for word in compile_only if word != "-c"), *self._linker(), "-lm"]

    def link_command(self, compiler: str, objects: list[str], target: str) -> list[str]:
        return [
            compiler,
            *self.flags,
            *self._linker(),
            *objects,
            "-o",
            target,
            "-Wl,--allow-multiple-definition",
            "-lm",
        ]

    def _linker(self) -> list[str]:
        """Options that name gold where it is installed: it links a small program in half of the usual time."""
        named = any(flag.startswith("-fuse-ld=") for flag in self.flags)
        return [] if named or self._windows() or not _has_gold() else ["-fuse-ld=gold"]

    def version_command(self, compiler: str) -> list[str]:
        return [compiler, "--version"]

    def settings_in_force(self) -> dict[str, Any]:
        return {"standard": self.standard, "flags": [*_WARNINGS, *self.flags], "linker": self._linker()}

    def program_environment(self) -> dict[str, str]:
        # The leak check of AddressSanitizer traces its own process, which no sandbox allows.
        return {"ASAN_OPTIONS": "detect_leaks=0"} if self.needs_address_space() else {}

    def needs_address_space(self) -> bool:
        return any(flag.startswith("-fsanitize") for flag in self.flags)

    def install_packages(self, debian: str, fedora: str) -> str:
        """`install_hint` for the packages of the compiler in use."""
        install = f"Debian, Ubuntu: sudo apt-get install {debian}; Fedora: sudo dnf install {fedora}"
        return f"{install}; or set verifier.compiler"
