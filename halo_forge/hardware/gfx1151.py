"""Profile `gfx1151`: AMD Strix Halo, whose GPU shares the main memory; reasons and sources: docs/HARDWARE_NOTES.md."""

from __future__ import annotations

import math
from dataclasses import dataclass

from halo_forge.hardware._profile import LARGE_MODEL, LONG_ROW, Profile, held_by_torch, unused_by_torch
from halo_forge.hardware.machine import GFX1151_PCI
from halo_forge.hardware.shape import ModelSize

VRAM_KERNEL = (6, 15)
"""The first whose compute driver gives this chip its VRAM (commit 759e764f); a backport does not show in the number."""
HOST_RESERVE_BYTES = 16 * 1024**3
"""Left to the rest of the machine: a GPU that takes the last of it freezes the host instead of raising an error."""


@dataclass(frozen=True)
class Gfx1151(Profile):
    """bfloat16, memory as the kernel reports it, and no graphs and no compilation."""

    name = "gfx1151"
    device = "cuda"
    spare_processors = 2
    memory_fraction: float = 0.8
    environment = {"TORCH_ROCM_AOTRITON_ENABLE_EXPERIMENTAL": "1"}  # noqa: RUF012
    rows = ((3.5e9, 128), (10e9, 64), (math.inf, 32))
    tokens = ((2e9, 8192), (4e9, 4096), (math.inf, 2048))

    def gradient_checkpointing(self, size: ModelSize, longest: int) -> bool:
        """From about 3 billion parameters or for long rows on; below, there is room for all activations."""
        return size.num_parameters >= LARGE_MODEL or longest > LONG_ROW

    def memory_budget_bytes(self) -> int | None:
        """A share of the available memory."""
        found = self.at_hand_bytes()
        return None if found is None else int(found * self.memory_fraction)

    def at_hand_bytes(self, *, files_alone: bool = False) -> int | None:
        """What torch could take now, and what it holds and does not use; None where the kernel says nothing.

        The kernel (from 6.15 on) takes the GPU's memory from VRAM, which the BIOS set aside for it, where that is at
        least as large as GTT, else from GTT, which is main memory: never from both.  In the second case the least of
        three counts: what the limits GTT and TTM leave, and what the host can spare.  VRAM is nothing of the host's.

        The driver's count of used memory did not follow allocations everywhere, so it is at least what torch holds.
        torch's own figure of what is free (mem_get_info) is not asked: more free than total memory was seen.

        Args:
            files_alone: torch is not asked what it holds, which would have it look for GPUs.
        """
        held, unused = (0, 0) if files_alone else (held_by_torch(), unused_by_torch())
        if self.uses_vram():
            used = max(_or_0(self._card("mem_info_vram_used")), held)
            return max(0, _or_0(self._card("mem_info_vram_total")) - used + unused)
        machine = self.machine
        limits = [each for each in (machine.ttm_bytes(), self._card("mem_info_gtt_total")) if each is not None]
        available = machine.memory_bytes("MemAvailable")
        found = [min(limits) - max(_or_0(self._card("mem_info_gtt_used")), held)] if limits else []
        if available is not None:
            found.append(available - HOST_RESERVE_BYTES)
        return max(0, min(found) + unused) if found else None

    def uses_vram(self) -> bool:
        """Whether the kernel gives the GPU its own memory and not the host's.

        A kernel before 6.15 that a distribution has given this change counts as one without it: the budget is too small
        then, never too large.
        """
        vram, gtt = self._card("mem_info_vram_total"), self._card("mem_info_gtt_total")
        return self.can_use_vram() and vram is not None and gtt is not None and vram >= gtt

    def can_use_vram(self) -> bool:
        """Whether the kernel takes VRAM where that is at least as large; older ones always take GTT."""
        version = self.machine.kernel_version()
        return version is not None and version >= VRAM_KERNEL

    def pool_bytes(self) -> int | None:
        """How much memory the kernel lets the GPU have in all."""
        return self._card("mem_info_vram_total" if self.uses_vram() else "mem_info_gtt_total")

    def process_fraction(self, total_bytes: int) -> float | None:
        """The budget as a share of what torch takes for the total: always, because the host would freeze."""
        budget = self.memory_budget_bytes()
        if budget is None or total_bytes <= 0:
            return self.memory_fraction
        return min(1.0, budget / total_bytes)

    def _card(self, name: str) -> int | None:
        return self.machine.card_bytes(name, GFX1151_PCI)


def _or_0(value: int | None) -> int:
    return 0 if value is None else value
