"""A system call filter: refuses calls that no honest job needs and calls that reach outside the sandbox.

Refused calls fail with EPERM, so a program can continue; calls of another instruction set (32-bit code, x32) end it.
"""

from __future__ import annotations

import ctypes
import errno
import struct
from collections.abc import Iterable, Sequence

from halo_forge.sandbox import syscalls
from halo_forge.sandbox.syscalls import MACHINE, NUMBERS, call

NEW_LISTENER = 1 << 3
"""A flag of `install`: the result is a descriptor over which calls marked `ASK` are decided."""
ASK, REFUSE = 0x7FC00000, 0x00050000 | errno.EPERM

_SET_MODE_FILTER = 1
_ALLOW, _KILL_PROCESS, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_BIT = 0x40000000
# Offsets in struct seccomp_data; an argument has 64 bits, of which the low half comes first.
_NUMBER, _ARCH, _FIRST_ARGUMENT = 0, 4, 16

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06

_NAMESPACES = (
    syscalls.CLONE_NEWNS
    | syscalls.CLONE_NEWCGROUP
    | syscalls.CLONE_NEWUTS
    | syscalls.CLONE_NEWIPC
    | syscalls.CLONE_NEWUSER
    | syscalls.CLONE_NEWPID
    | syscalls.CLONE_NEWNET
)

# socket() of every family: no network, AF_VSOCK, AF_ALG, or path to a service of the host; socketpair() stays.
# shmget, semget, msgget, mq_open: what they make outlives the job, and its memory belongs to no process.
# memfd_create, memfd_secret: neither does theirs.
DENIED = tuple(
    """
    acct add_key adjtimex bpf chroot clock_adjtime clock_settime delete_module fanotify_init finit_module fsconfig
    fsmount fsopen fspick init_module io_uring_enter io_uring_register io_uring_setup ioperm iopl kcmp
    ioprio_set kexec_file_load kexec_load keyctl lookup_dcookie memfd_create memfd_secret migrate_pages mount
    mount_setattr move_mount move_pages mq_open
    msgget name_to_handle_at open_by_handle_at open_tree open_tree_attr perf_event_open pidfd_getfd pivot_root
    process_madvise process_vm_readv process_vm_writev ptrace quotactl quotactl_fd reboot request_key semget
    setdomainname sethostname setns settimeofday shmget socket swapoff swapon syslog umount2 unshare userfaultfd
    vhangup
    """.split()
)
# Landlock does not look at them: the owner of a file may change its mode, times and attributes without opening it.
_CHANGING_FILES_OF_OWNER = tuple(
    """
    chmod chown fchmod fchmodat fchmodat2 fchown fchownat file_setattr fremovexattr fsetxattr futimesat lchown
    lremovexattr lsetxattr removexattr removexattrat setxattr setxattrat utime utimes
    """.split()
)
# Limits and priorities of other processes: a limit of one CPU second acts as a signal.  0 is the caller.
_ONLY_ITSELF = {
    "prlimit64": (0,),
    "sched_setaffinity": (0,),
    "sched_setattr": (0,),
    "sched_setparam": (0,),
    "sched_setscheduler": (0,),
    "setpriority": (0, 1),
}
_SIGNALLING = ("kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo")
# F_SETOWN, F_SETSIG, F_SETOWN_EX; FIOSETOWN, SIOCSPGRP: whom the kernel signals, and how, when a file can be read.
_OWNERS_OF_FILES = {"fcntl": (8, 10, 15), "ioctl": (0x8901, 0x8902)}

Instruction = tuple[int, int, int, int]


def available() -> bool:
    """Whether the system call numbers of this machine are known."""
    return MACHINE in _ARCHITECTURE


def job_filter(owns_files: bool = False, may_truncate: bool = True) -> bytes:
    """The filter of a job.

    Args:
        owns_files: The job's user owns files outside the job: it must not change their owner, permissions or dates.
        may_truncate: Something else prevents a job from truncating the files of others by path.
    """
    program = refuse(DENIED, errno.EPERM) + namespaces_refused() + _no_datagrams()
    for name, arguments in _ONLY_ITSELF.items():
        program += _refuse_unless_zero(name, arguments)
    if owns_files:
        program += refuse(_CHANGING_FILES_OF_OWNER, errno.EPERM) + _times_by_descriptor()
    if not may_truncate:
        program += refuse(["truncate"], errno.EPERM)
    return assemble(program)


def signals_of(process: int, others: int) -> bytes:
    """A filter for `process` and what it starts: signals may go to it, to its process group and the caller's.

    Args:
        others: What happens to signals to others, children included: `ASK` or `REFUSE`.
    """
    program = refuse(["pidfd_send_signal"], errno.EPERM)
    for name in _SIGNALLING:
        program += _allow_first_argument(name, [0, process, -process], others)
    for name, commands in _OWNERS_OF_FILES.items():
        program += _refuse_second_argument(name, commands)
    return assemble(program)


