"""Profile `cpu`: no GPU that the installed torch can use."""

from __future__ import annotations

import math
from dataclasses import dataclass

from halo_forge.hardware._profile import Profile


@dataclass(frozen=True)
class Cpu(Profile):
    """Main memory, and bfloat16 only where the processor multiplies it natively."""

    name = "cpu"
    device = "cpu"
    # A decoding step has costs that do not depend on its rows; see docs/performance.md.
    rows = ((math.inf, 96),)
    # Longer passes are no faster here, and their activations are the peak of a run's memory.
    tokens = ((math.inf, 512),)

    def dtype(self) -> str:
        """bfloat16 with AVX512-BF16 or AMX, else float32."""
        return "bfloat16" if self.machine.cpu_flags() & {"avx512_bf16", "amx_bf16"} else "float32"

    def memory_budget_bytes(self) -> int | None:
        """A share of the available memory, or of what the container's limit leaves, whichever is less."""
        found = self.machine.memory_bytes("MemAvailable"), self.machine.container_bytes()
        known = [each for each in found if each is not None]
        return int(min(known) * self.memory_fraction) if known else None
