"""Between fork and exec: what the child does to itself before it becomes the command."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

PR_SET_PDEATHSIG = 1
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
_ADDR_NO_RANDOMIZE = 0x0040000
_LAST_CAPABILITY = 63
_NICE = 10
# Room for what else the user starts meanwhile: RLIMIT_NPROC counts all processes of a user, not those of one job.
_PROCESS_SLACK = 512
# User ids that hardly anybody has: people and services are given others.
_FIRST_USER, _NUM_USERS = 50_000, 10_000

_libc = ctypes.CDLL(None, use_errno=True)


class JailError(Exception):
    """The child could not be set up; the command was not started."""


def prctl(option: int, argument: int) -> None:
    """Raises OSError when the kernel refuses."""
    if _libc.prctl(option, ctypes.c_ulong(argument), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _die_first_when_memory_runs_out() -> None:
    with open("/proc/self/oom_score_adj", "w") as handle:
        handle.write("1000")


def _fix_addresses() -> None:
    # A program that prints or reads what it should not does the same every time.
    if _libc.personality(ctypes.c_ulong(_ADDR_NO_RANDOMIZE)) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _drop_capabilities() -> None:
    # Root that keeps them may raise its own limits again.
    if os.geteuid() != 0:
        return
    for capability in range(_LAST_CAPABILITY + 1):
        try:
            prctl(PR_CAPBSET_DROP, capability)
        except OSError as error:
            if error.errno == errno.EINVAL:
                return  # this kernel knows no more of them
            raise


# Steps that some containers refuse.  A launcher tries them once and leaves out those that fail, saying so.
OPTIONAL: dict[str, tuple[Callable[[], None], str]] = {
    "oom": (_die_first_when_memory_runs_out, "the kernel may kill another process first when memory runs out"),
    "addresses": (_fix_addresses, "addresses are random, so programs with undefined behaviour vary from run to run"),
    "capabilities": (_drop_capabilities, "programs run as root with its capabilities and can raise their own limits"),
}


def unavailable_steps() -> list[str]:
    """The optional steps that this machine refuses, found by trying each in a child."""
    return [name for name, (step, _) in OPTIONAL.items() if not _works_in_a_child(step)]


def _works_in_a_child(step: Callable[[], object]) -> bool:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            step()
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1] == 0


def unused_user(work: str) -> int | None:
    """A user id of this launcher's own for its jobs, None where it is not root or may not become another user.

    The kernel limits no number of processes for root, and root owns every file: as a user of its own a job is
    limited like anybody's, and owns nothing but its box.
    """
    if os.geteuid() != 0:
        return None
    user = _FIRST_USER + os.getpid() % _NUM_USERS
    os.chmod(os.path.dirname(work), 0o711)
    os.chmod(work, 0o711)
    return user if _works_in_a_child(lambda: (_become_user(user), os.stat(work))) else None


def _become_user(user: int) -> None:
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


@dataclass(frozen=True, slots=True)
class Command:
    """What the child becomes.

    Attributes:
        box: Descriptor of the directory to run in.
        streams: Descriptors of standard input, output and error.
        limits: The fields of `job.Limits`.
        num_other_tasks: Processes and threads that this user has already.
        steps: Names of the optional steps to take.
        user: See `unused_user`.
    """

    argv: Sequence[str]
    env: Mapping[str, str]
    box: int
    streams: Sequence[int]
    limits: Mapping[str, Any]
    num_other_tasks: int
    steps: Sequence[str]
    user: int | None


def start(command: Command) -> tuple[int, int]:
    """Fork and become the command.

    Returns:
        The process id, and the errno with which exec was refused (0 when the command runs).

    Raises:
        JailError: A limit could not be set.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        # The pipe closes by itself when exec succeeds; whatever arrives in it is a failure.
        failure = "setup: unknown error"
        try:
            failure = _become(command)
        except (OSError, ValueError) as error:
            failure = f"setup: {error}"
        finally:
            os.write(writer, failure.encode())
            os._exit(127)
    os.close(writer)
    with os.fdopen(reader, "rb") as handle:
        failure = handle.read().decode()
    if failure.startswith("exec "):
        return pid, int(failure.removeprefix("exec "))
    if failure:
        os.waitpid(pid, 0)
        raise JailError(failure)
    return pid, 0


def _become(command: Command) -> str:
    os.setsid()
    os.fchdir(command.box)
    os.umask(0o077)
    os.nice(_NICE)
    for name in command.steps:
        OPTIONAL[name][0]()
    for target, stream in enumerate(command.streams):
        os.dup2(stream, target)
    # Python ignores these two, and what is ignored stays so across exec.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    for number, value in _resources(command.limits, None if command.user is not None else command.num_other_tasks):
        _limit(number, value)
    if command.user is not None:
        _become_user(command.user)
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # after the change of user, which forgets it
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    try:
        os.execve(command.argv[0], list(command.argv), dict(command.env))
    except OSError as error:
        return f"exec {error.errno}"


def _resources(limits: Mapping[str, Any], num_other_tasks: int | None) -> list[tuple[int, int | None]]:
    """Limits in order; `num_other_tasks` is None where the job's user has no other processes.

    The watch ends a job that has more processes than allowed; the kernel's limit is above that, so that it is seen.
    """
    slack = limits["num_processes"] if num_other_tasks is None else num_other_tasks + _PROCESS_SLACK
    return [
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_STACK, limits["stack_bytes"]),
        (resource.RLIMIT_AS, limits["address_space_bytes"]),
        (resource.RLIMIT_DATA, limits["data_bytes"]),
        (resource.RLIMIT_FSIZE, limits["file_bytes"]),
        (resource.RLIMIT_NOFILE, limits["num_open_files"]),
        (resource.RLIMIT_NPROC, slack + limits["num_processes"]),
        (resource.RLIMIT_CPU, int(limits["cpu_seconds"]) + 1),
    ]


def _limit(number: int, value: int | None) -> None:
    if value is None:
        return
    hard = resource.getrlimit(number)[1]
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(number, (value, value))
