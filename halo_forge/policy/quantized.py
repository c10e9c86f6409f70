"""Base weights in 4 bits, by bitsandbytes: `model.quantization: 4bit`.

NF4 with double quantization, as in QLoRA (Dettmers et al., 2023): 4.13 bits for each weight of a linear layer, computed
in `model.dtype`.  Embeddings and output layer stay as they are, and the adapter stays in float32.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from importlib import metadata
from typing import TYPE_CHECKING, Any

from halo_forge.core.errors import ToolMissing

if TYPE_CHECKING:
    import torch

OLDEST = (0, 50)
"""The bitsandbytes that the tests ran with; the first with kernels for gfx1151."""


def why_not_quantized(quantization: str) -> str | None:
    """What is in the way of `model.quantization` on this machine; None where nothing is.  Imports nothing."""
    if quantization == "none":
        return None
    least = ".".join(map(str, OLDEST))
    try:
        version = metadata.version("bitsandbytes")
    except metadata.PackageNotFoundError:
        return f"bitsandbytes is not installed (at least {least} is needed)"
    found = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
    return None if found >= OLDEST else f"bitsandbytes {version} is too old, at least {least} is needed"


def check_quantization(quantization: str) -> None:
    """Find a missing package before torch is imported.

    Raises:
        ToolMissing: The package is missing or too old.
    """
    why = why_not_quantized(quantization)
    if why is not None:
        raise ToolMissing(
            f"model.quantization: {quantization}: {why}",
            "pip install 'bitsandbytes>=0.50', or set model.quantization to none",
        )


def loading_arguments(quantization: str, dtype: torch.dtype, device: str) -> dict[str, Any]:
    """What `from_pretrained` takes besides; quantized weights are made on `device` and never moved."""
    if quantization == "none":
        return {}
    from transformers import BitsAndBytesConfig

    return {
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        ),
        "device_map": {"": "cpu" if device == "cpu" else 0},
    }


def keep_one_layout(model: Any) -> None:
    """Have a CPU multiply with the same weights in sampling and in training.

    bitsandbytes lays the weights out for AVX512-BF16 at the first forward without gradients, for good: through that
    layout no gradient passes, it rounds to bfloat16 whatever the dtype, and it fails on small layers.
    """
    for layer in model.modules():
        if is_quantized(layer):
            layer.support_avx512bf16_for_cpu = False


def is_quantized(layer: Any) -> bool:
    """Whether a layer's own weight is in 4 bits; a LoRA layer around it says no."""
    return getattr(layer._parameters.get("weight"), "quant_state", None) is not None


def dequantized(layer: Any) -> torch.Tensor:
    """(output size, input size): the weight that a quantized layer multiplies with."""
    import bitsandbytes

    weight: torch.Tensor = bitsandbytes.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    return weight


@contextlib.contextmanager
def plain_when_saved(base: Any) -> Iterator[None]:
    """While the block runs, `save_pretrained` writes what it is given: a quantizer would put its own weights there."""
    # Not every version of transformers gives a model that was loaded without a quantizer this attribute.
    quantizer, settings = getattr(base, "hf_quantizer", None), base.config.__dict__.pop("quantization_config", None)
    base.hf_quantizer = None
    try:
        yield
    finally:
        base.hf_quantizer = quantizer
        if settings is not None:
            base.config.quantization_config = settings


def num_weights(parameter: torch.Tensor) -> int:
    """How many numbers a parameter stands for; two of them lie in each byte of a quantized one."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else state.shape.numel()
