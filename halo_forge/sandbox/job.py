"""What goes into a sandbox and what comes out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

MEBIBYTE = 1024 * 1024

Level = Literal["namespace", "landlock", "limits"]
LEVELS: tuple[Level, ...] = ("namespace", "landlock", "limits")
"""The isolation levels, best first."""


class SandboxError(Exception):
    """The sandbox itself failed; nothing is known about the command that it should have run."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one command may use, together with all processes that it starts.

    Attributes:
        cpu_seconds: CPU time of all processes together; the limit that normally applies.
        wall_seconds: Backstop for commands that sleep or wait.
        memory_bytes: Resident memory of all processes together (polled, so it can be exceeded for some milliseconds).
        address_space_bytes, data_bytes: RLIMIT_AS and RLIMIT_DATA of each process; None sets none.
        stack_bytes: RLIMIT_STACK of each process.
        file_bytes: RLIMIT_FSIZE: the longest file, standard output and standard error included.
        num_processes: Processes and threads alive at the same time (polled; RLIMIT_NPROC is a second line of defence).
        num_open_files: RLIMIT_NOFILE.
        disk_bytes, num_files: What all files of the job may take up together, and how many there may be.  At level
            `namespace` they are in memory, not counted in `memory_bytes`, and the kernel enforces the limit; elsewhere
            they are on disk and checked ten times a second.
        keep_bytes: How many of the first bytes of standard output and of standard error are returned.
    """

    cpu_seconds: float
    wall_seconds: float
    memory_bytes: int
    address_space_bytes: int | None = None
    data_bytes: int | None = None
    stack_bytes: int = 64 * MEBIBYTE
    file_bytes: int = 8 * MEBIBYTE
    num_processes: int = 32
    num_open_files: int = 64
    disk_bytes: int = 128 * MEBIBYTE
    num_files: int = 4096
    keep_bytes: int = MEBIBYTE


@dataclass(frozen=True, slots=True)
class Job:
    """One command in a fresh directory.

    Attributes:
        argv: The command; argv[0] contains a slash ("./program", "/usr/bin/gcc").
        limits: See `Limits`.
        files: Plain file name -> content, put into the directory first (mode 0700).
        stdin: Standard input.
        env: The whole environment; HOME and TMPDIR are added and point into the directory.
        fetch: Name of a file to return once the command and all its processes have ended.
    """

    argv: tuple[str, ...]
    limits: Limits
    files: Mapping[str, bytes] = field(default_factory=dict)
    stdin: bytes = b""
    env: Mapping[str, str] = field(default_factory=dict)
    fetch: str | None = None


@dataclass(frozen=True, slots=True)
class JobResult:
    """How a job ended, what it used and what it wrote.

    Attributes:
        exit_code: None if a signal ended the command, or if it could not be started.
        signal: The signal that ended it, None if it exited by itself.
        timed_out: Which time limit ended it.
        out_of_memory, process_limit: That limit was exceeded.
        output_limit: A file, standard output or standard error reached `file_bytes`, or all files `disk_bytes`.
        exec_error: errno if the kernel refused to start argv[0].
        wall_seconds, cpu_seconds: Of the whole job; the CPU time is that of all processes that ended before it.
        max_rss_bytes: Largest resident memory seen; at least the launcher's own size (about 10 MiB).
        stdout, stderr: The first `keep_bytes` of each.
        truncated: More was written than is returned.
        fetched: The content of `Job.fetch` if that is a plain file of at most `file_bytes`, else None.
    """

    exit_code: int | None
    signal: int | None
    timed_out: Literal["cpu", "wall"] | None
    out_of_memory: bool
    output_limit: bool
    process_limit: bool
    exec_error: int | None
    wall_seconds: float
    cpu_seconds: float
    max_rss_bytes: int
    stdout: bytes
    stderr: bytes
    truncated: bool
    fetched: bytes | None

    @property
    def clean(self) -> bool:
        """Whether it exited by itself, within all limits, with exit code 0."""
        broken = self.timed_out is not None or self.out_of_memory or self.output_limit or self.process_limit
        return self.exit_code == 0 and not broken


@dataclass(frozen=True, slots=True)
class Isolation:
    """How programs are isolated on this machine.

    Attributes:
        level: The isolation level in force.
        notes: What it does not cover on this machine, in words.
        add_ons: What else is in force: `landlock_abi` (version of Landlock's interface, 0 where it is not used),
            `fresh_proc` (jobs have a private /proc), `uid_drop` (jobs run as a separate user) and `seccomp` (a system
            call filter).
    """

    level: Level
    notes: tuple[str, ...] = ()
    add_ons: Mapping[str, int | bool] = field(default_factory=dict)


class Sandbox(Protocol):
    """Runs one job at a time; used by one thread, except for `close`."""

    @property
    def isolation(self) -> Isolation:
        """The isolation in force; the same for every job of this sandbox."""

    def run(self, job: Job) -> JobResult:
        """Run `job` to its end and leave none of its processes and files behind.

        Raises:
            SandboxError: The sandbox failed; it accepts no more jobs.
            ValueError: The job is malformed.
        """

    def close(self) -> None:
        """End the running job, if any, and release everything; callable from any thread, any number of times."""
