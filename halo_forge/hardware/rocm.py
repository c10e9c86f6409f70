"""Profile `rocm`: an AMD GPU other than gfx1151."""

from __future__ import annotations

import math
from dataclasses import dataclass

from halo_forge.hardware.cuda import Cuda


@dataclass(frozen=True)
class Rocm(Cuda):
    """As `cuda`, but more careful: nothing of it was measured."""

    name = "rocm"
    optimizer: str = "adamw_torch"
    pin_memory: bool = False
    rows = ((3.5e9, 64), (math.inf, 32))
    tokens = ((2e9, 8192), (4e9, 4096), (math.inf, 2048))
