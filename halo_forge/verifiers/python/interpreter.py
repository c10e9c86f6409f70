"""The Python that answers are run with, and the program that it is given in order to run them."""

from __future__ import annotations

import functools
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from halo_forge.core.errors import ToolMissing
from halo_forge.verifiers.toolchain import outside_system

_ASK = "import sys; print(sys.executable); print(sys.prefix); print(sys.base_prefix)"
_ASK_SECONDS = 60.0
_PACKAGE = "halo_forge.verifiers.python.driver"
_MODULES = ("wire", "candidate", "remote", "harness", "main")
COMPILE = (
    "import marshal\n"
    f"code = [(name, compile(open(name + '.py', 'rb').read(), name, 'exec')) for name in {_MODULES}]\n"
    "open('driver', 'wb').write(marshal.dumps(code))\n"
)
"""Run once by the interpreter, next to `sources()`: it leaves the file `driver`, which loads in no time."""
_LOAD = (
    "import marshal, sys\n"
    "sys.path[:] = [path for path in sys.path if path]\n"  # the answer can write to the current directory
    f"package = sys.modules[{_PACKAGE!r}] = type(sys)({_PACKAGE!r})\n"
    "for name, code in marshal.loads(open('driver', 'rb').read()):\n"
    f"    module = sys.modules[{_PACKAGE!r} + '.' + name] = type(sys)({_PACKAGE!r} + '.' + name)\n"
    "    setattr(package, name, module)\n"
    "    exec(code, module.__dict__)\n"
)


@dataclass(frozen=True, slots=True)
class Interpreter:
    """Where it is.

    Attributes:
        executable: Absolute path: without links where the packages of a virtual environment are not wanted.
        read_only: Directories outside of the system's own that it needs.
    """

    executable: str
    read_only: tuple[str, ...]


@functools.lru_cache(maxsize=16)
def locate(path: str, packages: bool) -> Interpreter:
    """Ask the interpreter at `path`, which may be a script that starts another one, where it really is.

    Raises:
        ToolMissing: It does not answer.
    """
    hint = "set verifier.compiler to the path of a Python 3.8 or later"
    try:
        asked = subprocess.run(
            [path, "-s", "-S", "-c", _ASK], capture_output=True, text=True, timeout=_ASK_SECONDS, check=True, cwd="/"
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise ToolMissing(f"the interpreter {path} does not tell where it is: {error}", hint) from error
    lines = asked.stdout.splitlines()
    if len(lines) != 3 or not os.path.isabs(lines[0]):
        raise ToolMissing(f"the interpreter {path} does not tell where it is, but {asked.stdout[:200]!r}", hint)
    executable, prefix, base = lines
    binaries = [os.path.join(each, "bin", "python3") for each in ([prefix, base] if packages else [base])]
    executable = executable if packages else os.path.realpath(executable)
    return Interpreter(executable, tuple(outside_system([executable, *binaries])))


def sources() -> dict[str, bytes]:
    """File name -> content of what `COMPILE` makes the driver of."""
    folder = Path(__file__).parent / "driver"
    return {f"{name}.py": (folder / f"{name}.py").read_bytes() for name in _MODULES}


def run_driver(function: str) -> str:
    """A program that loads the file `driver` and calls a function of it, such as "main.main"."""
    return f"{_LOAD}package.{function}()\n"
