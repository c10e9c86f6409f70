"""The stages that one program goes through: compile, run, tests."""

from __future__ import annotations

import os
from collections.abc import Mapping

from halo_forge.errors import ConfigError
from halo_forge.records import Stage, Status
from halo_forge.sandbox.job import Job, Limits, Outcome, Sandbox, SandboxError
from halo_forge.source import digest
from halo_forge.verifiers._checks import CompileOnly, Harness, Stdio, Tests, compare_lines, compare_output
from halo_forge.verifiers._diagnostics import clip, ending, num_warnings, readable
from halo_forge.verifiers._facts import Facts
from halo_forge.verifiers._once import OnceCache
from halo_forge.verifiers._spec import CompiledSpec

_STANDARD_PATH = "/usr/local/bin:/usr/bin:/bin"
_CODE_SYMBOLS = frozenset("TtWi")


class Stages:
    """Checks programs with one set of settings; used by many threads, each with a sandbox of its own.

    Args:
        tools: Name in `spec.requires()` -> absolute path.
    """

    def __init__(self, spec: CompiledSpec, tools: Mapping[str, str]) -> None:
        self.spec = spec
        self.tools = tools
        self.compiler = tools[spec.requires()[0]]
        self._env = {"LANG": "C.UTF-8", "PATH": f"{os.path.dirname(self.compiler)}:{_STANDARD_PATH}"}
        self._harnesses: OnceCache[str, bytes] = OnceCache()

    def check(self, source: str, tests: Tests, sandbox: Sandbox) -> Facts:
        """See `Checker.check`."""
        return _Check(self, tests, sandbox).facts(source)

    def version(self, sandbox: Sandbox) -> Outcome:
        """See `Checker.version`."""
        return self.tool(self.spec.version_command(self.compiler), {}, None, sandbox)

    def prepare(self, tests: Tests, sandbox: Sandbox) -> None:
        """See `Checker.prepare`."""
        if isinstance(tests, Harness):
            self.harness_object(tests.source, sandbox)

    def tool(self, argv: list[str], files: Mapping[str, bytes], fetch: str | None, sandbox: Sandbox) -> Outcome:
        """Run the compiler or one of its companions.

        Raises:
            SandboxError: It cannot be started, or the sandbox failed.
        """
        job = Job(tuple(argv), self.spec.compile_limits(), files, env=self._env, fetch=fetch)
        outcome = sandbox.run(job)
        if outcome.exec_error is not None:
            raise SandboxError(f"{argv[0]} cannot be started: {os.strerror(outcome.exec_error)}")
        return outcome

    def program(self, content: bytes, stdin: str, sandbox: Sandbox) -> Outcome:
        """Run a compiled program once."""
        given = stdin.encode("utf-8", errors="backslashreplace")
        env = {**self._env, "PATH": _STANDARD_PATH}
        return sandbox.run(Job(("./program",), self.spec.run_limits(), {"program": content}, given, env))

    def harness_object(self, source: str, sandbox: Sandbox) -> bytes:
        """The compiled harness; the answer is never in the same directory."""
        return self._harnesses.get(digest(source), lambda: self._compile_harness(source, sandbox))[0]

    def _compile_harness(self, source: str, sandbox: Sandbox) -> bytes:
        name = self.spec.source_name("harness")
        command = self.spec.compile_command(self.compiler, name, "harness.o")
        outcome = self.tool(command, {name: _encoded(source)}, "harness.o", sandbox)
        if not outcome.clean or outcome.fetched is None:
            raise ConfigError(
                "the harness of a prompt does not compile: "
                f"{clip(readable(outcome.stderr)) or ending(outcome, self.spec.compile_limits())}\n{source[:500]}",
                "mend `tests.source` in the prompt file; it must compile by itself, with a declaration of the function",
            )
        return outcome.fetched


