"""A language whose compiler makes objects of sources, and a linker a program of objects."""

from __future__ import annotations

import abc

from halo_forge.core.errors import ConfigError
from halo_forge.verifiers.checks import CompileOnly, Harness, Stdio, Tests
from halo_forge.verifiers.compiled.elf import CompiledFunction, functions
from halo_forge.verifiers.compiled.harness import compile_harness, link
from halo_forge.verifiers.context import BuildContext
from halo_forge.verifiers.stages import BuiltSpec

_CODE_SYMBOLS = frozenset("TtWi")


class CompiledSpec(BuiltSpec):
    """A language whose compiler makes objects of sources and a program of objects."""

    @abc.abstractmethod
    def compile_command(self, compiler: str, source: str, target: str) -> list[str]:
        """One translation unit to an object; `compiler` is an absolute path, the others are file names."""

    @abc.abstractmethod
    def link_command(self, compiler: str, objects: list[str], target: str) -> list[str]:
        """Objects to a program.  A symbol that two objects define is taken from the first."""

    def symbol_tool(self) -> str | None:
        """Which of `requires()` lists the symbols of an object as `nm -P` does; None where objects have none."""
        return None

    def start_source(self) -> str | None:
        """The source of the object that calls a harness; None where programs do not run, see `harness`."""
        return None

    def writes_sentinel(self) -> bool:
        return self.start_source() is not None

    def libraries(self) -> list[str]:
        """File names of the libraries that every program is linked with."""
        return []

    def program_name(self) -> str:
        """What the linker calls a program."""
        return "program"

    def program_command(self, compiler: str, source: str, target: str) -> list[str] | None:
        """A whole program of one source in one call, which is faster than two; None where it takes two."""
        return None

    def make_of_answer(self, context: BuildContext, source: bytes, command: list[str], target: str) -> bytes:
        """What a command of the above makes of an answer."""
        context.made_of_answer = context.make(command, {self.source_name("answer"): source}, target, True)
        return context.made_of_answer

    def compiled_functions(self, context: BuildContext, source: bytes) -> list[CompiledFunction]:
        """See `BuiltSpec.compiled_functions`; read from the object or program that was built anyway."""
        return functions(context.made_of_answer)

    def build(self, context: BuildContext, source: bytes, tests: Tests) -> bytes | None:
        """See `BuiltSpec.build`.

        The entry point `main` means a program, which is linked; any other is a function that the object must define.
        """
        name, program = self.source_name("answer"), self.program_name()
        only_compiled = isinstance(tests, CompileOnly)
        alone = isinstance(tests, Stdio) or (only_compiled and tests.entry_point == "main")
        at_once = self.program_command(context.compiler, name, program) if alone else None
        if at_once is not None:
            made = self.make_of_answer(context, source, at_once, program)
            return None if only_compiled else made
        answer = self.make_of_answer(
            context, source, self.compile_command(context.compiler, name, "answer.o"), "answer.o"
        )
        if isinstance(tests, CompileOnly) and not alone:
            if tests.entry_point is not None:
                _must_define(self, context, tests.entry_point, answer)
            return None
        if isinstance(tests, Harness):
            return link(self, context, tests.source, tests.entry_point, answer)
        linked = context.make(self.link_command(context.compiler, ["answer.o"], program), {"answer.o": answer}, program)
        return None if only_compiled else linked

    def check_tests(self, context: BuildContext, tests: Tests) -> None:
        """See `BuiltSpec.check_tests`."""
        if isinstance(tests, Harness):
            compile_harness(self, context, tests.source)
        if isinstance(tests, CompileOnly) and tests.entry_point not in (None, "main"):
            _symbol_tool(self, tests.entry_point)


def _symbol_tool(spec: CompiledSpec, entry_point: str | None) -> str:
    tool = spec.symbol_tool()
    if tool is None:
        raise ConfigError(
            f"tests of the kind compile name the function {entry_point!r}, but {spec.language!r} has no objects"
            " that could be searched for it",
            "leave `entry_point` out, or use a harness that calls the function",
        )
    return tool


def _must_define(spec: CompiledSpec, context: BuildContext, entry_point: str, answer: bytes) -> None:
    tool = context.tools[_symbol_tool(spec, entry_point)]
    listed = context.ask([tool, "-P", "--defined-only", "answer.o"], {"answer.o": answer})
    symbols = (line.split() for line in listed.splitlines())
    if not any(
        len(words) > 1 and words[1] in _CODE_SYMBOLS and spec.is_entry(words[0], entry_point) for words in symbols
    ):
        context.fail(f"the program does not define the function `{entry_point}`")
