"""The benchmark scripts for the tests: as modules, and as the programs that they are."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "scripts"
KEYS = {"benchmark", "ratio", "ratio_low", "ratio_high", "ours", "baseline", "unit", "machine"}
"""Of the last line; `ceiling_fraction` besides where there is a ceiling."""


@contextmanager
def script(name: str) -> Iterator[ModuleType]:
    """scripts/<name>.py as a module, which finds its neighbours."""
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = {*sys.modules}
    sys.modules[name] = module  # dataclasses look their module up
    sys.path.insert(0, str(SCRIPTS))
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(SCRIPTS))
        for each in {name, "_bench"} - before:
            sys.modules.pop(each, None)


def run(name: str, *arguments: object, seconds: float = 240) -> subprocess.CompletedProcess[str]:
    """scripts/<name>.py with these arguments, from the top of the repository."""
    command = [sys.executable, str(SCRIPTS / f"{name}.py"), *map(str, arguments)]
    # One thread: what is this small only loses by more.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=seconds, cwd=ROOT, env=environment)


def last_object(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The JSON object of the last line of a benchmark that went well, with the keys that all have."""
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert set(found) - {"ceiling_fraction"} == KEYS
    assert found["ratio_low"] <= found["ratio"] <= found["ratio_high"]
    return found