class _Check:
    """One program on its way, collecting what it cost and what there is to say about it."""

    def __init__(self, stages: Stages, tests: Tests, sandbox: Sandbox) -> None:
        self._stages = stages
        self._spec = stages.spec
        self._tests = tests
        self._sandbox = sandbox
        self._outcomes: list[Outcome] = []
        self._notes: list[str] = []
        self._warnings = 0
        self._num_passed = 0

    def facts(self, source: str) -> Facts:
        try:
            program = self._build(source)
            if program is None or "run" not in self._spec.stages:
                return self._result("compile", "passed")
            return self._run_stdio(program) if isinstance(self._tests, Stdio) else self._run_once(program)
        except _Stop as stop:
            return self._result(stop.stage, stop.status)

    def _result(self, stage: Stage, status: Status, shown: Outcome | None = None) -> Facts:
        shown = self._outcomes[-1] if shown is None else shown
        with_tests = "tests" in self._spec.stages
        return Facts(
            stage,
            status,
            tests_passed=self._num_passed if with_tests else 0,
            tests_total=self._tests.num_checks if with_tests else 0,
            warnings=self._warnings,
            diagnostics=clip("\n".join(note.rstrip("\n") for note in self._notes if note.strip())),
            exit_code=shown.exit_code,
            signal=shown.signal,
            wall_seconds=sum(outcome.wall_seconds for outcome in self._outcomes),
            cpu_seconds=sum(outcome.cpu_seconds for outcome in self._outcomes),
            max_rss_bytes=max(outcome.max_rss_bytes for outcome in self._outcomes),
        )

    def _build(self, source: str) -> bytes | None:
        """The program; None where an object is all that is asked for."""
        name = self._spec.source_name("answer")
        command = self._spec.compile_command(self._stages.compiler, name, "answer.o")
        answer, said = self._tool(command, {name: _encoded(source)}, "answer.o")
        self._warnings = num_warnings(said)
        if isinstance(self._tests, CompileOnly):
            if self._tests.entry_point is not None:
                self._must_define(self._tests.entry_point, answer)
            return None
        objects = {"answer.o": answer}
        if isinstance(self._tests, Harness):
            harness = self._stages.harness_object(self._tests.source, self._sandbox)
            # First, so that its `main` is taken and a demonstration of the answer's own is ignored.
            objects = {"harness.o": harness, "answer.o": answer}
        command = self._spec.link_command(self._stages.compiler, list(objects), "program")
        return self._tool(command, objects, "program")[0]

    def _tool(self, command: list[str], files: Mapping[str, bytes], target: str) -> tuple[bytes, str]:
        outcome = self._stages.tool(command, files, target, self._sandbox)
        self._outcomes.append(outcome)
        said = readable(outcome.stderr)
        self._notes.append(said)
        self._stop_unless_clean(outcome, "compile", f"the compiler (making {target})", self._spec.compile_limits())
        if outcome.fetched is None:
            self._notes.append(f"the compiler left no {target}")
            raise _Stop("compile", "failed")
        return outcome.fetched, said

    def _stop_unless_clean(self, outcome: Outcome, stage: Stage, who: str, limits: Limits) -> None:
        if outcome.clean:
            return
        if outcome.exit_code is None or stage != "compile" or not outcome.stderr:
            self._notes.append(f"{who}: {ending(outcome, limits)}")
        raise _Stop(stage, _status(outcome))

    def _must_define(self, entry_point: str, answer: bytes) -> None:
        command = [self._stages.tools["nm"], "-P", "--defined-only", "answer.o"]
        outcome = self._stages.tool(command, {"answer.o": answer}, None, self._sandbox)
        self._outcomes.append(outcome)
        self._stop_unless_clean(outcome, "compile", "nm", self._spec.compile_limits())
        symbols = (line.split() for line in readable(outcome.stdout).splitlines())
        if not any(words[:1] == [entry_point] and words[1] in _CODE_SYMBOLS for words in symbols if len(words) > 1):
            self._notes.append(f"the answer does not define the function `{entry_point}`")
            raise _Stop("compile", "failed")

    def _run_once(self, program: bytes) -> Facts:
        outcome = self._stages.program(program, "", self._sandbox)
        self._outcomes.append(outcome)
        comparison = None
        if isinstance(self._tests, Harness) and "tests" in self._spec.stages:
            comparison = compare_lines(outcome.stdout, self._tests.expected, outcome.clean)
            self._num_passed = comparison.num_equal
        try:
            self._stop_unless_clean(outcome, "run", "the program", self._spec.run_limits())
        finally:
            self._notes += [readable(outcome.stderr), *(() if comparison is None else comparison.differences)]
        if comparison is None:
            return self._result("run", "passed")
        return self._result("tests", "passed" if comparison.right else "failed")

    def _run_stdio(self, program: bytes) -> Facts:
        assert isinstance(self._tests, Stdio)
        limits = self._spec.run_limits()
        unclean: list[Outcome] = []
        for number, case in enumerate(self._tests.cases, start=1):
            outcome = self._stages.program(program, case.stdin, self._sandbox)
            self._outcomes.append(outcome)
            if not outcome.clean:
                unclean.append(outcome)
                self._notes += [f"case {number}: the program: {ending(outcome, limits)}", readable(outcome.stderr)]
                if outcome.timed_out is not None:
                    if number < self._tests.num_checks:
                        self._notes.append(f"the cases after {number} were not run")
                    break
            elif "tests" in self._spec.stages:
                difference = compare_output(outcome.stdout, case.stdout)
                self._num_passed += difference is None
                self._notes += [] if difference is None else [f"case {number}: {difference}"]
        if unclean:
            # A time limit says more than a crash: it ended the whole check.
            worst = unclean[-1] if unclean[-1].timed_out is not None else unclean[0]
            return self._result("run", _status(worst), worst)
        if "tests" not in self._spec.stages:
            return self._result("run", "passed")
        return self._result("tests", "passed" if self._num_passed == self._tests.num_checks else "failed")


class _Stop(Exception):
    """The program goes no further."""

    def __init__(self, stage: Stage, status: Status) -> None:
        super().__init__(stage, status)
        self.stage = stage
        self.status = status


def _status(outcome: Outcome) -> Status:
    if outcome.timed_out is not None:
        return "timeout"
    return "out_of_memory" if outcome.out_of_memory else "failed"


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", errors="backslashreplace")
