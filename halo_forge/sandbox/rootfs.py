"""The root file system that jobs of level `namespace` see, with user, network, IPC and mount namespaces.

It is set up once, by the launcher, which then runs inside it as well.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Sequence

from halo_forge.sandbox import child_setup, syscalls
from halo_forge.sandbox.backend import (
    READABLE_DEVICES,
    SYSTEM_DIRECTORIES,
    SYSTEM_SETTINGS,
    WRITABLE_DEVICES,
    Unavailable,
    existing,
)
from halo_forge.sandbox.syscalls import MS_BIND, MS_NODEV, MS_NOSUID, MS_PRIVATE, MS_RDONLY, MS_REC, MS_REMOUNT

JOB_USER = 1000
"""The user that jobs run as, as seen from inside."""
PLACE = "/halo-forge"
"""Holds only the one place where a job can write."""
MOUNT_POINT = f"{PLACE}/work"
"""Holds the workdir and the temporary directory of a job."""
WORKDIR = f"{MOUNT_POINT}/job"
TEMPORARY = f"{MOUNT_POINT}/tmp"

# Holds what `read_only` names below a temporary directory, at the same relative path.
_SHOWN = "/shown"
_TEMPORARIES = ("/tmp", "/var/tmp", "/dev/shm")
_ROOT_OPTIONS = "mode=0755,size=64m,nr_inodes=16384"
_USERS = f"root:x:0:0:root:/:/bin/sh\nprogram:x:{JOB_USER}:{JOB_USER}:program:{WORKDIR}:/bin/sh\n"
_GROUPS = f"root:x:0:\nprogram:x:{JOB_USER}:\n"
_LINKS = {
    **dict.fromkeys(_TEMPORARIES, TEMPORARY),
    "/dev/fd": "/proc/self/fd",
    "/dev/stdin": "/proc/self/fd/0",
    "/dev/stdout": "/proc/self/fd/1",
    "/dev/stderr": "/proc/self/fd/2",
}


def enter(work: str, read_only: Sequence[str]) -> bool:
    """Move this process into a new root file system; `work` and its parent directory are removed.

    Returns:
        Whether jobs run as another user than this process, as seen from outside.

    Raises:
        Unavailable: The kernel refuses a step.
    """
    os.umask(0o022)  # independent of the trainer's: jobs run as another user
    own_user = _enter_user_namespace()
    others = syscalls.CLONE_NEWNS | syscalls.CLONE_NEWNET | syscalls.CLONE_NEWIPC | syscalls.CLONE_NEWUTS
    _try("unshare mount, network, IPC and UTS namespaces", lambda: syscalls.call("unshare", others))
    _try("mount tmpfs", lambda: _mount_root(work))
    _try("bind system directories", lambda: _fill(work, read_only))
    _try("pivot_root", lambda: _pivot(work))
    return own_user


def _try(step: str, action: Callable[[], object]) -> None:
    try:
        action()
    except OSError as error:
        place = "" if error.filename is None else f" ({error.filename})"
        raise Unavailable(f"{step}{place}", error.errno) from error


def _enter_user_namespace() -> bool:
    user, group = os.geteuid(), os.getegid()
    mapped = user == 0 and _map_two_users(child_setup.own_user_id())
    if not mapped:
        if user != 0:
            _try("unshare user namespace", lambda: syscalls.call("unshare", syscalls.CLONE_NEWUSER))
        _try("write user map", lambda: _map_one_user(user, group))
    return mapped


def _map_two_users(user: int) -> bool:
    """Enter a user namespace in which 0 is root outside and JOB_USER is `user` outside.

    Only a process outside may write such a map.  Returns whether it succeeded; if not, no map is written.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    me = os.getpid()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(writer)
            if os.read(reader, 1):
                for name in ("uid_map", "gid_map"):
                    _write(f"/proc/{me}/{name}", f"0 0 1\n{JOB_USER} {user} 1\n")
                code = 0
        except OSError:
            code = 1  # refused; the caller maps one user instead
        finally:
            os._exit(code)
    os.close(reader)
    try:
        _try("unshare user namespace", lambda: syscalls.call("unshare", syscalls.CLONE_NEWUSER))
        os.write(writer, b"x")
    finally:
        os.close(writer)
        status = os.waitpid(pid, 0)[1]
    return status == 0


def _map_one_user(user: int, group: int) -> None:
    _write("/proc/self/uid_map", f"{JOB_USER} {user} 1\n")
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/gid_map", f"{JOB_USER} {group} 1\n")


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def _mount_root(root: str) -> None:
    syscalls.mount("none", "/", None, MS_REC | MS_PRIVATE)
    syscalls.mount("tmpfs", root, "tmpfs", MS_NOSUID | MS_NODEV, _ROOT_OPTIONS)


