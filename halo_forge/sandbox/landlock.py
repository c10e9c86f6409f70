"""Landlock: this process, and everything it starts, can open only named paths and signal only processes like it.

What each version of the kernel's interface (ABI) adds: 1 files (Linux 5.13), 2 renames between directories,
3 truncation, 4 TCP (6.7), 5 ioctl on devices, 6 signals and abstract Unix sockets (6.12).
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Sequence

from halo_forge.sandbox.syscalls import call

TRUNCATE_ABI, SIGNALS_ABI = 3, 6
_VERSION_FLAG = 1
_PATH_BENEATH = 1

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_TRUNCATE, _IOCTL_DEV = 1 << 14, 1 << 15
_RIGHTS_OF_ABI = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_FILE_RIGHTS = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_ALL_TCP = 0b11
_ALL_SCOPES = 0b11


def kernel_abi() -> int:
    """The version of the interface of this kernel.

    Raises:
        OSError: ENOSYS if it has none, EOPNOTSUPP if it is disabled.
    """
    return call("landlock_create_ruleset", None, 0, _VERSION_FLAG)


def new_ruleset(readable: Sequence[str | int], writable: Sequence[str | int], abi: int) -> int:
    """The descriptor of a ruleset, for `enter`.

    Args:
        readable: Files and directories that can be read and executed, recursively; paths or open descriptors.
        writable: The same for what can also be changed.
        abi: At most `kernel_abi()`.

    Raises:
        OSError: The kernel refuses, or a path is missing.
    """
    handled = _RIGHTS_OF_ABI[min(abi, max(_RIGHTS_OF_ABI))]
    tcp = _ALL_TCP if abi >= 4 else 0
    scopes = _ALL_SCOPES if abi >= SIGNALS_ABI else 0
    size = 8 if abi < 4 else 16 if abi < SIGNALS_ABI else 24
    ruleset = call("landlock_create_ruleset", struct.pack("QQQ", handled, tcp, scopes)[:size], size, 0)
    try:
        for place in readable:
            _allow(ruleset, place, _READ & handled)
        for place in writable:
            _allow(ruleset, place, handled)
    except BaseException:
        os.close(ruleset)
        raise
    return ruleset


def enter(ruleset: int) -> None:
    """Restrict this process for good; needs no_new_privs.

    Raises:
        OSError: The kernel refuses.
    """
    call("landlock_restrict_self", ruleset, 0)


def _allow(ruleset: int, place: str | int, rights: int) -> None:
    descriptor = os.open(place, os.O_PATH | os.O_CLOEXEC) if isinstance(place, str) else place
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            rights &= _FILE_RIGHTS
        call("landlock_add_rule", ruleset, _PATH_BENEATH, struct.pack("=Qi", rights, descriptor), 0)
    finally:
        if isinstance(place, str):
            os.close(descriptor)
