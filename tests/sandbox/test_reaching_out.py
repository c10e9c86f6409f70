"""Ways out that are neither files, network nor signals: calls that change another process or reach a service."""

from __future__ import annotations

from typing import Any

import pytest

from halo_forge.sandbox.local import LocalSandbox

HEADERS = """
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>
/* A process of the same user, which nothing but the filter keeps from being changed. */
static int other(void) { int child = fork(); if (child == 0) { pause(); _exit(0); } return child; }
"""


@pytest.fixture(autouse=True)
def _upper_levels(sandbox: LocalSandbox) -> None:
    if sandbox.isolation.level == "limits":
        pytest.skip("level limits promises nothing of this")


@pytest.mark.parametrize(
    "attempt",
    [
        "struct rlimit r = {1, 1}; return syscall(SYS_prlimit64, other(), RLIMIT_CPU, &r, 0) == 0;",
        "return setpriority(PRIO_PROCESS, other(), 19) == 0;",
        "return setpriority(PRIO_USER, 0, 19) == 0;",
        "cpu_set_t set; CPU_ZERO(&set); CPU_SET(0, &set); return sched_setaffinity(other(), sizeof set, &set) == 0;",
        "int pair[2]; return socketpair(AF_UNIX, SOCK_DGRAM, 0, pair) == 0;",
        "int pair[2]; return socketpair(AF_UNIX, SOCK_RAW | SOCK_CLOEXEC, 0, pair) == 0;",
        'return syscall(SYS_memfd_create, "m", 0) >= 0;',
    ],
)
def test_calls_that_reach_others_are_refused(run_c: Any, attempt: str) -> None:
    outcome = run_c(HEADERS + f"int main(void) {{ {attempt} }}")
    assert (outcome.exit_code, outcome.signal) == (0, None)


@pytest.mark.parametrize(
    "honest",
    [
        "struct rlimit r = {1, 1}; return setrlimit(RLIMIT_CORE, &r) != 0 && errno != EPERM;",
        "return getpriority(PRIO_PROCESS, 0) < 0;",
        "int pair[2]; return socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0;",
        "cpu_set_t set; return sched_getaffinity(0, sizeof set, &set) < 0;",
    ],
)
def test_what_honest_programs_do_still_works(run_c: Any, honest: str) -> None:
    outcome = run_c(HEADERS + f"int main(void) {{ {honest} }}")
    assert (outcome.exit_code, outcome.signal) == (0, None)
