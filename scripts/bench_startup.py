"""How long the command line takes to respond: `--help`, and the dry run of the quickstart.

The baseline is a Python process that imports the libraries that any such command line needs (typer, and for the dry run
also pydantic, PyYAML and rich): everything above it is ours.  Alternately, in one run.

    python scripts/bench_startup.py [--repeats 10]

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence

from _bench import Figure, alternately

HALO_FORGE = [sys.executable, "-m", "halo_forge"]
DRY_RUN = ["raft", "run", "configs/quickstart.yaml", "--dry-run"]
LIMITS = {"help": 0.5, "dry run": 1.0}
"""Targets in seconds."""


def seconds_of(command: Sequence[str]) -> float:
    """Wall-clock seconds of one call."""
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=10, help="alternations of both sides (default 10)")
    repeats = parser.parse_args().repeats
    if repeats < 1:
        parser.error("--repeats must be at least 1")
    for name, ours, imports in (
        ("help", [*HALO_FORGE, "--help"], "typer"),
        ("dry run", [*HALO_FORGE, *DRY_RUN], "typer, pydantic, yaml, rich.console"),
    ):
        baseline = [sys.executable, "-c", f"import {imports}"]
        seconds_of(ours), seconds_of(baseline)  # loads the files into the cache
        pairs = alternately(repeats, lambda b=baseline: seconds_of(b), lambda o=ours: seconds_of(o))  # type: ignore[misc]
        met = "met" if sorted(pairs[0])[repeats // 2] <= LIMITS[name] else "MISSED"
        print(f"target: at most {LIMITS[name]:g} s: {met}")
        Figure(f"startup, {name}", *pairs, "seconds", less_is_better=True).show()


if __name__ == "__main__":
    main()
