"""The models' own small operations in fewer kernels, for a GPU; imported late, because it needs torch.

Normalising, and turning queries and keys by their positions, are written in the library's models as many operations
that each start a kernel: 24 of the 51 launches of a Llama layer's decoding step.  What takes their place is tried
against the model's own on random numbers first: a model that computes something else keeps its own.
"""

from __future__ import annotations

import copy
import logging
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from halo_forge.policy.forwards import replaced_forwards

_log = logging.getLogger(__name__)
_ROTARY = "apply_rotary_pos_emb"
"""What the library's models call the function, each in its own module."""
_warned: set[str] = set()


@contextmanager
def fused_operations(model: Any) -> Iterator[None]:
    """While the block runs, norms and rotary positions of a model on a GPU are computed in fewer kernels.

    The numbers are the same but for rounding: a fused norm rounds to the model's dtype once, at the end.

    Args:
        model: A causal language model of transformers, without the adapter's wrapper.
    """
    if model.device.type == "cpu":
        yield
        return
    norms = _fused_norms(model)
    home = sys.modules[type(model).__module__]
    own = getattr(home, _ROTARY, None)
    rotary = _Rotary(own) if own is not None and _turns_halves(own, model.device, model.dtype) else None
    if rotary is None:
        _warn_once(f"rotary positions of {type(model).__name__} keep the model's own operations")
    with replaced_forwards(norms):
        if rotary is not None:
            setattr(home, _ROTARY, rotary)
        try:
            yield
        finally:
            if rotary is not None:
                setattr(home, _ROTARY, own)


def _warn_once(message: str) -> None:
    if message not in _warned:
        _warned.add(message)
        _log.warning("%s: decoding starts more kernels than it could", message)


# --- norms ------------------------------------------------------------------------------------------------------------


def _fused_norms(model: Any) -> dict[Any, Callable[[torch.Tensor], torch.Tensor]]:
    """Module -> what computes the same in few kernels."""
    found: dict[Any, Callable[[torch.Tensor], torch.Tensor]] = {}
    kinds: dict[type, Callable[[Any], Callable[[torch.Tensor], torch.Tensor]] | None] = {}
    for module in model.modules():
        kind = type(module)
        if not kind.__name__.endswith("RMSNorm") or "forward" in module.__dict__ or kind is torch.nn.RMSNorm:
            continue
        if kind not in kinds:
            kinds[kind] = next((make for make in (_by_weight, _by_weight_and_one) if _is_same(make, module)), None)
            if kinds[kind] is None:
                _warn_once(f"{kind.__name__} keeps the model's own operations")
        make = kinds[kind]
        if make is not None:
            found[module] = make(module)
    return found


def _by_weight(module: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """x / rms(x) * weight, as in Llama, Qwen and Mistral."""
    shape, epsilon = module.weight.shape, float(_epsilon(module))

    def forward(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.rms_norm(x, shape, module.weight, epsilon)

    return forward


def _by_weight_and_one(module: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """x / rms(x) * (1 + weight) in float32, as in Gemma."""
    weight, epsilon = 1 + module.weight.detach().float(), float(_epsilon(module))

    def forward(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.rms_norm(x.float(), weight.shape, weight, epsilon).type_as(x)

    return forward


def _epsilon(module: Any) -> Any:
    """What is added to the mean square; None where it has a name that no model of the library uses."""
    return getattr(module, "variance_epsilon", getattr(module, "eps", None))


@torch.no_grad()
def _is_same(make: Callable[[Any], Callable[[torch.Tensor], torch.Tensor]], module: Any) -> bool:
    weight, epsilon = getattr(module, "weight", None), _epsilon(module)
    if weight is None or weight.dim() != 1 or epsilon is None:
        return False
    stream = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, len(weight), generator=stream).to(weight.device)
    # At this scale an epsilon that is not the model's doubles or halves what is divided by.
    small = torch.cat((math.sqrt(epsilon) * x, torch.zeros_like(x[:1])))

    def is_same() -> bool:
        # A copy, because rounding in the dtype of the model would hide such a difference.
        exact = copy.deepcopy(module).float()
        given = (3 * x).to(weight.dtype)
        return _close(module(given), make(module)(given)) and _close(exact(small), make(exact)(small))

    return _succeeds(type(module).__name__, is_same)


# --- rotary positions -------------------------------------------------------------------------------------------------


class _Rotary:
    """x cos + (-x2, x1) sin, for x = (x1, x2), as (x cos) + (x2, x1) (-sin1, sin2): three kernels in place of five.

    Args:
        own: The model's function, which is called for anything but whole heads in the shape that decoding uses.
    """

    def __init__(self, own: Callable[..., Any]) -> None:
        self._own = own
        self._cos: torch.Tensor | None = None
        self._sin: torch.Tensor | None = None
        self._factors: tuple[torch.Tensor, torch.Tensor] | None = None

    def __call__(
        self, q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *arguments: Any, **options: Any
    ) -> Any:
        if arguments or options or cos.shape[-1] != q.shape[-1]:
            return self._own(q, k, cos, sin, *arguments, **options)
        if cos.dtype != q.dtype:
            # OLMo keeps the factors in float32, and rounds the result to the dtype of the model.
            _warn_once(f"rotary positions with factors in {cos.dtype} keep the model's own operations")
            return self._own(q, k, cos, sin)
        if self._cos is not cos or self._sin is not sin or self._factors is None:
            # All layers of a step get the same tensors.
            left, right = sin.chunk(2, dim=-1)
            self._cos, self._sin = cos, sin
            self._factors = cos.unsqueeze(1), torch.cat((-left, right), dim=-1).unsqueeze(1)
        return self._turned(q, *self._factors), self._turned(k, *self._factors)

    @staticmethod
    def _turned(x: torch.Tensor, cos: torch.Tensor, signed_sin: torch.Tensor) -> torch.Tensor:
        left, right = x.chunk(2, dim=-1)
        return (x * cos).addcmul_(torch.cat((right, left), dim=-1), signed_sin)


@torch.no_grad()
def _turns_halves(own: Callable[..., Any], device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the model's function is what `_Rotary` computes, and gives it the same form in the model's dtype."""
    stream = torch.Generator().manual_seed(0)
    q, k = (torch.randn(2, heads, 3, 8, generator=stream).to(device) for heads in (4, 2))
    cos, sin = (torch.randn(2, 3, 8, generator=stream).to(device) for _ in range(2))

    def is_same(kind: torch.dtype, same: Callable[[torch.Tensor, torch.Tensor], bool]) -> bool:
        inputs = [each.to(kind) for each in (q, k, cos, sin)]
        return all(same(one, other) for one, other in zip(own(*inputs), _Rotary(own)(*inputs), strict=True))

    # Values in float32 only: in bfloat16 a sum of two products differs by more than its own rounding.
    return _succeeds("rotary positions", lambda: is_same(torch.float32, _close) and is_same(dtype, _same_form))


def _succeeds(what: str, trial: Callable[[], bool]) -> bool:
    """What the trial says; False, and a line in the log, where the model's own code does not take such inputs."""
    try:
        return trial()
    except Exception as error:  # noqa: BLE001 -- code from the hub may raise anything
        _log.warning("%s cannot be tried on their own: %s: %s", what, type(error).__name__, error)
        return False


def _close(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two results differ by rounding alone."""
    tolerance = 4 * torch.finfo(one.dtype).eps
    return _same_form(one, other) and bool(torch.allclose(one.float(), other.float(), rtol=tolerance, atol=tolerance))


def _same_form(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype
