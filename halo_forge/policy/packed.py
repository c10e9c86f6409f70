"""Weights laid out as the CPU's matrix products read them, while nothing is trained."""

from __future__ import annotations

import abc
import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from halo_forge.policy.forwards import replaced_forwards

if TYPE_CHECKING:
    import torch

_ROWS = 64
"""What the layout is chosen for; it serves any number of rows."""
_MEMORY_SHARE = 0.25
"""Of the memory that is free, this much at most goes to the second copy of the weights."""
_SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Layers that get the same input, by the names that the library's models give them."""


@contextlib.contextmanager
def packed_linears(model: Any) -> Iterator[None]:
    """While the block runs, bfloat16 linear layers on a CPU multiply with a packed copy of their weights.

    The plain layout is rearranged in every product, which for the few rows of a decoding step costs as much as the
    product.  Layers that get the same input become one product, their adapters included: a step is hundreds of small
    products, and starting each of them costs too.  The layers must not be trained meanwhile, and gradients do not pass.
    """
    layers = _suitable(model)
    forwards: dict[Any, Callable[..., torch.Tensor]] = {}
    for members in siblings(model, layers):
        group = _Packed(members, model.dtype)
        forwards |= {member: group.forward_of(number) for number, member in enumerate(members)}
        layers -= {base_of(member) for member in members}
    for layer in _adapted(model, layers):
        forwards[layer] = _Packed([layer], model.dtype).forward_of(0)
        layers.remove(base_of(layer))
    forwards |= {layer: _packed_forward(layer) for layer in layers}
    with replaced_forwards(forwards):
        yield


def _suitable(model: Any) -> set[Any]:
    import torch

    operations = torch.ops.mkldnn  # not public: a later torch may do without them
    if not hasattr(operations, "_reorder_linear_weight") or not operations._is_mkldnn_bf16_supported():
        return set()
    layers = {
        module
        for module in model.modules()
        if type(module) is torch.nn.Linear
        and module.weight.device.type == "cpu"
        and module.weight.dtype == torch.bfloat16
        and not module.weight.requires_grad
    }
    num_bytes = sum(layer.weight.numel() * layer.weight.element_size() for layer in layers)
    free_bytes = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return layers if num_bytes <= _MEMORY_SHARE * free_bytes else set()


def siblings(model: Any, layers: set[Any]) -> list[list[Any]]:
    """Layers with the same input that can become one product: some of `layers`, or plain LoRA layers around such."""
    found = []
    for parent in model.modules():
        for names in _SIBLINGS:
            members = [getattr(parent, name, None) for name in names]
            if all(base_of(member) in layers and is_plain(member) for member in members):
                found.append(members)
    return found


def _adapted(model: Any, layers: set[Any]) -> list[Any]:
    """Plain LoRA layers around some of `layers`."""
    return [
        module
        for module in model.modules()
        if base_of(module) in layers and module is not base_of(module) and is_plain(module)
    ]


def base_of(member: Any) -> Any:
    """The linear layer itself, without the adapter around it."""
    return getattr(member, "base_layer", member)


def is_plain(member: Any) -> bool:
    """Whether the layer computes W x, or W x + s B A x, and nothing else."""
    from peft.tuners.lora.layer import Linear

    if member is base_of(member):
        return True
    return type(member) is Linear and not member.lora_variant and len(member.active_adapters) == 1


class Group(abc.ABC):
    """Layers with the same input as one: y = [W1; W2; ...] x + [s1 B1 A1; s2 B2 A2; ...] x.

    The first layer that is called computes the output of all of them; the others take their part of it.
    """

    def __init__(self, members: Sequence[Any], dtype: torch.dtype) -> None:
        import torch

        bases = [base_of(member) for member in members]
        self._sizes: list[int] = [base.out_features for base in bases]
        self.members = list(members)
        with torch.no_grad():
            self._bias = None
            if any(base.bias is not None for base in bases):
                zeros = bases[0].weight.new_zeros
                self._bias = torch.cat([zeros(base.out_features) if base.bias is None else base.bias for base in bases])
            self._halves = self._adapters(dtype)
            self._lay_out(bases)
        self._input: torch.Tensor | None = None
        self._output: tuple[torch.Tensor, ...] = ()

    def _adapters(self, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor] | None:
        """A^T, (input size, ranks), and s B^T, (ranks, output size) with a block for each layer; None without any."""
        import torch

        adapted = [member for member in self.members if member is not base_of(member)]
        if not adapted:
            return None
        names = {member: member.active_adapters[0] for member in adapted}
        downs = [member.lora_A[names[member]].weight for member in adapted]
        blocks = []
        for member, size in zip(self.members, self._sizes, strict=True):
            if member in names:
                name = names[member]
                blocks.append((member.scaling[name] * member.lora_B[name].weight).T)
            else:
                blocks.append(downs[0].new_zeros(0, size))
        return torch.cat(downs).T.to(dtype), torch.block_diag(*blocks).to(dtype)

    def forward_of(self, number: int) -> Callable[..., torch.Tensor]:
        """What the layer `number` of the group computes."""

        def forward(x: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
            if self._input is not x:
                self._input, self._output = x, self._compute(x)
            output = self._output[number]
            if number == len(self._sizes) - 1:
                self._input, self._output = None, ()
            return output

        return forward

    def _adapters_are_on(self) -> bool:
        return not any(getattr(member, "disable_adapters", False) for member in self.members)

    @abc.abstractmethod
    def _lay_out(self, bases: Sequence[Any]) -> None:
        """Bring the weights of the layers into the form that `_compute` takes."""

    @abc.abstractmethod
    def _compute(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The outputs of all layers, (..., output size) each, for the input (..., input size)."""


class _Packed(Group):
    """One product with a packed copy of all weights, the adapters' B beside them: y = [W, s B] [x; A x]."""

    def _lay_out(self, bases: Sequence[Any]) -> None:
        import torch

        whole = torch.cat([base.weight for base in bases])
        self._packed_down: torch.Tensor | None = None
        if self._halves is None:
            self._weight = _pack(whole)
        else:
            down, up = self._halves
            self._packed_down = _pack(down.T.contiguous())
            self._weight = _pack(torch.cat([whole, up.T], dim=1))

    def _compute(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        import torch

        flat = x.reshape(-1, x.shape[-1])
        if self._packed_down is not None:
            low = _product(flat, self._packed_down, None)
            flat = torch.cat([flat, low if self._adapters_are_on() else torch.zeros_like(low)], dim=1)
        product = _product(flat, self._weight, self._bias)
        return torch.split(product.view(*x.shape[:-1], product.shape[-1]), self._sizes, dim=-1)


def _pack(weight: torch.Tensor) -> torch.Tensor:
    import torch

    packed: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS)
    return packed


def _product(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    import torch

    product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
    return product


def _packed_forward(layer: torch.nn.Linear) -> Callable[[torch.Tensor], torch.Tensor]:
    import torch

    with torch.no_grad():
        weight = _pack(layer.weight.data)

    def forward(x: torch.Tensor) -> torch.Tensor:
        product = _product(x.reshape(-1, x.shape[-1]), weight, layer.bias)
        return product.view(*x.shape[:-1], product.shape[-1])

    return forward
