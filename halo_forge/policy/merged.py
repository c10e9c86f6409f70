"""The policy as one plain model folder: the adapter added to the base weights, for servers that know no adapters."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from halo_forge.core.errors import ModelError
from halo_forge.policy.files import disk_full_is_os_error
from halo_forge.policy.quantized import dequantized, is_quantized, plain_when_saved
from halo_forge.supervisor import heartbeat

if TYPE_CHECKING:
    import torch

    from halo_forge.policy.model import Policy

MERGED_DTYPE = "bfloat16"
_ENTRIES_AT_ONCE = 1 << 22


@dataclass(slots=True)
class Rounding:
    """What rounding to a dtype did to the update U = s B A, over all layers with an adapter.

    With W the weight as it was loaded and R(x) the rounded x, the update that arrived is R(W + U) - R(W): what rounding
    does to W itself is no loss of the adapter.

    Attributes:
        dtype: What is rounded to, such as "bfloat16".
        update_square, lost_square: Squared Frobenius norms of U, and of U - (R(W + U) - R(W)).
        num_entries: Entries of U that are not 0.
        num_vanished: Those of them that change nothing: R(W + U) = R(W).
    """

    dtype: str = MERGED_DTYPE
    update_square: float = 0.0
    lost_square: float = 0.0
    num_entries: int = 0
    num_vanished: int = 0

    @property
    def lost(self) -> float:
        """Norm of what is missing from the update, or was added to it, over the norm of the update; 0 if there is none.

        Above 1 where rounding changes the weights by more than the update itself did.
        """
        return math.sqrt(self.lost_square / self.update_square) if self.update_square > 0.0 else 0.0

    @property
    def vanished(self) -> float:
        """The share of the update's entries that change no weight; 0 if there are none."""
        return self.num_vanished / self.num_entries if self.num_entries > 0 else 0.0

    def add(self, weight: torch.Tensor, update: torch.Tensor) -> torch.Tensor:
        """Account for one layer; returns W + U in float32, of the same shape, on the CPU.

        Args:
            weight: W, (output size, input size), of any floating dtype.
            update: U in float32, of the same shape.
        """
        import torch

        rounded: torch.dtype = getattr(torch, self.dtype)
        merged = (weight.float() + update).cpu()
        # In pieces: the temporary copies of a large layer would need several times its memory.
        pieces = (each.reshape(-1).split(_ENTRIES_AT_ONCE) for each in (weight, update, merged))
        for before, change, after in zip(*pieces, strict=True):
            change = change.cpu()
            arrived = after.to(rounded).float() - before.to("cpu", rounded).float()
            self.update_square += float(change.double().square().sum())
            self.lost_square += float((change - arrived).double().square().sum())
            self.num_entries += int(torch.count_nonzero(change))
            self.num_vanished += int(((change != 0) & (arrived == 0)).sum())
        return merged


@heartbeat.loading()
def save_merged(policy: Policy, folder: Path, *, dtype: str = MERGED_DTYPE, rounds_to: str | None = None) -> Rounding:
    """Write W + s B A with configuration and tokenizer, as `from_pretrained` loads it.

    The sum is made in float32.  The model in memory stays as it is.  A copy of all weights is made: 2 bytes a parameter
    of memory in bfloat16, and as much on the disk.  Rounding to bfloat16 drops what is below half a unit in the last
    place of a weight, so small updates may vanish.  Where the base weights are in 4 bits, W is what they are
    multiplied as.

    Args:
        dtype: Of the file: "bfloat16", or "float32" for a program that rounds it itself.
        rounds_to: What that program rounds to; None is `dtype`.

    Returns:
        How much of the update is lost by rounding to `rounds_to`.

    Raises:
        ModelError: The adapter is more than s B A on weights.
    """
    base: Any = policy.model.get_base_model()
    rounding = Rounding(dtype if rounds_to is None else rounds_to)
    weights = merged_weights(base, rounding, dtype)
    with plain_when_saved(base), disk_full_is_os_error():
        base.save_pretrained(str(folder), state_dict=weights)
    policy.tokenizer.save_pretrained(str(folder))
    path = folder / "config.json"
    config = {**json.loads(path.read_text(encoding="utf-8")), "dtype": dtype}
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return rounding


def merged_weights(base: Any, rounding: Rounding, dtype: str) -> dict[str, torch.Tensor]:
    """Name in the plain model -> merged weight, on the CPU; names that share a weight share its copy.

    Args:
        rounding: Is told of every layer with an adapter.
        dtype: Of the weights.

    Raises:
        ModelError: The adapter is more than s B A on weights (DoRA, whole modules): it cannot be added to them.
    """
    import torch
    from peft.tuners.lora import LoraLayer

    quantized = {f"{name}.weight": each for name, each in base.named_modules() if is_quantized(each)}
    layers: dict[str, Any] = {
        f"{name}.base_layer.weight": each for name, each in base.named_modules() if isinstance(each, LoraLayer)
    }
    _refuse_more_than_sums(base, layers)
    kind: torch.dtype = getattr(torch, dtype)
    found: dict[str, torch.Tensor] = {}
    copies: dict[int, torch.Tensor] = {}
    with torch.no_grad():
        for name, weight in base.state_dict(keep_vars=True).items():
            if ".lora_" in name or f"{name.partition('.weight.')[0]}.weight" in quantized.keys() - {name}:
                continue  # the second: scales and the like of a weight in 4 bits
            if id(weight) not in copies or name in layers:
                value = dequantized(quantized[name]) if name in quantized else weight.detach()
                if name in layers:
                    merged = rounding.add(value, layers[name].get_delta_weight("default").float()).to(kind)
                else:
                    merged = value.to("cpu", kind if value.is_floating_point() else value.dtype)
                copies[id(weight)] = merged
            found[name.replace(".base_layer.", ".")] = copies[id(weight)]
    return found


def _refuse_more_than_sums(base: Any, layers: dict[str, Any]) -> None:
    variants = sorted({type(each).__name__ for layer in layers.values() for each in layer.lora_variant.values()})
    whole = sorted(
        {name.partition(".modules_to_save.")[0] for name, _ in base.named_parameters() if ".modules_to_save." in name}
    )
    if variants or whole:
        what = ", ".join([*variants, *(f"all weights of {name}" for name in whole)])
        raise ModelError(
            f"this adapter cannot be merged by halo-forge: besides A and B it has {what}",
            "merge it with PEFT's merge_and_unload(), or train a plain LoRA adapter",
        )
