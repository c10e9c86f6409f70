"""Where tools are installed on this machine, and where what is built from them is cached."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from halo_forge.sandbox.local import shows_too_much

_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_ALTERNATIVES = "/etc/alternatives/"


def find_tool(name: str) -> str | None:
    """The absolute path of a tool that is named by its path, or found in PATH.

    Debian's indirection through /etc/alternatives is followed, because a sandbox may have no such directory; other
    links are not: some tools look at the name that they were called by.
    """
    path = shutil.which(name)
    if path is None:
        return None
    path = os.path.abspath(path)
    while os.path.islink(path):
        target = os.path.normpath(os.path.join(os.path.dirname(path), os.readlink(path)))
        if not (target.startswith(_ALTERNATIVES) or path.startswith(_ALTERNATIVES)):
            break
        path = target
    return path


def outside_system(paths: Iterable[str]) -> list[str]:
    """The directories of the installations of tools, sorted, without the system's own.

    For a tool in a directory `bin` it is the parent directory, unless that holds more than an installation.
    """
    found: set[str] = set()
    for path in paths:
        for place in {os.path.dirname(path), os.path.dirname(os.path.realpath(path))}:
            around = os.path.dirname(place)
            private = around in ("/", os.path.expanduser("~")) or os.path.dirname(around) in ("/", "/home")
            whole = os.path.basename(place) == "bin" and not private and not shows_too_much(around)
            found.add(around if whole else place)
    return sorted(directory for directory in found if not _in_system(directory))


def _in_system(directory: str) -> bool:
    return any(directory == top or directory.startswith(f"{top}/") for top in _SYSTEM)


def cache_directory(name: str) -> Path:
    """A directory for what is built from a toolchain once and read by many runs; jobs read it under other user ids.

    For root it is outside of root's home, which no other user may enter.

    Raises:
        OSError: It cannot be made.
    """
    if os.geteuid() == 0:
        top = Path("/var/cache/halo-forge")
    else:
        top = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "halo-forge"
    directory = top / name
    for part in (top, directory):
        part.mkdir(parents=True, exist_ok=True)
        part.chmod(0o755)
    return directory


def build_cached(directory: Path, fill: Callable[[Path], None]) -> Path:
    """`directory`, filled by `fill` if it is missing; atomic, whatever other processes do at the same time.

    Raises:
        OSError: It cannot be written.
    """
    if not directory.is_dir():
        building = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
        try:
            fill(building)
            building.chmod(0o755)
            try:
                building.rename(directory)
            except OSError:
                if not directory.is_dir():
                    raise
        finally:
            shutil.rmtree(building, ignore_errors=True)
    return directory
