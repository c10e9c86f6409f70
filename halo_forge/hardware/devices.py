"""Which GPU a run uses where torch sees several: the freest, and the others are hidden before torch is initialised.

torch, transformers' trainer ("cuda:0", every visible GPU in a `DataParallel`) and servers that a run starts all read
`CUDA_VISIBLE_DEVICES` or `HIP_VISIBLE_DEVICES`, once.  So the question is asked in a child process, which may also
crash without harm, and the answer goes into the environment: afterwards there is one GPU, and it is number 0.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NoReturn

ASK_SECONDS = 120.0
"""The first start of torch and of a GPU takes most of it."""


@dataclass(frozen=True)
class Gpu:
    """A GPU as torch sees it.

    Attributes:
        name: As its driver calls it: "NVIDIA H200", "AMD Radeon Graphics".
        architecture: AMD's name of the chip, such as "gfx1151"; None for NVIDIA's.
        pci: Its place on the bus, "0000:c5:00.0"; None where torch does not say.
        uuid: What NVIDIA's tools know it by, "GPU-5e...", None where torch does not say.
        free_bytes, total_bytes: `torch.cuda.mem_get_info`, which is not dependable on gfx1151.
        has_kernels: This torch was built for the chip; without that the first operation fails.
        failure: Why it cannot be used now, such as a memory that is full; empty where it can.
    """

    name: str
    architecture: str | None = None
    pci: str | None = None
    free_bytes: int = 0
    total_bytes: int = 0
    has_kernels: bool = True
    uuid: str | None = None
    failure: str = ""


def gpu_of_torch(index: int = 0) -> Gpu:
    """One GPU that torch sees; it takes some hundred megabytes of that GPU for as long as this process lives."""
    import torch

    properties = torch.cuda.get_device_properties(index)
    is_amd = torch.version.hip is not None
    architecture = properties.gcnArchName.split(":")[0] if is_amd else None
    chip = (properties.major, properties.minor) if architecture is None else architecture
    fits = has_kernels(chip, torch.cuda.get_arch_list())
    free, total, failure = 0, properties.total_memory, ""
    try:
        free, total = torch.cuda.mem_get_info(index)
    except RuntimeError as error:  # full to the last megabyte, or lent to one process alone
        failure = str(error).partition("\n")[0]
    place = [getattr(properties, f"pci_{part}_id", None) for part in ("domain", "bus", "device")]
    domain, bus, device = (0 if each is None else int(each) for each in place)
    pci = None if None in place else f"{domain:04x}:{bus:02x}:{device:02x}.0"
    uuid = getattr(properties, "uuid", None)
    uuid = None if uuid is None or is_amd else f"GPU-{str(uuid).removeprefix('GPU-')}"
    return Gpu(properties.name, architecture, pci, free, total, fits, uuid, failure)


_GENERIC = {
    "gfx9-generic": ("gfx900", "gfx902", "gfx904", "gfx906", "gfx909", "gfx90c"),
    "gfx9-4-generic": ("gfx940", "gfx941", "gfx942", "gfx950"),
    "gfx10-1-generic": ("gfx1010", "gfx1011", "gfx1012", "gfx1013"),
    "gfx10-3-generic": ("gfx1030", "gfx1031", "gfx1032", "gfx1033", "gfx1034", "gfx1035", "gfx1036"),
    "gfx11-generic": ("gfx1100", "gfx1101", "gfx1102", "gfx1103", "gfx1150", "gfx1151", "gfx1152", "gfx1153"),
    "gfx12-generic": ("gfx1200", "gfx1201"),
}
"""AMD's targets for several chips -> the chips: LLVM's AMDGPUUsage, "Generic Processors"."""


def has_kernels(chip: str | tuple[int, int], built_for: Sequence[str]) -> bool:
    """Whether a torch runs on a chip.

    Args:
        chip: AMD's name of it, or the (major, minor) compute capability of NVIDIA's.
        built_for: `torch.cuda.get_arch_list()`; where it is empty, nothing is known and the answer is yes.
    """
    if not built_for:
        return True
    if isinstance(chip, str):
        targets = [each.split(":")[0] for each in built_for]
        return chip in targets or any(chip in _GENERIC.get(each, ()) for each in targets)
    return any(_runs_on(chip, each) for each in built_for)


def _runs_on(capability: tuple[int, int], target: str) -> bool:
    """NVIDIA's rules: sm_ runs on later minors of its major, compute_ on all that is later, and sm_90a on 9.0 alone.

    Source: CUDA C++ programming guide, "Compute Capability and Feature-Specific Targets".
    """
    found = re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", target)
    if found is None:
        return False
    kind, major, minor, only = found[1], int(found[2]), int(found[3]), found[4]
    if only == "a":
        return capability == (major, minor)
    if kind == "compute" and not only:
        return capability >= (major, minor)
    return capability[0] == major and capability[1] >= minor


def seen_by_torch() -> dict[str, Any]:
    """Version of torch and every GPU that it sees; `available` is false where it can use none."""
    import torch

    available = torch.cuda.is_available()
    gpus = [asdict(gpu_of_torch(index)) for index in range(torch.cuda.device_count())] if available else []
    return {"available": available, "torch": torch.__version__, "hip": torch.version.hip, "gpus": gpus}


Ask = Callable[[Mapping[str, str]], list[Gpu]]
"""What a torch with these environment variables sees."""


def ask_torch(environment: Mapping[str, str]) -> list[Gpu]:
    """What a torch with this environment sees, found out by a child process.

    Raises:
        OSError: The child does not start.
        ValueError: It printed no answer.
        subprocess.SubprocessError: It failed, with the last line that it wrote, or did not end in time.
    """
    done = subprocess.run(
        [sys.executable, "-c", f"from {__name__} import tell; tell()"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=ASK_SECONDS,
        env=dict(environment),
    )
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or ["it says nothing"]
        raise subprocess.SubprocessError(f"exit code {done.returncode}: {last[0][:300]}")
    lines = done.stdout.splitlines()
    return [Gpu(**row) for row in json.loads(lines[-1] if lines else "")["gpus"]]


def is_same(one: Gpu, other: Gpu) -> bool:
    """Whether two answers are about one GPU; numbers do not tell, because hiding others changes them."""
    for mine, theirs in ((one.uuid, other.uuid), (one.pci, other.pci)):
        if mine is not None and theirs is not None:
            return mine == theirs
    return (one.name, one.architecture) == (other.name, other.architecture)


def freest(gpus: Sequence[Gpu]) -> int:
    """The index of the GPU with the most free memory among those that torch can use, the first of equals."""
    return max(
        range(len(gpus)),
        key=lambda index: (gpus[index].has_kernels, not gpus[index].failure, gpus[index].free_bytes, -index),
    )


def visibility(index: int, is_amd: bool, environment: Mapping[str, str]) -> tuple[str, str]:
    """The variable and the value that leave one of the visible GPUs.

    Args:
        index: Among those that are visible now: a list that the user gave counts from its own first entry.
    """
    names = ("HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES") if is_amd else ("CUDA_VISIBLE_DEVICES",)
    name = next((name for name in names if name in environment), names[0])
    given = environment.get(name)
    return name, str(index) if given is None else given.split(",")[index].strip()


def tell() -> NoReturn:
    """Print what torch sees, as a JSON object, and end this process."""
    sys.stdout.write(json.dumps(seen_by_torch()) + "\n")
    sys.stdout.flush()
    os._exit(0)  # a GPU library that hangs while it unloads changes nothing any more
