"""The header <bits/stdc++.h>, precompiled: most of the time that a program spends in gcc goes into reading it.

It is used for answers that include it before anything else, and found by gcc where it looks for that include.  It is
never put in front of an answer: that would hide what the answer forgets to include.  gcc itself refuses one that
was made by another compiler or with other options, and reads the header then.

Kept from run to run, under a name that follows from the compiler, its options and the dates of all headers in it.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
from pathlib import Path

from halo_forge.core.source import digest
from halo_forge.sandbox.job import MEBIBYTE
from halo_forge.verifiers.compiled.c_family import CFamilySpec
from halo_forge.verifiers.context import BuildContext
from halo_forge.verifiers.diagnostics import readable
from halo_forge.verifiers.toolchain import build_cached, cache_directory

_FIRST = re.compile(rb"\s*(?:(?://[^\n]*\n|/\*.*?\*/)\s*)*#[ \t]*include[ \t]*<bits/stdc\+\+\.h>", re.DOTALL)
_SOURCE = b"#include <bits/stdc++.h>\n"
_HEADER = "stdc++.h"
# One of them is about 100 MiB; so many are kept for one user.
_MAX_KEPT = 3
_MAX_BYTES = 512 * MEBIBYTE


def places(spec: CFamilySpec) -> list[str]:
    """Directories that jobs must be able to read; none where precompiled headers cannot be kept or used."""
    # clang takes no precompiled header for an #include in a source.
    if "clang" in os.path.basename(spec.compiler):
        return []
    try:
        return [str(cache_directory("precompiled"))]
    except OSError:
        return []  # no place to keep it: programs compile all the same, only slower


def options(spec: CFamilySpec, context: BuildContext, source: bytes) -> list[str]:
    """What makes the compiler find the precompiled header; empty for answers that do not begin with the include."""
    if _FIRST.match(source) is None:
        return []
    found = context.once("precompiled", lambda: _directory(spec, context))
    return [] if found is None else [f"-I{found}"]


def _directory(spec: CFamilySpec, context: BuildContext) -> Path | None:
    """The directory with `bits/stdc++.h.gch` in it; None where there can be none."""
    within = places(spec)
    key = _key(spec, context) if within else None
    if key is None:
        return None
    directory = Path(within[0]) / key
    if not directory.is_dir():
        made = _compile(spec, context)
        if made is None:
            return None
        _make_room(directory.parent)
        try:
            build_cached(directory, lambda building: _write(building, made))
        except OSError:
            return None  # the disk is full: only slower
    return directory


def _key(spec: CFamilySpec, context: BuildContext) -> str | None:
    """Names all that goes into it; None where the compiler has no such header."""
    command = spec.compile_command(context.compiler, _HEADER, "list")
    version = context.run(spec.version_command(context.compiler), {}, None)
    listed = context.run([*command[: command.index("-c")], "-x", "c++-header", "-M", _HEADER], {_HEADER: _SOURCE}, None)
    if not (version.clean and listed.clean):
        return None
    headers = [name for name in readable(listed.stdout).replace("\\\n", " ").split() if name.startswith("/")]
    dates = [f"{name} {os.stat(name).st_mtime_ns}" for name in [context.compiler, *headers] if os.path.exists(name)]
    return digest("\n".join([readable(version.stdout), *command, *dates]))[:32]


def _compile(spec: CFamilySpec, context: BuildContext) -> bytes | None:
    command = spec.compile_command(context.compiler, _HEADER, "made.gch")
    command[command.index("-c") : command.index("-c") + 1] = ["-x", "c++-header"]
    limits = spec.compile_limits()
    # It costs about three times as much as to compile a program with it, whatever programs are allowed.
    generous = dataclasses.replace(
        limits,
        cpu_seconds=max(60.0, limits.cpu_seconds),
        wall_seconds=max(180.0, limits.wall_seconds),
        file_bytes=_MAX_BYTES,
    )
    outcome = context.run(command, {_HEADER: _SOURCE}, "made.gch", generous)
    return outcome.fetched if outcome.clean else None


def _write(directory: Path, content: bytes) -> None:
    (directory / "bits").mkdir(mode=0o755)
    path = directory / "bits" / f"{_HEADER}.gch"
    path.write_bytes(content)
    path.chmod(0o644)
    path.parent.chmod(0o755)


def _make_room(place: Path) -> None:
    directories = [path for path in place.iterdir() if not path.name.startswith(".")]
    directories.sort(key=lambda path: path.stat().st_mtime)
    for directory in directories[: max(0, len(directories) - _MAX_KEPT + 1)]:
        shutil.rmtree(directory, ignore_errors=True)
