"""What files say about a machine with a GPU: access, kernel, firmware, memory, environment, sensors."""

from __future__ import annotations

import datetime
import grp
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator

from halo_forge.checks.doctor._section import Line, State
from halo_forge.checks.doctor.surroundings import container
from halo_forge.hardware import Machine, Profile
from halo_forge.hardware.gfx1151 import Gfx1151
from halo_forge.hardware.machine import GFX1151_PCI
from halo_forge.hardware.telemetry import find_sensors

Query = Callable[[list[str]], str | None]
"""A command -> its output; None where it is not there or fails."""
Check = Callable[[Machine, Profile, Query], Iterator[Line]]

GB = 10**9
LARGE_CARVE_OUT = 8 * 1024**3
ROOM_FACTOR = 1.3
"""On the size of the weights: room for caches and activations beside them."""
HOT_CELSIUS = 90
_ANSWER_SECONDS = 10.0


def answered(command: list[str]) -> str | None:
    """What a command prints, where it is there and succeeds in time."""
    path = shutil.which(command[0])
    if path is None:
        return None
    try:
        done = subprocess.run([path, *command[1:]], capture_output=True, text=True, timeout=_ANSWER_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None  # the caller says that it is unknown
    return done.stdout.strip() if done.returncode == 0 else None


def access(machine: Machine, profile: Profile, query: Query) -> Iterator[Line]:
    """The device files of an AMD GPU can be opened."""
    if profile.name not in ("gfx1151", "rocm"):
        return
    paths = [machine.root / "dev/kfd", *sorted(machine.root.glob("dev/dri/renderD*"))]
    inside = container(machine.root, machine.environment)
    for path in paths if len(paths) > 1 else [*paths, machine.root / "dev/dri/renderD128"]:
        name = "/" + str(path.relative_to(machine.root))
        if not path.exists():
            fix = (
                "start the container with --device=/dev/kfd --device=/dev/dri"
                if inside
                else "load the amdgpu kernel module"
            )
            yield Line("device", "missing", f"{name} does not exist", fix)
        elif not os.access(path, os.R_OK | os.W_OK):
            group = _group(path.stat().st_gid)
            fix = "--group-add keep-groups (podman)" if inside else f"sudo usermod -aG {group} $USER, then log in again"
            yield Line("device", "failed", f"{name} cannot be opened: it belongs to the group {group}", fix)
        else:
            yield Line("device", "ok", f"{name} can be opened")


def kernel(machine: Machine, profile: Profile, query: Query) -> Iterator[Line]:
    """The kernel is not older than the first one that works on this chip."""
    if profile.name != "gfx1151":
        return
    release = machine.text("proc/sys/kernel/osrelease")
    good = None if release is None else kernel_is_new_enough(release)
    if good is None:
        yield Line("kernel", "unknown", f"{release if release is not None else platform.system()}: unrecognized")
    elif good:
        yield Line("kernel", "ok", f"{release}")
    else:
        found = f"{release} is too old for this chip: synchronization hangs, or loading a model causes a page fault"
        fix = "Linux 6.18.4 or newer; Ubuntu: 6.17.0-19 generic (HWE) or 6.14.0-1018 oem, or newer"
        yield Line("kernel", "failed", found, fix)


def kernel_is_new_enough(release: str) -> bool | None:
    """Whether a kernel release is at least that of its line from which on gfx1151 works; None if it is no release."""
    found = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?(?:-(\d+))?", release)
    if found is None:
        return None
    version = tuple(int(part) if part is not None else 0 for part in found.groups()[:3])
    build = 0 if found[4] is None else int(found[4])
    if release.endswith("-oem"):
        return version > (6, 14, 0) or (version == (6, 14, 0) and build >= 1018)
    if release.endswith("-generic"):
        return version > (6, 17, 0) or (version == (6, 17, 0) and build >= 19)
    return version >= (6, 18, 4)


def firmware(machine: Machine, profile: Profile, query: Query) -> Iterator[Line]:
    """The firmware package is not the one that hangs."""
    if profile.name != "gfx1151":
        return
    commands = (
        ["dpkg-query", "-W", "-f", "${Version}", "linux-firmware"],
        ["rpm", "-q", "--qf", "%{VERSION}", "linux-firmware"],
        ["pacman", "-Q", "linux-firmware"],
    )
    said = next((answer for command in commands if (answer := query(command))), None)
    dates = re.findall(r"20\d{6}", said) if said is not None else []
    if not dates:
        found = "no package reports its version" if said is None else f"{said}: no date in it"
        yield Line("firmware", "unknown", found, "20251125 hangs, 20260110 or newer does not")
    elif dates[0] == "20251125":
        yield Line("firmware", "failed", f"linux-firmware {said} is known to hang", "install 20260110 or newer")
    elif datetime.date.fromisoformat(dates[0]) >= datetime.date(2026, 1, 10):
        yield Line("firmware", "ok", f"linux-firmware {said}")
    else:
        yield Line("firmware", "note", f"linux-firmware {said}: older than 20260110, the first known good version")


def memory(machine: Machine, profile: Profile, query: Query) -> Iterator[Line]:
    """How much a run may take, and what of the kernel's limits keeps it from more."""
    total, available = machine.memory_bytes("MemTotal"), machine.memory_bytes("MemAvailable")
    yield Line("main memory", _state(total), f"{_gb(total)}, of which {_gb(available)} is available")
    if isinstance(profile, Gfx1151):
        yield from _shared_memory(machine, profile, total)
    budget = profile.memory_budget_bytes()
    if budget is None and profile.device == "cuda":
        yield Line("memory budget", "unknown", "known once torch is loaded")
        return
    most = 0.0 if budget is None else budget / ROOM_FACTOR / (4 if profile.dtype() == "float32" else 2)
    room = "" if budget is None else f": enough for a model of up to {most / 1e9:.1f} billion parameters"
    if budget == 0:
        yield Line(
            "memory budget", "failed", "0: all free memory is reserved for the host", "free some memory, or add more"
        )
        return
    yield Line("memory budget", _state(budget), f"{_gb(budget)}{room}")


def _shared_memory(machine: Machine, profile: Gfx1151, total: int | None) -> Iterator[Line]:
    vram, gtt = (machine.card_bytes(f"mem_info_{pool}_total", GFX1151_PCI) for pool in ("vram", "gtt"))
    ttm = machine.ttm_bytes()
    if profile.uses_vram():
        found = f"the GPU has {_gb(vram)} reserved in the BIOS and uses no main memory (GTT {_gb(gtt)})"
        yield Line("GPU memory limit", "ok", found)
    else:
        large = vram is not None and vram > LARGE_CARVE_OUT
        why = f"GTT is larger ({_gb(gtt)})" if profile.can_use_vram() else "a kernel before 6.15 uses only GTT"
        found = f"{_gb(vram)} is reserved but not used: {why}" if large else _gb(vram)
        yield Line("VRAM", "note" if large else _state(vram), found, "0.5 GB in the BIOS is enough" if large else "")
        limits = [each for each in (gtt, ttm) if each is not None]
        found = f"the GPU may use {_gb(min(limits, default=None))} of main memory (GTT {_gb(gtt)}, TTM {_gb(ttm)})"
        low = bool(limits) and total is not None and min(limits) < 0.6 * total
        fix = (
            f"sudo amd-ttm --set {int(0.75 * total / 2**30)} (package amd-debug-tools), then reboot"
            if low and total is not None
            else ""
        )
        yield Line("GPU memory limit", "note" if low else _state(min(limits, default=None)), found, fix)
    swap = machine.memory_bytes("SwapTotal")
    yield Line("swap", _state(swap), _gb(swap))
    command_line = machine.text("proc/cmdline")
    off = None if command_line is None else "amd_iommu=off" in command_line.split()
    found = "unknown" if off is None else "off: reported to be 5 to 12% faster" if off else "on: isolates devices"
    yield Line("IOMMU", "unknown" if off is None else "note", found)


def environment(machine: Machine, profile: Profile, query: Query) -> Iterator[Line]:
    """Harmful variables."""
    found = []
    for name, hurts, why in BAD_ANYWHERE + (BAD_ON_AMD if profile.name in ("gfx1151", "rocm") else ()):
        value = machine.environment.get(name)
        if value is not None and hurts(value):
            found.append(Line(name, "note", f"{value}: {why}", f"unset {name}"))
    yield from found if found else [Line("environment", "ok", "no harmful variable is set")]
    for name, value in profile.environment.items():
        given = machine.environment.get(name, value)
        more = "" if given == value else f"; this profile would set {value}"
        yield Line(name, "ok" if given == value else "note", f"{given} in a run{more}")


BadVariables = tuple[tuple[str, Callable[[str], bool], str], ...]
"""Name, what is bad about a value, and why."""
BAD_ANYWHERE: BadVariables = (("OMP_NUM_THREADS", lambda value: value == "1", "limits all CPU work to one thread"),)
BAD_ON_AMD: BadVariables = (
    (
        "HSA_OVERRIDE_GFX_VERSION",
        bool,
        "makes the GPU report a different chip, which hides a torch that is not built for this one",
    ),
    ("HSA_ENABLE_SDMA", lambda value: value == "0", "for debugging only: disables the copy engines"),
    ("HSA_XNACK", lambda value: value == "1", "enables GPU page-fault retry, which is not meant for this workload"),
    ("AMD_SERIALIZE_KERNEL", lambda value: value != "0", "for debugging only: one kernel at a time"),
    *(
        (
            name,
            lambda value: "backend:malloc" in value or "expandable_segments:True" in value,
            "reported to cause crashes and hangs",
        )
        for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
    ),
    ("LD_LIBRARY_PATH", lambda value: "/opt/rocm" in value, "mixes the system's ROCm with the one in torch"),
)


def sensors(machine: Machine, profile: Profile, query: Query) -> Iterator[Line]:
    """What telemetry will show, and what it says now."""
    if profile.name == "cpu":
        yield Line("sensors", "skipped", "no GPU")
        return
    found = find_sensors(profile)
    reading = found.read()
    text = ", ".join(f"{name} {value:g}" for name, value in reading.items())
    blank = f"; missing: {found.why_not}" if found.why_not else ""
    yield Line("sensors", "ok" if reading else "unknown", (f"{found.source}: {text}" if text else "none") + blank)
    if reading.get("celsius", 0.0) > HOT_CELSIUS:
        yield Line(
            "temperature", "note", f"{reading['celsius']:.0f} degrees Celsius", "expect throttling: improve the cooling"
        )
    platform_profile = machine.text("sys/firmware/acpi/platform_profile")
    if profile.name == "gfx1151":
        known = platform_profile is not None
        yield Line(
            "platform profile", "ok" if known else "unknown", str(platform_profile) if known else "not available"
        )


def surroundings(machine: Machine, profile: Profile, query: Query) -> Iterator[Line]:
    """A container has to be given the devices, and enough shared memory."""
    inside = container(machine.root, machine.environment)
    if inside is not None and profile.device != "cpu":
        yield Line(
            "container",
            "note",
            f"{inside}; a GPU needs --device flags, and its memory does not count towards the container's limit",
        )


def _group(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)


def _gb(value: int | None) -> str:
    return "unknown" if value is None else f"{value / GB:.1f} GB"


def _state(value: int | None) -> State:
    return "unknown" if value is None else "ok"


MACHINE_CHECKS: tuple[Check, ...] = (access, kernel, firmware, memory, environment, sensors, surroundings)
"""In the order in which they are shown."""
