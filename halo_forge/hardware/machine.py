"""What a machine says about itself in files, without root and before torch is imported.

Everything is read below `root`, so that a made-up tree stands for another machine.  What cannot be read is None:
unknown, never 0.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Literal

Build = Literal["cpu", "cuda", "rocm", "unknown"]

AMD_VENDOR = "0x1002"
GFX1151_TARGET = 110501
"""`gfx_target_version` of the kernel's compute driver: 11, 05, 01."""
GFX1151_PCI = "0x1586"
PAGE_BYTES = 4096
_DISPLAY_CLASS = "0x03"


def has_triton() -> bool:
    """Whether Triton, which compiles kernels for a GPU, is installed; torch's builds for GPUs bring it."""
    return importlib.util.find_spec("triton") is not None


def installed_torch() -> str | None:
    """The version of the installed torch, such as "2.13.0+cpu"; None where there is none."""
    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        return None


@dataclass(frozen=True)
class Machine:
    """One machine.

    Attributes:
        root: Where its file system starts.
        environment: Its environment variables.
        torch_version: The installed torch; None where there is none.
        triton: Triton is installed.
    """

    root: Path = Path("/")
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)
    torch_version: str | None = field(default_factory=installed_torch)
    triton: bool = field(default_factory=has_triton)

    def text(self, path: str) -> str | None:
        """A file's text without white space around it; None where it cannot be read."""
        try:
            return (self.root / path).read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            return None

    def number(self, path: str) -> int | None:
        """A file that holds one whole number; None where it does not."""
        text = self.text(path)
        return None if text is None else _whole(text)

    def kernel_version(self) -> tuple[int, int] | None:
        """The first two numbers of the kernel's release, such as (6, 18); None where it does not say."""
        text = self.text("proc/sys/kernel/osrelease")
        found = None if text is None else re.match(r"(\d+)\.(\d+)", text)
        return None if found is None else (int(found[1]), int(found[2]))

    def gfx_targets(self) -> list[int]:
        """`gfx_target_version` of every GPU that AMD's compute driver shows."""
        found = []
        for path in sorted(self.root.glob("sys/class/kfd/kfd/topology/nodes/*/properties")):
            text = self.text(str(path.relative_to(self.root)))
            rows = [line.split() for line in text.splitlines()] if text is not None else []
            found += [int(row[1]) for row in rows if len(row) == 2 and row[0] == "gfx_target_version"]
        return [target for target in found if target != 0]  # a node of the CPU says 0

    def amd_display_ids(self) -> list[str]:
        """PCI device ids of AMD's graphics processors, such as "0x1586"."""
        found = []
        for folder in sorted(self.root.glob("sys/bus/pci/devices/*")):
            name = str(folder.relative_to(self.root))
            kind, device = self.text(f"{name}/class"), self.text(f"{name}/device")
            if self.text(f"{name}/vendor") == AMD_VENDOR and kind is not None and kind.startswith(_DISPLAY_CLASS):
                found.append(device if device is not None else "unknown")
        return found

    def amd_cards(self, pci_id: str | None = None) -> list[str]:
        """Device folders of AMD's cards, such as "sys/class/drm/card1/device", relative to the root.

        Args:
            pci_id: Only cards of this kind, such as "0x1586"; all of them where none says what it is.
        """
        names = sorted(path.name for path in self.root.glob("sys/class/drm/card*") if path.name[4:].isdecimal())
        folders = [f"sys/class/drm/{name}/device" for name in names]
        found = [folder for folder in folders if self.text(f"{folder}/vendor") == AMD_VENDOR]
        kinds = {folder: self.text(f"{folder}/device") for folder in found}
        if pci_id is None or not any(kinds.values()):
            return found
        return [folder for folder in found if kinds[folder] == pci_id]

    def card_at(self, pci: str) -> str | None:
        """The folder of the AMD card at this place on the bus, such as "0000:c5:00.0"."""
        for folder in self.amd_cards():
            text = self.text(f"{folder}/uevent")
            if text is not None and f"PCI_SLOT_NAME={pci}" in text.splitlines():
                return folder
        return None

    def card_bytes(self, name: str, pci_id: str | None = None) -> int | None:
        """A memory figure, such as "mem_info_gtt_total", of the AMD card (of this kind) with the most of it."""
        found = [self.number(f"{folder}/{name}") for folder in self.amd_cards(pci_id)]
        return max((value for value in found if value is not None), default=None)

    def ttm_bytes(self) -> int | None:
        """How much of the main memory the kernel lets graphics processors use."""
        for module in ("ttm", "amdttm"):
            pages = self.number(f"sys/module/{module}/parameters/pages_limit")
            if pages is not None:
                return pages * PAGE_BYTES
        return None

    def nvidia_driver(self) -> str | None:
        """The file that shows a loaded NVIDIA driver with a device; None where there is none."""
        names = ("dev/nvidiactl", "dev/nvidia0", "proc/driver/nvidia/version", "dev/dxg")
        return next((f"/{name}" for name in names if (self.root / name).exists()), None)

    def num_gpus(self, profile: str) -> int | None:
        """How many GPUs the driver of a profile shows; None where it does not say."""
        if profile in ("gfx1151", "rocm"):
            found = len(self.gfx_targets())
        else:
            cards = [path for path in self.root.glob("dev/nvidia*") if path.name[6:].isdecimal()]
            found = max(len(list(self.root.glob("proc/driver/nvidia/gpus/*"))), len(cards))
        return found if found > 0 else None

    def memory_bytes(self, name: str) -> int | None:
        """A row of /proc/meminfo: "MemTotal", "MemAvailable", "SwapTotal" ..."""
        text = self.text("proc/meminfo")
        for line in text.splitlines() if text is not None else ():
            key, _, value = line.partition(":")
            if key == name and value.split()[:1]:
                kibibytes = _whole(value.split()[0])
                return None if kibibytes is None else kibibytes * 1024
        return None

    def container_bytes(self) -> int | None:
        """What the memory limit of this container leaves; None where there is no limit, or none that can be read."""
        limit, used = self.number("sys/fs/cgroup/memory.max"), self.number("sys/fs/cgroup/memory.current")
        if limit is None or used is None:
            return None
        text = self.text("sys/fs/cgroup/memory.stat")
        rows = dict(line.split() for line in text.splitlines()) if text is not None else {}
        # The page cache counts as used and is given back when memory is short.
        cached = sum(int(rows.get(name, "0")) for name in ("active_file", "inactive_file"))
        return max(0, limit - used + cached)

    def cpu_flags(self) -> frozenset[str]:
        """What the first processor can compute, such as "avx512_bf16"."""
        text = self.text("proc/cpuinfo")
        for line in text.splitlines() if text is not None else ():
            if line.startswith("flags"):
                return frozenset(line.partition(":")[2].split())
        return frozenset()

    def torch_build(self) -> Build:
        """What the installed torch was built for, by its version: +cpu, +cu130, +rocm7.2."""
        local = "" if self.torch_version is None else self.torch_version.partition("+")[2]
        kinds: tuple[tuple[str, Build], ...] = (("cpu", "cpu"), ("cu", "cuda"), ("rocm", "rocm"))
        return next((build for mark, build in kinds if local.startswith(mark)), "unknown")


def _whole(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None
