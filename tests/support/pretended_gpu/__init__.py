"""A pretended GPU: "cuda:0" on PyTorch's CPU build, for tests and benchmarks on a machine without a GPU.

`install()` gives torch a CUDA device.  Its tensors are ordinary `torch.Tensor`s on cuda:0, no subclass, so `.to`,
`Parameter`, autograd, safetensors and the optimizers take the branches that they take with a GPU.  Numbers are true:
the CPU's kernels compute them.

- Refused as a GPU refuses it: tensors of two devices in one operator (0-dimensional tensors of the CPU may join
  pointwise ones, tensors of the CPU may index), a generator of the other device, step counts of a fused optimizer on
  the CPU.
- Counted: kernel launches, and places where the host waits for the device (`counted`).
- Counted too: bytes of living tensors; what would exceed the device's memory raises `torch.OutOfMemoryError`.
- An asynchronous copy to pinned memory arrives when the host waits for it, by an event or otherwise; until then the
  memory holds nonsense.

It cannot show kernels and their numerics, nondeterminism, operators or types that have no CUDA kernel, several
streams, graphs, compilation, flash attention of its own package, bitsandbytes (which is not there for Python), several
GPUs, CUDA generators, `torch.save`, and what kernels and the caching allocator take beside the tensors.

    PYTHONPATH=tests python -m support.pretended_gpu -m halo_forge raft run CONFIG      # child processes have it too
    PYTHONPATH=tests python -m support.pretended_gpu -m pytest -p no:cacheprovider tests/training

This module imports no torch.  `plugin.cpp` uses internal headers; torch 2.13 was tried.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from support.pretended_gpu.counting import Counted, counted

__all__ = ["GIB", "Counted", "counted", "environment", "install", "install_from_environment"]

GIB = 1024**3
OPTIONS = "PRETENDED_GPU"
"""The environment variable with the arguments of `install`, as a JSON object."""
_FOLDER = Path(__file__).parent


def install(*, name: str = "Pretended GPU", gfx: str | None = None, memory_bytes: int = 16 * GIB) -> None:
    """Give torch the device; a later call changes what it says about itself.

    Call it before the first backward pass of the process: autograd makes its threads, one for each device, only once.

    Args:
        name: What `torch.cuda.get_device_name` says.
        gfx: Be an AMD GPU of that architecture, such as "gfx1151", under a torch for ROCm; None is an NVIDIA GPU.
        memory_bytes: All of its memory.

    Raises:
        PluginError: The plugin cannot be compiled.
    """
    from support.pretended_gpu.device import install

    install(name=name, gfx=gfx, memory_bytes=memory_bytes)


def install_from_environment() -> None:
    """What torch calls at the end of `import torch` in a process with `environment(...)`."""
    install(**json.loads(os.environ.get(OPTIONS, "{}")))


def environment(base: Mapping[str, str] = os.environ, **options: Any) -> dict[str, str]:
    """The environment of a process that has the device as soon as it imports torch, as have its children.

    Args:
        base: Its other variables.
        options: Those of `install`.
    """
    # torch calls the entry points of its group "torch.backends"; the folder `autoload` is a distribution with one.
    paths = [str(_FOLDER / "autoload"), str(_FOLDER.parent.parent), base.get("PYTHONPATH", "")]
    return {**base, "PYTHONPATH": os.pathsep.join(filter(None, paths)), OPTIONS: json.dumps(options)}
