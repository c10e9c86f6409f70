"""Verifiers: what is a completion worth, found out by compiling it, running it and comparing what it prints.

How to add a compiled language: one file, `verifiers/languages/<language>.py`, with one class

    class Spec(CompiledSpec):
        kind: Literal["zig"] = "zig"        # also the language that fences and prompts name
        compiler: str = "zig"

        def requires(self): ...             # the tools it starts, found before any generation
        def install_hint(self): ...         # how people get them
        def source_name(self, ...): ...     # what the answer's file is called, as diagnostics show it
        def compile_command(self, ...): ... # one translation unit to an object
        def link_command(self, ...): ...    # objects to a program
        def version_command(self): ...
        def controls(self): ...             # a program that must pass and one that must not compile

Everything else is shared: settings and limits (`spec`), stages (`stages`), kinds of tests (`checks`), rewards
(`rewards`), threads, retries and duplicates (`verifier`), and the check of the tools before the run (`preflight`).
A language without objects and a linker derives from `BuiltSpec` and says in `build` how a program is made with a
`BuildContext` (`context`; `rust` and `go` do).  One that goes another way still derives from `ProgramSpec` and brings
its own `Checker` (`checker`).

A verifier never lets its own failure look like a wrong answer: it is retried once on a fresh launcher, and then its
verdict has the status "error", which no rate counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, Self

from halo_forge.core.records import Completion, Prompt, Verdict


class VerifierSpec(Protocol):
    """The settings of a verifier, as the configuration holds them."""

    @property
    def max_error_fraction(self) -> float:
        """The share of verdicts with status "error" above which a run stops."""

    @property
    def rerun_kept(self) -> bool:
        """Whether samples that were selected for training are run once more first."""

    def requires(self) -> list[str]:
        """The tools that must be there."""

    def max_reward(self, has_tests: bool) -> float:
        """The reward of full success for a prompt with or without tests."""

    def open(self) -> Verifier:
        """A verifier with these settings, to be used in a `with` statement."""


class Verifier(Protocol):
    """Checks completions in the background and hands out verdicts in order."""

    def __enter__(self) -> Self:
        """Check that the tools work, by programs whose verdict is known.

        Raises:
            ToolMissing: A tool is not there, or does not do its work under the configured limits.
        """

    def __exit__(self, *details: object) -> None:
        """`close`."""

    def toolchain(self) -> dict[str, Any]:
        """Compiler, version and isolation level: the same on every call, for the run's record."""

    def check_prompts(self, prompts: Sequence[Prompt]) -> None:
        """Find prompts whose tests cannot work, before anything is generated.

        Raises:
            ConfigError: A prompt's tests or language are not ours, or its harness does not compile.
        """

    def submit(self, prompt: Prompt, completion: Completion) -> None:
        """Start to check a completion in the background; does not wait.

        Raises:
            ConfigError: The prompt's tests or language are not ours.
        """

    def verify(self, pairs: Sequence[tuple[Prompt, Completion]]) -> Iterator[Verdict]:
        """The verdicts in the order of `pairs`; what was submitted before is not checked again.

        Raises:
            ConfigError: A prompt's tests or language are not ours, or its harness does not compile.
        """

    def verify_again(self, pairs: Sequence[tuple[Prompt, Completion]]) -> Iterator[Verdict]:
        """The same as `verify`, but every program is run anew, whatever was found out about it before."""

    def close(self) -> None:
        """End all that is running, at once."""
