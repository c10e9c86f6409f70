"""Compile, run and tests for Python.  Compiling is parsing: nothing of the program is run for that."""

from __future__ import annotations

import re
import secrets
import sys
from typing import TYPE_CHECKING, Any

from halo_forge.core.errors import ConfigError
from halo_forge.core.records import CheckResult, Stage, Status
from halo_forge.sandbox.job import Job, JobResult, Sandbox, SandboxError
from halo_forge.verifiers.checks import CompileOnly, Harness, PythonTests, Tests
from halo_forge.verifiers.comparison import compare_lines, texts
from halo_forge.verifiers.context import BuildContext, StageFailed, status_of
from halo_forge.verifiers.diagnostics import clip, ending, readable
from halo_forge.verifiers.hacks.flags import of_outputs
from halo_forge.verifiers.python.driver import wire
from halo_forge.verifiers.python.driver.stand_ins import NAMES_OF_NUMPY
from halo_forge.verifiers.python.driver.steps import shown
from halo_forge.verifiers.python.interpreter import compile_driver, run_driver, sources
from halo_forge.verifiers.python.tests import (
    PreparedTests,
    imports_something,
    names_of_numpy,
    refuse_unimported,
    stub_program,
)
from halo_forge.verifiers.stages import Stages

if TYPE_CHECKING:
    from halo_forge.verifiers.languages.python import Spec

# Programs end themselves by `exit` and `quit`, which the module `site` would provide.
_EXITS = "__import__('builtins').exit = __import__('builtins').quit = __import__('sys').exit\n"
# What the driver reports about a check, without the check itself; what the program raised is reported differently.
_OWN_FAULT = re.compile(
    r": (?:`` before it: )?(?:(?:Import|ModuleNotFound|Syntax|Indentation|Tab)Error: |AttributeError: module ')"
)
_MAIN = "exec(compile({source!r}, {name!r}, 'exec', dont_inherit=True))\n"


def build(spec: Spec, context: BuildContext, source: bytes, tests: Tests) -> bytes | None:
    """See `BuiltSpec.build`: a script that runs `source` as its main module."""
    text = source.decode("utf-8")
    head = tests.prepared.head if isinstance(tests, PythonTests) else ""
    context.num_warnings = _parse(spec, context, text, head, tests.entry_point)
    if isinstance(tests, CompileOnly | PythonTests | Harness):
        return None
    start = f"#!{context.compiler} {_joined(spec.options())}\n{_EXITS}"
    return (start + _MAIN.format(source=text, name=spec.source_name("answer"))).encode()


def check_tests(spec: Spec, context: BuildContext, tests: Tests) -> None:
    """See `BuiltSpec.check_tests`."""
    if not isinstance(tests, Harness):
        return
    try:
        _parse(spec, context, tests.source, "", None)
    except StageFailed as failure:
        raise ConfigError(
            f"the harness of a prompt is not valid Python: {clip(' '.join(context.notes))}",
            "fix `tests.source` in the prompt file; it imports the function from the module `answer`",
        ) from failure
    refuse_unimported(tests.source, tests.entry_point)


def _parse(spec: Spec, context: BuildContext, source: str, head: str, entry_point: str | None) -> int:
    """The number of warnings.

    Raises:
        StageFailed: It is not valid Python, or does not define `entry_point`.
        SandboxError: The verifier itself failed.
    """
    job = {"source": source, "head": head, "entry_point": entry_point}
    files = {"job": wire.encode(job, id), "driver": _driver(spec, context)}
    command = [context.compiler, *spec.options(), "-c", run_driver("candidate.parse_job")]
    outcome = context.run(command, files, None)
    context.outcomes.append(outcome)
    context.require_clean(outcome, "compile", "the parser", spec.compile_limits())
    (found,) = wire.messages(outcome.stdout)
    parsed, num_warnings, note, _ = wire.decode(found, id)
    if not parsed:
        context.fail(note)
    return int(num_warnings)


def _driver(spec: Spec, context: BuildContext) -> bytes:
    """Our own program, compiled by the interpreter that runs it."""

    def make() -> bytes:
        files = sources()
        outcome = context.run([context.compiler, *spec.options(), "-c", compile_driver(files)], files, "driver")
        if not outcome.clean or outcome.fetched is None:
            raise SandboxError(f"{context.compiler} cannot compile the driver: {readable(outcome.stderr)[-500:]}")
        return outcome.fetched

    return context.once("driver", make)


def _joined(options: list[str]) -> str:
    # The kernel hands all that follows the interpreter over as one argument.
    return "-" + "".join(option.lstrip("-") for option in options)


