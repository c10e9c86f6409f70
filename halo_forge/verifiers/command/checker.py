"""Runs the user's command, and accepts its reply only if it follows the protocol in `languages/command.py`."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from halo_forge.core.errors import ConfigError, ToolMissing
from halo_forge.core.records import STAGES, CheckResult, Prompt, Stage
from halo_forge.core.source import digest
from halo_forge.sandbox.job import Job, JobResult, Sandbox, SandboxError
from halo_forge.verifiers.context import status_of
from halo_forge.verifiers.diagnostics import clip, ending, readable

if TYPE_CHECKING:
    from halo_forge.verifiers.languages.command import Spec

_STANDARD_PATH = "/usr/local/bin:/usr/bin:/bin"
_SHOWN = 400
_COUNTED = ("cases", "expected", "tests")
_FIX = (
    "fix the command: it prints one JSON object and exits with code 0 (`halo-forge docs verifiers#command`);"
    " `halo-forge verify CONFIG FILE --prompt ID` tries it"
)
_SCRIPT = {
    errno.ENOENT: " (a script whose first line names an interpreter that is not there?)",
    errno.ENOEXEC: " (a script needs a first line such as #!/bin/sh)",
    errno.EACCES: " (an interpreter in its first line that other users may not start?)",
}


class Given(BaseModel):
    """The tests of one prompt, of whatever shape: the command alone knows what they mean.

    Attributes:
        given: The prompt's own `tests`, None where it has none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["given"] = "given"
    prompt_id: str
    given: dict[str, Any] | None

    @property
    def entry_point(self) -> str | None:
        """The function that the answer must define, where the tests name one."""
        found = None if self.given is None else self.given.get("entry_point")
        return found if isinstance(found, str) and found else None

    @property
    def num_checks(self) -> int:
        """Checks that an answer without a program misses; 0 where their number cannot be seen."""
        lists = [] if self.given is None else [self.given.get(key) for key in _COUNTED]
        return next((len(found) for found in lists if isinstance(found, list)), 0)


def tests_of(prompt: Prompt) -> tuple[Any, str]:
    """See `ProgramSpec.tests_of`; the prompt's id is part of the tests, because the command gets to know it."""
    plain: Any = None if prompt.tests is None else prompt.to_row()["tests"]
    return Given(prompt_id=prompt.id, given=plain), digest(json.dumps([prompt.id, plain], sort_keys=True))


