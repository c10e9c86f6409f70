"""Rust, by plain rustc: one file, the standard library and nothing else, so that nothing is fetched or built first."""

from __future__ import annotations

import functools
import os
import re
import subprocess
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator

from halo_forge.core.errors import ConfigError
from halo_forge.verifiers.checker import Checker
from halo_forge.verifiers.checks import CompileOnly, Harness, Tests
from halo_forge.verifiers.comparison import encoded
from halo_forge.verifiers.compiled.elf import CompiledFunction, functions
from halo_forge.verifiers.compiled.functions import defines_function
from halo_forge.verifiers.compiled.harness import harness_error
from halo_forge.verifiers.compiled.rust_source import harness_bypass, strip_literals
from halo_forge.verifiers.context import BuildContext
from halo_forge.verifiers.diagnostics import clip, readable
from halo_forge.verifiers.spec import Controls
from halo_forge.verifiers.stages import BuiltSpec

# Dead code is not a fault of an answer: a function that only the tests call, a demonstration.
_MESSAGES = ["--error-format=short", "--color=never", "-Adead_code"]
_CODE = ["-Ccodegen-units=1", "-Cstrip=symbols"]
# The harness is a module inside the answer's crate, as unit tests are: so it sees functions that are not `pub`.  It
# stands before the answer, which is parsed as a file of its own: no open comment or attribute at its end reaches the
# harness, and no macro of its own does.  What it calls by a name of the prelude stays the prelude's.
_CRATE = """
#[allow(warnings)]
#[path = "harness.rs"]
pub mod halo_forge_harness;
include!("answer.rs");
"""
_HARNESS_END = """
#[allow(unused_imports)]
use super::*;
#[allow(unused_imports)]
use std::prelude::v1::*;
pub fn halo_forge_start() -> impl std::process::Termination { main() }
"""
# Reads the sentinel before any code of the answer runs, and prints it when the harness has returned; no handler of the
# answer runs after that.  The sentinel is withheld if standard output has changed.
_MAIN = b"""use std::fs::File;
use std::io::{Read, Write};
use std::mem::ManuallyDrop;
use std::os::unix::fs::MetadataExt;
use std::os::unix::io::FromRawFd;
use std::process::{ExitCode, Termination};
extern "C" {
    fn _exit(code: i32) -> !;
}
fn output() -> Option<(u64, u64)> {
    let found = ManuallyDrop::new(unsafe { File::from_raw_fd(1) }).metadata().ok()?;
    Some((found.dev(), found.ino()))
}
fn main() -> ExitCode {
    let mut given = unsafe { File::from_raw_fd(0) };
    let mut sentinel = Vec::new();
    given.read_to_end(&mut sentinel).unwrap();
    given.set_len(0).unwrap();
    let before = output();
    let code = answer::halo_forge_harness::halo_forge_start().report();
    std::io::stdout().flush().unwrap();
    if format!("{:?}", code) != format!("{:?}", ExitCode::SUCCESS) {
        return code;
    }
    let mut written = unsafe { File::from_raw_fd(1) };
    if before.is_some() && before == output() {
        written.write_all(&sentinel).unwrap();
    }
    unsafe { _exit(0) }
}
"""
# What belongs to the crate as a whole stands first in its first file; comments may be between.
_CRATE_ATTRIBUTES = re.compile(
    rb"\A(?:\xef\xbb\xbf)?(?:\s|//[^\n]*(?:\n|\Z)|/\*(?:[^*/]|\*(?!/)|/(?!\*))*\*/|#!\[[^\]\n]*\])*"
)
_ATTRIBUTE = re.compile(rb"^[ \t]*(#!\[[^\]\n]*\])", re.MULTILINE)
# What the completion may redeclare for the harness, as it may nothing of the prelude: the language's own types have
# no place there.
_PRIMITIVES = frozenset("bool char f32 f64 i8 i16 i32 i64 i128 isize str u8 u16 u32 u64 u128 usize".split())
_OWN_NAME = re.compile(r"\b(?:use\b[^;]*;|(?:struct|enum|union|type|trait|mod)\s+\w+)")
_ENTRY_MODULE = "\n#[allow(warnings)]\nmod halo_forge_entry {{ use super::{name} as _entry; }}\n"
# A harness compiled without an answer fails with these (undefined names) only.
_UNKNOWN_NAME = re.compile(r"error\[E0(?:405|412|422|423|424|425|432|433|531|532|574)\]")
_HARNESS_ERROR = re.compile(r"^harness\.rs:\d+:\d+: error.*", re.MULTILINE)


