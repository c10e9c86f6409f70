"""Many jobs in a row on one launcher: memory, descriptors, processes and files stay as they are."""

from __future__ import annotations

import os
import statistics
import threading
import time
from dataclasses import dataclass

import pytest

from halo_forge.sandbox import processes
from halo_forge.sandbox.job import MEBIBYTE, Job, Limits, SandboxError
from halo_forge.sandbox.local import LocalSandbox, open_sandbox

LIMITS = Limits(cpu_seconds=1.0, wall_seconds=5.0, memory_bytes=64 * MEBIBYTE)
NUM_JOBS, NUM_WARM_UP, EVERY = 500, 60, 20
CAP_SECONDS = 60.0
# So few jobs tell no smaller slope from the noise of pages (-100 to 300 was seen); a kept outcome is more than this.
MAX_SLOPE_BYTES = 800.0
MAX_PARENT_BYTES = 4 * MEBIBYTE


@dataclass(frozen=True, slots=True)
class Usage:
    """What the launcher and this process hold after a number of jobs."""

    num_jobs: int
    launcher_bytes: int
    parent_bytes: int
    num_descriptors: int
    below: frozenset[int]
    num_files: int


def usage(num_jobs: int, sandbox: LocalSandbox) -> Usage:
    launcher, me = processes.read(sandbox.launcher), processes.read(os.getpid())
    assert launcher is not None and me is not None
    return Usage(
        num_jobs,
        launcher.rss_bytes,
        me.rss_bytes,
        len(os.listdir("/proc/self/fd")) + len(os.listdir(f"/proc/{launcher.pid}/fd")),
        frozenset(process.pid for process in processes.below(launcher.pid)),
        sum(len(names) + len(folders) for _, folders, names in os.walk(sandbox._directory)),
    )


def slope(points: list[Usage]) -> float:
    """Bytes that the launcher grows by with each job."""
    jobs = [float(point.num_jobs) for point in points]
    return statistics.linear_regression(jobs, [float(point.launcher_bytes) for point in points]).slope


def job(number: int) -> Job:
    """Each one leaves files, a process and output behind, and some are ended by a limit or cannot be started."""
    if number % 25 == 0:
        return Job(("./missing",), LIMITS)
    if number % 50 == 1:
        return Job(("/bin/sh", "-c", "sleep 5"), Limits(1.0, 0.05, 64 * MEBIBYTE))
    script = "mkdir d; echo x > d/f; ln -s d l; echo out; echo err >&2; (sleep 5 &)"
    return Job(
        ("/bin/sh", "-c", script), LIMITS, {"data": bytes(10_000)}, bytes(10_000), {"PATH": "/usr/bin:/bin"}, "data"
    )


@pytest.mark.parametrize("level", ["namespace", "landlock", "limits"])
def test_nothing_grows(level: str) -> None:
    try:
        sandbox = open_sandbox(level)
    except SandboxError as error:
        pytest.skip(f"level {level} is not available here: {error}")
    assert isinstance(sandbox, LocalSandbox)
    cap = threading.Timer(CAP_SECONDS, sandbox.close)
    cap.start()
    try:
        points: list[Usage] = []
        started = time.monotonic()
        for number in range(1, NUM_JOBS + 1):
            outcome = sandbox.run(job(number))
            assert outcome.clean or number % 25 == 0 or number % 50 == 1, outcome
            if number > NUM_WARM_UP and number % EVERY == 0:
                points.append(usage(number, sandbox))
        print(
            f"{level}: {1000 * (time.monotonic() - started) / NUM_JOBS:.1f} ms a job, {slope(points):.1f} bytes a job"
        )
    finally:
        cap.cancel()
        sandbox.close()
    first, last = points[0], points[-1]
    assert slope(points) < MAX_SLOPE_BYTES
    assert last.parent_bytes - first.parent_bytes < MAX_PARENT_BYTES
    assert last.num_descriptors == first.num_descriptors
    assert last.num_files == first.num_files and last.below == first.below
    assert not os.path.exists(sandbox._directory)


def test_the_slope_tells_a_leak() -> None:
    def points(growth: int) -> list[Usage]:
        return [
            Usage(n, 10_000_000 + growth * n + (4096 if n % 3 == 0 else 0), 0, 0, frozenset(), 0)
            for n in range(0, 500, 20)
        ]

    assert abs(slope(points(0))) < MAX_SLOPE_BYTES < slope(points(1000))
