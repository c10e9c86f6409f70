"""Checks completions in background threads, each with its own launcher, and returns the verdicts in order."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Any, Protocol, Self

from halo_forge.core.errors import ConfigError, ToolMissing
from halo_forge.core.records import CheckResult, Completion, Prompt, Verdict
from halo_forge.core.source import Extraction, canonical, digest, extract, normalise
from halo_forge.sandbox.job import Sandbox, SandboxError
from halo_forge.sandbox.local import open_sandbox
from halo_forge.verifiers.checks import Tests
from halo_forge.verifiers.hacks.flags import echoes, of_source
from halo_forge.verifiers.limits import ReferenceFailure, reached_limit, refuse_long_outputs
from halo_forge.verifiers.preflight import check_tools, find_tools
from halo_forge.verifiers.rewards import reward
from halo_forge.verifiers.single_flight import SingleFlight
from halo_forge.verifiers.spec import ProgramSpec

_MAX_SOURCE_BYTES = 256 * 1024
_NUM_ATTEMPTS = 2

_Key = tuple[str, int, int, str, str]


class Verifier(Protocol):
    """Checks completions in the background and returns verdicts in order."""

    def __enter__(self) -> Self:
        """Check that the tools work, using programs whose verdict is known.

        Raises:
            ToolMissing: A tool is missing, or does not work under the configured limits.
        """

    def __exit__(self, *details: object) -> None:
        """`close`."""

    def toolchain(self) -> dict[str, Any]:
        """Compiler, version and isolation level: the same on every call, for the run's record."""

    def check_prompts(self, prompts: Sequence[Prompt]) -> None:
        """Find prompts whose tests cannot work, before anything is generated.

        Raises:
            ConfigError: The verifier does not support a prompt's tests or language, or its harness does not compile.
        """

    def check_references(self, prompts: Sequence[Prompt]) -> Iterator[ReferenceFailure]:
        """Start to run the reference solutions (`info["reference"]`) of the prompts that have one, in the background.

        Yields those that do not pass, in the order of the prompts.

        Raises:
            ConfigError: The verifier does not support a prompt's tests.
        """

    def submit(self, prompt: Prompt, completion: Completion) -> None:
        """Start to check a completion in the background; does not wait.

        Raises:
            ConfigError: The verifier does not support the prompt's tests or language.
        """

    def verify(self, pairs: Sequence[tuple[Prompt, Completion]]) -> Iterator[Verdict]:
        """The verdicts in the order of `pairs`; what was submitted before is not checked again.

        Raises:
            ConfigError: The verifier does not support a prompt's tests or language, or its harness does not compile.
        """

    def verify_again(self, pairs: Sequence[tuple[Prompt, Completion]]) -> Iterator[Verdict]:
        """The same as `verify`, but every program is run again, without the cache."""

    def close(self) -> None:
        """Stop everything that is running, at once."""