class Reply(BaseModel):
    """What the command prints; see `languages/command.py`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    status: Literal["passed", "failed", "timeout"]
    stage: Literal["compile", "run", "tests"] | None = None
    tests_passed: int = Field(default=0, ge=0)
    tests_total: int = Field(default=0, ge=0)
    warnings: int = Field(default=0, ge=0)
    diagnostics: str = ""

    @model_validator(mode="after")
    def _not_contradictory(self) -> Reply:
        passed, total = self.tests_passed, self.tests_total
        if passed > total:
            raise ValueError(f"tests_passed ({passed}) is above tests_total ({total})")
        if self.status == "passed" and passed < total:
            raise ValueError(f"the status is passed, but only {passed} of {total} tests passed")
        if self.status == "failed" and self.stage == "tests" and total == 0:
            raise ValueError(
                "an answer that fails at the stage tests must have at least one test, but tests_total is 0"
            )
        return self

    def reached(self, stages: list[Any]) -> Stage:
        """The stage of the verdict.

        A failure without a stage is one of its counted tests, or proves nothing at all.  A time limit ends a run, so
        that it pays less than a wrong answer.

        Raises:
            ValueError: It contradicts `stages`.
        """
        last: Stage = stages[-1]
        stage: Stage | None = self.stage
        if self.status == "passed":
            if stage not in (None, last):
                raise ValueError(f"`passed` must name the last stage of verifier.stages, {last!r}, found {stage!r}")
            return last
        if stage is None:
            stage = "tests" if self.tests_total > 0 else "compile"
        if STAGES.index(stage) > STAGES.index(last):
            if self.stage is None:
                return last
            raise ValueError(f"the stage {stage!r} is not in verifier.stages, {stages}")
        return "run" if self.status == "timeout" and stage == "tests" else stage


class _NoReply(SandboxError):
    """The command ended without a valid reply: it crashed, exceeded a limit, or printed something else.

    Attributes:
        outcome: What became of it.
    """

    def __init__(self, message: str, outcome: JobResult) -> None:
        super().__init__(f"verifier.command{message}")
        self.outcome = outcome


class CommandChecker:
    """Runs the command once for each answer; used by many threads, each with a sandbox of its own."""

    def __init__(self, spec: Spec, tools: Mapping[str, str], files: Mapping[str, bytes]) -> None:
        self._spec = spec
        self._files = dict(files)
        program = spec.program(tools)[0]
        self._argv = (program, *spec.command[1:])
        path = _STANDARD_PATH if program.startswith("./") else f"{os.path.dirname(program)}:{_STANDARD_PATH}"
        self._env = {"LANG": "C.UTF-8", "PATH": path}
        self._probing = threading.Lock()
        self._probed = False

    def version(self, sandbox: Sandbox) -> JobResult:
        """The command's words: what it is made of is in the digests of its files."""
        words = " ".join(self._argv).encode("utf-8", errors="backslashreplace")
        return JobResult(0, None, None, False, False, False, None, 0.0, 0.0, 0, words, b"", False, None)

    def prepare(self, tests: Any, sandbox: Sandbox) -> None:
        """Once: an empty answer must get a verdict, and must not pass where there are tests.

        Raises:
            SandboxError: The command cannot be started, or the sandbox failed.
            ToolMissing: It breaks the protocol.
            ConfigError: It passes the empty answer.
        """
        with self._probing:
            if self._probed:
                return
            try:
                result = self._result("", tests, sandbox)
            except _NoReply as error:
                raise ToolMissing(f"{error} (on an empty answer)", _FIX) from error
            self._probed = True
        if result.status == "passed" and tests.given is not None:
            raise ConfigError(
                f"verifier.command passes an empty answer ({result.tests_passed} of {result.tests_total} tests)",
                _FIX,
            )

    def check(self, source: str, tests: Any, sandbox: Sandbox) -> CheckResult:
        """See `Checker.check`.

        An answer can kill or confuse the command that runs it.  So if there is twice no reply about an answer, although
        the command replies about others in between, the answer has failed: it cannot escape the rates that way.
        """
        try:
            return self._result(source, tests, sandbox)
        except _NoReply:
            self._control(tests, sandbox)
        try:
            return self._result(source, tests, sandbox)
        except _NoReply as again:
            outcome = again.outcome
            return CheckResult(
                "compile",
                status_of(outcome),
                tests_total=tests.num_checks if "tests" in self._spec.stages else 0,
                diagnostics=clip(f"no reply about this answer, although there are replies about others: {again}"),
                exit_code=outcome.exit_code,
                signal=outcome.signal,
                wall_seconds=outcome.wall_seconds,
                cpu_seconds=outcome.cpu_seconds,
                max_rss_bytes=outcome.max_rss_bytes,
                flags=("no_reply",),
            )

    def _control(self, tests: Any, sandbox: Sandbox) -> None:
        """The command replies about an empty answer to the same tests, and judges the known answers correctly.

        Raises:
            SandboxError: It does not.
        """
        self._result("", tests, sandbox)
        for source, its_tests, (_, status) in self._spec.own_controls():
            found = self._result(source, its_tests, sandbox)
            if found.status != status:
                raise SandboxError(
                    f"verifier.command: of verifier.controls, the answer that must be {status} is {found.status}"
                )

    def _result(self, source: str, tests: Any, sandbox: Sandbox) -> CheckResult:
        spec = self._spec
        request = {"prompt_id": tests.prompt_id, "code": source, "language": spec.language, "tests": tests.given}
        files = {**self._files, spec.answer_file: source.encode("utf-8", errors="backslashreplace")}
        limits = spec.run_limits()
        outcome = sandbox.run(Job(self._argv, limits, files, json.dumps(request).encode(), self._env))
        if outcome.exec_error is not None:
            why = os.strerror(outcome.exec_error) + _SCRIPT.get(outcome.exec_error, "")
            raise SandboxError(f"verifier.command: {self._argv[0]}: {why}")
        if not outcome.clean:
            said = readable(outcome.stderr)[-_SHOWN:].strip()
            raise _NoReply(f": the command: {ending(outcome, limits)}: {said}", outcome)
        reply = self._reply(outcome)
        try:
            stage = reply.reached(list(spec.stages))
        except ValueError as error:
            raise _NoReply(f": {error}", outcome) from error
        return CheckResult(
            stage,
            reply.status,
            tests_passed=reply.tests_passed,
            tests_total=reply.tests_total,
            warnings=reply.warnings,
            diagnostics=clip(readable(reply.diagnostics.encode("utf-8", errors="backslashreplace"))),
            wall_seconds=outcome.wall_seconds,
            cpu_seconds=outcome.cpu_seconds,
            max_rss_bytes=outcome.max_rss_bytes,
        )

    def _reply(self, outcome: JobResult) -> Reply:
        shown = readable(outcome.stdout[:_SHOWN])
        if outcome.truncated:
            raise _NoReply(f" printed more than verifier.output_limit_bytes: {shown!r} ...", outcome)
        try:
            return Reply.model_validate_json(outcome.stdout)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = "".join(f"{part}: " for part in first["loc"])
            raise _NoReply(f": {where}{first['msg']}, found {shown!r}", outcome) from error
