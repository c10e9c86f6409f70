"""What a profile is: the values that a kind of machine takes where the configuration says `auto`."""

from __future__ import annotations

import abc
import os
import sys
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from halo_forge.hardware.devices import Gpu
from halo_forge.hardware.machine import Machine
from halo_forge.hardware.shape import ModelSize

Device = Literal["cpu", "cuda"]
"""torch's name: an AMD GPU is "cuda" too."""

LARGE_MODEL = 2_500_000_000
"""From this size on activations are recomputed where nothing is known about the memory."""
LONG_ROW = 2048
LEAST_TOKENS = 256
_TRAINING_SHARE = 0.5
"""Of the memory, for the activations of one forward pass; the rest holds weights, gradients and optimizer."""


@dataclass(frozen=True)
class Profile(abc.ABC):
    """The choices for one kind of machine; a kind is a subclass with its own values.

    Attributes:
        machine: Where memory and processors are read from.
        why: What this profile was chosen by.
        given: The configuration names it, so that nothing else may take its place.
        chosen: Which of the values below the configuration gives.
        gpu: The GPU that is used, once torch has said which.
        unused: Others that torch could have used.
        memory_fraction: The share of the available memory that a run may use.
        optimizer: As transformers calls it (`TrainingArguments.optim`).
        pin_memory: Batches are copied to the device from page-locked memory.
        fused_head: See `takes_fused_head`; None where the configuration leaves it open.
    """

    machine: Machine
    why: str
    given: bool = False
    chosen: frozenset[str] = frozenset()
    gpu: Gpu | None = None
    unused: tuple[Gpu, ...] = ()
    memory_fraction: float = 0.6
    optimizer: str = "adamw_torch"
    pin_memory: bool = False
    fused_head: bool | None = None

    name: ClassVar[str]
    device: ClassVar[Device]
    attention: ClassVar[str] = "sdpa"
    environment: ClassVar[Mapping[str, str]] = {}
    """Set before torch is imported, where the user has not set them."""
    spare_processors: ClassVar[int] = 0
    """Left free of checking: a GPU waits for the thread that launches its kernels, and for those of its driver."""
    rows: ClassVar[tuple[tuple[float, int], ...]]
    """(up to so many parameters, rows in flight), the smallest first; the last holds for all larger ones."""
    tokens: ClassVar[tuple[tuple[float, int], ...]]
    """(up to so many parameters, tokens of one training pass), in the same way."""

    def dtype(self) -> str:
        """Number format of the base weights."""
        return "bfloat16"

    def takes_fused_head(self) -> bool:
        """Whether training takes TRL's loss, which goes over the vocabulary in tiles, by a Triton kernel.

        It holds 64 kB for a labelled token, and the plain one 12 bytes for each word of the vocabulary: 1.8 MB at
        152,000.  Without Triton it is written out in torch, and computes logits twice for no gain.
        """
        return self.device == "cuda" and self.machine.triton if self.fused_head is None else self.fused_head

    def rows_in_flight(self, num_parameters: int) -> int:
        """Completions that are sampled together; fewer where their caches do not fit into the memory."""
        return _step(self.rows, num_parameters)

    def training_pass(
        self, size: ModelSize, longest: int, max_tokens: int | str = "auto", checkpointing: bool | str = "auto"
    ) -> tuple[int, bool]:
        """Tokens of one forward pass of training, and whether activations are recomputed; what is given stays.

        Args:
            longest: Tokens of the longest row.
        """
        recomputed = self.gradient_checkpointing(size, longest) if isinstance(checkpointing, str) else checkpointing
        tokens = self.max_tokens_per_pass(size, recomputed) if isinstance(max_tokens, str) else max_tokens
        return tokens, recomputed

    def max_tokens_per_pass(self, size: ModelSize, checkpointing: bool) -> int:
        """Tokens of one forward pass of training, padding included; at least `LEAST_TOKENS`."""
        most, budget = _step(self.tokens, size.num_parameters), self.memory_budget_bytes()
        if budget is None:
            return most
        each = size.activation_bytes(checkpointing=checkpointing, fused_head=self.takes_fused_head())
        while most > LEAST_TOKENS and most * each > budget * _TRAINING_SHARE:
            most //= 2  # in powers of two: a little more or less free memory is the same choice
        return most

    def gradient_checkpointing(self, size: ModelSize, longest: int) -> bool:
        """Whether activations are recomputed: it costs a third more operations, so only where a row does not fit."""
        budget = self.memory_budget_bytes()
        if budget is None:
            return size.num_parameters >= LARGE_MODEL or longest > LONG_ROW
        return longest * size.activation_bytes(fused_head=self.takes_fused_head()) > budget * _TRAINING_SHARE

    @abc.abstractmethod
    def memory_budget_bytes(self) -> int | None:
        """What may be taken now, with what this process holds already left out; None where it cannot be known yet."""

    def process_fraction(self, total_bytes: int) -> float | None:
        """The share of the device's memory that torch may take at most; None leaves it without a limit of its own.

        A limit of torch's own is set where the configuration gives `memory_fraction`: the rest is for others then.

        Args:
            total_bytes: The device's memory as torch sees it.
        """
        if "memory_fraction" not in self.chosen:
            return None
        budget = self.memory_budget_bytes()
        return self.memory_fraction if budget is None or total_bytes <= 0 else min(1.0, budget / total_bytes)

    def set_environment(self, environment: MutableMapping[str, str] = os.environ) -> None:
        """Set what this profile wants, and nothing that the user set."""
        for name, value in self.environment.items():
            environment.setdefault(name, value)

    def environment_in_force(self) -> dict[str, str]:
        """The variables of this profile with the values that a run has: the user's own where there is one."""
        return {name: self.machine.environment.get(name, value) for name, value in self.environment.items()}

    def described(self) -> str:
        """The profile, why it was chosen, and which GPU is used and which are not, in one line."""
        text = f"{self.name} ({self.why})"
        if self.gpu is not None:
            text += f": {_free(self.gpu)}"
        if self.unused:
            text += f"; not used: {', '.join(map(_free, self.unused))}"
        return text


def _free(gpu: Gpu) -> str:
    reason = "" if gpu.has_kernels else ", and this torch has no kernels for it"
    return f"{gpu.name}, {gpu.failure if gpu.failure else f'{gpu.free_bytes / 1e9:.1f} GB free'}{reason}"


def unused_by_torch() -> int:
    """Bytes that torch holds on the GPU and can use again, which the driver counts as used; 0 while it is not there."""
    torch = _torch_with_gpu()
    return 0 if torch is None else int(torch.cuda.memory_reserved() - torch.cuda.memory_allocated())


def held_by_torch() -> int:
    """Bytes that torch has taken from the GPU, in use or not; 0 while it is not there."""
    torch = _torch_with_gpu()
    return 0 if torch is None else int(torch.cuda.memory_reserved())


def _torch_with_gpu() -> Any | None:
    torch = sys.modules.get("torch")
    return torch if torch is not None and torch.cuda.is_available() else None


def _step(table: tuple[tuple[float, int], ...], num_parameters: int) -> int:
    return next((value for most, value in table if num_parameters <= most), table[-1][1])
