"""Probes of the GPU: `python -m halo_forge.doctor._probes NAME` tries one and prints a JSON object.

They run in a process of their own, because a torch that does not fit the GPU crashes or hangs instead of raising.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

SIZE, LARGE_SIZE, REPEATS = 1024, 4096, 20


def seen() -> dict[str, Any]:
    """What torch sees, and what it says about the memory."""
    import torch

    if not torch.cuda.is_available():
        return {"available": False, "torch": torch.__version__, "hip": torch.version.hip}
    properties = torch.cuda.get_device_properties(0)
    free, total = torch.cuda.mem_get_info()
    return {
        "available": True,
        "torch": torch.__version__,
        "hip": torch.version.hip,
        "name": properties.name,
        "architecture": getattr(properties, "gcnArchName", "").split(":")[0],
        "free_bytes": free,
        "total_bytes": total,
    }


def kernel() -> dict[str, Any]:
    """One real matrix product in bfloat16 against the same on the CPU: only that shows that torch fits the GPU."""
    import torch

    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(SIZE, SIZE, generator=generator).bfloat16() for _ in range(2))
    expected = left.float() @ right.float()
    found = (left.cuda() @ right.cuda()).float().cpu()
    return {"relative_error": float((found - expected).norm() / expected.norm())}


def attention() -> dict[str, Any]:
    """Flash and memory-efficient attention, forward and backward, against the plain one."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention

    generator = torch.Generator().manual_seed(0)
    sides = [torch.randn(2, 8, 256, 64, generator=generator) for _ in range(3)]

    def gradients(backend: Any) -> list[Any]:
        query, key, value = inputs = [side.cuda().bfloat16().requires_grad_() for side in sides]
        with sdpa_kernel(backend):
            mixed = scaled_dot_product_attention(query, key, value, is_causal=True)
        total: Any = mixed.float().square().sum()
        total.backward()
        return [mixed.float(), *(each.grad.float() for each in inputs if each.grad is not None)]

    expected = gradients(SDPBackend.MATH)
    found: dict[str, Any] = {}
    for name, backend in (("flash", SDPBackend.FLASH_ATTENTION), ("efficient", SDPBackend.EFFICIENT_ATTENTION)):
        try:
            pairs = zip(gradients(backend), expected, strict=True)
            found[name] = max(float((mine - theirs).norm() / theirs.norm()) for mine, theirs in pairs)
        except RuntimeError as error:
            found[name] = str(error).splitlines()[0][:200]
    return found


def speed() -> dict[str, Any]:
    """Matrix products of 4096 x 4096 in bfloat16: operations a second."""
    import torch

    side = torch.randn(LARGE_SIZE, LARGE_SIZE, device="cuda", dtype=torch.bfloat16)
    for _ in range(3):
        side @ side
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(REPEATS):
        side @ side
    torch.cuda.synchronize()
    return {"flops": 2 * LARGE_SIZE**3 * REPEATS / (time.perf_counter() - started)}


PROBES: dict[str, Callable[[], dict[str, Any]]] = {
    "seen": seen,
    "kernel": kernel,
    "attention": attention,
    "speed": speed,
}

if __name__ == "__main__":
    sys.stdout.write(json.dumps(PROBES[sys.argv[1]]()) + "\n")