class PythonStages(Stages):
    """The shared stages, except that tests written in Python are run by the driver."""

    spec: Spec

    def prepare(self, tests: Tests, sandbox: Sandbox) -> None:
        """See `Checker.prepare`."""
        if not isinstance(tests, PythonTests):
            super().prepare(tests, sandbox)
            return
        self._refuse_without_numpy(tests.prepared, sandbox)
        _job(tests.prepared, "", "")  # malformed ones were refused before; too large ones are refused here
        if "run" in self.spec.stages and (not self._speaks_our_python(sandbox) or imports_something(tests.prepared)):
            why = self._findings(stub_program(tests.prepared), tests, sandbox).fault_of(tests.prepared)
            if why:
                raise ConfigError(
                    f"the tests cannot work with {self.runner.compiler} for any program: {why}",
                    "fix them in the prompt file; a module has to be one of the interpreter's own, or be installed for"
                    " it with verifier.packages set to true",
                )

    def _refuse_without_numpy(self, prepared: PreparedTests, sandbox: Sandbox) -> None:
        """What tests use of numpy has to be there, or among the little of it that the driver provides."""
        strange = sorted(names_of_numpy(prepared) - NAMES_OF_NUMPY) if "numpy" in prepared.modules else []
        if strange and "run" in self.spec.stages:
            command = [self.runner.compiler, *self.spec.options(), "-c", "import numpy"]
            found = self.runner.cache.get("numpy", lambda: self.runner.run(command, {}, None, sandbox).clean)[0]
            if not found:
                raise ConfigError(
                    f"the tests use numpy.{strange[0]}, and {self.runner.compiler} has no numpy",
                    "set verifier.compiler to the interpreter of an environment with numpy, and verifier.packages to"
                    f" true; without numpy there are {', '.join(sorted(NAMES_OF_NUMPY))}",
                )

    def _speaks_our_python(self, sandbox: Sandbox) -> bool:
        """Whether the interpreter has our own version, so that it parses what we parse."""
        ask = "import sys; print(sys.version_info[:2])"

        def version() -> bytes:
            return self.runner.run(
                [self.runner.compiler, *self.spec.options(), "-c", ask], {}, None, sandbox
            ).stdout.strip()

        return bool(self.runner.cache.get("version", version)[0] == str(sys.version_info[:2]).encode())

    def check(self, source: str, tests: Tests, sandbox: Sandbox) -> CheckResult:
        """See `Checker.check`."""
        if not isinstance(tests, PythonTests | Harness) or "run" not in self.spec.stages:
            return super().check(source, tests, sandbox)
        return self._findings(source, tests, sandbox).result()

    def _findings(self, source: str, tests: PythonTests | Harness, sandbox: Sandbox) -> _Findings:
        sentinel = secrets.token_hex(16)
        harness = tests if isinstance(tests, Harness) else None
        prepared = PreparedTests(tests.entry_point, (), ()) if isinstance(tests, Harness) else tests.prepared
        outcome = sandbox.run(
            Job(
                (self.runner.compiler, *self.spec.options(), "-c", run_driver("main.main")),
                self.spec.run_limits(),
                {"driver": _driver(self.spec, BuildContext(self.runner, sandbox))},
                _job(prepared, source, sentinel, "" if harness is None else harness.source),
                {"LANG": "C.UTF-8", "PATH": "/usr/local/bin:/usr/bin:/bin", **self.spec.program_environment()},
            )
        )
        if outcome.exec_error is not None:
            raise SandboxError(f"{self.runner.compiler} cannot be started: errno {outcome.exec_error}")
        return _Findings(self.spec, tests, sentinel, outcome)


def _job(prepared: PreparedTests, source: str, sentinel: str, harness: str = "") -> bytes:
    job = {
        "sentinel": sentinel,
        "source": source,
        "head": prepared.head,
        "context": prepared.context,
        "tests_use_context": prepared.tests_use_context,
        "entry_point": prepared.entry_point,
        "names": dict(prepared.names),
        "steps": list(prepared.steps),
        "class_calls": list(prepared.class_calls),
        "modules": list(prepared.modules),
        "counts_assertions": prepared.counts_assertions,
        "harness": harness,
    }
    try:
        return wire.encode(job, id)
    except wire.WireError as error:
        raise ConfigError(f"the tests cannot be handed to Python: {error}", "make them smaller") from error