def refuse(names: Iterable[str], number: int) -> list[Instruction]:
    """Instructions that make system calls fail with an errno; calls that this machine lacks are skipped."""
    program: list[Instruction] = []
    for name in names:
        if name in NUMBERS:
            program += [(_EQUAL, 0, 1, NUMBERS[name]), (_RETURN, 0, 0, _ERRNO | number)]
    return program


def namespaces_refused() -> list[Instruction]:
    """Instructions that prevent clone from creating namespaces."""
    # The flags of clone3 lie in memory, where a filter cannot look; libraries fall back to clone.
    return [
        *refuse(["clone3"], errno.ENOSYS),
        (_EQUAL, 0, 4, NUMBERS["clone"]),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_ANY_BIT, 0, 1, _NAMESPACES),
        (_RETURN, 0, 0, _ERRNO | errno.EPERM),
        (_LOAD, 0, 0, _NUMBER),
    ]


def _times_by_descriptor() -> list[Instruction]:
    # utimensat with a path of NULL sets the times of an open file, as `touch` does with one that it made.
    return [
        (_EQUAL, 0, 6, NUMBERS["utimensat"]),
        (_LOAD, 0, 0, _FIRST_ARGUMENT + 8),
        (_EQUAL, 0, 2, 0),
        (_LOAD, 0, 0, _FIRST_ARGUMENT + 12),
        (_EQUAL, 1, 0, 0),
        (_RETURN, 0, 0, _ERRNO | errno.EPERM),
        (_LOAD, 0, 0, _NUMBER),
    ]


def _refuse_unless_zero(name: str, arguments: Sequence[int]) -> list[Instruction]:
    body: list[Instruction] = []
    for index in arguments:
        body += [(_LOAD, 0, 0, _FIRST_ARGUMENT + 8 * index), (_EQUAL, 1, 0, 0), (_RETURN, 0, 0, _ERRNO | errno.EPERM)]
    body.append((_LOAD, 0, 0, _NUMBER))
    return [(_EQUAL, 0, len(body), NUMBERS[name]), *body]


def _no_datagrams() -> list[Instruction]:
    # One end of such a pair can send to any service of the host that listens at a path; SOCK_RAW is SOCK_DGRAM there.
    return [
        (_EQUAL, 0, 6, NUMBERS["socketpair"]),
        (_LOAD, 0, 0, _FIRST_ARGUMENT + 8),
        (_AND, 0, 0, 0xF),
        (_EQUAL, 1, 0, 2),
        (_EQUAL, 0, 1, 3),
        (_RETURN, 0, 0, _ERRNO | errno.EPERM),
        (_LOAD, 0, 0, _NUMBER),
    ]


def _allow_first_argument(name: str, values: Sequence[int], others: int) -> list[Instruction]:
    body: list[Instruction] = [(_LOAD, 0, 0, _FIRST_ARGUMENT)]
    # The kernel uses the low half only, too: process ids have 32 bits.
    body += [(_EQUAL, len(values) - index, 0, value & 0xFFFFFFFF) for index, value in enumerate(values)]
    body += [(_RETURN, 0, 0, others), (_LOAD, 0, 0, _NUMBER)]
    return [(_EQUAL, 0, len(body), NUMBERS[name]), *body]


def _refuse_second_argument(name: str, values: Sequence[int]) -> list[Instruction]:
    body: list[Instruction] = [(_LOAD, 0, 0, _FIRST_ARGUMENT + 8)]
    for value in values:
        body += [(_EQUAL, 0, 1, value), (_RETURN, 0, 0, _ERRNO | errno.EPERM)]
    body.append((_LOAD, 0, 0, _NUMBER))
    return [(_EQUAL, 0, len(body), NUMBERS[name]), *body]


def assemble(program: Sequence[Instruction]) -> bytes:
    """A complete filter: other instruction sets end the process, `program` refuses, the rest is allowed."""
    begin: list[Instruction] = [
        (_LOAD, 0, 0, _ARCH),
        (_EQUAL, 1, 0, _ARCHITECTURE[MACHINE]),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, _NUMBER),
    ]
    if MACHINE == "x86_64":
        begin += [(_AT_LEAST, 0, 1, _X32_BIT), (_RETURN, 0, 0, _KILL_PROCESS)]
    whole = [*begin, *program, (_RETURN, 0, 0, _ALLOW)]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in whole)


def install(code: bytes, flags: int = 0) -> int:
    """Install a filter for this process and everything it starts, permanently; needs no_new_privs.

    Raises:
        OSError: The kernel refuses.
    """
    header = struct.pack("HxxxxxxP", len(code) // 8, ctypes.cast(ctypes.c_char_p(code), ctypes.c_void_p).value)
    return call("seccomp", _SET_MODE_FILTER, flags, header)
