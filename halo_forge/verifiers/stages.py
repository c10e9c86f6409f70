"""The stages that one program goes through: compile, run, tests."""

from __future__ import annotations

import abc
import dataclasses
import secrets
from collections.abc import Mapping

from halo_forge.core.output_rule import OutputRule
from halo_forge.core.records import CheckResult, Stage, Status
from halo_forge.sandbox.job import Job, JobResult, Sandbox
from halo_forge.verifiers.checker import Checker
from halo_forge.verifiers.checks import Harness, Stdio, StdioCase, Tests
from halo_forge.verifiers.comparison import compare_lines, compare_output, texts
from halo_forge.verifiers.compiled.elf import CompiledFunction
from halo_forge.verifiers.context import STANDARD_PATH, BuildContext, StageFailed, ToolRunner, status_of
from halo_forge.verifiers.diagnostics import clip, ending, readable
from halo_forge.verifiers.hacks.flags import is_unproven, of_outputs
from halo_forge.verifiers.hacks.trivial import compiled_does_nothing
from halo_forge.verifiers.output_checker import check_checker, judge
from halo_forge.verifiers.spec import ProgramSpec

# With more, looking through them would take this process too long.
_MOST_FUNCTIONS = 2_000


class BuiltSpec(ProgramSpec):
    """A language whose tools make a program of a source."""

    @abc.abstractmethod
    def build(self, context: BuildContext, source: bytes, tests: Tests) -> bytes | None:
        """The program that is to run; None where `tests` ask for less, and that much works.

        Raises:
            StageFailed: The source does not compile.
            SandboxError: The verifier itself failed.
            ConfigError: The tests do not work by themselves.
        """

    def check_tests(self, context: BuildContext, tests: Tests) -> None:
        """Find out, before there is any answer, whether `tests` can work.

        Raises:
            SandboxError: The verifier itself failed.
            ConfigError: They cannot.
        """

    def compiled_functions(self, context: BuildContext, source: bytes) -> list[CompiledFunction]:
        """The machine code of an answer that compiles, by function; empty where it cannot be read.

        Raises:
            SandboxError: The verifier itself failed.
        """
        return []

    def is_entry(self, symbol: str, entry_point: str) -> bool:
        """Whether a symbol of an object is the function that prompts call `entry_point`.

        Code that runs before `main` counts as part of `main`.
        """
        return symbol == entry_point

    def writes_sentinel(self) -> bool:
        """Whether a program with a harness ends its output with the sentinel from its standard input, as in `harness`.

        Without it, a harness that finished cannot be distinguished from an answer that exited early.
        """
        return False

    def checker(self, tools: Mapping[str, str]) -> Checker:
        """The stages compile, run and tests around `build`."""
        return Stages(self, tools)


class Stages:
    """Checks programs with one set of settings; used by many threads, each with a sandbox of its own.

    Args:
        tools: Name in `spec.requires()` -> absolute path.

    Attributes:
        runner: What runs the tools, for all threads.
    """

    def __init__(self, spec: BuiltSpec, tools: Mapping[str, str]) -> None:
        self.spec = spec
        self.runner = ToolRunner(spec, tools)

    def check(self, source: str, tests: Tests, sandbox: Sandbox) -> CheckResult:
        """See `Checker.check`."""
        return _Check(self, tests, sandbox).result(source)

    def version(self, sandbox: Sandbox) -> JobResult:
        """See `Checker.version`."""
        return self.runner.run(self.spec.version_command(self.runner.compiler), {}, None, sandbox)

    def prepare(self, tests: Tests, sandbox: Sandbox) -> None:
        """See `Checker.prepare`."""
        self.spec.refuse_unsupported(tests)
        context = BuildContext(self.runner, sandbox)
        rule = self.spec.rule_of(tests)
        if rule.checker is not None and isinstance(tests, Stdio):
            check_checker(context, rule.checker, [(case.stdin, texts(case.stdout)[0]) for case in tests.cases])
        self.spec.check_tests(context, tests)

    def run_program(self, content: bytes, stdin: str, sandbox: Sandbox) -> JobResult:
        """Run a compiled program once."""
        given = stdin.encode("utf-8", errors="backslashreplace")
        env = {**self.runner.env, "PATH": STANDARD_PATH, **self.spec.program_environment()}
        return sandbox.run(Job(("./program",), self.spec.run_limits(), {"program": content}, given, env))


