"""`halo-forge` whose sampling goes wrong: troubled_run.py TROUBLE AFTER TIMES FOLDER ARGUMENTS...

The first TIMES attempts meet the trouble when they have sampled AFTER completions.  FOLDER counts the attempts.

    spin     the thread that samples never comes back from a call in C: no signal handler of Python runs again
    die      the process is killed (SIGKILL)
    wait     the thread sleeps in Python; the file FOLDER.waiting says that it does, and FOLDER.interrupted that an
             interrupt woke it
    load     AFTER seconds pass, in which nothing moves, before the engine is there; sampling goes well
"""

from __future__ import annotations

import collections
import itertools
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scripted_runs import MemoryVerifier

import halo_forge.verifiers.verifier
from halo_forge.cli import app
from halo_forge.engines.scripted import ScriptedEngine, ScriptedSpec


def meet(trouble: str, folder: str) -> None:
    match trouble:
        case "spin":
            collections.deque(itertools.repeat(None), maxlen=0)
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "wait":
            try:
                Path(f"{folder}.waiting").touch()
                time.sleep(120)
            except KeyboardInterrupt:
                Path(f"{folder}.interrupted").touch()
                raise


def main() -> None:
    trouble, after, times, folder = sys.argv[1:5]
    del sys.argv[1:5]
    halo_forge.verifiers.verifier.ThreadedVerifier = lambda spec: MemoryVerifier()  # type: ignore[assignment, misc]
    sample = ScriptedEngine.sample

    if trouble == "load":
        ScriptedSpec.check = lambda self: time.sleep(float(after))  # type: ignore[method-assign]
        app.main()

    def troubled(*arguments: Any) -> Iterator[Any]:
        count = len(list(Path(folder).iterdir()))
        if count < int(times):
            (Path(folder) / str(count)).touch()
        for number, completion in enumerate(sample(*arguments)):
            if count < int(times) and number == int(after):
                meet(trouble, folder)
            yield completion

    ScriptedEngine.sample = troubled  # type: ignore[method-assign]
    app.main()


if __name__ == "__main__":
    main()
