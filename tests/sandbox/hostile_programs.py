"""What a program can be and do that nobody wants: the types, and the programs in C that are hostile when they run.

`hostile_files` holds those that fill or spoil their directory, `hostile_escapes` those that reach for what is
outside, `hostile_sources` those that attack the compiler, and `hostile_python` those in Python.  Where a program could
do lasting harm in a sandbox that fails, it stops by itself after an amount that this machine bears.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from halo_forge.sandbox.job import MEBIBYTE, JobResult, Limits

Ending = Literal[
    "ok",
    "exit",
    "cpu",
    "wall",
    "memory",
    "output",
    "processes",
    "not started",
    "SIGABRT",
    "SIGKILL",
    "SIGSEGV",
    "SIGSYS",
]
Language = Literal["c", "cpp", "asm", "python"]
Needs = Literal["nothing", "own user", "isolation", "own file system"]

MARK = "halo-forge-hostile"
"""Every file that a program tries to leave outside its workdir has a name that begins with this."""

RUN = Limits(
    cpu_seconds=0.4,
    wall_seconds=4.0,
    memory_bytes=64 * MEBIBYTE,
    address_space_bytes=1024 * MEBIBYTE,
    data_bytes=512 * MEBIBYTE,
    stack_bytes=8 * MEBIBYTE,
    file_bytes=MEBIBYTE,
    num_processes=32,
    num_open_files=64,
)
COMPILE = Limits(
    cpu_seconds=1.0,
    wall_seconds=6.0,
    memory_bytes=256 * MEBIBYTE,
    data_bytes=1024 * MEBIBYTE,
    stack_bytes=8 * MEBIBYTE,
    file_bytes=32 * MEBIBYTE,
    num_processes=64,
    num_open_files=256,
)
SHORT_WALL = {"wall_seconds": 0.5}


@dataclass(frozen=True, slots=True)
class Program:
    """One hostile program.

    Attributes:
        expected: How it may end; see `ending`.
        compiling: The attack is on the compiler: what `expected` speaks of is the compiler's end.
        needs: The least that must hold it back: "own user" a user of its own or a higher level, "isolation" the levels
            `landlock` and `namespace`, "own file system" the level `namespace`.
        limits: What differs from `RUN` or `COMPILE`.
        stdout: All that it must print, None where that does not matter.
        fetch: A file to ask for, which must not be handed out.
        destructive: It is not run unless a harmless try has shown that this level holds.
    """

    name: str
    source: str
    expected: tuple[Ending, ...]
    language: Language = "c"
    compiling: bool = False
    needs: Needs = "nothing"
    limits: Mapping[str, Any] = field(default_factory=dict)
    stdin: bytes = b""
    stdout: bytes | None = None
    fetch: str | None = None
    destructive: bool = False


def ending(outcome: JobResult) -> str:
    """How a job ended, in one word; the limit that was hit goes before what the program made of it."""
    if outcome.exec_error is not None:
        return "not started"
    if outcome.output_limit:
        return "output"
    if outcome.timed_out is not None:
        return outcome.timed_out
    if outcome.out_of_memory:
        return "memory"
    if outcome.process_limit:
        return "processes"
    if outcome.signal is not None:
        return signal.Signals(outcome.signal).name
    return "ok" if outcome.exit_code == 0 else "exit"


PRELUDE = r"""
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <arpa/inet.h>
#include <unistd.h>
static void *shared(size_t size) { return mmap(0, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0); }
static void ignore_all(void) { for (int i = 1; i < 65; i++) signal(i, SIG_IGN); }
static void show(const char *path) {
    char buffer[4096]; ssize_t n; int fd = open(path, O_RDONLY | O_NONBLOCK);
    while (fd >= 0 && (n = read(fd, buffer, sizeof buffer)) > 0) (void)!write(1, buffer, n);
    if (fd >= 0) close(fd);
}
static void leave(const char *directory) {
    char path[4096]; snprintf(path, sizeof path, "%s/@MARK@", directory);
    int fd = open(path, O_CREAT | O_WRONLY, 0666);
    if (fd >= 0) { (void)!write(fd, "x", 1); close(fd); }
    strcat(path, "-directory"); mkdir(path, 0777);
}
static int num_breaches;
#define MUST_FAIL(attempt) do { if (attempt) { puts("breach: " #attempt); num_breaches++; } } while (0)
""".replace("@MARK@", MARK)


def main_of(body: str) -> str:
    """A program in C whose `main` is `body`."""
    return f"{PRELUDE}\nint main(int argc, char **argv) {{\n(void)argc; (void)argv;\n{body}\nreturn 0;\n}}\n"


def attempts(name: str, body: str, **more: Any) -> Program:
    """A program whose every MUST_FAIL must fail."""
    body += '\nif (num_breaches == 0) puts("held");\nreturn num_breaches != 0;'
    return Program(name, main_of(body), ("ok",), stdout=b"held\n", **more)


def _bomb(child: str) -> str:
    # A sandbox that fails to end it is left with some thousand processes, which end after twenty seconds.
    counted = "int *forks = shared(4096); alarm(20);\nfor (;;) { pid_t p = fork();"
    return main_of(
        f"{counted} if (p >= 0 && __sync_fetch_and_add(forks, 1) > 4000) _exit(0); if (p == 0) {{ {child} }} }}"
    )


_BOMB_ENDS: tuple[Ending, ...] = ("processes", "cpu", "wall", "memory")
FLOOD = "{ char text[4096]; memset(text, 97, 4096); for (;;) if (write(%d, text, 4096) < 0 && %s) break; }"
_THREADS = "static void *idle(void *p) { sleep(20); return p; }"
_TOUCH = "for (int i = 0; i < 3000; i++) { char *p = malloc(1 << 20); if (p) memset(p, 1, 1 << 20); } pause();"
_DAEMON = "if (fork()) return 0; setsid(); if (fork()) _exit(0); %s for (int i = 0; i < 200; i++) sleep(1);"
_CLOSE = "for (int fd = 0; fd < 64; fd++) close(fd);"

RUNNING: tuple[Program, ...] = (
    Program("fork_bomb", _bomb("alarm(20);"), _BOMB_ENDS, limits={"num_processes": 16}),
    Program("fork_bomb_setsid", _bomb("setsid(); alarm(20);"), _BOMB_ENDS, limits={"num_processes": 16}),
    Program("fork_bomb_below_the_limit", _bomb("alarm(20); if (fork()) _exit(0);"), _BOMB_ENDS),
    Program(
        "thread_bomb",
        PRELUDE + _THREADS + "int main(void) { pthread_t t; for (int i = 0; i < 5000; i++)"
        " if (pthread_create(&t, 0, idle, 0)) return 1; sleep(20); }",
        ("processes", "exit", "memory"),
        limits={"num_processes": 16, "stack_bytes": MEBIBYTE},
    ),
    Program("infinite_loop", "int main(void) { for (;;); }", ("cpu",)),
    Program("sleep_forever", main_of("sleep(30);"), ("wall",), limits=SHORT_WALL),
    Program("stop_itself", main_of("raise(SIGSTOP); sleep(30);"), ("wall",), limits=SHORT_WALL),
    Program("flood_of_output", main_of(FLOOD % (1, "0")), ("output",)),
    Program("flood_of_errors", main_of(FLOOD % (2, "0")), ("output",)),
    Program("flood_ignoring_the_signal", main_of("ignore_all();" + FLOOD % (1, "0")), ("output", "cpu")),
    Program(
        "hole_in_the_output", main_of('lseek(1, 1 << 30, SEEK_SET); (void)!write(1, "x", 1); return 1;'), ("exit",)
    ),
    Program("truncate_own_output", main_of('puts("text"); fflush(stdout); return ftruncate(1, 0) != 0;'), ("exit",)),
    Program("stretch_own_output", main_of("ftruncate(1, 1L << 40); return 1;"), ("output", "exit")),
    Program("memory_touched", main_of(_TOUCH), ("memory",)),
    Program("memory_shared", main_of("memset(shared(300 << 20), 1, 300 << 20); pause();"), ("memory",)),
    Program(
        "memory_of_a_family",
        main_of(
            "for (int i = 0; i < 15; i++) if (!fork()) { memset(malloc(20 << 20), 1, 20 << 20); sleep(9); } sleep(9);"
        ),
        ("memory",),
    ),
    Program("terabyte_untouched", main_of("return malloc(1L << 40) == NULL;"), ("exit",)),
    Program(
        "memory_file",
        main_of('int fd = memfd_create("m", 0); if (fd < 0) return 1;' + FLOOD % (3, "0")),
        ("exit", "output", "memory"),
    ),
    Program(
        "many_memory_files",
        main_of(
            "char *block = calloc(1, 1 << 20); for (int i = 0; i < 400; i++)"
            ' { int fd = memfd_create("m", 0); if (fd < 0) return 1; (void)!write(fd, block, (1 << 20) - 1); } pause();'
        ),
        ("exit", "memory", "output"),
    ),
    Program(
        "stack_overflow",
        "int deeper(int n) { volatile char pad[4096]; pad[0] = n; return deeper(n + 1) + pad[0]; }"
        "int main(void) { return deeper(0); }",
        ("SIGSEGV",),
    ),
    Program("daemon", main_of(_DAEMON % '(void)!chdir("/");'), ("ok",)),
    Program("daemon_holding_the_output", main_of(_DAEMON % 'puts("still here"); fflush(stdout);'), ("ok",)),
    Program("daemon_without_streams", main_of(_DAEMON % _CLOSE), ("ok",)),
    Program("deaf_loop", main_of("ignore_all(); for (;;);"), ("cpu",)),
    Program("deaf_family", main_of("ignore_all(); fork(); fork(); setsid(); for (;;);"), ("cpu",)),
    attempts(
        "raise_priority",
        "MUST_FAIL(setpriority(PRIO_PROCESS, 0, -20) == 0);"
        "struct sched_param p = {.sched_priority = 50}; MUST_FAIL(sched_setscheduler(0, SCHED_FIFO, &p) == 0);",
    ),
    attempts(
        "raise_limits",
        "struct rlimit r = {RLIM_INFINITY, RLIM_INFINITY}; MUST_FAIL(setrlimit(RLIMIT_FSIZE, &r) == 0);"
        "MUST_FAIL(setrlimit(RLIMIT_CPU, &r) == 0); MUST_FAIL(setrlimit(RLIMIT_NPROC, &r) == 0);"
        "MUST_FAIL(setrlimit(RLIMIT_AS, &r) == 0); MUST_FAIL(setrlimit(RLIMIT_NOFILE, &r) == 0);",
    ),
    attempts("leaked_descriptors", "for (int fd = 3; fd < 4096; fd++) MUST_FAIL(fcntl(fd, F_GETFD) >= 0);"),
    attempts("terminal", 'MUST_FAIL(open("/dev/tty", O_RDWR) >= 0);'),
    Program("environment", main_of("for (char **p = environ; *p; p++) puts(*p);"), ("ok",)),
    Program("close_all_streams", main_of(_CLOSE), ("ok", "exit")),
    Program("exit_256", main_of("exit(256);"), ("ok",)),
    Program("abort", main_of("abort();"), ("SIGABRT",)),
    Program(
        "bytes_that_are_no_text",
        main_of(r'(void)!write(1, "\xff\xfe\0\xc3(\n", 6);'),
        ("ok",),
        stdout=b"\xff\xfe\0\xc3(\n",
    ),
    Program(
        "long_output",
        main_of("for (int i = 0; i < 400000; i++) putchar(i % 64 == 63 ? 10 : 97);"),
        ("ok",),
        stdout=(b"a" * 63 + b"\n") * 6250,
    ),
    Program(
        "deaf_to_the_end_of_input",
        main_of("int c; while ((c = getchar()) != EOF) putchar(c);"),
        ("ok",),
        stdin=bytes(range(256)) * 600,
        stdout=bytes(range(256)) * 600,
    ),
)
