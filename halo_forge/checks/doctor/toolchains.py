"""Which compilers and interpreters are there, and which verifiers work with their defaults."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from typing import Any

from halo_forge.checks.doctor._section import Line, Section
from halo_forge.core.errors import HaloForgeError
from halo_forge.core.registry import discover
from halo_forge.verifiers import open_verifier

_ANSWER_SECONDS = 20.0
_TOOLS: dict[str, tuple[list[str], str, str]] = {
    "gcc": (["gcc", "--version"], "gcc libc6-dev binutils", "gcc glibc-devel binutils"),
    "g++": (["g++", "--version"], "g++", "gcc-c++"),
    "clang": (["clang", "--version"], "clang", "clang"),
    "rustc": (["rustc", "--version"], "rustc", "rust"),
    "go": (["go", "version"], "golang-go", "golang"),
    "python3": (["python3", "--version"], "python3", "python3"),
    "x86_64-w64-mingw32-gcc": (
        ["x86_64-w64-mingw32-gcc", "--version"],
        "gcc-mingw-w64-x86-64",
        "mingw64-gcc",
    ),
    "x86_64-w64-mingw32-g++": (
        ["x86_64-w64-mingw32-g++", "--version"],
        "g++-mingw-w64-x86-64",
        "mingw64-gcc-c++",
    ),
}
"""Name -> the command that tells its version, and the packages of Debian/Ubuntu and of Fedora."""

_NEEDS_SETTINGS = ("command",)


def toolchain_section() -> Section:
    """Each tool with its path and version, or how to get it."""
    found = {name: _version(argv) for name, (argv, _, _) in _TOOLS.items()}
    lines = []
    for name, (_, debian, fedora) in _TOOLS.items():
        path, version, failure = found[name]
        hint = f"Debian, Ubuntu: sudo apt-get install {debian}; Fedora: sudo dnf install {fedora}"
        if path is None:
            lines.append(Line(name, "missing", "not in PATH", hint))
        elif version is None:
            lines.append(Line(name, "failed", f"{path}: {failure}", hint))
        else:
            lines.append(Line(name, "ok", f"{version} ({path})"))
    facts: dict[str, Any] = {name: {"path": path, "version": version} for name, (path, version, _) in found.items()}
    return Section("toolchains", any(version is not None for _, version, _ in found.values()), tuple(lines), facts)


def _version(argv: Sequence[str]) -> tuple[str | None, str | None, str]:
    """(path, first line of what it says, what went wrong); None where there is none."""
    path = shutil.which(argv[0])
    if path is None:
        return None, None, ""
    try:
        done = subprocess.run(
            [path, *argv[1:]],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_ANSWER_SECONDS,
            # A rustup or go that has to fetch a toolchain first must not do so here.
            env={**os.environ, "GOTOOLCHAIN": "local", "RUSTUP_AUTO_INSTALL": "0"},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return path, None, f"does not start, or hangs: {error}"
    said = done.stdout.decode("utf-8", errors="backslashreplace").strip()
    if done.returncode != 0 or not said:
        words = (done.stderr or done.stdout).decode("utf-8", errors="backslashreplace").strip()
        return path, None, f"exit code {done.returncode}: {words[:300]}"
    return path, said.splitlines()[0], ""


def verifier_section() -> Section:
    """Each verifier with its default settings: its own check of programs whose verdict is known."""
    lines = []
    facts = {}
    for kind, spec in discover("halo_forge.verifiers.languages").items():
        if kind in _NEEDS_SETTINGS:
            lines.append(Line(kind, "note", "runs a command of your own; try it with `halo-forge verify`"))
            continue
        try:
            with open_verifier(spec()) as verifier:  # type: ignore[arg-type]
                toolchain = verifier.toolchain()
        except HaloForgeError as error:
            lines.append(Line(kind, "failed", error.message.splitlines()[0][:300], error.hint))
            facts[kind] = False
        else:
            lines.append(Line(kind, "ok", f"works with {toolchain['version']}"))
            facts[kind] = True
    return Section("verifiers", any(facts.values()), tuple(lines), facts)
