"""What surrounds the checks: order, duplicates, our own failures, missing tools, the end."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from c_answers import ADD, COMPILE, HARNESS, STDIO, answer, prompt, sum_program
from pydantic import TypeAdapter, ValidationError

from halo_forge.core.errors import ConfigError, ToolMissing
from halo_forge.core.records import Completion, Verdict
from halo_forge.core.registry import discover, tagged_union
from halo_forge.sandbox.job import Isolation, Job, JobResult, SandboxError
from halo_forge.sandbox.local import LocalSandbox, open_sandbox
from halo_forge.verifiers import open_verifier
from halo_forge.verifiers import verifier as verifier_module
from halo_forge.verifiers.context import ToolRunner
from halo_forge.verifiers.languages.c import Spec
from halo_forge.verifiers.verifier import ThreadedVerifier


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What the compiler was asked to make."""
    targets: list[str] = []
    original = ToolRunner.run

    def run(self: ToolRunner, argv: list[str], files: object, fetch: str | None, *rest: object) -> JobResult:
        targets.append(fetch if fetch is not None else argv[1])
        return original(self, argv, files, fetch, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(ToolRunner, "run", run)
    yield targets


@pytest.mark.parametrize("kind", sorted(discover("halo_forge.verifiers.languages")))
def test_every_language_opens_and_tells_its_toolchain(kind: str) -> None:
    settings = {"command": {"command": "cat answer", "language": "text"}}
    spec = discover("halo_forge.verifiers.languages")[kind].model_validate(settings.get(kind, {}))
    absent = [name for name in spec.requires() if shutil.which(name) is None]  # type: ignore[attr-defined]
    if absent:
        pytest.skip(f"{', '.join(absent)} not installed")
    with open_verifier(spec) as first, open_verifier(spec) as second:  # type: ignore[attr-defined]
        assert first.toolchain() == second.toolchain()
        assert first.toolchain()["isolation"] in ("namespace", "landlock") and first.toolchain()["version"]


def test_settings_come_from_yaml_like_data() -> None:
    adapter = TypeAdapter(tagged_union("halo_forge.verifiers.languages"))
    spec = adapter.validate_python(
        {"kind": "c", "stages": ["compile", "run"], "timeout_seconds": 2, "workers": 3, "rewards": {"runs": 0.6}}
    )
    assert (spec.timeout_seconds, spec.num_workers, spec.rewards.runs, spec.rewards.passes) == (2.0, 3, 0.6, 1.0)
    assert adapter.validate_python(spec.model_dump()) == spec
    assert Spec().num_workers == len(os.sched_getaffinity(0))
    assert Spec().run_limits().wall_seconds == 17.0


@pytest.mark.parametrize(
    "settings",
    [
        {"stages": []},
        {"stages": ["run"]},
        {"stages": ["compile", "tests"]},
        {"stages": "compile"},
        {"flags": "-O2"},
        {"flags": ["-w"]},
        {"standard": "c17 -x"},
        {"workers": 0},
        {"workers": "all"},
        {"workers": True},
        {"timeout_seconds": 0},
        {"timeout_seconds": "5"},
        {"memory_limit_bytes": 1024},
        {"max_error_fraction": 1.5},
        {"timeout": 5},
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Spec.model_validate(settings)


@pytest.mark.parametrize(
    ("stages", "with_tests", "without"),
    [(["compile"], 0.5, 0.5), (["compile", "run"], 0.7, 0.5), (["compile", "run", "tests"], 1.0, 0.5)],
)
def test_max_reward_is_what_full_success_gets(stages: list[str], with_tests: float, without: float) -> None:
    spec = Spec.model_validate({"stages": stages, "workers": 1})
    assert (spec.max_reward(True), spec.max_reward(False)) == (with_tests, without)
    with open_verifier(spec) as verifier:
        tested, plain = verifier.verify(
            [(prompt(STDIO), answer(sum_program())), (prompt(None), answer("int main(void) { return 0; }\n"))]
        )
    assert tested.passed and plain.passed
    assert (tested.reward, plain.reward) == (with_tests, without)
    assert tested.stage == stages[-1]


def test_order_is_kept_and_nothing_is_checked_twice(verifier: ThreadedVerifier, counted: list[str]) -> None:
    slow = "#include <unistd.h>\nint add(int a, int b) { if (a == 1) usleep(300000); return a + b + 7; }\n"
    pairs = [(prompt(HARNESS), answer(slow, 0))]
    pairs += [(prompt(HARNESS), answer(f"int add(int a, int b) {{ return a + b + {n}; }}\n", n)) for n in range(1, 6)]
    for pair in pairs[::2]:
        verifier.submit(*pair)
        verifier.submit(*pair)
    verdicts = list(verifier.verify(pairs))
    assert [verdict.index for verdict in verdicts] == [0, 1, 2, 3, 4, 5]
    assert [verdict.policy_version for verdict in verdicts] == [1] * 6
    assert counted.count("answer.o") == 6


def test_equal_programs_are_compiled_once_and_equal_harnesses_too(counted: list[str]) -> None:
    other = {**HARNESS, "expected": ["3", "0", "42", "0"]}
    with open_verifier(Spec(workers=2)) as verifier:
        counted.clear()
        same = [(prompt(HARNESS, f"task{n}"), answer(ADD, n, f"task{n}")) for n in range(4)]
        verdicts = list(
            verifier.verify([*same, (prompt(other), answer(ADD, 4)), (prompt(HARNESS), answer(ADD + ADD, 5))])
        )
    made = sorted(name for name in counted if not name.startswith("-"))  # beside questions to the compiler
    assert made == ["answer.o"] * 3 + ["harness.o"] + ["program"] * 2 + ["start.o"]
    assert [verdict.prompt_id for verdict in verdicts] == ["task0", "task1", "task2", "task3", "task", "task"]
    assert [verdict.reward for verdict in verdicts] == [1.0, 1.0, 1.0, 1.0, pytest.approx(0.925), 0.0]
    assert sum(verdict.cpu_seconds > 0 for verdict in verdicts[:4]) == 1


def test_the_same_input_gives_the_same_rows() -> None:
    codes = [
        ADD,
        "int add(int a, int b) { int unused; return a; }\n",
        "int add(int a, int b) { return a + }\n",
        '#include <stdio.h>\nint add(int a, int b) { int x; printf("%p ", (void *)&x); return a + b; }\n',
        '#include <stdio.h>\n#include <stdlib.h>\nint add(int a, int b) { fputs(getenv("HOME"), stderr); abort(); }\n',
        "int add(int a, int b) { for (;;); }\n",
        '__asm__("nonsense");\n' + ADD,
    ]
    rows = []
    for _ in range(2):
        with open_verifier(Spec(workers=2, timeout_seconds=0.3)) as verifier:
            pairs = [(prompt(HARNESS), answer(code, n)) for n, code in enumerate(codes)]
            pairs.append((prompt(HARNESS), Completion("task", 9, "no code", (), "length", 0, 1)))
            rows.append([verdict.without_cost().to_row() for verdict in verifier.verify(pairs)])
    assert rows[0] == rows[1]
    assert "/halo-forge-" not in str(rows[0]) and "/tmp" not in str(rows[0])
    assert rows[0][-1]["flags"] == ["no_code", "truncated"]


def test_every_field_of_a_verdict_is_filled(verifier: ThreadedVerifier) -> None:
    (verdict,) = verifier.verify([(prompt(HARNESS), answer("int add(int a, int b) { int u; return a; }\n", 3))])
    assert verdict == Verdict.from_row(verdict.to_row())
    assert (verdict.prompt_id, verdict.index, verdict.warnings) == ("task", 3, 2)
    assert (verdict.exit_code, verdict.signal, verdict.flags, verdict.policy_version) == (0, None, (), 1)
    assert verdict.source_digest is not None and verdict.normal_digest not in (None, verdict.source_digest)
    assert verdict.wall_seconds > 0 and verdict.cpu_seconds > 0 and verdict.max_rss_bytes > 1_000_000


def test_flags_come_from_the_extraction_and_the_completion(verifier: ThreadedVerifier) -> None:
    cut = Completion("task", 0, f"```c\n{ADD}", (), "length", 0, 1)
    raw = Completion("task", 1, ADD, (), "stop", 0, 1)
    large = answer("// " + "x" * 300_000 + "\n" + ADD, 2)
    first, second, third = verifier.verify([(prompt(HARNESS), made) for made in (cut, raw, large)])
    assert (first.flags, first.reward) == (("truncated", "unterminated_fence"), 1.0)
    assert (second.flags, second.reward) == (("no_fence",), 1.0)
    assert (third.flags, third.stage, third.reward) == (("too_large",), "extract", 0.0)


@pytest.mark.parametrize("name", ["gcc-that-is-not-there", "/opt/none/gcc"])
def test_a_missing_compiler_is_found_on_entry(name: str) -> None:
    with pytest.raises(ToolMissing) as caught, open_verifier(Spec(compiler=name)):
        pass
    assert caught.value.exit_code == 4
    assert name in caught.value.message and "apt-get install gcc" in caught.value.hint


@pytest.mark.parametrize(
    "script",
    ["#!/bin/sh\nexit 1\n", "#!/bin/sh\necho fake 1.0\n", "#!/bin/sh\necho fake; touch answer.o program harness.o\n"],
)
def test_a_compiler_that_does_not_compile_is_found_on_entry(open_path: Path, script: str) -> None:
    fake = open_path / "gcc"
    fake.write_text(script)
    fake.chmod(0o755)
    with pytest.raises(ToolMissing, match=r"self-test|version"), open_verifier(Spec(compiler=str(fake))):
        pass


def test_a_compiler_that_is_late_is_not_to_be_installed_first(open_path: Path) -> None:
    fake = open_path / "gcc"
    fake.write_text('#!/bin/sh\n[ "$1" = --version ] && echo fake && exit\nwhile :; do :; done\n')
    fake.chmod(0o755)
    spec = Spec(compiler=str(fake), compile_timeout_seconds=0.3)
    with pytest.raises(ToolMissing, match="found timeout at stage compile") as caught, open_verifier(spec):
        pass
    assert caught.value.hint.startswith("try again when the machine is less busy, or raise verifier.timeout_seconds")


def test_limits_that_no_program_can_keep_are_found_on_entry() -> None:
    with (
        pytest.raises(ToolMissing, match=r"self-test|version") as caught,
        open_verifier(Spec(compile_timeout_seconds=0.0001)),
    ):
        pass
    assert "compile_timeout_seconds" in caught.value.hint


def test_prompts_of_others_are_refused(verifier: ThreadedVerifier) -> None:
    with pytest.raises(ConfigError, match="python"):
        verifier.submit(prompt(None, language="python"), answer(ADD))
    with pytest.raises(ConfigError, match="tests"):
        verifier.verify([(prompt({"kind": "unknown"}), answer(ADD))])
    (verdict,) = verifier.verify([(prompt(COMPILE, language=None), answer(ADD))])
    assert verdict.passed


def test_a_harness_that_does_not_compile_is_the_prompt_files_fault(verifier: ThreadedVerifier) -> None:
    with pytest.raises(ConfigError, match="harness of a prompt does not compile"):
        list(verifier.verify([(prompt({**HARNESS, "source": "int main(void) { return x; }"}), answer(ADD))]))


class BrokenSandbox:
    """Breaks on the first jobs, then works."""

    num_failures = 0
    isolation = Isolation("limits")

    def __init__(self, isolation: str, read_only: Sequence[str]) -> None:
        self._real = open_sandbox(isolation, read_only)

    def run(self, job: Job) -> JobResult:
        if BrokenSandbox.num_failures > 0:
            BrokenSandbox.num_failures -= 1
            raise SandboxError("out of order")
        return self._real.run(job)

    def close(self) -> None:
        self._real.close()


@pytest.mark.parametrize(("num_failures", "status", "reward"), [(1, "passed", 1.0), (2, "error", 0.0)])
def test_our_own_failures_are_retried_once_and_never_the_models(
    monkeypatch: pytest.MonkeyPatch, num_failures: int, status: str, reward: float
) -> None:
    with open_verifier(Spec(workers=1)) as verifier:
        monkeypatch.setattr(verifier_module, "open_sandbox", BrokenSandbox)
        BrokenSandbox.num_failures = num_failures
        (verdict,) = verifier.verify([(prompt(HARNESS), answer(ADD))])
        assert (verdict.status, verdict.reward) == (status, reward)
        assert ("out of order" in verdict.diagnostics) == (status == "error")
        (again,) = verifier.verify([(prompt(HARNESS), answer(ADD))])
        assert again.status == "passed", "a failure of our own is not remembered"


def test_a_program_is_run_again_whatever_was_found_out_before(verifier: ThreadedVerifier) -> None:
    luck = "#include <sys/time.h>\nint add(int a, int b) { struct timeval t; gettimeofday(&t, (void *)0);\n"
    luck += "    return a + b + (int)(t.tv_sec % 100000 * 1000 + t.tv_usec); }\n"
    pairs = [(prompt(HARNESS), answer(ADD, 0)), (prompt(HARNESS), answer(luck, 1))]
    steady, lucky = verifier.verify(pairs)
    assert [each.without_cost() for each in verifier.verify(pairs)] == [steady.without_cost(), lucky.without_cost()]
    first, second = verifier.verify_again(pairs)
    assert first.cpu_seconds > 0 and first.without_cost() == steady.without_cost()
    assert second.cpu_seconds > 0 and second.diagnostics != lucky.diagnostics


def test_how_and_where_and_behind_what_are_in_the_verdict(verifier: ThreadedVerifier) -> None:
    (verdict,) = verifier.verify([(prompt(HARNESS), answer(ADD))])
    assert verdict.extraction == {"how": "fence", "tag": "c", "num_blocks": 1, "lines": (2, 2)}
    assert verdict.isolation == verifier.toolchain()["isolation"]
    silent = Completion("task", 1, "I cannot.", (), "stop", 0, 1)
    (verdict,) = verifier.verify([(prompt(HARNESS), silent)])
    assert verdict.extraction == {"how": "none", "tag": None, "num_blocks": 0, "lines": None}


@pytest.mark.parametrize(("num_kills", "status"), [(1, "passed"), (9, "error")])
def test_a_launcher_that_is_killed_with_its_job_is_our_failure(
    monkeypatch: pytest.MonkeyPatch, num_kills: int, status: str
) -> None:
    opened: list[LocalSandbox] = []
    killed: list[int] = []

    def remember(isolation: str, read_only: Sequence[str]) -> LocalSandbox:
        sandbox = open_sandbox(isolation, read_only)
        assert isinstance(sandbox, LocalSandbox)
        opened.append(sandbox)
        return sandbox

    original = LocalSandbox.run

    def run(self: LocalSandbox, job: Job) -> JobResult:
        if job.argv[0] == "./program" and len(killed) < num_kills:
            killed.append(self._process.pid)
            threading.Timer(0.2, os.kill, (self._process.pid, signal.SIGKILL)).start()
        return original(self, job)

    slow = "#include <unistd.h>\nint add(int a, int b) { usleep(400000 / 4); return a + b; }\n"
    with open_verifier(Spec(workers=1)) as verifier:
        monkeypatch.setattr(verifier_module, "open_sandbox", remember)
        monkeypatch.setattr(LocalSandbox, "run", run)
        (verdict,) = verifier.verify([(prompt(HARNESS), answer(slow))])
    assert (verdict.status, len(opened)) == (status, 2)
    assert verdict.hacks == () and verdict.reward == (1.0 if status == "passed" else 0.0)
    assert len(set(killed)) == min(num_kills, 2)


def test_close_ends_what_is_running_at_once() -> None:
    endless = "#include <unistd.h>\nint add(int a, int b) { sleep(60); return a + b; }\n"
    verifier = open_verifier(Spec(workers=1, timeout_seconds=30.0))
    with verifier:
        for index in range(4):
            verifier.submit(prompt(HARNESS), answer(endless + f"// {index}\n", index))
        time.sleep(0.5)
        started = time.monotonic()
    assert time.monotonic() - started < 20.0  # an answer has 30 of CPU time and sleeps
    with pytest.raises(RuntimeError):
        verifier.submit(prompt(HARNESS), answer(ADD))


def test_an_interrupt_ends_it_within_seconds() -> None:
    script = """
from c_answers import HARNESS, answer, prompt
from halo_forge.verifiers import open_verifier
from halo_forge.verifiers.languages.c import Spec
endless = "#include <unistd.h>\\nint add(int a, int b) { sleep(60); return a + b; }\\n"
with open_verifier(Spec(workers=2, timeout_seconds=30.0)) as verifier:
    verdicts = verifier.verify([(prompt(HARNESS), answer(endless + f"// {n}\\n", n)) for n in range(5)])
    print("ready", flush=True)
    list(verdicts)
"""
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    process = subprocess.Popen([sys.executable, "-c", script], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)  # an answer sleeps for a minute
    assert process.returncode != 0 and b"KeyboardInterrupt" in errors


def test_launchers_go_with_the_verifier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[LocalSandbox] = []

    def remember(isolation: str, read_only: Sequence[str]) -> LocalSandbox:
        sandbox = open_sandbox(isolation, read_only)
        assert isinstance(sandbox, LocalSandbox)
        opened.append(sandbox)
        return sandbox

    with open_verifier(Spec(workers=2)) as verifier:
        monkeypatch.setattr(verifier_module, "open_sandbox", remember)
        list(verifier.verify([(prompt(HARNESS), answer(ADD + f"// {n}\n", n)) for n in range(6)]))
    assert 1 <= len(opened) <= 2
    assert all(sandbox._process.poll() == 0 and not os.path.exists(sandbox._directory) for sandbox in opened)


def test_prompts_that_cannot_work_are_found_before_anything_is_generated() -> None:
    broken = {**HARNESS, "source": "int main(void) { return 0 }"}
    with open_verifier(Spec(workers=1)) as verifier:
        verifier.check_prompts([prompt(HARNESS), prompt(STDIO), prompt(None)])
        with pytest.raises(ConfigError, match="harness of a prompt does not compile"):
            verifier.check_prompts([prompt(HARNESS), prompt(broken)])
        with pytest.raises(ConfigError, match="kind"):
            verifier.check_prompts([prompt({"kind": "foo"})])
