"""What a profile is: the values that a kind of machine takes where the configuration says `auto`."""

from __future__ import annotations

import abc
import os
import sys
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from halo_forge.hardware.machine import Machine

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
        memory_fraction: The share of the memory at hand that a run may take.
        optimizer: As transformers calls it (`TrainingArguments.optim`).
        pin_memory: Batches are copied to the device from page-locked memory.
        fused_head: See `takes_fused_head`; None where the configuration leaves it open.
    """

    machine: Machine
    why: str
    given: bool = False
    chosen: frozenset[str] = frozenset()
    memory_fraction: float = 0.6
    optimizer: str = "adamw_torch"
    pin_memory: bool = False
    fused_head: bool | None = None

    name: ClassVar[str]
    device: ClassVar[Device]
    attention: ClassVar[str] = "sdpa"
    environment: ClassVar[Mapping[str, str]] = {}
    """Set before torch is imported, where the user has not set them."""
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

    def max_tokens_per_pass(self, num_parameters: int) -> int:
        """Tokens of one forward pass of training, padding included; at least `LEAST_TOKENS`."""
        most, budget = _step(self.tokens, num_parameters), self.memory_budget_bytes()
        if budget is None:
            return most
        fitting = int(budget * _TRAINING_SHARE / activation_bytes(num_parameters))
        while most > LEAST_TOKENS and most > fitting:
            most //= 2  # in powers of two: a little more or less free memory is the same choice
        return most

    def gradient_checkpointing(self, num_parameters: int, longest: int) -> bool:
        """Whether activations are recomputed: it costs half as many operations again, so only where memory asks.

        Args:
            longest: Tokens of the longest row.
        """
        budget = self.memory_budget_bytes()
        if budget is None:
            return num_parameters >= LARGE_MODEL or longest > LONG_ROW
        return longest * activation_bytes(num_parameters) > budget * _TRAINING_SHARE

    @abc.abstractmethod
    def memory_budget_bytes(self) -> int | None:
        """What may be taken now, with what this process holds already left out; None where it cannot be known yet."""

    def process_fraction(self, total_bytes: int) -> float | None:
        """The share of the device's memory that torch may take at most; None leaves it without a limit of its own.

        Args:
            total_bytes: The device's memory as torch sees it.
        """
        return None

    def set_environment(self, environment: MutableMapping[str, str] = os.environ) -> None:
        """Set what this profile wants, and nothing that the user set."""
        for name, value in self.environment.items():
            environment.setdefault(name, value)


def activation_bytes(num_parameters: int) -> int:
    """A rough bound of the memory of one token in a training pass without checkpointing, in bytes.

    From the shapes of SmolLM2 and Qwen2.5 in bfloat16 with LoRA on every linear layer: logits, which half of the
    tokens have, and activations that grow with the model; 1.6 MB at 0.5 and 6.1 MB at 7 billion parameters in all.
    """
    return int(1_200_000 + 0.7e-3 * num_parameters)


def unused_by_torch() -> int:
    """Bytes that torch holds on the GPU and can use again, which the driver counts as used; 0 while it is not there."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return 0
    return int(torch.cuda.memory_reserved() - torch.cuda.memory_allocated())


def _step(table: tuple[tuple[float, int], ...], num_parameters: int) -> int:
    return next((value for most, value in table if num_parameters <= most), table[-1][1])
