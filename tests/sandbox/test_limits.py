"""Each limit by itself: what is allowed, what is not, and what the outcome says."""

from __future__ import annotations

import errno
import signal

import pytest

from halo_forge.sandbox.job import MEBIBYTE, Job, Limits

HEADERS = """
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
"""


def test_plain_command(shell) -> None:
    outcome = shell("echo out; echo err >&2; exit 3")
    assert (outcome.exit_code, outcome.signal, outcome.clean) == (3, None, False)
    assert (outcome.stdout, outcome.stderr, outcome.truncated) == (b"out\n", b"err\n", False)
    assert (outcome.timed_out, outcome.out_of_memory, outcome.output_limit, outcome.process_limit) == (
        None,
        False,
        False,
        False,
    )
    assert 0 < outcome.wall_seconds < 5 and 0 < outcome.cpu_seconds < 1 and outcome.max_rss_bytes > 0


def test_input_is_bytes(run_c) -> None:
    data = bytes(range(256)) * 1000
    outcome = run_c(HEADERS + "int main(void) { int c; while ((c = getchar()) != EOF) putchar(c); }", stdin=data)
    assert outcome.clean and outcome.stdout == data


def test_endless_loop_is_ended_by_cpu_time(run_c) -> None:
    outcome = run_c("int main(void) { for (;;); }", cpu_seconds=0.3)
    assert outcome.timed_out == "cpu" and outcome.exit_code is None
    assert 0.3 <= outcome.cpu_seconds < 0.6


def test_cpu_time_of_all_processes_counts(run_c) -> None:
    outcome = run_c(HEADERS + "int main(void) { fork(); fork(); for (;;); }", cpu_seconds=0.4)
    assert outcome.timed_out == "cpu"
    assert outcome.cpu_seconds < 1.0


def test_cpu_limit_survives_ignored_signals(run_c) -> None:
    source = HEADERS + "int main(void) { for (int i = 1; i < 65; i++) signal(i, SIG_IGN); for (;;); }"
    assert run_c(source, cpu_seconds=0.3).timed_out == "cpu"


@pytest.mark.parametrize("script", ["sleep 30", "kill -STOP $$", "sleep 30 & wait"])
def test_waiting_is_ended_by_the_wall_clock(shell, script: str) -> None:
    outcome = shell(script, wall_seconds=0.4)
    assert outcome.timed_out == "wall"
    assert 0.4 <= outcome.wall_seconds < 1.4


@pytest.mark.parametrize(
    "body",
    [
        "for (;;) { char *p = malloc(1 << 20); if (p) memset(p, 1, 1 << 20); }",
        "memset(mmap(0, 300 << 20, 3, MAP_SHARED | MAP_ANONYMOUS, -1, 0), 1, 300 << 20);",
        "for (int i = 0; i < 6; i++) if (!fork()) { memset(malloc(40 << 20), 1, 40 << 20); sleep(9); } sleep(9);",
    ],
    ids=["malloc", "shared", "family"],
)
def test_memory_bomb(run_c, body: str) -> None:
    outcome = run_c(HEADERS + "int main(void) { " + body + " }", memory_bytes=64 * MEBIBYTE, cpu_seconds=4.0)
    assert outcome.out_of_memory and outcome.exit_code is None
    assert outcome.max_rss_bytes < 512 * MEBIBYTE


def test_pages_that_forked_processes_share_count_once(run_c) -> None:
    source = """
    int main(void) {
        memset(malloc(40 << 20), 1, 40 << 20);
        for (int i = 0; i < 7; i++) if (!fork()) { usleep(300000); _exit(0); }
        while (wait(0) > 0);
    }
    """
    outcome = run_c(HEADERS + source, memory_bytes=96 * MEBIBYTE)
    assert outcome.clean


def test_address_space(run_c) -> None:
    source = HEADERS + "int main(void) { return malloc(900u << 20) == NULL; }"
    assert run_c(source, address_space_bytes=256 * MEBIBYTE).exit_code == 1
    assert run_c(source, address_space_bytes=None, data_bytes=None).exit_code == 0


