"""Machines made of files, for the tests of hardware and doctor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from halo_forge.hardware import Machine

GIB = 1024**3
CARD = "sys/class/drm/card1/device"
KFD = "sys/class/kfd/kfd/topology/nodes"


def machine(
    root: Path, files: dict[str, object], *, torch: str | None = None, triton: bool = False, **environment: str
) -> Machine:
    """A machine with these files below `root`."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return Machine(root, environment, torch, triton)


def meminfo(total: float, available: float) -> str:
    """/proc/meminfo of so many GiB."""
    rows = {"MemTotal": total, "MemFree": available / 2, "MemAvailable": available, "SwapTotal": 0}
    return "\n".join(f"{name}: {int(value * GIB) // 1024:>12} kB" for name, value in rows.items())


def strix_halo(**changes: Any) -> dict[str, object]:
    """A Strix Halo with 128 GiB: limits of 124 GiB (TTM) and 120 GiB (GTT), 100 GiB available."""
    return {
        f"{KFD}/0/properties": "cpu_cores_count 32\ngfx_target_version 0",
        f"{KFD}/1/properties": "simd_count 80\ngfx_target_version 110501",
        "sys/bus/pci/devices/0000:c5:00.0/vendor": "0x1002",
        "sys/bus/pci/devices/0000:c5:00.0/device": "0x1586",
        "sys/bus/pci/devices/0000:c5:00.0/class": "0x038000",
        f"{CARD}/vendor": "0x1002",
        f"{CARD}/mem_info_gtt_total": 120 * GIB,
        f"{CARD}/mem_info_gtt_used": 2 * GIB,
        f"{CARD}/mem_info_vram_total": GIB // 2,
        f"{CARD}/mem_info_vram_used": 0,
        f"{CARD}/gpu_busy_percent": 75,
        f"{CARD}/hwmon/hwmon3/name": "amdgpu",
        f"{CARD}/hwmon/hwmon3/power1_average": 85_000_000,
        f"{CARD}/hwmon/hwmon3/temp1_input": 71_000,
        "sys/class/drm/card1-DP-1/status": "connected",
        "sys/module/ttm/parameters/pages_limit": 124 * GIB // 4096,
        "proc/meminfo": meminfo(125.6, 100),
        "proc/cmdline": "BOOT_IMAGE=/vmlinuz root=/dev/nvme0n1p2 ro",
        "proc/sys/kernel/osrelease": "6.18.4-200.fc43.x86_64",
        "dev/kfd": "",
        "dev/dri/renderD128": "",
        **changes,
    }


NVIDIA: dict[str, object] = {"dev/nvidiactl": "", "dev/nvidia0": "", "proc/meminfo": meminfo(64, 50)}
LAPTOP: dict[str, object] = {
    "proc/meminfo": meminfo(16, 10),
    "proc/cpuinfo": "processor : 0\nflags : fpu sse2 avx2\n\nprocessor : 1\nflags : fpu avx512_bf16",
}
