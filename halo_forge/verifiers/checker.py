"""Between the threads that check completions and the language that knows how."""

from __future__ import annotations

from typing import Protocol

from halo_forge.core.records import CheckResult
from halo_forge.sandbox.job import Outcome, Sandbox
from halo_forge.verifiers.checks import Tests


class Checker(Protocol):
    """Checks programs of one language with one set of settings; used by many threads, each with its own sandbox."""

    def version(self, sandbox: Sandbox) -> Outcome:
        """Run what prints the tool's name and version in its first line.

        Raises:
            SandboxError: It cannot be started, or the sandbox failed.
        """

    def prepare(self, tests: Tests, sandbox: Sandbox) -> None:
        """Find out, before any answer is there, whether `tests` can work; equal ones are looked at once.

        Raises:
            SandboxError: Our own failure.
            ConfigError: They are of a kind this language does not have, or do not work by themselves.
        """

    def check(self, source: str, tests: Tests, sandbox: Sandbox) -> CheckResult:
        """What the stages show about one program.

        Raises:
            SandboxError: Our own failure; nothing is known about the program.
            ConfigError: The tests do not work by themselves.
        """
