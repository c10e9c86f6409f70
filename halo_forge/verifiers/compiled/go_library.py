"""Go's standard library, compiled: `go build` would compile it in every fresh directory, for many seconds.

It is made once for each toolchain, by that toolchain, of its own sources: nothing of an answer is in it.  Answers are
then compiled against it without the command `go`, so that nothing is fetched, generated, embedded or linked from C.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from halo_forge.core.errors import ToolMissing
from halo_forge.core.source import digest
from halo_forge.verifiers.toolchain import cache_directory, kept

_SECONDS = 600
_PURE = {"CGO_ENABLED": "0", "GOFLAGS": "", "GOTOOLCHAIN": "local", "GOENV": "off", "GOPROXY": "off", "GOWORK": "off"}
_LIST = "packages"


@dataclass(frozen=True, slots=True)
class Library:
    """Absolute paths: the toolchain's own directory, its compiler and linker, and what they import from.

    Attributes:
        directory: Where the compiled packages are kept.
        import_list: The file that tells the compiler and the linker where each package is.
    """

    root: str
    compiler: str
    linker: str
    directory: Path
    import_list: str


@functools.cache
def library(go: str, install_hint: str) -> Library:
    """The compiled library of the toolchain whose command `go` is at that path; made where it is missing.

    Raises:
        ToolMissing: The toolchain is not complete, or there is no place to keep what it makes.
    """
    try:
        found = json.loads(_run(go, ["env", "-json", "GOROOT", "GOTOOLDIR", "GOVERSION", "GOARCH"], {}))
        tools = [os.path.join(found["GOTOOLDIR"], name) for name in ("compile", "link")]
        versions = [_version(tool) for tool in tools]
        name = digest("\n".join([found["GOROOT"], found["GOARCH"], *versions]))[:32]
        directory = cache_directory("go") / name
        kept(directory, lambda building: _fill(go, building, directory))
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        said = getattr(error, "stderr", None) or ""
        raise ToolMissing(
            f"verifier.kind 'go': the standard library of {go} cannot be compiled: {error} {said}".strip(), install_hint
        ) from error
    import_list = directory / _LIST
    if not import_list.is_file():
        raise ToolMissing(f"verifier.kind 'go': {import_list} is gone", f"remove {directory}; it is created again")
    return Library(found["GOROOT"], tools[0], tools[1], directory, str(import_list))


def _version(tool: str) -> str:
    done = subprocess.run([tool, "-V=full"], capture_output=True, text=True, timeout=_SECONDS, check=True)
    return done.stdout.strip()


def _run(go: str, arguments: list[str], env: dict[str, str]) -> str:
    done = subprocess.run(
        [go, *arguments],
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=True,
        cwd="/",
        env={**os.environ, **_PURE, **env},
    )
    return done.stdout


def _fill(go: str, directory: Path, final: Path) -> None:
    """Compile every package, keep the archives, and write the list of them; `directory` becomes `final` later."""
    scratch = directory / "scratch"
    try:
        template = "{{if .Export}}{{.ImportPath}}={{.Export}}{{end}}"
        listed = _run(go, ["list", "-export", "-f", template, "std"], {"GOCACHE": str(scratch)})
        lines = []
        for number, line in enumerate(sorted(listed.split())):
            package, _, archive = line.partition("=")
            shutil.copyfile(archive, directory / f"{number}.a")
            (directory / f"{number}.a").chmod(0o644)
            lines.append((package, f"{number}.a"))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    # Absolute: the compiler runs somewhere else.
    text = "".join(f"packagefile {package}={final / archive}\n" for package, archive in lines)
    (directory / _LIST).write_text(text)
    (directory / _LIST).chmod(0o644)
