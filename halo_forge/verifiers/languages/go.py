"""Go, by the compiler and the linker behind `go build`: one package, the standard library and nothing else."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from halo_forge.sandbox.job import SandboxError
from halo_forge.verifiers.checker import Checker
from halo_forge.verifiers.checks import CompileOnly, Harness, Tests
from halo_forge.verifiers.comparison import encoded
from halo_forge.verifiers.compiled.elf import CompiledFunction
from halo_forge.verifiers.compiled.functions import defines_function
from halo_forge.verifiers.compiled.go_library import Library, library
from halo_forge.verifiers.compiled.harness import harness_error
from halo_forge.verifiers.context import BuildContext
from halo_forge.verifiers.diagnostics import clip, readable
from halo_forge.verifiers.spec import Controls
from halo_forge.verifiers.stages import BuiltSpec

# A `main` in the answer, which would clash with the harness's.
_OWN_MAIN = re.compile(rb"^([ \t]*func[ \t]+)main([ \t]*\()", re.MULTILINE)
# The runtime's threads follow the machine's cores, and count as processes of the job.
_FEW_THREADS = {"GOMAXPROCS": "2"}
# What Go declares for every file, and an answer might redeclare under the harness.
_PREDECLARED = frozenset(
    "any bool byte comparable complex64 complex128 error float32 float64 int int8 int16 int32 int64 rune string uint"
    " uint8 uint16 uint32 uint64 uintptr true false iota nil append cap clear close complex copy delete imag len make"
    " max min new panic print println real recover".split()
)
# A package is initialised before the one that imports it, so this reads the sentinel before code of the answer runs.
# Its import path is random, so no answer can import it.  The sentinel is withheld if standard output has changed.
_SENTINEL = b"""package sentinel

import (
	"os"
	"syscall"
)

var sentinel [64]byte
var length int
var stream = os.Stdout
var file syscall.Stat_t

func init() {
	syscall.Fstat(1, &file)
	length, _ = syscall.Read(0, sentinel[:])
	syscall.Ftruncate(0, 0)
	syscall.Seek(0, 0, 0)
}

