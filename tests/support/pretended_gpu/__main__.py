"""Run Python with the pretended GPU: `python -m support.pretended_gpu [--gfx NAME] [--gib SIZE] -m MODULE ...`."""

from __future__ import annotations

import argparse
import os
import sys

from support.pretended_gpu import GIB, environment


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m support.pretended_gpu", description=__doc__)
    parser.add_argument("--gfx", help="be an AMD GPU of this architecture")
    parser.add_argument("--gib", type=float, default=16, help="memory in GiB (default 16)")
    parser.add_argument("-m", dest="command", required=True, nargs=argparse.REMAINDER, help="module, and its arguments")
    given = parser.parse_args()
    options = environment(gfx=given.gfx, memory_bytes=int(given.gib * GIB))
    os.execve(sys.executable, [sys.executable, "-m", *given.command], options)


main()
