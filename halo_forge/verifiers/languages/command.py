"""A command of the user's: any language and any way of checking, behind a small JSON protocol.

In a fresh directory the command finds the answer as a file, and on standard input one JSON object

    {"prompt_id": ..., "code": ..., "language": ..., "tests": the prompt's own tests, or null}

It prints one JSON object and exits with code 0:

    {"status": "passed" | "failed" | "timeout",
     "stage": "compile" | "run" | "tests",      # how far it came; optional
     "tests_passed": 0, "tests_total": 0, "warnings": 0, "diagnostics": "..."}

Anything else (another exit code, a crash, no JSON, an exceeded limit) is no reply.  Then the command is run on an empty
answer and on the known ones: if it replies correctly, and fails to reply about this answer a second time, the answer
has failed and gets the flag "no_reply"; otherwise the verifier has failed.  So a command that runs the answer has to
give it its own limits.
"""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, PrivateAttr, field_validator, model_validator

from halo_forge.core.errors import ConfigError
from halo_forge.core.output_rule import OutputRule
from halo_forge.core.records import Prompt
from halo_forge.core.registry import Spec as BaseSpec
from halo_forge.core.source import canonical
from halo_forge.sandbox.job import MEBIBYTE, Limits
from halo_forge.sandbox.local import shows_too_much
from halo_forge.verifiers.checker import Checker
from halo_forge.verifiers.checks import Tests
from halo_forge.verifiers.command.checker import CommandChecker, Given, tests_of
from halo_forge.verifiers.python.interpreter import locate
from halo_forge.verifiers.spec import Controls, ProgramSpec
from halo_forge.verifiers.toolchain import outside_system

_PLAIN_NAME = r"^[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}$"


class KnownAnswers(BaseSpec):
    """Answers whose verdict is known, checked before every run; each is left out where it is null.

    Attributes:
        passing, broken: An answer that must pass, and one that must fail (at whatever stage).
        tests: What the command gets as the tests of both.
    """

    passing: str | None = None
    broken: str | None = None
    tests: dict[str, Any] | None = None


