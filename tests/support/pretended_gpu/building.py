"""The plugin, compiled once for each version of torch."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import stat
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("plugin.cpp")


class PluginError(RuntimeError):
    """The plugin cannot be compiled."""


def has_compiler() -> bool:
    """Whether the plugin can be compiled here."""
    return shutil.which("g++") is not None


def load_plugin() -> ctypes.CDLL:
    """The plugin, loaded into this process.

    Raises:
        PluginError: There is no g++, or it fails; or others can write where the plugin is kept.
    """
    import torch

    key = hashlib.sha256(SOURCE.read_bytes() + torch.__version__.encode() + torch.__file__.encode()).hexdigest()[:16]
    path = private_folder() / f"{key}.so"
    if not path.exists():
        _compile(Path(torch.__file__).parent, path)
    plugin = ctypes.CDLL(str(path))
    for name in ("count_of", "num_copies_asked", "allocated_bytes", "peak_bytes"):
        getattr(plugin, name).restype = ctypes.c_int64
    plugin.wait_for_copies.argtypes = [ctypes.c_int64, ctypes.c_char_p]
    plugin.deliver_copies.argtypes = [ctypes.c_int64]
    plugin.set_limit.argtypes = [ctypes.c_int64]
    return plugin


def private_folder() -> Path:
    """Where compiled plugins are kept: below the user's cache, for nobody else.

    Raises:
        PluginError: Somebody else could put a library there, and it would be loaded.
    """
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"  # an empty one is none, says its specification
    folder = Path(cache) / "halo-forge" / "pretended-gpu"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise PluginError(f"{folder} must be a folder of yours that nobody else can enter (mode 700): remove it")
    return folder


def _compile(torch_folder: Path, path: Path) -> None:
    compiler = shutil.which("g++")
    if compiler is None:
        raise PluginError("g++ is needed to compile the pretended GPU")
    include, libraries = torch_folder / "include", torch_folder / "lib"
    command = [compiler, "-std=c++20", "-O1", "-shared", "-fPIC"]
    command += [f"-I{include}", f"-I{include}/torch/csrc/api/include", str(SOURCE)]
    command += [f"-L{libraries}", f"-Wl,-rpath,{libraries}", "-lc10", "-ltorch_cpu"]
    # Under another name first: processes that start together compile it side by side.
    made = path.with_suffix(f".{os.getpid()}")
    done = subprocess.run([*command, "-o", str(made)], capture_output=True, text=True)
    if done.returncode != 0:
        raise PluginError(f"{SOURCE.name} does not compile:\n{done.stderr}")
    made.rename(path)
