"""`halo-forge` with one stage slowed down, for the tests that interrupt it there: slow_run.py STAGE ARGUMENTS..."""

from __future__ import annotations

import sys
import time
from typing import Any

from scripted_runs import MemoryVerifier

import halo_forge.verifiers.verifier
from halo_forge.cli import app
from halo_forge.engines.scripted import ScriptedEngine
from halo_forge.training.scripted import ScriptedTrainer


def main() -> None:
    stage = sys.argv.pop(1)
    if stage != "verdicts":  # which the slow programs of the answers make slow
        halo_forge.verifiers.verifier.ThreadedVerifier = lambda spec: MemoryVerifier()  # type: ignore[assignment, misc]
    if stage == "completions":
        sample = ScriptedEngine.sample

        def slow_sample(*arguments: Any) -> Any:
            for completion in sample(*arguments):
                yield completion
                time.sleep(0.2)

        ScriptedEngine.sample = slow_sample  # type: ignore[method-assign]
    if stage == "trained":
        train = ScriptedTrainer.train

        def slow_train(self: Any, rows: Any, settings: Any, folder: Any, on_step: Any, *more: Any) -> Any:
            def slow_step(*arguments: Any) -> None:
                on_step(*arguments)
                time.sleep(120)

            return train(self, rows, settings, folder, slow_step, *more)

        ScriptedTrainer.train = slow_train  # type: ignore[method-assign]
    app.main()


if __name__ == "__main__":
    main()
