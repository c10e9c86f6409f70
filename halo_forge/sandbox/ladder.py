"""Which isolation levels work on this machine, found by running a program at each, and how to fix the others."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from halo_forge.sandbox.job import LEVELS, Job, Level, Limits, Sandbox, SandboxError
from halo_forge.sandbox.local import LevelUnavailable, LocalSandbox

_ISOLATING: tuple[Level, ...] = ("namespace", "landlock")
# A busy machine may be late once; a level that works is not given up for that.
_NUM_TRIES = 2
_BUSY = "try again when the machine is less busy; if that does not help, please report it"
NAMESPACE_CALLS = ("clone", "mount", "mount_setattr", "pivot_root", "umount2", "unshare")
"""What level `namespace` needs of a container's system call filter, beyond what Docker's default profile allows."""
_PROBE = Job(("/bin/sh", "-c", "echo $$"), Limits(cpu_seconds=5.0, wall_seconds=10.0, memory_bytes=64 << 20))


@dataclass(frozen=True, slots=True)
class LevelProbe:
    """The result of running a program at one level.

    Attributes:
        errno: The kernel's refusal, None if it works or failed for another reason.
        reason: The step that fails, in words; empty if it works.
        fix: What would make it work, as far as known; empty if it works.
        refused: The level cannot be set up on this machine; if False, a failure may be temporary.
    """

    level: Level
    works: bool
    errno: int | None = None
    reason: str = ""
    fix: str = ""
    refused: bool = False


_lock = threading.Lock()
_best: list[Level] = []


def open_level(isolation: str, read_only: Sequence[str] = ()) -> Sandbox:
    """See `local.open_sandbox`."""
    if isolation != "auto" and isolation not in LEVELS:
        raise ValueError(f"isolation must be auto or one of {', '.join(LEVELS)}, found {isolation!r}")
    try:
        for level in LEVELS:
            if isolation == level:
                return _open_proven(level, read_only)
        return _open_best(read_only)
    except OSError as error:
        raise SandboxError(f"the launcher cannot be started: {error}") from error


def _open_proven(level: Level, read_only: Sequence[str]) -> Sandbox:
    try:
        sandbox = LocalSandbox(level, read_only)
    except LevelUnavailable as refusal:
        fix = _fix(level, refusal.number)
        raise SandboxError(f"isolation level {level} does not work here: {refusal}; fix: {fix}") from refusal
    return sandbox


def _open_best(read_only: Sequence[str]) -> Sandbox:
    # The first thread finds the level, the others wait for it.
    with _lock:
        known = bool(_best)
        if not known:
            sandbox, failed = _first_working(read_only)
            if sandbox is not None:
                _best.append(sandbox.isolation.level)
                return sandbox
            raise SandboxError(_nothing_works(failed))
    return LocalSandbox(_best[0], read_only)


def _first_working(read_only: Sequence[str]) -> tuple[Sandbox | None, list[LevelProbe]]:
    failed: list[LevelProbe] = []
    for level in _ISOLATING:
        sandbox, probe = _try(level, read_only)
        if sandbox is not None:
            return sandbox, failed
        if not probe.refused:
            raise SandboxError(_unproven(probe))
        failed.append(probe)
    return None, failed


def _unproven(probe: LevelProbe) -> str:
    return (
        f"isolation level {probe.level} can be set up here, but its test program failed {_NUM_TRIES} times, and no"
        f" lower level is used because of that: {probe.reason}; fix: {_BUSY}, or name a level in verifier.isolation"
    )


def _nothing_works(failed: Sequence[LevelProbe]) -> str:
    lines = [f"{each.level}: {each.reason} (errno {_name(each.errno)}); fix: {each.fix}" for each in failed]
    return (
        "no isolation level that confines programs works on this machine.  "
        + ".  ".join(lines)
        + ".  With verifier.isolation: limits, programs would run with resource limits only: they could read your"
        " files, use the network and end your processes"
    )


def _name(number: int | None) -> str:
    return "none" if number is None else errno.errorcode.get(number, str(number))


def probe_ladder() -> list[LevelProbe]:
    """What works on this machine, level by level, best first; each runs one short program.

    Raises:
        OSError: No process can be started at all.
    """
    probes = []
    for level in LEVELS:
        sandbox, probe = _try(level, ())
        if sandbox is not None:
            sandbox.close()
        probes.append(probe)
    return probes


def _try(level: Level, read_only: Sequence[str]) -> tuple[Sandbox | None, LevelProbe]:
    reason = ""
    for _ in range(_NUM_TRIES):
        try:
            sandbox = LocalSandbox(level, read_only)
        except LevelUnavailable as refusal:
            return None, LevelProbe(
                level, False, refusal.number, str(refusal), _fix(level, refusal.number), refused=True
            )
        except SandboxError as error:
            reason = str(error)
            continue
        try:
            outcome = sandbox.run(_PROBE)
        except SandboxError as error:
            reason = str(error)
        else:
            if outcome.clean:
                return sandbox, LevelProbe(level, True)
            reason = f"the test program failed: {outcome}"
        sandbox.close()
    return None, LevelProbe(level, False, None, reason, _BUSY)


def _fix(level: Level, number: int | None) -> str:
    if level == "namespace":
        return _fix_namespaces(number)
    if level == "landlock":
        if number == errno.EOPNOTSUPP:
            return "add landlock to the lsm= parameter of the kernel's command line, and reboot"
        return "use Linux 5.13 or newer with Landlock; in a container, allow landlock_* in its seccomp profile"
    return "provide a shell at /bin/sh, and memory for one more process"


def _fix_namespaces(number: int | None) -> str:
    settings = {
        "/proc/sys/kernel/unprivileged_userns_clone": ("0", "sudo sysctl -w kernel.unprivileged_userns_clone=1"),
        "/proc/sys/user/max_user_namespaces": ("0", "sudo sysctl -w user.max_user_namespaces=15000"),
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns": (
            "1",
            "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile with `userns,` for"
            " this python",
        ),
    }
    for path, (blocking, command) in settings.items():
        if _content(path) == blocking:
            return command
    if os.path.exists("/run/.containerenv") or os.environ.get("container") == "podman":
        return (
            "podman's default seccomp profile allows this level: start the container without --security-opt"
            f" seccomp=..., or with a profile that allows {', '.join(NAMESPACE_CALLS)}"
        )
    if os.path.exists("/.dockerenv") or number in (errno.EPERM, errno.EACCES):
        return (
            "in Docker, start the container with --security-opt seccomp=FILE, where FILE is Docker's default profile"
            f" that allows {', '.join(NAMESPACE_CALLS)} too (`halo-forge docs containers#docker`)"
        )
    return "use Linux 5.12 or newer with user, mount, pid, network, IPC and UTS namespaces"


def _content(path: str) -> str | None:
    try:
        with open(path) as handle:
            return handle.read().strip()
    except OSError:
        return None  # this kernel has no such setting