class Spec(ProgramSpec):
    """The answer is checked by a command of the user.

    Attributes:
        command: The command and its arguments.  The first is found in PATH, or is "./NAME" for one of `files`;
            file names in the others are relative to its working directory.
        answer_language: `language`: what code fences and prompts call the language of the answers.
        answer_file: The file name of the answer.
        files: Files of the checker, each copied into the working directory under its own name.
        read_only: Directories that the command can read at their own paths, such as a compiler below the home folder;
            those of the system, and that of the command itself, are there without being named.
        known_answers: `controls`: see `KnownAnswers`.
    """

    kind: Literal["command"] = "command"
    command: list[str] = Field(min_length=1)
    # ProgramSpec has a property `language` and a method `controls`, which fields of that name would hide.
    answer_language: str = Field(alias="language", min_length=1)
    answer_file: str = Field(default="answer", pattern=_PLAIN_NAME)
    files: list[str] = Field(default_factory=list)
    process_limit: int = Field(default=64, ge=1, le=10_000)
    read_only: list[str] = Field(default_factory=list)
    known_answers: KnownAnswers = Field(default_factory=KnownAnswers, alias="controls")

    _contents: dict[str, bytes] | None = PrivateAttr(default=None)

    @field_validator("command", mode="before")
    @classmethod
    def _words(cls, command: Any) -> Any:
        return shlex.split(command) if isinstance(command, str) else command

    @field_validator("answer_language")
    @classmethod
    def _one_name(cls, language: str) -> str:
        known = canonical(language)
        return language.strip().lower() if known is None else known

    @field_validator("compare")
    @classmethod
    def _the_command_compares(cls, compare: OutputRule) -> OutputRule:
        if compare != OutputRule():
            raise ValueError("compare has no effect here: the command itself decides what is right")
        return compare

    @model_validator(mode="after")
    def _files_fit_together(self) -> Self:
        names = [os.path.basename(path) for path in self.files]
        for name in names:
            if not name or names.count(name) > 1 or name == self.answer_file:
                raise ValueError(
                    f"files: {name!r} is not a file name, is listed twice, or is that of the answer; found {names}"
                )
        first = self.command[0]
        if not first or (first.startswith("./") and first[2:] not in names):
            raise ValueError(f"command: {first!r} is not among verifier.files; found {names}")
        return self

    @property
    def language(self) -> str:
        return self.answer_language

    def requires(self) -> list[str]:
        first = self.command[0]
        own = {f"./{os.path.basename(path)}": path for path in self.files}
        # A path with a slash is looked up as it is; a bare name would be looked for in PATH.
        return [os.path.abspath(os.path.expanduser(own[first])) if first in own else os.path.expanduser(first)]

    def program(self, tools: Mapping[str, str]) -> tuple[str, list[str]]:
        """The path that starts the command in the sandbox, and the directories of its installation.

        Raises:
            ToolMissing: A Python does not say where it is.
        """
        first, found = self.command[0], tools[self.requires()[0]]
        if first.startswith("./"):
            return first, []
        if os.path.basename(found).startswith("python"):
            # Often a script of a version manager, which needs far more than the interpreter that it starts.
            interpreter = locate(found, True)
            return interpreter.executable, list(interpreter.read_only)
        return found, outside_system([found])

    def read_only_paths(self, tools: Mapping[str, str]) -> list[str]:
        named = [os.path.abspath(os.path.expanduser(path)) for path in self.read_only]
        for path in named:
            if not os.path.isdir(path):
                raise ConfigError(f"verifier.read_only: {path!r} is not a directory", "name existing directories")
            if shows_too_much(path):
                raise ConfigError(
                    f"verifier.read_only: {path!r} would expose too much", "name the directories in it one by one"
                )
        return sorted({*named, *self.program(tools)[1]})

    def install_hint(self) -> str:
        return (
            "install what verifier.command starts, or name it by its path; a file of verifier.files is started as"
            " ./NAME, and has to be there and executable (chmod +x)"
        )

    def source_name(self, stem: str) -> str:
        return self.answer_file

    def version_command(self, compiler: str) -> list[str]:
        return [compiler, *self.command[1:]]

    def controls(self) -> Controls:
        raise NotImplementedError("a command has `own_controls`: no program is known in every language")

    @property
    def runs_programs(self) -> bool:
        return False  # what to do without tests is the command's business

    def own_controls(self) -> list[tuple[str, Tests, tuple[str | None, str]]]:
        known = self.known_answers
        found: list[tuple[str, Any, tuple[str | None, str]]] = []
        tests = Given(prompt_id="control", given=known.tests)
        if known.passing is not None:
            found.append((known.passing, tests, (self.stages[-1], "passed")))
        if known.broken is not None:
            found.append((known.broken, tests, (None, "failed")))
        return found

    def tests_of(self, prompt: Prompt) -> tuple[Tests, str]:
        return tests_of(prompt)

    def checker(self, tools: Mapping[str, str]) -> Checker:
        return CommandChecker(self, tools, self.contents())

    def contents(self) -> dict[str, bytes]:
        """File name -> content of each of `files`, read when first needed.

        Raises:
            ConfigError: One cannot be read.
        """
        if self._contents is None:
            self._contents = {os.path.basename(path): _content(path) for path in self.files}
        return self._contents

    def settings_in_force(self) -> dict[str, Any]:
        digests = {name: hashlib.sha256(content).hexdigest() for name, content in self.contents().items()}
        return {"command": list(self.command), "language": self.language, "files": digests}

    def needs_address_space(self) -> bool:
        return True

    def max_reward(self, has_tests: bool) -> float:
        # Whether there is something to test is the command's business: full success is one thing for all prompts.
        rewards = self.rewards
        return {"compile": rewards.compiles, "run": rewards.runs, "tests": rewards.passes}[self.stages[-1]]

    def run_limits(self) -> Limits:
        """Limits of one run of the command together with all that it starts."""
        return Limits(
            cpu_seconds=self.timeout_seconds,
            wall_seconds=3 * self.timeout_seconds + 2,
            memory_bytes=self.memory_limit_bytes,
            stack_bytes=self.stack_bytes,
            file_bytes=max(64 * MEBIBYTE, self.output_limit_bytes),
            num_processes=self.process_limit,
            num_open_files=256,
            keep_bytes=self.output_limit_bytes,
        )


def _content(path: str) -> bytes:
    try:
        return Path(path).expanduser().read_bytes()
    except OSError as error:
        raise ConfigError(
            f"verifier.files: {path!r} cannot be read: {error.strerror}",
            "give paths of plain files, relative to the folder that halo-forge is started in",
        ) from error
