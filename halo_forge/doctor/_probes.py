"""Probes of the GPU: `python -m halo_forge.doctor._probes NAME` tries one and prints a JSON object.

They run in a process of their own, because a torch that does not fit the GPU crashes or hangs instead of raising.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable
from typing import Any

from halo_forge.hardware.devices import seen_by_torch

SIZE, LARGE_SIZE, REPEATS = 1024, 4096, 20


def kernel() -> dict[str, Any]:
    """One real matrix product in bfloat16 against the same on the CPU: only that shows that torch fits the GPU."""
    import torch

    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(SIZE, SIZE, generator=generator).bfloat16() for _ in range(2))
    expected = left.float() @ right.float()
    found = (left.cuda() @ right.cuda()).float().cpu()
    return {"relative_error": relative_error(found, expected)}


COMMON_PART = 60.0
"""Of every query and key entry in the cases with large scores.

Its square times the head size, 230,400, is in every product of a query and a key, and cancels in the softmax.  Real
models have such a part (biases of Qwen2.5), and a released attention kernel for gfx1151 gives NaN where products are
large (github.com/ROCm/aotriton, issue 54 and pull request 179: beyond the range of float16, 65,504).
"""


def attention() -> dict[str, Any]:
    """Relative errors of torch's attention in bfloat16 against float32 on the CPU, by kernel and case.

    The cases are the calls of a run: training (causal, with gradients), prompts (padded on the left, with a mask) and
    decoding (one query, grouped heads, with a mask), each with small and with large scores.  "chosen" is what torch
    takes by itself; a kernel that refuses a case has the refusal in the place of the error.
    """
    from contextlib import nullcontext

    from torch.nn.attention import SDPBackend, sdpa_kernel

    kernels: dict[str, Callable[[], Any]] = {
        "chosen": nullcontext,
        "flash": lambda: sdpa_kernel(SDPBackend.FLASH_ATTENTION),
        "efficient": lambda: sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION),
    }
    found: dict[str, Any] = {name: {} for name in kernels}
    for case, (shapes, options, needs_gradients) in _cases().items():
        for scores, common in (("small", 0.0), ("large", COMMON_PART)):
            inputs = _inputs(shapes, common)
            expected = _attended([each.float() for each in inputs], options, needs_gradients)
            for name, kernel in kernels.items():
                try:
                    with kernel():
                        mine = _attended([each.cuda() for each in inputs], options, needs_gradients)
                except RuntimeError as error:
                    found[name][f"{case}, {scores} scores"] = str(error).splitlines()[0][:200]
                    continue
                found[name][f"{case}, {scores} scores"] = _largest_error(mine, expected, only_finite=common > 0)
    return found


Shapes = tuple[tuple[int, int, int, int], tuple[int, int, int, int]]
"""(rows, heads, tokens, size of a head) of the queries, and of keys and values."""


def _cases() -> dict[str, tuple[Shapes, dict[str, Any], bool]]:
    import torch

    num_keys, lengths = 160, torch.tensor([160, 96, 40, 7])
    real = torch.arange(num_keys) >= num_keys - lengths[:, None]
    causal = torch.ones(num_keys, num_keys, dtype=torch.bool).tril()
    # A row of padding sees itself, as in transformers: the softmax of nothing is NaN everywhere.
    whole = (causal & real[:, None, None, :]) | torch.eye(num_keys, dtype=torch.bool)
    heads: dict[str, Any] = {"enable_gqa": True}
    return {
        "training": (((2, 14, 256, 64), (2, 2, 256, 64)), {"is_causal": True, **heads}, True),
        "prompts": (((4, 14, num_keys, 64), (4, 2, num_keys, 64)), {"attn_mask": whole, **heads}, False),
        "decoding": (((4, 14, 1, 64), (4, 2, num_keys, 64)), {"attn_mask": real[:, None, None, :], **heads}, False),
    }


def _inputs(shapes: Shapes, common: float) -> list[Any]:
    """Queries, keys and values in bfloat16, on the CPU."""
    import torch

    generator = torch.Generator().manual_seed(0)
    signs = torch.randn(shapes[0][-1], generator=generator).sign() * common
    query, key, value = (torch.randn(shape, generator=generator) for shape in (*shapes, shapes[1]))
    return [(query + signs).bfloat16(), (key + signs).bfloat16(), value.bfloat16()]


def _attended(inputs: list[Any], options: dict[str, Any], needs_gradients: bool) -> list[Any]:
    """The result, then the gradients of the sum of its squares, in float32 on the CPU."""
    from torch.nn.functional import scaled_dot_product_attention

    inputs = [each.detach().requires_grad_(needs_gradients) for each in inputs]
    options = {name: each if isinstance(each, bool) else each.to(inputs[0].device) for name, each in options.items()}
    mixed: Any = scaled_dot_product_attention(*inputs, **options)
    if needs_gradients:
        mixed.float().square().sum().backward()
    return [each.detach().float().cpu() for each in (mixed, *(each.grad for each in inputs if each.grad is not None))]


def _largest_error(found: list[Any], expected: list[Any], only_finite: bool) -> float:
    """Of a result and its gradients.

    Args:
        only_finite: Of the gradients nothing else is asked: the common part of the keys multiplies their rounding.
    """
    errors = [relative_error(found[0], expected[0])]
    for mine, theirs in zip(found[1:], expected[1:], strict=True):
        error = relative_error(mine, theirs)
        errors.append(0.0 if only_finite and math.isfinite(error) else error)
    return max(errors, key=lambda error: (math.isnan(error), error))


def relative_error(found: Any, expected: Any) -> float:
    """||found - expected|| / ||expected||; NaN where a number is not finite."""
    return float((found - expected).norm() / expected.norm())


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
    "seen": seen_by_torch,
    "kernel": kernel,
    "attention": attention,
    "speed": speed,
}

if __name__ == "__main__":
    sys.stdout.write(json.dumps(PROBES[sys.argv[1]]()) + "\n")