class Spec(BuiltSpec):
    """The answer is one Rust crate in one file.

    Attributes:
        compiler: Name or path; of rustup's, the toolchain that it stands for is used.
        edition: For --edition.
        flags: More options for rustc.
    """

    kind: Literal["rust"] = "rust"
    compiler: str = Field(default="rustc", min_length=1)
    edition: Literal[2015, 2018, 2021, 2024] = 2021
    flags: list[str] = Field(default_factory=lambda: ["-Copt-level=1"])
    compile_timeout_seconds: float = Field(default=20.0, gt=0.0, le=3600.0)

    @field_validator("flags")
    @classmethod
    def _warnings_stay(cls, flags: list[str]) -> list[str]:
        words = " ".join(flags).replace("-A ", "-A").replace("--allow ", "--allow=").replace("--allow=", "-A")
        if "-Awarnings" in words or "--cap-lints" in words:
            raise ValueError(f"{flags} silences every warning, so that `rewards.compiles_with_warnings` is never given")
        return flags

    def requires(self) -> list[str]:
        return [self.compiler, "cc"]

    def install_hint(self) -> str:
        return (
            "Debian, Ubuntu: sudo apt-get install rustc gcc libc6-dev; Fedora: sudo dnf install rust gcc;"
            " or rustup (https://rustup.rs) and a C compiler as linker (in root's home it is out of reach for programs"
            " at isolation levels other than namespace); or set verifier.compiler"
        )

    def source_name(self, stem: str) -> str:
        return f"{stem}.rs"

    def version_command(self, compiler: str) -> list[str]:
        return [compiler, "--version"]

    def settings_in_force(self) -> dict[str, Any]:
        return {"edition": self.edition, "flags": list(self.flags)}

    def checker(self, tools: Mapping[str, str]) -> Checker:
        return super().checker({**tools, self.compiler: resolve_rustup(tools[self.compiler])})

    def read_only_paths(self, tools: Mapping[str, str]) -> list[str]:
        return super().read_only_paths({**tools, self.compiler: resolve_rustup(tools[self.compiler])})

    def writes_sentinel(self) -> bool:
        return True

    def compiled_functions(self, context: BuildContext, source: bytes) -> list[CompiledFunction]:
        """See `BuiltSpec.compiled_functions`; compiles once more, keeping functions that nothing calls."""
        options = ["--emit=obj", "-Copt-level=2", "-Clink-dead-code", "-Csymbol-mangling-version=v0"]
        command = [*self._command(context, "answer.rs", "lib", "answer.o"), *options]
        outcome = context.inspect(command, {"answer.rs": source}, "answer.o")
        return [] if outcome.fetched is None else functions(outcome.fetched)

    def is_entry(self, symbol: str, entry_point: str) -> bool:
        """See `BuiltSpec.is_entry`; only functions at the root of the crate are recognised."""
        name = rf"{len(entry_point)}_?{re.escape(entry_point)}"
        return re.fullmatch(rf"_RNvC\w*6answer{name}(?:B\w+)?", symbol) is not None

    def build(self, context: BuildContext, source: bytes, tests: Tests) -> bytes | None:
        """See `BuiltSpec.build`; the answer is the root of its crate, whatever it is compiled for."""
        if isinstance(tests, Harness):
            return self._with_harness(context, source, tests.source)
        if isinstance(tests, CompileOnly) and tests.entry_point != "main":
            self._object(context, source, tests.entry_point)
            return None
        command = self._command(context, "answer.rs", "bin", "program")
        program = context.make(command, {"answer.rs": source}, "program", True)
        return None if isinstance(tests, CompileOnly) else program

    def _command(self, context: BuildContext, source: str, crate: str, target: str) -> list[str]:
        name = "main" if source == "main.rs" else "answer"
        options = ["--edition", str(self.edition), *_MESSAGES, *_CODE, *self.flags, f"-Clinker={context.tools['cc']}"]
        return [context.compiler, *options, "--crate-name", name, "--crate-type", crate, source, "-o", target]

    def _with_harness(self, context: BuildContext, source: bytes, harness: str) -> bytes:
        files = _crate(source, harness)
        library = context.make(
            self._command(context, "crate.rs", "rlib", "libanswer.rlib"), files, "libanswer.rlib", True
        )
        around = harness_bypass(source.decode("utf-8", errors="backslashreplace"))
        if around is not None:
            context.flags.add("tampering")
            context.fail(f"the program bypasses the harness: {around}")
        command = [*self._command(context, "main.rs", "bin", "program"), "--extern", "answer=libanswer.rlib"]
        return context.make(command, {"main.rs": _MAIN, "libanswer.rlib": library}, "program")

    def _object(self, context: BuildContext, source: bytes, entry_point: str | None) -> None:
        named = b"" if entry_point is None else encoded(_ENTRY_MODULE.format(name=entry_point))
        command = [*self._command(context, "answer.rs", "lib", "answer.o"), "--emit=obj"]
        context.make(command, {"answer.rs": source + named}, "answer.o", True)
        if entry_point is not None and not defines_function(source, "fn", entry_point.rpartition("::")[2]):
            context.fail(f"the program does not define the function `{entry_point}`")

    def check_tests(self, context: BuildContext, tests: Tests) -> None:
        """See `BuiltSpec.check_tests`: without an answer a harness may have undefined names, but no other error."""
        if isinstance(tests, CompileOnly) and tests.entry_point is not None:
            if re.fullmatch(r"(?:\w+::)*[^\W\d]\w*", tests.entry_point) is None:
                raise ConfigError(
                    f"tests of the kind compile: entry_point {tests.entry_point!r} is not a function name",
                    "write it as Rust does: `name`, or `module::name`",
                )
        if not isinstance(tests, Harness):
            return
        files = _crate(b"", tests.source)
        outcome = context.run(self._command(context, "crate.rs", "rlib", "libanswer.rlib"), files, None)
        errors = _HARNESS_ERROR.findall(readable(outcome.stderr))
        wrong = [error for error in errors if _UNKNOWN_NAME.search(error) is None]
        if wrong:
            raise harness_error(clip("\n".join(wrong)), tests.source)

    def controls(self) -> Controls:
        return Controls(
            passing="use std::io::{self, Read};\n\nfn main() {\n    let mut text = String::new();\n"
            "    io::stdin().read_to_string(&mut text).unwrap();\n"
            "    let sum: i64 = text.split_whitespace().map(|word| word.parse::<i64>().unwrap()).sum();\n"
            '    println!("{}", sum);\n}\n',
            broken="fn main() { not_declared_anywhere(); }\n",
        )


