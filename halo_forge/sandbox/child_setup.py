"""Between fork and exec: limits and confinement that the child puts on itself before it becomes the command."""

from __future__ import annotations

import errno
import os
import resource
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

from halo_forge.sandbox import landlock, seccomp, syscalls
from halo_forge.sandbox.syscalls import prctl

_ADDR_NO_RANDOMIZE = 0x0040000
_LAST_CAPABILITY = 63
_NICE = 10
# Room for other processes of the user: RLIMIT_NPROC counts all processes of a user, not those of one job.
_PROCESS_SLACK = 512
# User ids that are rarely assigned: people and services get others.
_FIRST_USER, _NUM_USERS = 50_000, 10_000


class ChildSetupError(Exception):
    """The child could not be set up; the command was not started."""


def _die_first_when_memory_runs_out(proc: int) -> None:
    descriptor = os.open("self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC, dir_fd=proc)
    try:
        os.write(descriptor, b"1000")
    finally:
        os.close(descriptor)


def _fix_addresses(_: int) -> None:
    # A program with undefined behaviour then behaves the same in every run.
    syscalls.personality(_ADDR_NO_RANDOMIZE)


def _drop_capabilities(_: int) -> None:
    # Root that keeps them may raise its own limits again.
    for capability in range(_LAST_CAPABILITY + 1):
        try:
            prctl(syscalls.PR_CAPBSET_DROP, capability)
        except OSError as error:
            if error.errno == errno.EINVAL:
                return  # this kernel has no more of them
            if error.errno != errno.EPERM or os.geteuid() == 0:
                raise
            return  # an ordinary user has none to drop


# Steps that some containers refuse.  A launcher tries them once, and skips and reports those that fail.
# Each takes a descriptor of a /proc that shows this process.
OPTIONAL: dict[str, tuple[Callable[[int], None], str]] = {
    "oom": (_die_first_when_memory_runs_out, "the kernel may kill another process first when memory runs out"),
    "addresses": (_fix_addresses, "addresses are random, so programs with undefined behaviour vary from run to run"),
    "capabilities": (_drop_capabilities, "programs run as root with its capabilities and can raise their own limits"),
}
# Steps that take effect with the next exec and are inherited.
INHERITED = ("addresses", "capabilities")


def unavailable_steps(proc: int) -> list[str]:
    """The optional steps that this machine refuses, found by trying each in a child."""
    return [name for name, (step, _) in OPTIONAL.items() if not works_in_a_child(partial(step, proc))]


def works_in_a_child(step: Callable[[], object], fork: Callable[[], int] = os.fork) -> bool:
    """Whether `step` raises nothing when a child process takes it; its effects end with the child."""
    pid = fork()
    if pid == 0:
        code = 1
        try:
            step()
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1] == 0


def own_user_id() -> int:
    """A user id for this launcher's jobs that is unlikely to be in use."""
    return _FIRST_USER + os.getpid() % _NUM_USERS


def unused_user(work: str) -> int | None:
    """A separate user id for this launcher's jobs, None if it is not root or cannot change its user.

    The kernel does not limit root's number of processes, and root owns every file.  Under a separate user a job is
    limited like any other, and owns nothing but its workdir.
    """
    if os.geteuid() != 0:
        return None
    user = own_user_id()
    os.chmod(os.path.dirname(work), 0o711)
    os.chmod(work, 0o711)
    return user if works_in_a_child(lambda: _enter_as(user, work)) else None


def _enter_as(user: int, directory: str) -> None:
    become_user(user)
    os.stat(directory)


def become_user(user: int) -> None:
    """Change the user and group of this process, supplementary groups included."""
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


@dataclass(frozen=True, slots=True)
class Confinement:
    """What confines a job besides its limits and its user.

    Attributes:
        ruleset: Maps the workdir's descriptor to that of a `landlock` ruleset; called in the child.  None for none.
        filter: A filter of `seccomp`, None for none.
        signals: Confines the signals of the calling process, the child, to itself and what it starts; None for nothing.
    """

    ruleset: Callable[[int], int] | None = None
    filter: bytes | None = None
    signals: Callable[[], object] | None = None


@dataclass(frozen=True, slots=True)
class Command:
    """What the child becomes.

    Attributes:
        workdir: Descriptor of the directory to run in.
        streams: Descriptors of standard input, output and error.
        limits: The fields of `job.Limits`.
        num_other_tasks: Processes and threads that this user already has; None if only jobs count.
        steps: Names of the optional steps to take.
        proc: Descriptor of a /proc that shows this process.
        user: See `unused_user`.
        confinement: See `Confinement`.
    """

    argv: Sequence[str]
    env: Mapping[str, str]
    workdir: int
    streams: Sequence[int]
    limits: Mapping[str, Any]
    num_other_tasks: int | None
    steps: Sequence[str]
    proc: int
    user: int | None
    confinement: Confinement


def start(command: Command) -> tuple[int, int]:
    """Fork and become the command.

    Returns:
        The process id, and the errno with which exec failed (0 if the command runs).

    Raises:
        ChildSetupError: A limit could not be set.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        become(command, writer)
    os.close(writer)
    failure = read_failure(reader)
    if failure.startswith("exec "):
        return pid, int(failure.removeprefix("exec "))
    if failure:
        os.waitpid(pid, 0)
        raise ChildSetupError(failure)
    return pid, 0


def read_failure(reader: int) -> str:
    """The failure that the child reported; empty if it has become the command."""
    with os.fdopen(reader, "rb") as handle:
        return handle.read().decode()


def become(command: Command, writer: int) -> NoReturn:
    """Become the command in this process, or write the reason to `writer` and exit.

    A successful exec closes the pipe; whatever arrives in it is a failure.
    """
    failure = "setup: unknown error"
    try:
        os.setsid()
        confine(command)
        try:
            os.execve(command.argv[0], list(command.argv), dict(command.env))
        except OSError as error:
            failure = f"exec {error.errno}"
    except (OSError, ValueError) as error:
        failure = f"setup: {error}"
    finally:
        os.write(writer, failure.encode())
        os._exit(127)


def confine(command: Command) -> None:
    """Put this process, and everything it starts, under the limits and the confinement of the command.

    Raises:
        OSError, ValueError: A step fails.
    """
    os.fchdir(command.workdir)
    os.umask(0o077)
    os.nice(_NICE)
    for name in command.steps:
        OPTIONAL[name][0](command.proc)
    for target, stream in enumerate(command.streams):
        os.dup2(stream, target)
    # Python ignores these two, and ignored signals stay ignored across exec.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    for number, value in _resources(command.limits, command.num_other_tasks):
        _limit(number, value)
    if command.user is not None:
        become_user(command.user)
    syscalls.drop_capabilities()
    prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)  # after the change of user, which forgets it
    prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    if command.confinement.ruleset is not None:
        landlock.enter(command.confinement.ruleset(command.workdir))
    if command.confinement.filter is not None:
        seccomp.install(command.confinement.filter)
    if command.confinement.signals is not None:
        command.confinement.signals()


def _resources(limits: Mapping[str, Any], num_other_tasks: int | None) -> list[tuple[int, int | None]]:
    """Limits in order; `num_other_tasks` is None if the job's user has no other processes.

    The monitor ends a job that has too many processes; the kernel's limit is higher, so the monitor can see it.
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
