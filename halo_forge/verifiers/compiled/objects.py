"""How a language with objects and a linker makes a program: the answer and the harness each alone, then together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from halo_forge.core.errors import ConfigError
from halo_forge.verifiers.checks import CompileOnly, Harness, Stdio, Tests
from halo_forge.verifiers.compiled.harness import compile_harness, link
from halo_forge.verifiers.context import BuildContext

if TYPE_CHECKING:
    from halo_forge.verifiers.spec import CompiledSpec

_CODE_SYMBOLS = frozenset("TtWi")


def build(spec: CompiledSpec, context: BuildContext, source: bytes, tests: Tests) -> bytes | None:
    """See `BuiltSpec.build`.

    The entry point `main` names a program, which is linked; any other names a function, which an object is to define.
    """
    name, program = spec.source_name("answer"), spec.program_name()
    only_compiled = isinstance(tests, CompileOnly)
    alone = isinstance(tests, Stdio) or (only_compiled and tests.entry_point == "main")
    at_once = spec.program_command(context.compiler, name, program) if alone else None
    if at_once is not None:
        made = spec.make_of_answer(context, source, at_once, program)
        return None if only_compiled else made
    answer = spec.make_of_answer(context, source, spec.compile_command(context.compiler, name, "answer.o"), "answer.o")
    if isinstance(tests, CompileOnly) and not alone:
        if tests.entry_point is not None:
            _must_define(spec, context, tests.entry_point, answer)
        return None
    if isinstance(tests, Harness):
        return link(spec, context, tests.source, tests.entry_point, answer)
    linked = context.make(spec.link_command(context.compiler, ["answer.o"], program), {"answer.o": answer}, program)
    return None if only_compiled else linked


def check_tests(spec: CompiledSpec, context: BuildContext, tests: Tests) -> None:
    """See `BuiltSpec.check_tests`."""
    if isinstance(tests, Harness):
        compile_harness(spec, context, tests.source)
    if isinstance(tests, CompileOnly) and tests.entry_point not in (None, "main"):
        _symbol_tool(spec, tests.entry_point)


def _symbol_tool(spec: CompiledSpec, entry_point: str | None) -> str:
    tool = spec.symbol_tool()
    if tool is None:
        raise ConfigError(
            f"tests of the kind compile name the function {entry_point!r}, but {spec.language!r} has no objects that"
            " could be searched for it",
            "leave `entry_point` out of such tests, or give them a harness that calls the function",
        )
    return tool


def _must_define(spec: CompiledSpec, context: BuildContext, entry_point: str, answer: bytes) -> None:
    tool = context.tools[_symbol_tool(spec, entry_point)]
    listed = context.ask([tool, "-P", "--defined-only", "answer.o"], {"answer.o": answer})
    symbols = (line.split() for line in listed.splitlines())
    if not any(
        len(words) > 1 and words[1] in _CODE_SYMBOLS and spec.is_entry(words[0], entry_point) for words in symbols
    ):
        context.fail(f"the answer does not define the function `{entry_point}`")
