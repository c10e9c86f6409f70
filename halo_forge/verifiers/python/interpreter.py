"""The Python that runs programs, and how the driver gets into it."""

from __future__ import annotations

import ast
import functools
import graphlib
import os
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from halo_forge.core.errors import ToolMissing
from halo_forge.verifiers.toolchain import outside_system

_ASK = "import sys; print(sys.executable); print(sys.prefix); print(sys.base_prefix)"
_ASK_SECONDS = 60.0
_DRIVER = Path(__file__).parent / "driver"
_PACKAGE = "halo_forge.verifiers.python.driver"
OLDEST = (3, 8)
"""The oldest Python that programs may run in, and so the one that the modules of `driver` are written for."""

_COMPILE = (
    "import marshal\n"
    "code = [(name, compile(open(name + '.py', 'rb').read(), name, 'exec')) for name in {names}]\n"
    "open('driver', 'wb').write(marshal.dumps(code))\n"
)
_LATER = ("assertions", "stand_ins")
"""Modules of `driver` that few tests need: they are loaded when a function imports them from the package."""
_LOAD = (
    "import marshal, sys\n"
    "sys.path[:] = [path for path in sys.path if path]\n"  # the program can write to the current directory
    f"package = sys.modules[{_PACKAGE!r}] = type(sys)({_PACKAGE!r})\n"
    "codes = dict(marshal.loads(open('driver', 'rb').read()))\n"
    "def load(name):\n"
    "    if name not in codes:\n"
    "        raise AttributeError(name)\n"
    f"    module = sys.modules[{_PACKAGE!r} + '.' + name] = type(sys)({_PACKAGE!r} + '.' + name)\n"
    "    setattr(package, name, module)\n"
    "    exec(codes[name], module.__dict__)\n"
    "    return module\n"
    "package.__getattr__ = load\n"
    f"for name in list(codes):\n    if name not in {_LATER!r}:\n        load(name)\n"
)


@dataclass(frozen=True, slots=True)
class Interpreter:
    """Where the interpreter is.

    Attributes:
        executable: Absolute path: without links where the packages of a virtual environment are not wanted.
        read_only: Directories outside of the system's own that it needs.
    """

    executable: str
    read_only: tuple[str, ...]


@functools.lru_cache(maxsize=16)
def locate(path: str, packages: bool) -> Interpreter:
    """Ask the interpreter at `path`, which may be a wrapper script, for its real location.

    Raises:
        ToolMissing: It does not answer.
    """
    hint = f"set verifier.compiler to the path of a Python {'.'.join(map(str, OLDEST))} or later"
    try:
        asked = subprocess.run(
            [path, "-s", "-S", "-c", _ASK], capture_output=True, text=True, timeout=_ASK_SECONDS, check=True, cwd="/"
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise ToolMissing(f"the interpreter {path} does not say where it is: {error}", hint) from error
    lines = asked.stdout.splitlines()
    if len(lines) != 3 or not os.path.isabs(lines[0]):
        raise ToolMissing(f"the interpreter {path} does not say where it is, but prints {asked.stdout[:200]!r}", hint)
    executable, prefix, base = lines
    binaries = [os.path.join(each, "bin", "python3") for each in ([prefix, base] if packages else [base])]
    executable = executable if packages else os.path.realpath(executable)
    return Interpreter(executable, tuple(outside_system([executable, *binaries])))


def sources() -> dict[str, bytes]:
    """File name -> content of every module of `driver`, each after those that it imports."""
    modules = {path.stem: path.read_bytes() for path in _DRIVER.glob("*.py") if path.stem != "__init__"}
    order = graphlib.TopologicalSorter({name: _imported(content) & modules.keys() for name, content in modules.items()})
    return {f"{name}.py": modules[name] for name in order.static_order()}


def _imported(content: bytes) -> set[str]:
    """The modules of `driver` that one of them imports when it is loaded."""
    found: set[str] = set()
    for node in ast.parse(content).body:
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            package, _, name = node.module.rpartition(".")
            found |= {alias.name for alias in node.names} if node.module == _PACKAGE else set()
            found |= {name} if package == _PACKAGE else set()
    return found


def compile_driver(files: Iterable[str]) -> str:
    """A program that compiles `sources()`, which lie beside it, into the file `driver`; that one loads in no time."""
    return _COMPILE.format(names=[name.removesuffix(".py") for name in files])


def run_driver(function: str) -> str:
    """A program that loads the file `driver` and calls a function of it, such as "main.main"."""
    return f"{_LOAD}package.{function}()\n"
