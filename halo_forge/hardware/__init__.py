"""Hardware: which kind of machine this is, and what every `auto` of a configuration becomes on it.

One file is one profile.  `detect` reads files alone, so it is done before torch is imported; `choose` adds what the
configuration says, and `prepare` sets the environment that torch reads when it is imported.
"""

from __future__ import annotations

import dataclasses
from typing import Literal, Protocol

from halo_forge.hardware._profile import Profile
from halo_forge.hardware.cpu import Cpu
from halo_forge.hardware.cuda import Cuda
from halo_forge.hardware.gfx1151 import Gfx1151
from halo_forge.hardware.machine import GFX1151_PCI, GFX1151_TARGET, Machine
from halo_forge.hardware.rocm import Rocm

__all__ = [
    "PROFILES",
    "HardwareSettings",
    "Machine",
    "Profile",
    "as_torch_sees_it",
    "choose",
    "detect",
    "prepare",
    "profile_class",
]

PROFILES: tuple[type[Profile], ...] = (Gfx1151, Rocm, Cuda, Cpu)

_SETTINGS = ("memory_fraction", "optimizer", "pin_memory", "fused_head")
_HIDING = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")


class HardwareSettings(Protocol):
    """The `hardware` section of the configuration."""

    @property
    def profile(self) -> str: ...
    @property
    def memory_fraction(self) -> float | Literal["auto"]: ...
    @property
    def optimizer(self) -> str: ...
    @property
    def pin_memory(self) -> bool | Literal["auto"]: ...
    @property
    def fused_head(self) -> bool | Literal["auto"]: ...


def profile_class(name: str) -> type[Profile]:
    """The profile of that name.

    Raises:
        KeyError: There is none.
    """
    return {each.name: each for each in PROFILES}[name]


def detect(machine: Machine | None = None) -> Profile:
    """The profile of a machine, by default this one; never imports torch."""
    machine = Machine() if machine is None else machine
    found, why = _gpu(machine)
    if found is None:
        return Cpu(machine, why)
    for name in _HIDING[: 1 if found is Cuda else 3]:
        if machine.environment.get(name) in ("", "-1"):
            return Cpu(machine, f"{name} hides the GPU ({why})")
    build = machine.torch_build()
    fitting = "cuda" if found is Cuda else "rocm"
    if build not in (fitting, "unknown"):
        return Cpu(machine, f"torch {machine.torch_version} is not built for the GPU ({why})")
    return found(machine, why)


def choose(settings: HardwareSettings, machine: Machine | None = None) -> Profile:
    """The profile that the configuration names, or the machine's own, with the configuration's values in it."""
    if settings.profile == "auto":
        profile = detect(machine)
    else:
        machine = Machine() if machine is None else machine
        profile = profile_class(settings.profile)(machine, "hardware.profile names it", given=True)
    values = {name: getattr(settings, name) for name in _SETTINGS if getattr(settings, name) != "auto"}
    return dataclasses.replace(profile, chosen=frozenset(values), **values)


def prepare(settings: HardwareSettings | None = None) -> Profile:
    """The profile of this machine, with its environment set; call it before torch is imported.

    Args:
        settings: None takes the machine's own profile.
    """
    profile = detect() if settings is None else choose(settings)
    profile.set_environment()
    return profile


def as_torch_sees_it(profile: Profile, has_gpu: bool, gfx_name: str | None) -> Profile | None:
    """The profile to go on with once torch is there; None where it needs a GPU and torch has none.

    Args:
        has_gpu: `torch.cuda.is_available()`.
        gfx_name: `gcnArchName` of the first GPU up to its colon; None where torch is not built for ROCm.
    """
    if profile.device == "cuda":
        return profile if has_gpu else None
    if profile.given or not has_gpu:
        return profile
    found = Cuda if gfx_name is None else Gfx1151 if gfx_name == "gfx1151" else Rocm
    seen = "torch has a GPU that /sys and /dev do not show" + ("" if gfx_name is None else f": {gfx_name}")
    values = {name: getattr(profile, name) for name in profile.chosen}
    return found(profile.machine, seen, chosen=profile.chosen, **values)


def _gpu(machine: Machine) -> tuple[type[Profile] | None, str]:
    targets, ids = machine.gfx_targets(), machine.amd_display_ids()
    if GFX1151_TARGET in targets:
        return Gfx1151, f"gfx_target_version {GFX1151_TARGET} in /sys/class/kfd"
    if GFX1151_PCI in ids:
        return Gfx1151, f"PCI device 1002:{GFX1151_PCI[2:]}"
    driver = machine.nvidia_driver()
    if driver is not None:
        return Cuda, f"{driver} is there"
    if targets:
        return Rocm, f"gfx_target_version {targets[0]} in /sys/class/kfd"
    return None, "no GPU found"
