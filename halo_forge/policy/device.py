"""The device of the model: the hardware profile once torch has been asked, and torch's own memory limit."""

from __future__ import annotations

import dataclasses

from halo_forge.core.errors import ModelError
from halo_forge.hardware import Profile, as_torch_sees_it, free_bytes
from halo_forge.hardware.devices import gpu_of_torch


def on_this_torch(profile: Profile) -> Profile:
    """The profile corrected by what torch sees, with its environment set.

    Raises:
        ModelError: The profile needs a GPU and torch has none, or one that it cannot use now.
    """
    import torch

    gpu = None
    if torch.cuda.is_available() and not (profile.device == "cpu" and profile.given):
        gpu = gpu_of_torch()
        if gpu.failure:
            raise ModelError(
                f"hardware.profile: {profile.name} ({profile.why}): {gpu.name} cannot be used: {gpu.failure}",
                "stop the program that uses it, or select another with CUDA_VISIBLE_DEVICES or HIP_VISIBLE_DEVICES",
            )
        gpu = dataclasses.replace(gpu, free_bytes=free_bytes(gpu, profile.machine))
    found = as_torch_sees_it(profile, gpu, torch.cuda.device_count())
    if found is None:
        raise ModelError(
            f"hardware.profile: {profile.name} ({profile.why}), but torch {torch.__version__} can use no GPU",
            "`halo-forge doctor` says why; hardware.profile: cpu runs without the GPU",
        )
    found.set_environment()  # torch reads these variables when it first needs them
    return found


def limit_memory(profile: Profile) -> None:
    """Limit torch's memory where GPU and host share it: a refused allocation is better than a frozen host."""
    if profile.device == "cpu":
        return
    import torch

    fraction = profile.process_fraction(torch.cuda.get_device_properties(0).total_memory)
    if fraction is not None:
        torch.cuda.set_per_process_memory_fraction(fraction)
