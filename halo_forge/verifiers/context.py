"""What a language builds a program with: its tools in the sandbox, and a record of what they said and cost."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Mapping
from typing import Any, NoReturn, TypeVar, cast

from halo_forge.core.records import Stage, Status
from halo_forge.sandbox.job import Job, JobResult, Limits, Sandbox, SandboxError
from halo_forge.verifiers.diagnostics import ending, num_warnings, readable
from halo_forge.verifiers.single_flight import SingleFlight
from halo_forge.verifiers.spec import ProgramSpec

Value = TypeVar("Value")
STANDARD_PATH = "/usr/local/bin:/usr/bin:/bin"


class StageFailed(Exception):
    """A stage failed; the program goes no further."""

    def __init__(self, stage: Stage, status: Status) -> None:
        super().__init__(stage, status)
        self.stage = stage
        self.status = status


class ToolRunner:
    """Runs the tools of one language in a sandbox; used by many threads, each with a sandbox of its own.

    Args:
        tools: Name in `spec.requires()` -> absolute path.

    Attributes:
        compiler: The path of the first tool.
        env: What tools and programs find in their environment.
        cache: What is made once for all programs, such as compiled harnesses; see `BuildContext.once`.
    """

    def __init__(self, spec: ProgramSpec, tools: Mapping[str, str]) -> None:
        self._spec = spec
        self.tools = tools
        self.compiler = tools[spec.requires()[0]]
        self.env = {"LANG": "C.UTF-8", "PATH": f"{os.path.dirname(self.compiler)}:{STANDARD_PATH}"}
        self.limits = spec.compile_limits()
        self.cache: SingleFlight[Hashable, Any] = SingleFlight()

    def run(
        self,
        argv: list[str],
        files: Mapping[str, bytes],
        fetch: str | None,
        sandbox: Sandbox,
        limits: Limits | None = None,
    ) -> JobResult:
        """Run the compiler or one of its companions, by default under the limits of a compilation.

        Args:
            files: Name -> content of what is in its directory.
            fetch: The name of the file that is wanted of what it makes.

        Raises:
            SandboxError: It cannot be started, or the sandbox failed.
        """
        env = {**self.env, **self._spec.tool_environment()}
        job = Job(tuple(argv), self.limits if limits is None else limits, files, env=env, fetch=fetch)
        outcome = sandbox.run(job)
        if outcome.exec_error is not None:
            raise SandboxError(f"{argv[0]} cannot be started: {os.strerror(outcome.exec_error)}")
        return outcome


class BuildContext:
    """Runs tools in the sandbox for one program, and records their cost and output.

    Attributes:
        tools: Name in `requires()` -> absolute path.
        compiler: The path of the first.
        outcomes, notes: Of every command so far, in order; `notes` is text for the diagnostics.
        num_warnings: Warnings about the program.
        flags: Hack flags that making the program has shown.
        made_of_answer: The object or the program that the compiler made of it alone, in languages with objects.
    """

    def __init__(self, runner: ToolRunner, sandbox: Sandbox) -> None:
        self._runner = runner
        self._sandbox = sandbox
        self.tools = runner.tools
        self.compiler = runner.compiler
        self.outcomes: list[JobResult] = []
        self.notes: list[str] = []
        self.num_warnings = 0
        self.flags: set[str] = set()
        self.made_of_answer = b""

    @property
    def limits(self) -> Limits:
        """Those of a compilation."""
        return self._runner.limits

    def make(self, argv: list[str], files: Mapping[str, bytes], target: str, counted: bool = False) -> bytes:
        """The content of the file `target` that a tool makes of `files`.

        Args:
            counted: The warnings that it prints are about the program.

        Raises:
            StageFailed: It fails, or leaves no such file.
            SandboxError: The verifier itself failed.
        """
        outcome = self.run(argv, files, target)
        # Go's compiler prints its errors to standard output.
        said = readable(outcome.stdout + outcome.stderr)
        self._note(outcome, said)
        if counted:
            self.num_warnings += num_warnings(said)
        self.require_clean(outcome, "compile", f"the compiler (making {target})", self._runner.limits)
        if outcome.fetched is None:
            self.fail(f"the compiler produced no {target}")
        return outcome.fetched

    def ask(self, argv: list[str], files: Mapping[str, bytes]) -> str:
        """What a tool prints about `files`.

        Raises:
            StageFailed: It fails.
            SandboxError: The verifier itself failed.
        """
        outcome = self.run(argv, files, None)
        self._note(outcome, readable(outcome.stderr))
        self.require_clean(outcome, "compile", argv[0], self._runner.limits)
        return readable(outcome.stdout)

    def run(
        self, argv: list[str], files: Mapping[str, bytes], target: str | None, limits: Limits | None = None
    ) -> JobResult:
        """Run a tool whose work is not about the program: it is neither noted nor counted.

        Args:
            limits: Others than those of a compilation.

        Raises:
            SandboxError: It cannot be started, or the sandbox failed.
        """
        return self._runner.run(argv, files, target, self._sandbox, limits)

    def inspect(self, argv: list[str], files: Mapping[str, bytes], target: str | None) -> JobResult:
        """Run a tool that takes another look at a program that compiles: it counts towards the program's cost, and what
        it says is not part of the diagnostics.

        Raises:
            SandboxError: It cannot be started, or the sandbox failed.
        """
        outcome = self.run(argv, files, target)
        self.outcomes.append(outcome)
        return outcome

    def once(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """What `make` returned for the first program that asked with this key."""
        return cast(Value, self._runner.cache.get(key, make)[0])

    def fail(self, note: str) -> NoReturn:
        """Fail the compile stage, for a reason that no tool reported."""
        self.notes.append(note)
        raise StageFailed("compile", "failed")

    def require_clean(self, outcome: JobResult, stage: Stage, who: str, limits: Limits) -> None:
        """Raises StageFailed unless the command succeeded."""
        if outcome.clean:
            return
        if outcome.exit_code is None or stage != "compile" or not (outcome.stdout or outcome.stderr):
            self.notes.append(f"{who}: {ending(outcome, limits)}")
        raise StageFailed(stage, status_of(outcome))

    def _note(self, outcome: JobResult, said: str) -> None:
        self.outcomes.append(outcome)
        self.notes.append(said)


def status_of(outcome: JobResult) -> Status:
    """The status of a stage whose last command failed."""
    if outcome.timed_out is not None:
        return "timeout"
    return "out_of_memory" if outcome.out_of_memory else "failed"
