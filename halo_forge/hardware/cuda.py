"""Profile `cuda`: an NVIDIA GPU."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

from halo_forge.hardware._profile import Profile, unused_by_torch


@dataclass(frozen=True)
class Cuda(Profile):
    """Memory of its own, whose size torch alone tells: before it is imported, sizes follow the model only."""

    name = "cuda"
    device = "cuda"
    spare_processors = 2
    memory_fraction: float = 0.9
    optimizer: str = "adamw_torch_fused"
    pin_memory: bool = True
    # A step starts as many kernels for one row as for all, and is bound by that up to hundreds of rows.
    rows = ((3.5e9, 512), (math.inf, 256))
    tokens = ((2e9, 8192), (4e9, 4096), (math.inf, 2048))

    def dtype(self) -> str:
        """bfloat16, or float32 where the GPU only emulates that (compute capability below 8.0).

        Not float16, whose small gradients would be lost: nothing here scales the loss.
        """
        torch = sys.modules.get("torch")
        if torch is None or not torch.cuda.is_available():
            return "bfloat16"
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"

    def memory_budget_bytes(self) -> int | None:
        """A share of what the driver says is free, and of what torch holds and does not use."""
        torch = sys.modules.get("torch")
        if torch is None or not torch.cuda.is_available():
            return None
        return int((torch.cuda.mem_get_info()[0] + unused_by_torch()) * self.memory_fraction)
