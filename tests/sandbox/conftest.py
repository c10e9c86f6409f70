"""One sandbox of each level for a module of tests, and proof after each test that it is as good as new."""

from __future__ import annotations

import dataclasses
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from halo_forge.sandbox import processes
from halo_forge.sandbox.job import LEVELS, MEBIBYTE, Job, JobResult, Limits
from halo_forge.sandbox.local import LevelUnavailable, LocalSandbox

LIMITS = Limits(
    cpu_seconds=1.0,
    wall_seconds=5.0,
    memory_bytes=128 * MEBIBYTE,
    address_space_bytes=1024 * MEBIBYTE,
    data_bytes=512 * MEBIBYTE,
    file_bytes=MEBIBYTE,
)
Runner = Callable[..., JobResult]


@pytest.fixture(scope="module", params=LEVELS)
def shared_sandbox(request: pytest.FixtureRequest) -> Iterator[LocalSandbox]:
    try:
        sandbox = LocalSandbox(request.param)
    except LevelUnavailable as refusal:
        pytest.skip(f"this machine has no level {request.param}: {refusal}")
    yield sandbox
    sandbox.close()


@pytest.fixture
def sandbox(shared_sandbox: LocalSandbox) -> Iterator[LocalSandbox]:
    yield shared_sandbox
    assert processes.children(shared_sandbox.launcher) == []
    if shared_sandbox.isolation.level == "namespace":
        assert not os.path.exists(shared_sandbox._directory)
    else:
        assert os.listdir(shared_sandbox._work) == []
    assert shared_sandbox.run(Job(("/bin/true",), LIMITS)).clean


@pytest.fixture
def shell(sandbox: LocalSandbox) -> Runner:
    """Run a shell script."""

    def run(
        script: str, *, files: dict[str, bytes] | None = None, fetch: str | None = None, **limits: Any
    ) -> JobResult:
        job = Job(
            ("/bin/sh", "-c", script),
            dataclasses.replace(LIMITS, **limits),
            files={} if files is None else files,
            env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
            fetch=fetch,
        )
        return sandbox.run(job)

    return run


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], bytes]:
    """The program that a C source compiles to."""
    directory: Path = tmp_path_factory.mktemp("programs")

    def compile_source(source: str) -> bytes:
        (directory / "program.c").write_text(source)
        subprocess.run(["gcc", "-w", "-O0", "-pthread", "program.c", "-o", "program"], cwd=directory, check=True)
        return (directory / "program").read_bytes()

    return compile_source


@pytest.fixture
def run_c(sandbox: LocalSandbox, build: Callable[[str], bytes]) -> Runner:
    """Compile a C source and run it."""

    def run(source: str, *, stdin: bytes = b"", fetch: str | None = None, **limits: Any) -> JobResult:
        job = Job(("./program",), dataclasses.replace(LIMITS, **limits), {"program": build(source)}, stdin, fetch=fetch)
        return sandbox.run(job)

    return run