func Write() {
	var now syscall.Stat_t
	same := os.Stdout == stream && stream.Fd() == 1 && syscall.Fstat(1, &now) == nil
	if same && now.Dev == file.Dev && now.Ino == file.Ino {
		syscall.Write(1, sentinel[:length])
	}
	syscall.Exit(0)
}
"""
# The output of `go tool compile -S`: a function, bytes of its machine code, and what the linker puts at an offset.
_LISTED_FUNCTION = re.compile(r"^main\.(\S+) STEXT .*\n((?:\t.*\n)*)", re.MULTILINE)
_LISTED_CODE = re.compile(r"^\t0x[0-9a-f]{4,} ((?:[0-9a-f]{2} )+)", re.MULTILINE)
_LISTED_RELOCATION = re.compile(r"^\trel (\d+)\+\d+ t=\S+ (\S+)\+", re.MULTILINE)
_MACHINES = {"x86_64": 62, "aarch64": 183}
_HARNESS_ERROR = re.compile(r"^(?:\./)?harness\.go:\d+:.*", re.MULTILINE)


class Spec(BuiltSpec):
    """The answer is one file of package main.

    Attributes:
        compiler: Name or path of the command `go`.
        compile_flags, link_flags: More options for `go tool compile` and `go tool link`.
    """

    kind: Literal["go"] = "go"
    compiler: str = Field(default="go", min_length=1)
    compile_flags: list[str] = Field(default_factory=list)
    link_flags: list[str] = Field(default_factory=lambda: ["-s", "-w"])
    compile_timeout_seconds: float = Field(default=20.0, gt=0.0, le=3600.0)

    def requires(self) -> list[str]:
        return [self.compiler]

    def install_hint(self) -> str:
        return (
            "Debian, Ubuntu: sudo apt-get install golang-go; Fedora: sudo dnf install golang; or set verifier.compiler"
        )

    def source_name(self, stem: str) -> str:
        return f"{stem}.go"

    def version_command(self, compiler: str) -> list[str]:
        return [compiler, "version"]

    def settings_in_force(self) -> dict[str, Any]:
        return {"compile_flags": list(self.compile_flags), "link_flags": list(self.link_flags)}

    def needs_address_space(self) -> bool:
        return True  # Go reserves its heap's address space at the start

    def tool_environment(self) -> dict[str, str]:
        return {"GOTOOLCHAIN": "local", "GOENV": "off", "CGO_ENABLED": "0", **_FEW_THREADS}

    def program_environment(self) -> dict[str, str]:
        return dict(_FEW_THREADS)

    def checker(self, tools: Mapping[str, str]) -> Checker:
        self._library(tools)  # made now, where a failure is a missing tool and not a wrong answer
        return super().checker(tools)

    def read_only_paths(self, tools: Mapping[str, str]) -> list[str]:
        found = self._library(tools)
        return sorted({*super().read_only_paths(tools), found.root, str(found.directory)})

    def _library(self, tools: Mapping[str, str]) -> Library:
        return library(tools[self.compiler], self.install_hint())

    def writes_sentinel(self) -> bool:
        return True

    def compiled_functions(self, context: BuildContext, source: bytes) -> list[CompiledFunction]:
        """See `BuiltSpec.compiled_functions`; compiles once more, for a listing of the machine code."""
        files = {"answer.go": source}
        command = self._compile_command(context, files)
        outcome = context.inspect([command[0], "-S", *command[1:]], files, None)
        if not outcome.clean:  # a listing that was cut decides nothing
            return []
        machine = _MACHINES.get(os.uname().machine, 0)
        return [
            CompiledFunction(
                name,
                machine,
                memoryview(bytes.fromhex("".join(_LISTED_CODE.findall(lines)))),
                0,
                {int(offset): symbol for offset, symbol in _LISTED_RELOCATION.findall(lines)},
            )
            for name, lines in _LISTED_FUNCTION.findall(outcome.stdout.decode("utf-8", errors="replace"))
        ]

    def is_entry(self, symbol: str, entry_point: str) -> bool:
        """See `BuiltSpec.is_entry`."""
        return symbol == entry_point or (entry_point == "main" and symbol.startswith("init"))

    def build(self, context: BuildContext, source: bytes, tests: Tests) -> bytes | None:
        """See `BuiltSpec.build`."""
        if isinstance(tests, Harness):
            return self._with_harness(context, source, tests)
        files = {"answer.go": source}
        answer = context.make(self._compile_command(context, files), files, "answer.o", True)
        if isinstance(tests, CompileOnly) and tests.entry_point != "main":
            if tests.entry_point is not None and not defines_function(source, "func", tests.entry_point):
                context.fail(f"the program does not define the function `{tests.entry_point}`")
            return None
        program = self._link(context, {"answer.o": answer})
        return None if isinstance(tests, CompileOnly) else program

    def _compile_command(self, context: BuildContext, files: Mapping[str, bytes], imports: str = "") -> list[str]:
        found = self._library(context.tools)
        if not os.path.exists(found.import_list):
            raise SandboxError(f"{found.import_list} has been removed, and the compiled standard library of Go with it")
        options = ["-p", "main", "-complete", "-pack", "-c", "1", "-importcfg", imports or found.import_list]
        return [found.compiler, *options, *self.compile_flags, "-o", "answer.o", *files]

    def _link(self, context: BuildContext, objects: Mapping[str, bytes], imports: str = "") -> bytes:
        found = self._library(context.tools)
        command = [found.linker, "-importcfg", imports or found.import_list, "-buildmode=exe", *self.link_flags]
        return context.make([*command, "-o", "program", "answer.o"], objects, "program")

    def _with_harness(self, context: BuildContext, source: bytes, tests: Harness) -> bytes:
        command, files, beside = self._harness_job(context, tests, source)
        answer = context.make(command, {**files, **beside}, "answer.o", True)
        return self._link(context, {"answer.o": answer, **beside}, "imports")

    def _harness_job(
        self, context: BuildContext, tests: Harness, source: bytes | None
    ) -> tuple[list[str], dict[str, bytes], dict[str, bytes]]:
        """How a harness is compiled with an answer, or alone: the command, its sources, and the files beside them."""
        name, package = context.once("sentinel", lambda: self._sentinel_package(context))
        imports = Path(self._library(context.tools).import_list).read_bytes()
        main = f"halo_forge_{name}"
        files = {
            "harness.go": _OWN_MAIN.sub(rb"\1%s\2" % main.encode(), encoded(tests.source)),
            "main.go": encoded(_main(name, main, tests)),
        }
        if source is not None:
            files = {"answer.go": _OWN_MAIN.sub(rb"\1halo_forge_main\2", source), **files}
        beside = {"imports": imports + f"packagefile {name}=sentinel.o\n".encode(), "sentinel.o": package}
        return self._compile_command(context, files, "imports"), files, beside

    def _sentinel_package(self, context: BuildContext) -> tuple[str, bytes]:
        """The import path of the package in `_SENTINEL`, and the compiled package."""
        name = f"sentinel{secrets.token_hex(16)}"
        command = self._compile_command(context, {"sentinel.go": _SENTINEL})
        command[command.index("main")] = name
        outcome = context.run(command, {"sentinel.go": _SENTINEL}, "answer.o")
        if not outcome.clean or outcome.fetched is None:
            said = readable(outcome.stdout + outcome.stderr)
            raise SandboxError(f"{self.compiler} cannot compile the start-up code of a harness: {said[-500:]}")
        return name, outcome.fetched

    def check_tests(self, context: BuildContext, tests: Tests) -> None:
        """See `BuiltSpec.check_tests`: without an answer a harness may have undefined names, but no other error."""
        if not isinstance(tests, Harness):
            return
        command, files, beside = self._harness_job(context, tests, None)
        outcome = context.run([command[0], "-e", *command[1:]], {**files, **beside}, None)
        errors = _HARNESS_ERROR.findall(readable(outcome.stdout + outcome.stderr))
        wrong = [error for error in errors if "undefined: " not in error]
        if wrong:
            raise harness_error(clip("\n".join(wrong)), tests.source)

    def controls(self) -> Controls:
        return Controls(
            passing='package main\n\nimport (\n\t"bufio"\n\t"fmt"\n\t"os"\n)\n\nfunc main() {\n'
            "\treader := bufio.NewReader(os.Stdin)\n\tvar a, b int\n\tfmt.Fscan(reader, &a, &b)\n"
            "\tfmt.Println(a + b)\n}\n",
            broken="package main\n\nfunc main() {\n\tnotDeclaredAnywhere()\n}\n",
        )


def _main(name: str, main: str, tests: Harness) -> str:
    """The file with the program's `main`.

    No name may stand for an import of one file and for something of the whole package: so nothing of the answer has a
    predeclared name that the harness uses.
    """
    words = set(re.findall(r"\w+", tests.source))
    kept = sorted((_PREDECLARED & words) - {tests.entry})
    imports = "".join(f'import {each} "unsafe"\n' for each in kept)
    uses = "".join(f"var _ {each}.Pointer\n" for each in kept)
    return f'package main\n\nimport {name} "{name}"\n{imports}\n{uses}\nfunc main() {{ {main}(); {name}.Write() }}\n'
