"""The settings that all languages share, and what each language defines."""

from __future__ import annotations

import abc
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, field_validator

from halo_forge.core.errors import ConfigError
from halo_forge.core.output_rule import OutputRule
from halo_forge.core.records import Prompt
from halo_forge.core.registry import Spec
from halo_forge.core.source import ReasoningMarks
from halo_forge.sandbox.job import MEBIBYTE, Limits
from halo_forge.verifiers.checker import Checker
from halo_forge.verifiers.checks import Harness, PythonTests, Stdio, Tests, parse_tests
from halo_forge.verifiers.comparison import texts
from halo_forge.verifiers.rewards import Rewards
from halo_forge.verifiers.toolchain import outside_system

_THREADS_WITH_STACK = 8

RunStage = Literal["compile", "run", "tests"]
ReasoningMark = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100)]
_STAGES: list[RunStage] = ["compile", "run", "tests"]


@dataclass(frozen=True, slots=True)
class Controls:
    """Programs whose verdict is known: `passing` reads two integers and prints their sum, `broken` does not compile."""

    passing: str
    broken: str


class ProgramSpec(Spec, abc.ABC):
    """Settings of a verifier that compiles a program, runs it, and compares its output with the expected one.

    Attributes:
        stages: The first one, two or three of compile, run, tests.
        timeout_seconds: CPU seconds of one run of the program; the wall clock allows 3 times that and 2 s more.
        memory_limit_bytes: Resident memory of one run of the program.
        stack_limit_bytes: The stack of the main thread, and of each thread that asks for no other size; None is as much
            as `memory_limit_bytes`.
        compile_timeout_seconds: CPU seconds of one call of the compiler; the wall clock allows 3 times that and 5 s.
        process_limit: Processes and threads of one run of the program at the same time.
        compile_memory_limit_bytes: Resident memory of one call of the compiler.
        output_limit_bytes: The longest output, or file, of one run of the program.
        workers: Programs checked at the same time; "auto" is one for each core.
        isolation: The isolation level of the sandbox; "auto" is the better of namespace and landlock that works here.
        max_error_fraction: The share of verdicts with status "error" above which the run stops; a single one never
            stops it, unless this is 0.
        rerun_kept: Check the samples selected for training once more, and drop those with another verdict.
        compare: When the output of a program or a harness counts as right, for prompts whose tests have no `compare`.
        rewards: See `Rewards`.
        reasoning_marks: What opens and closes the model's reasoning, if its marks are not among `REASONING_MARKS`.
    """

    stages: list[RunStage] = Field(default_factory=lambda: list(_STAGES))
    timeout_seconds: float = Field(default=5.0, gt=0.0, le=3600.0)
    memory_limit_bytes: int = Field(default=256 * MEBIBYTE, ge=16 * MEBIBYTE)
    compile_timeout_seconds: float = Field(default=10.0, gt=0.0, le=3600.0)
    compile_memory_limit_bytes: int = Field(default=1024 * MEBIBYTE, ge=64 * MEBIBYTE)
    stack_limit_bytes: int | None = Field(default=None, ge=MEBIBYTE)
    process_limit: int = Field(default=32, ge=1, le=10_000)
    output_limit_bytes: int = Field(default=MEBIBYTE, ge=1024, le=1024 * MEBIBYTE)
    workers: Literal["auto"] | int = "auto"
    isolation: Literal["auto", "namespace", "landlock", "limits"] = "auto"
    max_error_fraction: float = Field(default=0.01, ge=0.0, le=1.0)
    rerun_kept: bool = True
    compare: OutputRule = Field(default_factory=OutputRule)
    rewards: Rewards = Field(default_factory=Rewards)
    reasoning_marks: list[ReasoningMark] | None = Field(default=None, min_length=2, max_length=2)

    @field_validator("stages")
    @classmethod
    def _stages_in_order(cls, stages: list[RunStage]) -> list[RunStage]:
        if not stages or stages != _STAGES[: len(stages)]:
            raise ValueError(f"stages must be [compile], [compile, run] or [compile, run, tests], found {stages}")
        return stages

    @field_validator("reasoning_marks")
    @classmethod
    def _two_marks(cls, marks: list[ReasoningMark] | None) -> list[ReasoningMark] | None:
        if marks is not None and marks[0] == marks[1]:
            raise ValueError(f"the mark that opens the reasoning and the one that closes it must differ, found {marks}")
        return marks

    @field_validator("workers")
    @classmethod
    def _some_workers(cls, workers: Literal["auto"] | int) -> Literal["auto"] | int:
        if workers != "auto" and workers < 1:
            raise ValueError(f"workers must be auto or at least 1, found {workers}")
        return workers

    @property
    def language(self) -> str:
        """What fences and prompts call the language."""
        return str(getattr(self, "kind"))  # noqa: B009 -- declared by each language

    @property
    def own_marks(self) -> ReasoningMarks | None:
        """`reasoning_marks` as a pair."""
        return None if self.reasoning_marks is None else (self.reasoning_marks[0], self.reasoning_marks[1])

    @property
    def stack_bytes(self) -> int:
        """`stack_limit_bytes` in force."""
        return self.memory_limit_bytes if self.stack_limit_bytes is None else self.stack_limit_bytes

    @property
    def num_workers(self) -> int:
        return len(os.sched_getaffinity(0)) if self.workers == "auto" else self.workers

    @abc.abstractmethod
    def requires(self) -> list[str]:
        """Names or paths of the tools; the first is the compiler or interpreter."""

    @abc.abstractmethod
    def install_hint(self) -> str:
        """How to install the tools, on Debian and on Fedora."""

    @abc.abstractmethod
    def source_name(self, stem: str) -> str:
        """File name of a source, such as "answer.c" for "answer"."""

    @abc.abstractmethod
    def version_command(self, compiler: str) -> list[str]:
        """Prints the compiler's name and version in the first line."""

    @abc.abstractmethod
    def controls(self) -> Controls:
        """Programs that show whether the toolchain works."""

    @abc.abstractmethod
    def checker(self, tools: Mapping[str, str]) -> Checker:
        """What checks programs; `tools` are the absolute paths of `requires()`."""

    def tests_of(self, prompt: Prompt) -> tuple[Tests, str]:
        """The prompt's tests as the checker takes them, and a digest that equal tests share.

        Raises:
            ConfigError: They are malformed, or of an unknown kind.
        """
        return parse_tests(prompt)

    def rule_of(self, tests: object) -> OutputRule:
        """When an output counts as right under these tests.

        Raises:
            ConfigError: That is up to a checker, and the tests are of a kind that has no output to check.
        """
        rule = tests.compare if isinstance(tests, Stdio | Harness) else None
        rule = self.compare if rule is None else rule
        if rule.checker is not None and isinstance(tests, Harness):
            raise ConfigError(
                "verifier.compare has a checker, which judges whole programs, but the tests are of the kind 'harness'",
                "give the tests a `compare` of their own, such as {whitespace: line_ends}",
            )
        return rule

    def refuse_unsupported(self, tests: object) -> None:
        """Find what no program could pass, as far as that is known without running one.

        Raises:
            ConfigError: The tests are for another language, or do not go with the rule for outputs.
        """
        if isinstance(tests, PythonTests) and self.language != "python":
            raise ConfigError(
                f"tests of the kind {tests.kind!r} are for Python, but the verifier checks {self.language!r}",
                "use the kinds stdio, harness or compile, or set verifier.kind to python",
            )
        has_checker = self.rule_of(tests).checker is not None
        if has_checker and isinstance(tests, Stdio) and any(len(texts(case.stdout)) > 1 for case in tests.cases):
            raise ConfigError(
                "a case has several right outputs, and a checker, which is given one",
                "leave one text in `stdout`, or leave the checker out",
            )

    @property
    def runs_programs(self) -> bool:
        """Whether a program that comes with no tests can be run all the same."""
        return True

    def own_controls(self) -> list[tuple[str, Tests, tuple[str | None, str]]] | None:
        """(source, tests, (stage or None for any, status)) instead of `controls`; None uses those."""
        return None

    def read_only_paths(self, tools: Mapping[str, str]) -> list[str]:
        """Directories outside the system's own that programs and tools must be able to read but not write."""
        return outside_system(tools.values())

    def tool_environment(self) -> dict[str, str]:
        """Variables that compilers get besides PATH and LANG."""
        return {}

    def program_environment(self) -> dict[str, str]:
        """Variables that programs get besides PATH and LANG."""
        return {}

    def settings_in_force(self) -> dict[str, Any]:
        """The settings that belong in the record of the toolchain."""
        return {}

    def needs_address_space(self) -> bool:
        """Whether programs reserve far more address space than they use."""
        return False

    def max_reward(self, has_tests: bool) -> float:
        """The reward of full success: of all tests passed, or of the last stage where there are none."""
        if has_tests and "tests" in self.stages:
            return self.rewards.passes
        return self.rewards.runs if has_tests and "run" in self.stages else self.rewards.compiles

    def run_limits(self) -> Limits:
        """Limits of one run of the program."""
        memory, stack = self.memory_limit_bytes, self.stack_bytes
        # The C library reserves as much address space for each thread's stack as the main thread's may have.
        stacks = _THREADS_WITH_STACK * stack
        return Limits(
            cpu_seconds=self.timeout_seconds,
            wall_seconds=3 * self.timeout_seconds + 2,
            memory_bytes=memory,
            address_space_bytes=None if self.needs_address_space() else 4 * memory + stacks,
            data_bytes=None if self.needs_address_space() else 2 * memory + stacks,
            stack_bytes=stack,
            file_bytes=self.output_limit_bytes,
            num_processes=self.process_limit,
            num_open_files=64,
            keep_bytes=self.output_limit_bytes,
        )

    def compile_limits(self) -> Limits:
        """Limits of one call of the compiler or linker."""
        return Limits(
            cpu_seconds=self.compile_timeout_seconds,
            wall_seconds=3 * self.compile_timeout_seconds + 5,
            memory_bytes=self.compile_memory_limit_bytes,
            data_bytes=4 * self.compile_memory_limit_bytes,
            stack_bytes=8 * MEBIBYTE,
            file_bytes=64 * MEBIBYTE,
            num_processes=64,
            num_open_files=256,
            keep_bytes=MEBIBYTE,
        )