class ThreadedVerifier:
    """A `Verifier` whose settings say how programs are built and run; see there.

    Equal programs with equal tests are checked once, and cost nothing the second time.
    """

    def __init__(self, spec: ProgramSpec) -> None:
        self._spec = spec
        self._sandboxes = _Sandboxes(self._open_sandbox)
        self._tools: dict[str, str] = {}
        self._results: SingleFlight[tuple[str, str], CheckResult] = SingleFlight()
        self._pending: dict[_Key, Future[Verdict]] = {}
        self._pool: ThreadPoolExecutor | None = None
        self._toolchain: dict[str, Any] = {}

    def __enter__(self) -> Self:
        self._tools = find_tools(self._spec)
        self._checker = self._spec.checker(self._tools)
        self._toolchain = check_tools(self._spec, self._checker)
        self._pool = ThreadPoolExecutor(self._spec.num_workers, thread_name_prefix="verifier")
        return self

    def _open_sandbox(self) -> Sandbox:
        return open_sandbox(self._spec.isolation, self._spec.read_only_paths(self._tools))

    def __exit__(self, *details: object) -> None:
        self.close()

    def toolchain(self) -> dict[str, Any]:
        """See `Verifier.toolchain`."""
        return dict(self._toolchain)

    def check_prompts(self, prompts: Sequence[Prompt]) -> None:
        """See `Verifier.check_prompts`."""
        if self._pool is None:
            raise RuntimeError("a verifier is used inside its `with` statement")
        for _ in range(self._spec.num_workers):
            # Launchers start while the model is loaded.  One that does not start fails again when it is needed.
            self._pool.submit(self._sandboxes.of_this_thread)
        first_with: dict[str, tuple[str, Tests]] = {}
        all_tests: list[tuple[str, Tests]] = []
        for prompt in prompts:
            self._refuse_other_language(prompt)
            tests, tests_digest = self._spec.tests_of(prompt)
            all_tests.append((prompt.id, tests))
            first_with.setdefault(tests_digest, (prompt.id, tests))
        refuse_long_outputs(self._spec, all_tests)
        prepared = self._pool.map(self._prepare_tests, (tests for _, tests in first_with.values()))
        for prompt_id, _ in first_with.values():
            try:
                next(prepared)
            except ConfigError as error:
                raise ConfigError(f"prompt {prompt_id!r}: {error.message}", error.hint) from error
            except SandboxError as error:
                raise ToolMissing(f"the sandbox failed: {error}", "fix the error above, then start again") from error

    def _prepare_tests(self, tests: Tests) -> None:
        self._checker.prepare(tests, self._sandboxes.of_this_thread())

    def check_references(self, prompts: Sequence[Prompt]) -> Iterator[ReferenceFailure]:
        """See `Verifier.check_references`."""
        if self._pool is None:
            raise RuntimeError("a verifier is used inside its `with` statement")
        asked: list[tuple[str, Future[CheckResult]]] = []
        for prompt in prompts:
            reference = prompt.info.get("reference")
            if isinstance(reference, str) and reference.strip():
                tests, tests_digest = self._spec.tests_of(prompt)
                check = (reference, tests, tests_digest, tests.num_checks)
                asked.append((prompt.id, self._pool.submit(self._known_result, *check)))
        results = ((prompt_id, future.result()) for prompt_id, future in asked)
        return (
            ReferenceFailure(prompt_id, result, reached_limit(result, self._spec))
            for prompt_id, result in results
            if result.status != "passed"
        )

    def submit(self, prompt: Prompt, completion: Completion) -> None:
        """See `Verifier.submit`."""
        key, tests, tests_digest = self._prepare(prompt, completion)
        if key not in self._pending:
            self._pending[key] = self._start(prompt, completion, tests, tests_digest)

    def verify(self, pairs: Sequence[tuple[Prompt, Completion]]) -> Iterator[Verdict]:
        """See `Verifier.verify`."""
        futures = []
        for prompt, completion in pairs:
            key, tests, tests_digest = self._prepare(prompt, completion)
            future = self._pending.pop(key, None)
            futures.append(self._start(prompt, completion, tests, tests_digest) if future is None else future)
        return (future.result() for future in futures)

    def verify_again(self, pairs: Sequence[tuple[Prompt, Completion]]) -> Iterator[Verdict]:
        """See `Verifier.verify_again`."""
        futures = []
        for prompt, completion in pairs:
            _, tests, tests_digest = self._prepare(prompt, completion)
            futures.append(self._start(prompt, completion, tests, tests_digest, again=True))
        return (future.result() for future in futures)

    def close(self) -> None:
        """See `Verifier.close`."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
        self._sandboxes.close()
        if self._pool is not None:
            self._pool.shutdown(wait=True)

    def _prepare(self, prompt: Prompt, completion: Completion) -> tuple[_Key, Tests, str]:
        self._refuse_other_language(prompt)
        tests, tests_digest = self._spec.tests_of(prompt)
        answer = digest(f"{completion.finish} {completion.text}")
        return (prompt.id, completion.index, completion.policy_version, answer, tests_digest), tests, tests_digest

    def _refuse_other_language(self, prompt: Prompt) -> None:
        language = prompt.language
        if language is not None and (canonical(language) or language) != self._spec.language:
            raise ConfigError(
                f"prompt {prompt.id!r} asks for the language {language!r}, but the verifier checks"
                f" {self._spec.language!r}",
                f"set verifier.kind to {language!r}, or remove such prompts",
            )

    def _start(
        self, prompt: Prompt, completion: Completion, tests: Tests, tests_digest: str, again: bool = False
    ) -> Future[Verdict]:
        if self._pool is None:
            raise RuntimeError("a verifier is used inside its `with` statement")
        return self._pool.submit(self._verdict, prompt, completion, tests, tests_digest, again)

    def _verdict(self, prompt: Prompt, completion: Completion, tests: Tests, tests_digest: str, again: bool) -> Verdict:
        def check(code: str, num_checks: int) -> CheckResult:
            return self._known_result(code, tests, None if again else tests_digest, num_checks)

        return judged(self._spec, prompt, completion, tests, check, self._toolchain["isolation"])

    def _known_result(self, code: str, tests: Tests, tests_digest: str | None, num_checks: int) -> CheckResult:
        """The result for a program: a cached one if it was checked with these tests before, unless `tests_digest` is
        None."""
        try:
            if tests_digest is None:
                return self._attempt(code, tests)
            result, fresh = self._results.get((digest(code), tests_digest), lambda: self._attempt(code, tests))
        except SandboxError as error:
            return CheckResult("extract", "error", tests_total=num_checks, diagnostics=f"the sandbox failed: {error}")
        if fresh:
            return result
        return dataclasses.replace(result, wall_seconds=0.0, cpu_seconds=0.0, max_rss_bytes=0)

    def _attempt(self, code: str, tests: Tests) -> CheckResult:
        for attempt in range(1, _NUM_ATTEMPTS + 1):
            try:
                return self._checker.check(code, tests, self._sandboxes.of_this_thread())
            except SandboxError:
                self._sandboxes.discard()
                if attempt == _NUM_ATTEMPTS:
                    raise
        raise AssertionError("unreachable")


def judged(
    spec: ProgramSpec,
    prompt: Prompt,
    completion: Completion,
    tests: Tests,
    check: Callable[[str, int], CheckResult],
    isolation: str | None,
) -> Verdict:
    """The verdict on a completion, given what checks its program.

    Args:
        check: (program, number of its checks) -> what the stages show about it.
        isolation: The level of the sandbox that `check` uses.
    """
    extraction = extract(completion.text, spec.language, tests.entry_point, spec.own_marks)
    flags = set(extraction.flags)
    if completion.finish == "length":
        flags.add("truncated")
    num_checks = tests.num_checks if "tests" in spec.stages else 0
    code = extraction.code
    if code is None:
        result = CheckResult("extract", "failed", tests_total=num_checks, diagnostics=_no_program(extraction))
    elif len(code.encode("utf-8", errors="backslashreplace")) > _MAX_SOURCE_BYTES:
        flags.add("too_large")
        note = f"the program is larger than {_MAX_SOURCE_BYTES} bytes"
        result = CheckResult("extract", "failed", tests_total=num_checks, diagnostics=note)
    else:
        result = check(code, num_checks)
    flags |= _hack_flags(spec, extraction, prompt, completion, tests, result)
    checked = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
    return Verdict(
        **{**checked, "flags": tuple(sorted(flags))},
        prompt_id=prompt.id,
        index=completion.index,
        reward=reward(result, spec.rewards),
        source_digest=None if code is None else digest(code),
        normal_digest=None if code is None else digest(normalise(code, spec.language)),
        extraction=extraction.to_row(),
        isolation=isolation,
        policy_version=completion.policy_version,
    )


def _hack_flags(
    spec: ProgramSpec, extraction: Extraction, prompt: Prompt, completion: Completion, tests: Tests, result: CheckResult
) -> set[str]:
    if extraction.code is None:
        return {"prompt_echo"} if echoes(completion.text, prompt.text) else set()
    language = canonical(spec.language) or spec.language
    found = of_source(extraction.code, language, tests, prompt.text, result)
    return found | set(result.flags)


def open_verifier(spec: ProgramSpec) -> Verifier:
    """A verifier with these settings, to be used in a `with` statement."""
    return ThreadedVerifier(spec)


def _no_program(extraction: Extraction) -> str:
    if "unfinished_reasoning" in extraction.flags:
        return "the completion ends within its reasoning"
    return f"no program found in the completion ({extraction.num_blocks} fenced blocks)"


class _Sandboxes:
    """One sandbox per thread, all closed together."""

    def __init__(self, open_one: Callable[[], Sandbox]) -> None:
        self._open_one = open_one
        self._local = threading.local()
        self._lock = threading.Lock()
        self._open: list[Sandbox] = []
        self._closed = False

    def of_this_thread(self) -> Sandbox:
        """This thread's sandbox.

        Raises:
            SandboxError: It does not start.
            CancelledError: All are closed, and nothing waits for the outcome.
        """
        sandbox: Sandbox | None = getattr(self._local, "sandbox", None)
        if sandbox is None:
            sandbox = None if self._closed else self._open_one()
            with self._lock:
                if sandbox is not None and not self._closed:
                    self._open.append(sandbox)
                    self._local.sandbox = sandbox
                    return sandbox
            if sandbox is not None:
                sandbox.close()
            raise CancelledError("the verifier is closed")
        return sandbox

    def discard(self) -> None:
        """Close this thread's sandbox; the next `of_this_thread` opens a fresh one."""
        sandbox: Sandbox | None = getattr(self._local, "sandbox", None)
        if sandbox is None:
            return
        self._local.sandbox = None
        with self._lock:
            if sandbox in self._open:
                self._open.remove(sandbox)
        sandbox.close()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            sandboxes, self._open = self._open, []
        for sandbox in sandboxes:
            sandbox.close()