@pytest.mark.parametrize("stream", [1, 2])
def test_output_flood(run_c, stream: int) -> None:
    source = HEADERS + f'int main(void) {{ for (;;) if (write({stream}, "0123456789abcde\\n", 16) < 0) pause(); }}'
    outcome = run_c(source, file_bytes=100_000, keep_bytes=1000)
    assert outcome.output_limit and outcome.signal == signal.SIGXFSZ
    assert outcome.truncated and len((outcome.stdout, outcome.stderr)[stream - 1]) == 1000


def test_output_flood_that_ignores_the_signal(run_c) -> None:
    source = HEADERS + 'int main(void) { signal(SIGXFSZ, SIG_IGN); for (;;) write(1, "0123456789", 10); }'
    outcome = run_c(source, file_bytes=100_000, cpu_seconds=0.3)
    assert outcome.output_limit and outcome.timed_out == "cpu"


def test_a_file_of_the_program_counts_too(shell) -> None:
    outcome = shell("exec head -c 200000 /dev/zero > big", file_bytes=100_000)
    assert outcome.output_limit and not outcome.clean


def test_output_cannot_be_given_a_hole(run_c) -> None:
    body = 'lseek(1, 1 << 30, 0); return write(1, "a", 1) != 1;'
    outcome = run_c(HEADERS + "int main(void) { " + body + " }")
    assert outcome.exit_code == 0 and outcome.stdout == b"a" and not outcome.truncated


# The bombs below stop by themselves after some hundred processes, so that a sandbox that fails leaves no ruin.
FORK_BOMB = """
int main(void) {
    int *count = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    while (__sync_fetch_and_add(count, 1) < 400) { if (fork() == 0) %s; }
    sleep(20);
}
"""


@pytest.mark.parametrize("child", ["{}", "setsid()", "daemon(1, 1)"])
def test_fork_bomb(run_c, child: str) -> None:
    outcome = run_c(HEADERS + FORK_BOMB % child, num_processes=16, cpu_seconds=5.0)
    assert outcome.process_limit or outcome.out_of_memory
    assert outcome.wall_seconds < 5.0


def test_thread_bomb(run_c) -> None:
    source = """
    void *wait_long(void *p) { sleep(20); return p; }
    int main(void) { pthread_t t; for (int i = 0; i < 200; i++) pthread_create(&t, 0, wait_long, 0); sleep(20); }
    """
    assert run_c(HEADERS + source, num_processes=16, stack_bytes=MEBIBYTE).process_limit


def test_open_files_and_core(shell) -> None:
    outcome = shell("ulimit -n; ulimit -c; ulimit -s", num_open_files=40, stack_bytes=16 * MEBIBYTE)
    assert outcome.stdout.split() == [b"40", b"0", str(16 * 1024).encode()]


def test_limits_cannot_be_raised_again(run_c) -> None:
    source = """
    int main(void) {
        struct rlimit r = {RLIM_INFINITY, RLIM_INFINITY};
        return setrlimit(RLIMIT_FSIZE, &r) == 0 || setrlimit(RLIMIT_CPU, &r) == 0 || setrlimit(RLIMIT_AS, &r) == 0
            || setpriority(PRIO_PROCESS, 0, -5) == 0;
    }
    """
    assert run_c(HEADERS + source).exit_code == 0


@pytest.mark.parametrize(
    ("body", "number"),
    [("abort();", signal.SIGABRT), ("*(volatile int *)0 = 1;", signal.SIGSEGV), ("main();", signal.SIGSEGV)],
)
def test_crashes_keep_their_signal(run_c, body: str, number: int) -> None:
    outcome = run_c(HEADERS + "int main(void) { volatile char pad[4096]; pad[0] = 1; " + body + " return pad[0]; }")
    assert (outcome.exit_code, outcome.signal, outcome.timed_out) == (None, number, None)


def test_a_program_that_cannot_be_started(sandbox) -> None:
    limits = Limits(cpu_seconds=1.0, wall_seconds=5.0, memory_bytes=64 * MEBIBYTE)
    assert sandbox.run(Job(("./missing",), limits)).exec_error == errno.ENOENT
    outcome = sandbox.run(Job(("./program",), limits, {"program": b"\x7fELF no program"}))
    assert outcome.exec_error is not None and outcome.exit_code is None and not outcome.clean
