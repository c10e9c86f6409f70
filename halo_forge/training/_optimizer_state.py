"""AdamW's state in a file, so a cycle can continue where the previous one stopped; imported late: it needs torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from halo_forge.core.errors import RunDirError
from halo_forge.policy import explained, moved_together

MOMENTS = ("exp_avg", "exp_avg_sq")
STEP = "step"


def save_state(optimizer: Any, model: Any, path: Path) -> None:
    """Write `<weight>.exp_avg`, `<weight>.exp_avg_sq` and `<weight>.step` of every trained weight, in float32."""
    states = {
        name: optimizer.state[weight]
        for name, weight in model.named_parameters()
        if weight.requires_grad and optimizer.state.get(weight)
    }
    tensors: dict[str, torch.Tensor] = {}
    for part in (*MOMENTS, STEP):
        found = moved_together([state[part].detach() for state in states.values()], "cpu")
        tensors |= {f"{name}.{part}": tensor for name, tensor in zip(states, found, strict=True)}
    save_file(tensors, str(path))


def restore_state(optimizer: Any, model: Any, path: Path, *, with_steps: bool) -> None:
    """Load the moments in `path` into a fresh optimizer, with or without their step count.

    AdamW divides its moments by 1 - beta^step, because they start at 0 (Kingma and Ba 2015, arXiv:1412.6980, section
    3).  Moments that continue with a step count of 0 are scaled up as well, the second one more than the first, so the
    first updates are small: this acts as a warm-up.

    Args:
        with_steps: Restore the step counts too; otherwise they start at 0.

    Raises:
        RunDirError: The state does not belong to these weights.
    """
    with explained(str(path)):
        tensors = load_file(str(path))
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    wanted = {f"{name}.{part}": weight.shape for name, weight in weights.items() for part in MOMENTS}
    found = {name: tensor.shape for name, tensor in tensors.items() if not name.endswith(f".{STEP}")}
    if found != wanted:
        name = sorted(set(found.items()) ^ set(wanted.items()))[0][0]
        raise RunDirError(
            f"{path}: not the optimizer state of this adapter: {name} differs",
            "redo the cycle that wrote it with `halo-forge raft resume RUN --from-cycle N`",
        )
    device = next(iter(weights.values())).device
    # As AdamW itself places its step counts: a fused kernel reads them on the device, all other code on the host.
    on_device = any(group.get("fused") or group.get("capturable") for group in optimizer.param_groups)
    for part in (*MOMENTS, STEP):
        values = [tensors[f"{name}.{part}"] for name in weights]
        if part == STEP and not with_steps:
            values = [torch.zeros_like(steps) for steps in values]
        placed = moved_together(values, device if part != STEP or on_device else "cpu")
        for weight, tensor in zip(weights.values(), placed, strict=True):
            optimizer.state[weight][part] = tensor
