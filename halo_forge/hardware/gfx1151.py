"""Profile `gfx1151`: AMD Strix Halo, whose GPU shares the main memory; reasons and sources: docs/HARDWARE_NOTES.md."""

from __future__ import annotations

import math
from dataclasses import dataclass

from halo_forge.hardware._profile import LARGE_MODEL, LONG_ROW, Profile, unused_by_torch

HOST_RESERVE_BYTES = 16 * 1024**3
"""Left to the rest of the machine: a GPU that takes the last of it freezes the host instead of raising an error."""


@dataclass(frozen=True)
class Gfx1151(Profile):
    """bfloat16, memory as the kernel reports it, and no graphs and no compilation."""

    name = "gfx1151"
    device = "cuda"
    memory_fraction: float = 0.8
    environment = {"TORCH_ROCM_AOTRITON_ENABLE_EXPERIMENTAL": "1"}  # noqa: RUF012
    rows = ((3.5e9, 64), (10e9, 32), (math.inf, 16))
    tokens = ((2e9, 8192), (4e9, 4096), (math.inf, 2048))

    def gradient_checkpointing(self, num_parameters: int, longest: int) -> bool:
        """From about 3 billion parameters or for long rows on; below, there is room for all activations."""
        return num_parameters >= LARGE_MODEL or longest > LONG_ROW

    def memory_budget_bytes(self) -> int | None:
        """A share of the least of three: what the kernel's two limits leave, and what the host can spare.

        What torch holds and does not use comes back to all of them.  Its own figure of what is free (mem_get_info) is
        not asked: more free than total memory was seen there.
        """
        machine = self.machine
        limits = [each for each in (machine.ttm_bytes(), machine.card_bytes("mem_info_gtt_total")) if each is not None]
        available, used = machine.memory_bytes("MemAvailable"), machine.card_bytes("mem_info_gtt_used")
        found = [min(limits) - (0 if used is None else used)] if limits else []
        if available is not None:
            found.append(available - HOST_RESERVE_BYTES)
        return max(0, int((min(found) + unused_by_torch()) * self.memory_fraction)) if found else None

    def process_fraction(self, total_bytes: int) -> float | None:
        """The budget as a share of what torch takes for the total."""
        budget = self.memory_budget_bytes()
        if budget is None or total_bytes <= 0:
            return self.memory_fraction
        return min(1.0, budget / total_bytes)