def _fill(root: str, read_only: Sequence[str]) -> None:
    for directory in ("dev", "etc", "proc", "var", MOUNT_POINT[1:], _SHOWN[1:]):
        os.makedirs(f"{root}/{directory}", 0o755)
    places, links = _resolved([*existing(SYSTEM_DIRECTORIES), *read_only])
    for path in places:
        _bind(path, _place(root, path))
    for path in existing(SYSTEM_SETTINGS):
        copy = f"{root}{path}"
        if os.path.lexists(copy):
            continue  # all of /etc is visible, or this part of it
        if os.path.isdir(path):
            shutil.copytree(path, copy, symlinks=True, ignore_dangling_symlinks=True)
        else:
            shutil.copyfile(path, copy)
    for path, text in (("/etc/passwd", _USERS), ("/etc/group", _GROUPS)):
        if not os.path.lexists(f"{root}{path}"):
            _write_new(f"{root}{path}", text)
    for path in existing([*READABLE_DEVICES, *WRITABLE_DEVICES]):
        _write_new(f"{root}{path}", "")
        syscalls.mount(path, f"{root}{path}", None, MS_BIND)
    for path in links:
        _link(_place(root, path), os.readlink(path))
    for path, target in _LINKS.items():
        _link(f"{root}{path}", target)
    # The launcher monitors its jobs through it; each job gets a private /proc mounted on top.
    syscalls.mount("/proc", f"{root}/proc", None, MS_BIND | MS_REC)


def furnish_temporary() -> None:
    """Create the temporary directory of a job, with links to what is visible below a temporary directory outside."""
    os.mkdir(TEMPORARY)
    for name in os.listdir(_SHOWN):
        os.symlink(f"{_SHOWN}/{name}", f"{TEMPORARY}/{name}")


def _write_new(path: str, text: str) -> None:
    with open(path, "x") as handle:
        handle.write(text)
    os.chmod(path, 0o644)


def _link(place: str, target: str) -> None:
    if not os.path.lexists(place):  # else it exists in a visible directory
        os.makedirs(os.path.dirname(place), 0o755, exist_ok=True)
        os.symlink(target, place)


def _place(root: str, path: str) -> str:
    """Where `path` is mounted; what lies in a temporary directory outside becomes a link in the job's own."""
    for top in _TEMPORARIES:
        if path.startswith(f"{top}/"):
            return f"{root}{_SHOWN}{path[len(top) :]}"
    return f"{root}{path}"


def _resolved(paths: Sequence[str]) -> tuple[list[str], list[str]]:
    """What has to be mounted for `paths` to exist: paths without links, none below another, and the links."""
    links: list[str] = []
    reals = sorted({_follow(path, links) for path in paths})
    tops: list[str] = []
    for real in reals:  # a directory comes before what is in it
        if not any(real.startswith(f"{top}/") for top in tops):
            tops.append(real)
    return tops, links


def _follow(path: str, links: list[str]) -> str:
    """The same place as a path without links; the links on the way, which are kept, are added to `links`."""
    if not os.path.exists(path):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    current = ""
    pending = path.split("/")[::-1]
    while pending:
        part = pending.pop()
        if part == "..":
            current = os.path.dirname(current)
        if part in ("", ".", ".."):
            continue
        step = f"{current.rstrip('/')}/{part}"
        if os.path.islink(step):
            links.append(step)
            target = os.readlink(step)
            current = "" if target.startswith("/") else current
            pending += target.split("/")[::-1]
        else:
            current = step
    return current


def _bind(path: str, place: str) -> None:
    # No part of `path` is a link, so no part of the place is one either, which could lead out of the root.
    os.makedirs(os.path.dirname(place), 0o755, exist_ok=True)
    if not os.path.lexists(place):
        if os.path.isdir(path):
            os.mkdir(place, 0o755)
        else:
            _write_new(place, "")
    syscalls.mount(path, place, None, MS_BIND | MS_REC)
    syscalls.set_read_only(place)


def _pivot(root: str) -> None:
    directory, name = os.path.split(root)
    above = os.open(os.path.dirname(directory), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    between = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.chdir(root)
        syscalls.call("pivot_root", ".", ".")
        syscalls.call("umount2", ".", syscalls.MNT_DETACH)
        os.chdir("/")
        syscalls.mount(None, "/", None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)
        # From here on, nothing of this launcher is on the host's disk.
        os.rmdir(name, dir_fd=between)
        os.rmdir(os.path.basename(directory), dir_fd=above)
    finally:
        os.close(above)
        os.close(between)