@functools.cache
def resolve_rustup(compiler: str) -> str:
    """The compiler that a rustup proxy would start; any other path unchanged.

    The proxy reads settings in the user's home directory, which no job may see.
    """
    if os.path.basename(os.path.realpath(compiler)) != "rustup":
        return compiler
    asked = subprocess.run([compiler, "--print", "sysroot"], capture_output=True, text=True, timeout=60, check=False)
    found = os.path.join(asked.stdout.strip(), "bin", "rustc")
    return found if asked.returncode == 0 and os.path.exists(found) else compiler


def _crate(source: bytes, harness: str) -> dict[str, bytes]:
    """The files of a crate: its root, the answer, and the harness."""
    header = _CRATE_ATTRIBUTES.match(source)
    assert header is not None, "the pattern matches nothing too"
    attributes = _ATTRIBUTE.findall(header[0])
    # Blanks keep the numbers of lines and columns.
    blank = re.sub(rb"[^\n]", b" ", header[0])
    return {
        "crate.rs": b"\n".join(attributes) + encoded(_CRATE),
        "answer.rs": blank + source[header.end() :],
        "harness.rs": encoded(harness + _HARNESS_END + _primitives(harness)),
    }


def _primitives(harness: str) -> str:
    """Imports of the primitive types that a harness names, but for those that it gives another meaning itself."""
    code = strip_literals(harness)
    own = {word for found in _OWN_NAME.findall(code) for word in re.findall(r"\w+", found)}
    named = sorted(_PRIMITIVES & set(re.findall(r"\w+", code)) - own)
    return f"#[allow(unused_imports)]\nuse ::std::primitive::{{{', '.join(named)}}};\n" if named else ""
