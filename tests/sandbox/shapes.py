"""Become what containers of other people are like, then say what the ladder makes of it.

Run as a script of its own: `shapes.py <package root> <shape> <user id or -> [level]`.  A shape is made of filters of
system calls that refuse what the container's own filter refuses, of mounts that hide parts of /proc, and of
capabilities given up.  Prints one JSON object.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import subprocess
import sys

sys.path.insert(0, sys.argv[1])

from halo_forge.sandbox import local, seccomp, syscalls
from halo_forge.sandbox.job import Job, Limits, Sandbox, SandboxError
from halo_forge.sandbox.ladder import NAMESPACE_CALLS, probe_ladder
from halo_forge.sandbox.local import open_sandbox
from halo_forge.sandbox.self_test import self_test
from halo_forge.sandbox.syscalls import NUMBERS

# What the default of Docker leaves to root: chown, dac_override, fsetid, fowner, mknod, net_raw, setgid, setuid,
# setfcap, setpcap, net_bind_service, sys_chroot, kill, audit_write.
DOCKER_CAPABILITIES = {0, 1, 4, 3, 27, 13, 6, 7, 31, 8, 10, 18, 5, 29}
MOUNTING = ["mount", "umount2", "pivot_root", "setns", "open_tree", "move_mount", "fsopen", "fsmount", "mount_setattr"]
LANDLOCK = ["landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"]
# What a launcher does first, on a kernel before 6.12, whose Landlock knows nothing of signals.
OLDER_LANDLOCK = """
import sys
sys.path.insert(0, sys.argv[1])
from halo_forge.sandbox import landlock
kernel_abi = landlock.kernel_abi
landlock.kernel_abi = lambda: min(5, kernel_abi())
from halo_forge.sandbox.launcher import main
main()
"""
LIMITS = Limits(cpu_seconds=5.0, wall_seconds=10.0, memory_bytes=256 << 20, file_bytes=16 << 20)


def filters(shape: str) -> list[seccomp.Instruction]:
    docker = [*seccomp.refuse(["unshare", *MOUNTING], errno.EPERM), *seccomp.namespaces_refused()]
    return {
        "plain": [],
        "masked": [],
        "docker": docker,
        "docker with older landlock": docker,
        "docker with namespaces": docker_allowing(*NAMESPACE_CALLS),
        "docker without clone": docker_allowing(*NAMESPACE_CALLS[1:]),
        "docker without landlock": [*docker, *seccomp.refuse(LANDLOCK, errno.ENOSYS)],
        "no user namespaces": [*seccomp.refuse(["unshare"], errno.ENOSPC), *seccomp.namespaces_refused()],
        # A user namespace can be made, but brings no capabilities.
        "apparmor": [*seccomp.refuse(MOUNTING, errno.EACCES), *only_user_namespaces()],
        "no filters": seccomp.refuse(["seccomp"], errno.EINVAL),
        "no landlock": seccomp.refuse(LANDLOCK, errno.EOPNOTSUPP),
    }[shape]


def docker_allowing(*calls: str) -> list[seccomp.Instruction]:
    refused = seccomp.refuse({"unshare", *MOUNTING} - {*calls}, errno.EPERM)
    return [*refused, *(seccomp.refuse(["clone3"], errno.ENOSYS) if "clone" in calls else seccomp.namespaces_refused())]


def only_user_namespaces() -> list[seccomp.Instruction]:
    load, jump_if_equal, give_back = 0x20, 0x15, 0x06
    return [
        (jump_if_equal, 0, 4, NUMBERS["unshare"]),
        (load, 0, 0, 16),
        (jump_if_equal, 1, 0, syscalls.CLONE_NEWUSER),
        (give_back, 0, 0, 0x00050000 | errno.EPERM),
        (load, 0, 0, 0),
    ]


def become(shape: str, user: int | None) -> None:
    if shape == "masked":
        syscalls.call("unshare", syscalls.CLONE_NEWNS)
        syscalls.mount("none", "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
        syscalls.mount("tmpfs", "/proc/fs", "tmpfs", syscalls.MS_RDONLY)
        syscalls.mount("/dev/null", "/proc/kallsyms", None, syscalls.MS_BIND)
    if shape.startswith("docker") and os.geteuid() == 0:
        for capability in set(range(41)) - DOCKER_CAPABILITIES:
            syscalls.prctl(syscalls.PR_CAPBSET_DROP, capability)
    if user is not None:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    if shape == "docker with older landlock":
        local.BOOT = OLDER_LANDLOCK
    program = filters(shape)
    if program:
        syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
        seccomp.install(seccomp.assemble(program))


def own_processes(sandbox: Sandbox) -> str:
    """What becomes of signals to processes that the job has started: one, one that raises its own, a whole group."""
    script = """
        sleep 60 & kill $!; wait $!; echo $?
        sh -c 'kill -ABRT $$'; echo $?
        setsid sh -c 'trap "" TERM; sleep 60 & echo $$ > group; wait' & while ! [ -s group ]; do sleep 0.01; done
        kill -9 -$(cat group); wait $!; echo $?
        kill -1 -1; echo $?
    """
    outcome = sandbox.run(Job(("/bin/sh", "-c", script), LIMITS, env={"PATH": "/usr/bin:/bin"}))
    return " ".join(outcome.stdout.decode().split())


def bystander(sandbox: Sandbox) -> str:
    """What a job can do to another process of this user, which leads a group of its own."""
    with subprocess.Popen(["/bin/sleep", "60"], start_new_session=True) as process:
        script = f"kill -9 {process.pid}; kill -9 -{process.pid}; kill -9 {os.getpid()}; kill -0 $$ && echo tried"
        outcome = sandbox.run(Job(("/bin/sh", "-c", script), LIMITS, env={"PATH": "/usr/bin:/bin"}))
        alive = process.poll() is None
        process.kill()
    return f"{'alive' if alive else 'dead'}, {outcome.stdout.decode().strip()}"


def main() -> None:
    _, _, shape, user, *level = sys.argv
    become(shape, None if user == "-" else int(user))
    found: dict[str, object] = {"probes": [dataclasses.asdict(probe) for probe in probe_ladder()]}
    try:
        sandbox = open_sandbox(*level)
    except SandboxError as error:
        found["error"] = str(error)
    else:
        found["level"] = sandbox.isolation.level
        found["add_ons"] = dict(sandbox.isolation.add_ons)
        found["notes"] = sandbox.isolation.notes
        found["attempts"] = {each.name: [each.held, each.what] for each in self_test(sandbox)}
        script = "echo hello > file && cat file && sleep 0.01 & wait; exec sh -c 'kill -ABRT $$'"
        job = Job(("/bin/sh", "-c", script), LIMITS, env={"PATH": "/usr/bin:/bin"}, fetch="file")
        outcome = sandbox.run(job)
        found["bystander"] = bystander(sandbox)
        found["own"] = own_processes(sandbox)
        found["ordinary"] = [outcome.stdout.decode(), outcome.signal, (outcome.fetched or b"").decode()]
        sandbox.close()
    sys.stdout.write(json.dumps(found))


main()
