"""Verifiers: what a completion is worth, found by compiling it, running it and comparing what it prints.

To add a compiled language, read `languages/c.py` and `compiled/spec.py`, then write one file,
`languages/<language>.py`, with one class:

    class Spec(CompiledSpec):
        kind: Literal["zig"] = "zig"        # also the language that fences and prompts name
        compiler: str = "zig"

        def requires(self): ...             # the tools it starts, looked up before any generation
        def install_hint(self): ...         # how to install them
        def source_name(self, ...): ...     # the file name of an answer, as diagnostics show it
        def compile_command(self, ...): ... # one translation unit to an object
        def link_command(self, ...): ...    # objects to a program
        def version_command(self, compiler): ...
        def controls(self): ...             # a program that must pass and one that must not compile

For a language without objects and a linker of its own (Rust and Go here, Kotlin if it were), read `stages.py` and
`languages/go.py`: it derives from `BuiltSpec` and makes its program in `build`, with a `BuildContext`.  One that needs
other stages derives from `ProgramSpec` and brings its own `Checker`.

What is shared:

    spec           settings and limits                    verifier       threads, retries, duplicates, verdicts
    checks         the kinds of tests                     preflight      do the tools work, before a run
    stages         compile, run, tests                    rewards        from a result to a reward
    context        what a `build` works with              toolchain      where tools and caches live
    languages/     one file for each kind, nothing else   compiled/      objects, linking, harnesses
    python/        tests in a second process              command/       a checker of the user's own
    hacks/         signs of reward hacking

A failure of the verifier itself never looks like a wrong answer: it is retried once with a fresh launcher, and then the
verdict has the status "error", which no rate counts.
"""

from __future__ import annotations

from halo_forge.verifiers.compiled.spec import CompiledSpec
from halo_forge.verifiers.context import BuildContext
from halo_forge.verifiers.rewards import Rewards
from halo_forge.verifiers.spec import Controls, ProgramSpec
from halo_forge.verifiers.stages import BuiltSpec
from halo_forge.verifiers.verifier import Verifier, open_verifier

__all__ = [
    "BuildContext",
    "BuiltSpec",
    "CompiledSpec",
    "Controls",
    "ProgramSpec",
    "Rewards",
    "Verifier",
    "open_verifier",
]