class _Check:
    """Takes one program through the stages, and collects its cost and diagnostics."""

    def __init__(self, stages: Stages, tests: Tests, sandbox: Sandbox) -> None:
        self._stages = stages
        self._spec = stages.spec
        self._tests = tests
        self._rule: OutputRule = stages.spec.rule_of(tests)
        self._sandbox = sandbox
        self._context = BuildContext(stages.runner, sandbox)
        self._outcomes = self._context.outcomes
        self._notes = self._context.notes
        self._num_passed = 0
        self._flags: set[str] = set()

    def result(self, source: str) -> CheckResult:
        content = source.encode("utf-8", errors="backslashreplace")
        found = self._staged(content)
        if is_unproven(found) and self._does_nothing(source, content):
            found = dataclasses.replace(found, flags=tuple(sorted({*found.flags, "trivial_program"})))
        # Only now: the search for triviality may have compiled the program once more.
        return dataclasses.replace(
            found,
            wall_seconds=sum(outcome.wall_seconds for outcome in self._outcomes),
            cpu_seconds=sum(outcome.cpu_seconds for outcome in self._outcomes),
            max_rss_bytes=max(outcome.max_rss_bytes for outcome in self._outcomes),
        )

    def _does_nothing(self, source: str, content: bytes) -> bool:
        compiled = self._spec.compiled_functions(self._context, content)
        if len(compiled) > _MOST_FUNCTIONS:
            return False
        return compiled_does_nothing(
            source,
            self._spec.language,
            "main" if isinstance(self._tests, Stdio) else self._tests.entry_point,
            lambda name: [function for function in compiled if self._spec.is_entry(function.name, name)],
        )

    def _staged(self, content: bytes) -> CheckResult:
        try:
            program = self._spec.build(self._context, content, self._tests)
            if program is None or "run" not in self._spec.stages:
                return self._result("compile", "passed")
            return self._run_stdio(program) if isinstance(self._tests, Stdio) else self._run_once(program)
        except StageFailed as failure:
            return self._result(failure.stage, failure.status)

    def _result(self, stage: Stage, status: Status, shown: JobResult | None = None) -> CheckResult:
        shown = self._outcomes[-1] if shown is None else shown  # every `build` runs at least one tool
        with_tests = "tests" in self._spec.stages
        return CheckResult(
            stage,
            status,
            tests_passed=self._num_passed if with_tests else 0,
            tests_total=self._tests.num_checks if with_tests else 0,
            warnings=self._context.num_warnings,
            diagnostics=clip("\n".join(note.rstrip("\n") for note in self._notes if note.strip())),
            exit_code=shown.exit_code,
            signal=shown.signal,
            flags=tuple(sorted(self._flags | self._context.flags)),
        )

    def _run_once(self, program: bytes) -> CheckResult:
        """Run a program that reads nothing; see `compiled.harness` for the sentinel that a harness ends with."""
        with_sentinel = isinstance(self._tests, Harness) and self._spec.writes_sentinel()
        sentinel = secrets.token_hex(16) if with_sentinel else ""
        outcome = self._stages.run_program(program, sentinel, self._sandbox)
        self._outcomes.append(outcome)
        left_early = outcome.clean and not outcome.stdout.endswith(sentinel.encode())
        comparison = None
        if isinstance(self._tests, Harness) and "tests" in self._spec.stages and not left_early:
            output = outcome.stdout.removesuffix(sentinel.encode())
            comparison = compare_lines(output, self._tests.expected, outcome.clean, self._rule)
            self._num_passed = comparison.num_equal
            if not comparison.right:
                first = [texts(line)[0] for line in self._tests.expected]
                self._flags = of_outputs(output.splitlines(), first, outcome.clean)
        try:
            self._context.require_clean(outcome, "run", "the program", self._spec.run_limits())
        finally:
            self._notes += [readable(outcome.stderr), *(() if comparison is None else comparison.differences)]
        if left_early:
            # What it printed may not come from the harness.
            self._flags = {"early_exit"}
            self._notes.append("the program exited before the harness had finished, or replaced its output")
            return self._result("run", "failed")
        if comparison is None:
            return self._result("run", "passed")
        return self._result("tests", "passed" if comparison.right else "failed")

    def _run_stdio(self, program: bytes) -> CheckResult:
        assert isinstance(self._tests, Stdio)
        limits = self._spec.run_limits()
        unclean: list[JobResult] = []
        outputs: list[bytes] = []
        outcome: JobResult | None = None
        for number, case in enumerate(self._tests.cases, start=1):
            outcome = self._stages.run_program(program, case.stdin, self._sandbox)
            self._outcomes.append(outcome)
            if not outcome.clean:
                unclean.append(outcome)
                self._notes += [f"case {number}: {ending(outcome, limits)}", readable(outcome.stderr)]
                if _costs_a_whole_limit(outcome):
                    if number < self._tests.num_checks:
                        self._notes.append(f"cases after {number} were not run")
                    break
            elif "tests" in self._spec.stages:
                difference = self._difference(case, outcome.stdout)
                outputs.append(outcome.stdout)
                self._num_passed += difference is None
                self._notes += [] if difference is None else [f"case {number}: {difference}"]
        if unclean:
            # A limit is more informative than a crash: it ended the whole check.
            worst = unclean[-1] if _costs_a_whole_limit(unclean[-1]) else unclean[0]
            return self._result("run", status_of(worst), worst)
        if "tests" not in self._spec.stages:
            return self._result("run", "passed")
        if self._num_passed == self._tests.num_checks:
            return self._result("tests", "passed", outcome)
        self._flags = of_outputs(outputs, [texts(case.stdout)[0] for case in self._tests.cases], finished=True)
        return self._result("tests", "failed", outcome)

    def _difference(self, case: StdioCase, output: bytes) -> str | None:
        if self._rule.checker is None:
            return compare_output(output, case.stdout, self._rule)
        return judge(self._context, self._rule.checker, case.stdin, texts(case.stdout)[0], output)


def _costs_a_whole_limit(outcome: JobResult) -> bool:
    """Whether the next case would probably cost a whole limit again, for a program that has already failed."""
    return outcome.timed_out is not None or outcome.output_limit or outcome.out_of_memory