class _Findings:
    """Turns what the driver reported into a `CheckResult`."""

    def __init__(self, spec: Spec, tests: PythonTests | Harness, sentinel: str, outcome: JobResult) -> None:
        self._spec = spec
        self._expected = tests.expected if isinstance(tests, Harness) else ()
        self._rule = spec.rule_of(tests)
        self._num_checks = tests.num_checks if "tests" in spec.stages else 0
        self._outcome = outcome
        self._warnings = 0
        self._num_passed = 0
        self._flags: tuple[str, ...] = ()
        self._notes: list[str] = []
        self._reports: dict[str, list[list[Any]]] = {}
        for message in wire.messages(outcome.stdout):
            said, kind, *details = wire.decode(message, id)
            if said != sentinel:
                raise SandboxError("the report of the tests does not come from the process that ran them")
            self._reports.setdefault(kind, []).append(details)

    def fault_of(self, prepared: PreparedTests) -> str:
        """Why a check can hold for no program; empty where there is no such reason.

        Raises:
            SandboxError: The driver failed.
        """
        self._refuse_broken()
        for _, note in (each for each in self._reports.get("ran", []) if not each[0]):
            return f"the opening of the function: {note}"  # the stub itself does nothing that can fail
        for holds, note in self._reports.get("check", []):
            bare = note
            for _, source in prepared.steps:
                bare = bare.replace(shown(source), "")
            if not holds and _OWN_FAULT.match(bare):
                return str(note)
        return ""

    def _refuse_broken(self) -> None:
        if "broken" in self._reports:
            raise SandboxError(f"the driver of the tests failed: {self._reports['broken'][0][0]}")

    def result(self) -> CheckResult:
        """What the reports show.

        Raises:
            SandboxError: The driver failed.
        """
        self._refuse_broken()
        if not self._step("parsed", "compile"):
            return self._failed("compile")
        if not self._step("ran", "run"):
            return self._failed("run")
        for number, (holds, note) in enumerate(self._reports.get("check", []), start=1):
            self._num_passed += holds
            if not holds and self._num_checks > 0:
                self._notes.append(f"check {number}: {note}")
        broken = self._compared(*self._reports["printed"][0]) if "printed" in self._reports else False
        if broken or not self._outcome.clean or "end" not in self._reports:
            return self._failed("run")
        if self._num_checks == 0:
            return self._result("run", "passed")
        return self._result("tests", "passed" if self._num_passed == self._num_checks else "failed")

    def _compared(self, output: bytes, note: str) -> bool:
        """Whether the harness failed; its lines are compared."""
        if note:
            self._notes.append(note)
        if self._num_checks == 0:
            return note != ""
        comparison = compare_lines(output, self._expected, note == "", self._rule)
        # Surplus lines count as one wrong line.
        self._num_passed = comparison.num_equal if comparison.right else min(comparison.num_equal, self._num_checks - 1)
        self._notes += comparison.differences
        if not comparison.right:
            first = [texts(line)[0] for line in self._expected]
            self._flags = tuple(of_outputs(output.splitlines(), first, finished=note == ""))
        return note != ""

    def _step(self, name: str, stage: Stage) -> bool:
        found = self._reports.get(name)
        if found is None:
            return False
        holds, *counts, note = found[0]
        self._warnings += sum(counts)
        self._notes += [note] if note else []
        return bool(holds)

    def _failed(self, stage: Stage) -> CheckResult:
        """The program got no further; whether the program or the driver failed is known by now."""
        if not self._outcome.clean and ending(self._outcome, self._spec.run_limits()):
            self._notes.insert(0, f"the program: {ending(self._outcome, self._spec.run_limits())}")
        gone = self._reports.get("gone")
        if gone is not None:
            why, exit_code, signal = gone[0]
            self._flags = ("early_exit",) if exit_code == 0 else ()
            how = f" (exit code {exit_code})" if exit_code is not None else ""
            self._notes.append(f"the program's process: {why}{how if signal is None else f' (signal {signal})'}")
            return self._result(stage, status_of(self._outcome), exit_code, signal)
        if "parsed" not in self._reports and self._outcome.exit_code is not None and not self._over_a_limit():
            # Nothing of the program has run by then.
            raise SandboxError(f"the driver of the tests reported nothing: {readable(self._outcome.stderr)[-500:]}")
        return self._result(stage, status_of(self._outcome), self._outcome.exit_code, self._outcome.signal)

    def _over_a_limit(self) -> bool:
        over = self._outcome
        return over.timed_out is not None or over.out_of_memory or over.output_limit or over.process_limit

    def _result(
        self, stage: Stage, status: Status, exit_code: int | None = None, signal: int | None = None
    ) -> CheckResult:
        return CheckResult(
            stage,
            status,
            tests_passed=self._num_passed if self._num_checks > 0 else 0,
            tests_total=self._num_checks,
            warnings=self._warnings,
            diagnostics=clip("\n".join(note.rstrip("\n") for note in self._notes if note.strip())),
            exit_code=0 if stage == "tests" or status == "passed" else exit_code,
            signal=signal,
            wall_seconds=self._outcome.wall_seconds,
            cpu_seconds=self._outcome.cpu_seconds,
            max_rss_bytes=self._outcome.max_rss_bytes,
            flags=self._flags,
        )
