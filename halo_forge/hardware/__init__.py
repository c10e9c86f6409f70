"""Hardware: which kind of machine this is, and what each `auto` of a configuration becomes on it.

Each profile has one file.  `detect` only reads files, so it runs before torch is imported; `choose` adds what the
configuration says; `prepare` sets the environment that torch reads on import and leaves it one GPU; and
`as_torch_sees_it` has the last word.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Iterator, MutableMapping
from typing import Literal, Protocol

from halo_forge.hardware._profile import LEAST_TOKENS, Profile
from halo_forge.hardware.cpu import Cpu
from halo_forge.hardware.cuda import Cuda
from halo_forge.hardware.devices import Ask, Gpu, ask_torch, freest, is_same, visibility
from halo_forge.hardware.gfx1151 import Gfx1151
from halo_forge.hardware.machine import GFX1151_PCI, GFX1151_TARGET, Machine
from halo_forge.hardware.rocm import Rocm
from halo_forge.hardware.shape import ModelShape, ModelSize

__all__ = [
    "LEAST_TOKENS",
    "NO_GPU",
    "PROFILES",
    "Gpu",
    "HardwareSettings",
    "Machine",
    "ModelShape",
    "ModelSize",
    "Profile",
    "as_torch_sees_it",
    "choose",
    "detect",
    "free_bytes",
    "prepare",
    "profile_class",
    "with_one_gpu",
]

PROFILES: tuple[type[Profile], ...] = (Gfx1151, Rocm, Cuda, Cpu)

NO_GPU = "no GPU found"
"""The reason if files show none."""
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
    """The profile of a machine, by default this one; never imports torch.

    Of GPUs of several makers it is that of the first one that the installed torch is built for and that is not hidden.
    """
    machine = Machine() if machine is None else machine
    build, refused = machine.torch_build(), []
    for found, why in _gpus(machine):
        hiding = [name for name in _HIDING[: 1 if found is Cuda else 3] if machine.environment.get(name) in ("", "-1")]
        if hiding:
            refused.append(f"{hiding[0]} hides the GPU ({why})")
        elif build not in ("cuda" if found is Cuda else "rocm", "unknown"):
            refused.append(f"torch {machine.torch_version} is not built for the GPU ({why})")
        else:
            return found(machine, why)
    return Cpu(machine, refused[0] if refused else NO_GPU)


def choose(settings: HardwareSettings, machine: Machine | None = None) -> Profile:
    """The profile that the configuration names, or the machine's own, with the configuration's values in it."""
    if settings.profile == "auto":
        profile = detect(machine)
    else:
        machine = Machine() if machine is None else machine
        profile = profile_class(settings.profile)(machine, "hardware.profile names it", given=True)
    values = {name: getattr(settings, name) for name in _SETTINGS if getattr(settings, name) != "auto"}
    return dataclasses.replace(profile, chosen=frozenset(values), **values)


def prepare(
    settings: HardwareSettings | None = None,
    *,
    ask: Ask = ask_torch,
    environment: MutableMapping[str, str] = os.environ,
) -> Profile:
    """The profile of this machine, with its environment set; call it before torch is imported.

    Args:
        settings: None takes the machine's own profile.
        ask: What a torch with an environment sees; asked only where there may be several GPUs.
        environment: That of this process and its children.
    """
    profile = detect() if settings is None else choose(settings)
    profile.set_environment(environment)
    return with_one_gpu(profile, ask, environment)


def with_one_gpu(profile: Profile, ask: Ask, environment: MutableMapping[str, str]) -> Profile:
    """The profile with every GPU but the freest hidden from torch; one that is initialised already stays as it is.

    What the user hides stays hidden.
    """
    torch = sys.modules.get("torch")
    if profile.device == "cpu" or profile.machine.num_gpus(profile.name) == 1:
        return profile
    if torch is not None and torch.cuda.is_initialized():
        if torch.cuda.device_count() < 2:
            return profile
        return dataclasses.replace(profile, why=f"{profile.why}; none was chosen: torch was initialised before")
    try:
        gpus = ask(environment)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        return dataclasses.replace(profile, why=f"{profile.why}; torch did not say which GPUs there are: {error}")
    if len(gpus) < 2:
        return profile
    gpus = [dataclasses.replace(gpu, free_bytes=free_bytes(gpu, profile.machine)) for gpu in gpus]
    index = freest(gpus)
    name, value = visibility(index, gpus[index].architecture is not None, environment)
    environment[name] = value
    others = tuple(gpu for number, gpu in enumerate(gpus) if number != index)
    why = f"{profile.why}; the freest of {len(gpus)} GPUs, by {name}={value}"
    return dataclasses.replace(profile, why=why, gpu=gpus[index], unused=others)


def free_bytes(gpu: Gpu, machine: Machine) -> int:
    """The free memory of a GPU: the kernel's figures where torch's cannot be relied on; it does not start torch."""
    found = Gfx1151(machine, "").at_hand_bytes(files_alone=True) if gpu.architecture == "gfx1151" else None
    return gpu.free_bytes if found is None else found


def as_torch_sees_it(profile: Profile, gpu: Gpu | None, num_gpus: int = 1) -> Profile | None:
    """The profile to go on with once torch is there; None where it needs a GPU and torch has none.

    Args:
        gpu: The first one that torch sees, which a run uses; None where it sees none.
        num_gpus: How many it sees.
    """
    if gpu is None:
        return None if profile.device == "cuda" else profile
    if profile.device == "cpu" and profile.given:
        return profile
    why, unused = profile.why, profile.unused
    if num_gpus != 1:
        why = f"{why}; torch uses the first of {num_gpus} GPUs"
    if profile.gpu is not None and not is_same(profile.gpu, gpu):
        # It looks at the variable once, and `torch.cuda.is_available` is enough for that.
        why = f"{why}, not the chosen one: it had looked for GPUs before the others were hidden"
        unused = (profile.gpu, *(each for each in unused if not is_same(each, gpu)))
    found = Cuda if gpu.architecture is None else Gfx1151 if gpu.architecture == "gfx1151" else Rocm
    if profile.given or type(profile) is found:
        return dataclasses.replace(profile, gpu=gpu, why=why, unused=unused)
    name = gpu.name if gpu.architecture is None else f"{gpu.name}, {gpu.architecture}"
    files = "which /sys and /dev do not show" if profile.why == NO_GPU else f"although: {why}"
    values = {name: getattr(profile, name) for name in profile.chosen}
    return found(
        profile.machine, f"torch uses {name}, {files}", chosen=profile.chosen, gpu=gpu, unused=unused, **values
    )


def _gpus(machine: Machine) -> Iterator[tuple[type[Profile], str]]:
    targets, ids = machine.gfx_targets(), machine.amd_display_ids()
    if GFX1151_TARGET in targets:
        yield Gfx1151, f"gfx_target_version {GFX1151_TARGET} in /sys/class/kfd"
    elif GFX1151_PCI in ids:
        yield Gfx1151, f"PCI device 1002:{GFX1151_PCI[2:]}"
    driver = machine.nvidia_driver()
    if driver is not None:
        yield Cuda, f"{driver} is there"
    other = [target for target in targets if target != GFX1151_TARGET]
    if other:
        yield Rocm, f"gfx_target_version {other[0]} in /sys/class/kfd"
