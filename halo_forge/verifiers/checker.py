"""The interface between the threads that check completions and what a language checks them with."""

from __future__ import annotations

from typing import Protocol

from halo_forge.core.records import CheckResult
from halo_forge.sandbox.job import JobResult, Sandbox
from halo_forge.verifiers.checks import Tests


class Checker(Protocol):
    """Checks programs of one language with one set of settings; used by many threads, each with its own sandbox."""

    def version(self, sandbox: Sandbox) -> JobResult:
        """Run what prints the tool's name and version in its first line.

        Raises:
            SandboxError: It cannot be started, or the sandbox failed.
        """

    def prepare(self, tests: Tests, sandbox: Sandbox) -> None:
        """Find out, before there is any answer, whether `tests` can work; called once for equal tests.

        Raises:
            SandboxError: The verifier itself failed.
            ConfigError: They are of a kind this language does not have, or do not work by themselves.
        """

    def check(self, source: str, tests: Tests, sandbox: Sandbox) -> CheckResult:
        """What the stages show about one program.

        Raises:
            SandboxError: The verifier failed; nothing is known about the program.
            ConfigError: The tests do not work by themselves.
        """
