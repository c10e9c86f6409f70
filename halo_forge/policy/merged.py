"""The policy as one plain model folder: the adapter added to the base weights, for servers that know no adapters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from halo_forge.policy.quantized import dequantized, is_quantized, plain_when_saved
from halo_forge.supervisor import heartbeat

if TYPE_CHECKING:
    import torch

    from halo_forge.policy.model import Policy

MERGED_DTYPE = "bfloat16"


@heartbeat.loading()
def save_merged(policy: Policy, folder: Path) -> None:
    """Write W + s B A in bfloat16, with configuration and tokenizer, as `from_pretrained` loads it.

    The model in memory stays as it is.  A bfloat16 copy of all weights is made: 2 bytes a parameter of memory, and as
    much on the disk.  Rounding to bfloat16 drops what is below half a unit in the last place of a weight, so small
    updates may vanish.  Where the base weights are in 4 bits, W is what they are multiplied as.
    """
    base: Any = policy.model.get_base_model()
    with plain_when_saved(base):
        base.save_pretrained(str(folder), state_dict=merged_weights(base))
    policy.tokenizer.save_pretrained(str(folder))
    path = folder / "config.json"
    config = {**json.loads(path.read_text(encoding="utf-8")), "dtype": MERGED_DTYPE}
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def merged_weights(base: Any) -> dict[str, torch.Tensor]:
    """Name in the plain model -> merged weight, on the CPU; names that share a weight share its copy."""
    import torch
    from peft.tuners.lora import LoraLayer

    quantized = {f"{name}.weight": each for name, each in base.named_modules() if is_quantized(each)}
    layers: dict[str, Any] = {
        f"{name}.base_layer.weight": each for name, each in base.named_modules() if isinstance(each, LoraLayer)
    }
    found: dict[str, torch.Tensor] = {}
    copies: dict[int, torch.Tensor] = {}
    with torch.no_grad():
        for name, weight in base.state_dict(keep_vars=True).items():
            if ".lora_" in name or f"{name.partition('.weight.')[0]}.weight" in quantized.keys() - {name}:
                continue  # the second: scales and the like of a weight in 4 bits
            if id(weight) not in copies or name in layers:
                value = dequantized(quantized[name]) if name in quantized else weight.detach()
                if name in layers:
                    value = value.float() + layers[name].get_delta_weight("default").float()
                copies[id(weight)] = value.to("cpu", torch.bfloat16 if value.is_floating_point() else value.dtype)
            found[name.replace(".base_layer.", ".")] = copies[id(weight)]
    return found
