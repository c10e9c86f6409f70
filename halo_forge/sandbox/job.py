"""What goes into a sandbox and what comes out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

MEBIBYTE = 1024 * 1024

Level = Literal["namespace", "landlock", "limits"]
LEVELS: tuple[Level, ...] = ("namespace", "landlock", "limits")
"""The rungs of the isolation ladder, the best first."""


class SandboxError(Exception):
    """The sandbox itself failed: nothing is known about the command that it was to run."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one command, with all the processes that it starts, may use.

    Attributes:
        cpu_seconds: CPU time of all processes together; this is the limit that decides.
        wall_seconds: Backstop for commands that sleep or wait.
        memory_bytes: Resident memory of all processes together (polled, so it can be exceeded for some milliseconds).
        address_space_bytes, data_bytes: RLIMIT_AS and RLIMIT_DATA of each process; None sets none.
        stack_bytes: RLIMIT_STACK of each process.
        file_bytes: RLIMIT_FSIZE: the longest file, standard output and standard error included.
        num_processes: Processes and threads alive at the same time (polled; RLIMIT_NPROC is a second line behind it).
        num_open_files: RLIMIT_NOFILE.
        disk_bytes, num_files: What all files of the job may take up together, and how many there may be.  At level
            `namespace` they are in memory, not counted in `memory_bytes`, and the kernel refuses more; elsewhere they
            are on the disk, looked at ten times a second.
        keep_bytes: How much of the beginning of standard output and of standard error is handed back.
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
        argv: The command; argv[0] holds a slash ("./program", "/usr/bin/gcc").
        limits: See `Limits`.
        files: Plain file name -> content, put into the directory first (mode 0700).
        stdin: Standard input.
        env: The whole environment; HOME and TMPDIR are added and point into the directory.
        fetch: Name of a file to hand back after the command and all its processes are gone.
    """

    argv: tuple[str, ...]
    limits: Limits
    files: Mapping[str, bytes] = field(default_factory=dict)
    stdin: bytes = b""
    env: Mapping[str, str] = field(default_factory=dict)
    fetch: str | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a job.

    Attributes:
        exit_code: None when a signal ended the command, or when it could not be started.
        signal: The signal that ended it, None when it exited by itself.
        timed_out: Which time limit ended it.
        out_of_memory, process_limit: That limit was exceeded.
        output_limit: A file, standard output or standard error reached `file_bytes`, or all files `disk_bytes`.
        exec_error: errno when the kernel refused to start argv[0].
        wall_seconds, cpu_seconds: Of the whole job; CPU time of all processes that ended before the job was over.
        max_rss_bytes: Largest resident memory seen; the launcher's own size (about 10 MiB) is its floor.
        stdout, stderr: The first `keep_bytes` of each.
        truncated: More was written than was kept.
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
        """It ran to its end by itself, within all limits, with exit code 0."""
        broken = self.timed_out is not None or self.out_of_memory or self.output_limit or self.process_limit
        return self.exit_code == 0 and not broken


@dataclass(frozen=True, slots=True)
class Isolation:
    """What holds a program back on this machine.

    Attributes:
        level: The rung of the ladder that is in force.
        notes: What that does not cover here, in words.
        add_ons: What more is in force: `landlock_abi` (version of Landlock's interface, 0 where it is not used),
            `fresh_proc` (jobs see a /proc of their own), `uid_drop` (jobs run as a user of their own) and `seccomp`
            (a filter of system calls).
    """

    level: Level
    notes: tuple[str, ...] = ()
    add_ons: Mapping[str, int | bool] = field(default_factory=dict)


class Sandbox(Protocol):
    """Runs one job at a time; used by one thread, except for `close`."""

    @property
    def isolation(self) -> Isolation:
        """What holds here; the same for every job of this sandbox."""

    def run(self, job: Job) -> Outcome:
        """Run `job` to its end and leave no process and no file of it behind.

        Raises:
            SandboxError: The sandbox broke; it takes no more jobs.
            ValueError: The job is malformed.
        """

    def close(self) -> None:
        """End the running job, if any, and free everything; callable from any thread, any number of times."""
