"""Every hostile program on every level of isolation that this machine has, and what must be so after each of them.

The verdict comes in time, no process is left, nothing is written outside the workdir, disk and memory are as before,
nobody outside was signalled, and the next job on the same launcher is fine.
"""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from collections.abc import Iterator

import pytest
from hostile_arena import SECRET, Arena, compiled
from hostile_escapes import ESCAPES
from hostile_files import FILES
from hostile_programs import RUNNING, Program, ending
from hostile_python import PYTHON
from hostile_sources import SOURCES

from halo_forge.sandbox.job import SandboxError
from halo_forge.verifiers.diagnostics import clip, readable

LEVELS = ("namespace", "landlock", "limits")
PROGRAMS = (*RUNNING, *FILES, *ESCAPES, *SOURCES, *PYTHON)
CAP_SECONDS = 30.0
NUM_TRIES = 3


def runs_at(program: Program, level: str) -> bool:
    """Whether `level` promises to hold `program`; what it does not promise is not tried."""
    held_at_limits = program.needs == "nothing" or (program.needs == "own user" and os.geteuid() == 0)
    if program.needs == "own file system":
        return level == "namespace"
    return level != "limits" or held_at_limits


CASES = [
    pytest.param(level, program, id=f"{level}-{program.name}")
    for level in LEVELS
    for program in PROGRAMS
    if runs_at(program, level)
]


@pytest.fixture(scope="module")
def arena(request: pytest.FixtureRequest) -> Iterator[Arena]:
    try:
        opened = Arena(request.param)
    except SandboxError as error:
        pytest.skip(f"level {request.param} is not available here: {error}")
    yield opened
    opened.close()


@pytest.fixture
def watchdog(arena: Arena) -> Iterator[None]:
    """Whatever the sandbox does or fails to do, the test ends."""
    barked = threading.Event()

    def bark() -> None:
        barked.set()
        arena.kill_everything()

    timer = threading.Timer(CAP_SECONDS, bark)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        arena.mend()
    assert not barked.is_set(), f"the sandbox did not come back within {CAP_SECONDS:g} s"


def test_the_table_is_whole() -> None:
    names = [program.name for program in PROGRAMS]
    assert len(names) == len(set(names))
    assert len(names) >= 76


@pytest.mark.parametrize(("arena", "program"), CASES, indirect=["arena"], scope="module")
def test_hostile_program(arena: Arena, program: Program, watchdog: None) -> None:
    if program.destructive:
        assert arena.breaches == [], "not run: a harmless try already got out of this level"
    if program.needs == "own user" and arena.level == "limits" and not arena.own_user:
        pytest.skip("this kernel does not let the launcher become another user")
    problems: list[str] = []
    for _ in range(NUM_TRIES):
        problems = one_try(arena, program)
        # Others may write to the same disk meanwhile; what the program does to it, it does every time.
        if not problems or any(not problem.startswith("disk") for problem in problems):
            break
    assert problems == []


def one_try(arena: Arena, program: Program) -> list[str]:
    job = arena.job(program)
    before = arena.snapshot()
    started = time.monotonic()
    outcome = arena.sandbox.run(job)
    seconds = time.monotonic() - started
    problems = arena.changes(before)
    found = ending(outcome)
    if found not in program.expected:
        problems.append(
            f"ended with {found}, expected {program.expected}: {outcome.stdout[:500]!r} {outcome.stderr[:500]!r}"
        )
    if seconds > job.limits.wall_seconds + 3.0:
        problems.append(f"took {seconds:.2f} s of {job.limits.wall_seconds:g} s")
    said = (outcome.stdout, outcome.stderr, b"" if outcome.fetched is None else outcome.fetched)
    problems += [f"tells {secret!r}" for secret in arena.secrets(program) if any(secret in part for part in said)]
    if max(len(outcome.stdout), len(outcome.stderr)) > job.limits.keep_bytes:
        problems.append("hands back more output than is kept")
    if len(clip(readable(outcome.stderr)).encode()) > 10 * 1024:
        problems.append("diagnostics above 10 KiB")
    if program.stdout is not None and outcome.stdout != program.stdout:
        problems.append(f"printed {outcome.stdout[:500]!r}")
    if program.fetch is not None and outcome.fetched is not None:
        problems.append("handed out what is no plain file of its own")
    if program.compiling and outcome.fetched is not None and not outcome.fetched.startswith(b"\x7fELF"):
        problems.append("the compiler's result is no program")
    return problems + arena.next_job_problems()


def test_the_watchdog_ends_all() -> None:
    arena = Arena("limits")
    try:
        forever = Program("forever", "#include <unistd.h>\nint main(void) { fork(); setsid(); for (;;) pause(); }", ())
        threading.Timer(0.5, arena.kill_everything).start()
        with pytest.raises(SandboxError):
            arena.sandbox.run(arena.job(forever))
        arena.mend()
        assert arena.next_job_problems() == []
    finally:
        arena.close()


def test_the_checks_notice_what_limits_does_not_hold() -> None:
    arena = Arena("limits")
    by_name = {program.name: program for program in ESCAPES}
    try:
        noticed = {
            name: one_try(arena, by_name[name])
            for name in ("connect_tcp", "send_udp", "connect_abstract", "destroy_what_others_may_write")
        }
        arena.restore_canary()
        arena.level = "landlock"  # where a word of another's file is a breach
        noticed["read_other_box"] = one_try(arena, by_name["read_other_box"])
    finally:
        arena.close()
    assert noticed == {
        "connect_tcp": ["connected to a TCP socket"],
        "send_udp": ["sent a datagram"],
        "connect_abstract": ["connected to an abstract socket"],
        "destroy_what_others_may_write": ["another job's files were changed"],
        "read_other_box": [f"tells {SECRET!r}"],
    }


def test_an_ordinary_program_is_not_hindered() -> None:
    source = (
        '#include <stdio.h>\nint main(void) { int a; return scanf("%d", &a) != 1 || printf("%d\\n", a * 2) < 0; }\n'
    )
    for level in LEVELS:
        try:
            arena = Arena(level)
        except SandboxError as error:
            print(f"level {level} is not available here: {error}")
            continue
        try:
            program = Program("ordinary", source, ("ok",), stdin=b"21\n", stdout=b"42\n")
            assert one_try(arena, program) == []
            wrong = dataclasses.replace(program, expected=("exit",), stdout=b"43\n")
            assert len(one_try(arena, wrong)) == 2  # the checks can fail
        finally:
            arena.close()
    assert compiled.cache_info().currsize > 0
