"""Probes of the GPU: `python -m halo_forge.checks.doctor._probes NAME` tries one and prints a JSON object.

They run in a process of their own, because a torch that does not fit the GPU crashes or hangs instead of raising.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
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

    The cases go through transformers' own `sdpa`, as in a run: training (causal, with gradients), prompts (padded on
    the left, with a mask) and decoding (one query, a cut of the cache, an additive mask), each with small and with
    large scores.  "chosen" is what torch takes by itself; a kernel that refuses a case has the refusal instead of
    the error.
    """
    from contextlib import nullcontext

    from torch.nn.attention import SDPBackend, sdpa_kernel

    kernels: dict[str, Callable[[], Any]] = {
        "chosen": nullcontext,
        "flash": lambda: sdpa_kernel(SDPBackend.FLASH_ATTENTION),
        "efficient": lambda: sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION),
    }
    found: dict[str, Any] = {name: {} for name in kernels}
    for name, case in _cases().items():
        for scores, common in (("small", 0.0), ("large", COMMON_PART)):
            label, inputs = f"{name}, {scores} scores", _inputs(case, common)
            expected = _attended([each.float() for each in inputs], case)
            for kernel_name, kernel in kernels.items():
                try:
                    with kernel():
                        mine = _attended([each.cuda() for each in inputs], case)
                except RuntimeError as error:
                    found[kernel_name][label] = str(error).splitlines()[0][:200]
                    continue
                found[kernel_name][label] = _largest_error(mine, expected, only_finite=common > 0)
    return found


@dataclass(frozen=True)
class AttentionCase:
    """One call of attention.

    Attributes:
        query: (rows, heads, tokens, size of a head).
        key: (rows, key-value heads, slots, size of a head), of the values too.
        num_keys: The first slots, which are all that is looked at.
        mask: (rows, 1, tokens or 1, num_keys), on the CPU: booleans, or bfloat16 that is added; None is causal.
        needs_gradients: Inputs get gradients.
    """

    query: tuple[int, int, int, int]
    key: tuple[int, int, int, int]
    num_keys: int
    mask: Any = None
    needs_gradients: bool = False


def _cases() -> dict[str, AttentionCase]:
    """What a run calls: training, the prompts' pass, and a step over `engines._fixed_cache` with the decoder's mask."""
    import torch

    lengths = torch.tensor([160, 96, 40, 7])
    longest, num_keys = 160, 192
    real = torch.arange(longest) >= longest - lengths[:, None]
    # Rows of padding may look at nothing, as transformers builds it.
    padded = torch.ones(longest, longest, dtype=torch.bool).tril() & real[:, None, None, :] & real[:, None, :, None]
    hidden = torch.arange(num_keys) > lengths[:, None]
    added = torch.zeros(hidden.shape, dtype=torch.bfloat16).masked_fill_(hidden, float("-inf"))[:, None, None]
    return {
        "training": AttentionCase((2, 14, 256, 64), (2, 2, 256, 64), 256, needs_gradients=True),
        "prompts": AttentionCase((4, 14, longest, 64), (4, 2, longest, 64), longest, padded),
        "decoding": AttentionCase((4, 14, 1, 64), (4, 2, 512, 64), num_keys, added),
    }


def _inputs(case: AttentionCase, common: float) -> list[Any]:
    """Queries, keys and values in bfloat16, on the CPU."""
    import torch

    generator = torch.Generator().manual_seed(0)
    signs = torch.randn(case.query[-1], generator=generator).sign() * common

    def drawn(rows: int, heads: int, tokens: int, size: int) -> Any:
        """In the order of a projection's result: the heads of a token lie beside each other."""
        return torch.randn(rows, tokens, heads, size, generator=generator).transpose(1, 2)

    query, key, value = (drawn(*shape) for shape in (case.query, case.key, case.key))
    if case.num_keys < case.key[2]:
        key, value = key.contiguous(), value.contiguous()  # in the cache the tokens of a head lie beside each other
    return [(query + signs).bfloat16(), (key + signs).bfloat16(), value.bfloat16()]


def _attended(inputs: list[Any], case: AttentionCase) -> list[Any]:
    """The result of transformers' `sdpa`, then the gradients of the sum of its squares, in float32 on the CPU.

    transformers decides by the mask whether torch groups the heads, whether keys are repeated, or whether the queries
    of a group become positions; each is another call of torch, with kernels of its own.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    inputs = [each.detach().requires_grad_(case.needs_gradients) for each in inputs]
    query, key, value = inputs
    layer: Any = SimpleNamespace(num_key_value_groups=case.query[1] // case.key[1], is_causal=True)
    mask = case.mask
    if mask is not None:
        mask = mask.to(query.device, query.dtype if mask.dtype.is_floating_point else mask.dtype)
    key, value = (each[:, :, : case.num_keys] for each in (key, value))
    mixed: Any
    mixed, _ = sdpa_attention_forward(layer, query, key, value, mask, scaling=query.shape[-1] ** -0.5)
    if case.mask is not None and not case.mask.dtype.is_floating_point:
        # Nobody reads what padding becomes, but its NaN would reach the others' sums in the next layer.
        mixed = mixed * mask.any(-1).transpose(1, 2)[..., None]
    if case.needs_gradients:
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
