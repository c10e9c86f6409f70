"""The base class of profiles: the values that a kind of machine uses where the configuration says `auto`."""

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
"""Number of parameters from which on activations are recomputed if the amount of memory is unknown."""
LONG_ROW = 2048
"""Tokens; longer rows have their activations recomputed if the amount of memory is unknown."""
LEAST_TOKENS = 256
"""Tokens of a training pass, below which it is not made smaller to fit into memory."""
_TRAINING_SHARE = 0.5
"""Share of the memory budget for the activations of one pass; the rest holds weights, gradients and optimizer."""


@dataclass(frozen=True)
class Profile(abc.ABC):
    """The choices for one kind of machine; a kind is a subclass with its own values.

    Attributes:
        machine: Where memory and processors are read from.
        why: Why this profile was chosen.
        given: The configuration names it, so it must not be replaced by another.
        chosen: The names of those values below that the configuration gives.
        gpu: The GPU that is used, once torch has said which.
        unused: Other GPUs that torch could have used.
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
    """Variables that are set before torch is imported, unless the user has set them."""
    spare_processors: ClassVar[int] = 0
    """Processors that verification leaves free for the threads that launch kernels and for those of the driver."""
    rows: ClassVar[tuple[tuple[float, int], ...]]
    """(largest number of parameters, rows in flight), ascending; the last entry also applies to all larger models."""
    tokens: ClassVar[tuple[tuple[float, int], ...]]
    """(largest number of parameters, tokens of one training pass), in the same form."""

    def dtype(self) -> str:
        """Number format of the base weights."""
        return "bfloat16"

    def takes_fused_head(self) -> bool:
        """Whether training uses TRL's loss, a Triton kernel that processes the vocabulary in tiles.

        It needs 64 kB per labelled token; the plain loss needs 12 bytes per vocabulary entry, 1.8 MB at 152,000.
        Without Triton it falls back to torch operations, which compute the logits twice for no gain.
        """
        return self.device == "cuda" and self.machine.triton if self.fused_head is None else self.fused_head

    def rows_in_flight(self, num_parameters: int) -> int:
        """The most completions sampled together; the engine uses fewer if their caches do not fit into memory."""
        return _step(self.rows, num_parameters)

    def training_pass(
        self, size: ModelSize, longest: int, max_tokens: int | str = "auto", checkpointing: bool | str = "auto"
    ) -> tuple[int, bool]:
        """Tokens of one forward pass of training, and whether activations are recomputed; given values are kept.

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
            most //= 2  # by halving, so that small changes of the free memory do not change the choice
        return most

    def gradient_checkpointing(self, size: ModelSize, longest: int) -> bool:
        """Whether activations are recomputed, which costs a third more operations: only if a row would not fit."""
        budget = self.memory_budget_bytes()
        if budget is None:
            return size.num_parameters >= LARGE_MODEL or longest > LONG_ROW
        return longest * size.activation_bytes(fused_head=self.takes_fused_head()) > budget * _TRAINING_SHARE

    @abc.abstractmethod
    def memory_budget_bytes(self) -> int | None:
        """Bytes that this process may still allocate, beyond what it already holds; None while that is unknown."""

    def process_fraction(self, total_bytes: int) -> float | None:
        """The largest share of the device's memory that torch may allocate; None sets no limit.

        A limit is set if the configuration gives `memory_fraction`: the rest is then reserved for other programs.

        Args:
            total_bytes: The device's memory as torch sees it.
        """
        if "memory_fraction" not in self.chosen:
            return None
        budget = self.memory_budget_bytes()
        return self.memory_fraction if budget is None or total_bytes <= 0 else min(1.0, budget / total_bytes)

    def set_environment(self, environment: MutableMapping[str, str] = os.environ) -> None:
        """Set the variables of this profile, except those that the user has set."""
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
    """Bytes that torch caches on the GPU, which the driver counts as used; 0 without torch or a GPU."""
    torch = _torch_with_gpu()
    return 0 if torch is None else int(torch.cuda.memory_reserved() - torch.cuda.memory_allocated())


def held_by_torch() -> int:
    """Bytes that torch has reserved on the GPU, in use or not; 0 without torch or a GPU."""
    torch = _torch_with_gpu()
    return 0 if torch is None else int(torch.cuda.memory_reserved())


def _torch_with_gpu() -> Any | None:
    torch = sys.modules.get("torch")
    return torch if torch is not None and torch.cuda.is_available() else None


def _step(table: tuple[tuple[float, int], ...], num_parameters: int) -> int:
    return next((value for most, value in table if num_parameters <= most), table[-1][1])
