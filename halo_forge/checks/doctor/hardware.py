"""The GPU, the memory and the installed torch: what a run would use, what hurts it, and what to do.

What files tell is read here; whatever needs torch is tried in a process of its own, which may crash or hang.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable
from typing import Any

from halo_forge.checks.doctor._machine_checks import MACHINE_CHECKS, Query, answered
from halo_forge.checks.doctor._probe_checks import Runner, probe_lines, run_probe
from halo_forge.checks.doctor._section import Line, Section
from halo_forge.hardware import Machine, Profile, detect, with_one_gpu
from halo_forge.hardware.devices import Ask, ask_torch
from halo_forge.hardware.telemetry import find_sensors

LEAST_TORCH = (2, 11)
BAD_ON_GFX1151 = (
    (r"rocm7\.14\.0a202606(09|10|11|12)", "crashes as soon as it looks for a GPU (ROCm/TheRock issue 5763)"),
    (r"rocm10\.1\.0a20260821", "hangs in attention over 16,000 tokens (ROCm/TheRock issue 7569)"),
)
"""Nightly builds of torch by their version, and what is reported of them."""


def hardware_section(
    machine: Machine | None = None,
    query: Query = answered,
    runner: Callable[[Profile], Runner] = lambda profile: functools.partial(run_probe, profile),
    ask: Ask = ask_torch,
) -> Section:
    """What a run of the default configuration would run on.

    Args:
        machine: None for this one.
        query: Asks a package manager; see `answered`.
        runner: Starts a probe by its name.
        ask: Which GPUs torch sees; asked where there may be several, of which all but the freest are hidden then, from
            the probes as from a run.
    """
    machine = Machine() if machine is None else machine
    profile = detect(machine)
    lines = [Line("profile", "ok", f"{profile.name}: {profile.why}"), torch_line(machine)]
    torch_works = lines[1].state not in ("missing", "failed")
    if torch_works:
        one = with_one_gpu(profile, ask, os.environ)
        if one is not profile:
            profile = one
            lines.append(Line("GPUs", "ok" if one.gpu is not None else "unknown", one.described()))
    for check in MACHINE_CHECKS:
        lines += check(machine, profile, query)
    lines += probe_lines(profile, runner(profile), torch_works)
    facts: dict[str, Any] = {
        "profile": profile.name,
        "why": profile.why,
        "torch": machine.torch_version,
        "memory_budget_bytes": profile.memory_budget_bytes(),
        "sensors": sorted(find_sensors(profile).readers),
        "environment": dict(profile.environment),
    }
    # A GPU that fails is a GPU that a run would take: only these keep it from starting.
    broken = [line for line in lines if line.name in ("torch", "kernel launch") and line.state in ("failed", "missing")]
    return Section("hardware", not broken, tuple(lines), facts)


def torch_line(machine: Machine) -> Line:
    """The installed torch: there, new enough, and built for the GPU of this machine."""
    version, profile = machine.torch_version, detect(machine)
    if version is None:
        return Line("torch", "missing", "not installed", _install(profile.name))
    numbers = [int(part) for part in version.partition("+")[0].split(".")[:2] if part.isdecimal()]
    if len(numbers) == 2 and tuple(numbers) < LEAST_TORCH:
        return Line(
            "torch", "failed", f"{version}, older than {LEAST_TORCH[0]}.{LEAST_TORCH[1]}", _install(profile.name)
        )
    bare = detect(Machine(machine.root, {}, None))
    if bare.name != "cpu" and machine.torch_build() not in ("unknown", "cuda" if bare.name == "cuda" else "rocm"):
        found = f"{version} is not built for the GPU of this machine ({bare.why}); a run does not use it"
        return Line("torch", "note", found, _install(bare.name))
    why = next((why for mark, why in BAD_ON_GFX1151 if re.search(mark, version)), None)
    if profile.name == "gfx1151" and why is not None:
        return Line("torch", "note", f"{version}: a nightly build that {why}", _install(profile.name))
    return Line("torch", "ok", version)


def _install(name: str) -> str:
    index = {
        "gfx1151": "https://repo.amd.com/rocm/whl/gfx1151/",
        "rocm": "https://download.pytorch.org/whl/rocm7.2",
        "cuda": "https://download.pytorch.org/whl/cu130",
        "cpu": "https://download.pytorch.org/whl/cpu",
    }[name]
    return f"pip install --force-reinstall torch --index-url {index}"
