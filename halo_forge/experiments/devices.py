"""What each of several runs at a time runs on: a GPU of its own, or a share of the processors."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping

from halo_forge.core.errors import ConfigError
from halo_forge.core.wording import counted
from halo_forge.experiments.file import Experiment
from halo_forge.hardware import choose
from halo_forge.hardware.devices import Ask, ask_torch, visibility

THREADS = "OMP_NUM_THREADS"


def slots_of(
    experiment: Experiment,
    parallel: int,
    *,
    ask: Ask = ask_torch,
    environment: Mapping[str, str] = os.environ,
) -> list[dict[str, str]]:
    """What is added to the environment of a run, for each of those that run at a time.

    One run at a time needs nothing: it takes the freest GPU, or all processors.  On the CPU the threads are divided by
    the number of runs at a time, not by how many are running: the number of threads decides the last bits of a result.

    Args:
        ask: What a torch with an environment sees.

    Raises:
        ConfigError: Fewer GPUs or processors than `parallel`.
    """
    config = experiment.config(experiment.arms[0], experiment.seeds[0]).config
    if parallel == 1 or not config.engine.needs_policy:
        return [{} for _ in range(parallel)]
    if choose(config.hardware).device == "cpu":
        num = int(environment[THREADS]) if environment.get(THREADS, "").isdecimal() else len(os.sched_getaffinity(0))
        if num < parallel:
            raise ConfigError(
                f"--parallel {parallel}: runs on the CPU have {counted(num, 'thread')} to share",
                f"use --parallel {num} or less; without a GPU it is hardly faster than one run after the other",
            )
        return [{THREADS: str(num // parallel)} for _ in range(parallel)]
    try:
        gpus = ask(environment)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise ConfigError(
            f"--parallel {parallel}: torch did not say which GPUs there are: {error}",
            "run `halo-forge doctor`, or run without --parallel",
        ) from error
    usable = [number for number, gpu in enumerate(gpus) if gpu.has_kernels and not gpu.failure]
    if len(usable) < parallel:
        raise ConfigError(
            f"--parallel {parallel}: torch can use {counted(len(usable), 'GPU')} here",
            f"use --parallel {max(1, len(usable))}; each run needs a GPU of its own",
        )
    chosen = [visibility(number, gpus[number].architecture is not None, environment) for number in usable[:parallel]]
    return [dict([each]) for each in chosen]
