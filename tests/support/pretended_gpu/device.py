"""What Python code asks `torch.cuda` and `torch.accelerator`, answered for the pretended GPU."""

from __future__ import annotations

import ctypes
import functools
import sys
import time
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import torch
from support.pretended_gpu.building import load_plugin

DEVICE = torch.device("cuda", 0)


@functools.cache
def plugin() -> ctypes.CDLL:
    """The plugin, installed.

    Raises:
        PluginError: It cannot be compiled.
    """
    if torch.version.cuda is not None or torch.version.hip is not None:
        raise RuntimeError(f"the pretended GPU needs a CPU build of torch, and this is {torch.__version__}")
    library = load_plugin()
    library.install()
    # It has kernels of its own, and its import fails where torch has a GPU but was built without CUDA; None is a
    # package that is not installed.
    sys.modules.setdefault("bitsandbytes", None)  # type: ignore[arg-type]
    return library


class Stream:
    """The one stream; every operator is done when it returns, but not copies to pinned memory."""

    device = DEVICE
    cuda_stream = 0

    def __init__(self, *arguments: Any, **options: Any) -> None:
        pass

    def synchronize(self) -> None:
        synchronize()

    def record_event(self, event: Event | None = None) -> Event:
        event = Event() if event is None else event
        event.record()
        return event

    def query(self) -> bool:
        return True

    def is_capturing(self) -> bool:
        return False

    def wait_stream(self, stream: Stream) -> None:
        pass

    def wait_event(self, event: Event) -> None:
        pass


class Event:
    """A point of the stream; copies asked for before it have arrived once it was waited for."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._asked = 0
        self._time = 0.0

    def record(self, stream: Stream | None = None) -> None:
        self._asked, self._time = plugin().num_copies_asked(), time.perf_counter()

    def synchronize(self) -> None:
        plugin().wait_for_copies(self._asked, b"event")

    def query(self) -> bool:
        """Always True, and then the copies have to be there."""
        plugin().deliver_copies(self._asked)
        return True

    def wait(self, stream: Stream | None = None) -> None:
        pass

    def elapsed_time(self, end: Event) -> float:
        """Milliseconds."""
        return (end._time - self._time) * 1000


def synchronize(device: Any = None) -> None:
    """Wait for all that was asked of the device."""
    plugin().wait_for_copies(plugin().num_copies_asked(), b"synchronize")


def install(*, name: str, gfx: str | None, memory_bytes: int) -> None:
    """See the package's `install`."""
    library = plugin()
    library.set_limit(memory_bytes)
    torch.version.hip = None if gfx is None else "7.2.0"
    torch.version.cuda = "13.0" if gfx is None else None
    properties = SimpleNamespace(
        name=name,
        major=9,
        minor=0,
        total_memory=memory_bytes,
        multi_processor_count=16,
        gcnArchName="" if gfx is None else f"{gfx}:sramecc-:xnack-",
        is_integrated=gfx is not None,
        warp_size=32,
        uuid="0",
        pci_bus_id=0,
    )
    answers = {
        "is_available": True,
        "is_initialized": True,
        "device_count": 1,
        "current_device": 0,
        "_exchange_device": 0,
        "_maybe_exchange_device": 0,
        "get_device_name": name,
        "get_device_capability": (9, 0),
        "get_device_properties": properties,
        "get_arch_list": ["sm_90"] if gfx is None else [gfx],
        "is_bf16_supported": True,
        "is_current_stream_capturing": False,
        "memory_stats": {},
        "_is_in_bad_fork": False,
        "get_rng_state": torch.empty(16, dtype=torch.uint8),
        "get_rng_state_all": [],
    }
    nothing = ("init", "_lazy_init", "set_device", "empty_cache", "ipc_collect", "manual_seed", "manual_seed_all",
               "set_rng_state", "set_rng_state_all")  # fmt: skip
    for key, value in {**answers, **dict.fromkeys(nothing)}.items():
        setattr(torch.cuda, key, lambda *arguments, _value=value, **options: _value)
        if "rng_state" in key:
            setattr(torch.cuda.random, key, getattr(torch.cuda, key))
    torch.cuda._initialized = True
    _install_memory(library, memory_bytes)
    _install_streams()
    _install_accelerator()
    if torch.Tensor.__deepcopy__ is not _deep_copy:
        torch.Tensor.__deepcopy__ = _deep_copy


def _install_memory(library: ctypes.CDLL, memory_bytes: int) -> None:
    cuda: Any = torch.cuda
    cuda.mem_get_info = lambda device=None: (memory_bytes - library.allocated_bytes(), memory_bytes)
    cuda.memory_allocated = cuda.memory_reserved = lambda device=None: library.allocated_bytes()
    cuda.max_memory_allocated = cuda.max_memory_reserved = lambda device=None: library.peak_bytes()
    cuda.reset_peak_memory_stats = lambda device=None: library.reset_peak()
    cuda.set_per_process_memory_fraction = lambda fraction, device=None: library.set_limit(int(fraction * memory_bytes))


def _install_streams() -> None:
    cuda: Any = torch.cuda
    stream = Stream()
    cuda.Stream, cuda.Event = Stream, Event
    cuda.stream = lambda stream: nullcontext()
    cuda.synchronize = synchronize
    for module in (torch.cuda, torch.accelerator):
        module.current_stream = module.default_stream = lambda device=None: stream


def _install_accelerator() -> None:
    accelerator: Any = torch.accelerator
    accelerator.is_available = lambda: True
    accelerator.current_accelerator = lambda check_available=False: torch.device("cuda")
    accelerator.device_count = lambda: 1
    accelerator.current_device_index = lambda: 0
    accelerator.synchronize = synchronize


_plain_deep_copy = torch.Tensor.__deepcopy__


def _deep_copy(self: torch.Tensor, memo: dict[int, Any]) -> torch.Tensor:
    """By `clone`: torch goes through a bare storage of the device, which a CPU build cannot make."""
    if not self.is_cuda or id(self) in memo:
        return _plain_deep_copy(self, memo)
    copied = self.detach().clone().requires_grad_(self.requires_grad)
    if isinstance(self, torch.nn.Parameter):
        copied = torch.nn.Parameter(copied.detach(), self.requires_grad)
    memo[id(self)] = copied
    return copied
