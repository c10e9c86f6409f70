"""What the launcher's two backends share: the request, how a job ended, and probing of optional features."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from halo_forge.sandbox import child_setup, landlock, seccomp, syscalls
from halo_forge.sandbox.monitor import Monitor, Reason

# Where programs find their interpreter and libraries; those that exist are used, symbolic links too.
SYSTEM_DIRECTORIES = (
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/nix/store",
    "/gnu/store",
)
# What compilers and interpreters look up in /etc; nothing about people, networks or keys.
SYSTEM_SETTINGS = (
    "/etc/alternatives",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/etc/mime.types",
)
READABLE_DEVICES = ("/dev/random", "/dev/urandom")
WRITABLE_DEVICES = ("/dev/null", "/dev/zero", "/dev/full")


class Unavailable(Exception):
    """A level cannot be set up on this machine.

    Args:
        step: What was tried.
        number: The errno of the failure, None if the kernel did not refuse it.
    """

    def __init__(self, step: str, number: int | None) -> None:
        super().__init__(step if number is None else f"{step}: {os.strerror(number)}")
        self.number = number


@dataclass(frozen=True, slots=True)
class Request:
    """One job as the launcher received it.

    Attributes:
        files: Plain file name -> content.
        streams: Descriptors of standard input, output and error.
        limits: The fields of `job.Limits`.
    """

    argv: Sequence[str]
    files: Mapping[str, bytes]
    env: Mapping[str, str]
    limits: Mapping[str, Any]
    fetch: str | None
    streams: Sequence[int]


@dataclass(frozen=True, slots=True)
class Ending:
    """How a job ended: why its monitor stopped waiting, what the monitor saw, and the requested file."""

    reason: Reason
    monitor: Monitor
    exec_error: int
    fetched: bytes | None


class Backend(Protocol):
    """Runs jobs of one isolation level, one after another."""

    @property
    def notes(self) -> Sequence[str]:
        """What the level does not cover on this machine, in words."""

    @property
    def add_ons(self) -> Mapping[str, Any]:
        """See `job.Isolation`."""

    def run(self, request: Request, wait: Callable[[Monitor], Reason]) -> Ending:
        """Run a job to its end and leave none of its processes and files behind.

        Raises:
            OSError, ValueError, child_setup.ChildSetupError: The job could not be set up or cleaned up.
        """


class Steps:
    """The optional steps of `child_setup` that work on this machine, found by trying them."""

    def __init__(self) -> None:
        # Held open, so it can be used where /proc is not visible.
        self.proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        refused = child_setup.unavailable_steps(self.proc)
        works = [name for name in child_setup.OPTIONAL if name not in refused]
        self.notes = [child_setup.OPTIONAL[name][1] for name in refused]
        # A launcher takes the inherited ones once, for all of its jobs.
        for name in set(works) & set(child_setup.INHERITED):
            child_setup.OPTIONAL[name][0](self.proc)
        self.names = [name for name in works if name not in child_setup.INHERITED]


def existing(paths: Sequence[str]) -> list[str]:
    """Those of `paths` that exist."""
    return [path for path in paths if os.path.exists(path)]


def refusal_of_landlock() -> OSError | None:
    """Why Landlock does not work here, None if it does."""
    try:
        abi = landlock.kernel_abi()
        if not child_setup.works_in_a_child(lambda: _try_landlock(abi)):
            return PermissionError("a Landlock domain cannot be entered")
    except OSError as error:
        return error
    return None


def _try_landlock(abi: int) -> None:
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    landlock.enter(landlock.new_ruleset(["/"], [], abi))


def working_filter(owns_files: bool = False, may_truncate: bool = True) -> bytes | None:
    """The filter of a job, None if the kernel accepts none; see `seccomp.job_filter`."""
    if not seccomp.available():
        return None
    code = seccomp.job_filter(owns_files, may_truncate)
    return code if filter_works(code) else None


def filter_works(code: bytes, flags: int = 0) -> bool:
    """Whether the kernel accepts a filter; see `seccomp.install`."""
    return seccomp.available() and child_setup.works_in_a_child(lambda: _try_filter(code, flags))


def _try_filter(code: bytes, flags: int) -> None:
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    seccomp.install(code, flags)
