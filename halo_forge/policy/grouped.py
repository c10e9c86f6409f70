"""Linear layers with few kernels to start, for a GPU, while nothing is trained.

A decoding step on a GPU is bound by the number of kernels it starts long before it is bound by what they compute.
Layers that get the same input become one product, and the adapters' A matrices are further rows of the same weight:
[W1; W2; A1; A2] x gives the outputs and what B has to be multiplied with, and a second product adds s B A x.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from halo_forge.policy.forwards import replaced_forwards
from halo_forge.policy.packed import Group, base_of, is_plain, siblings

if TYPE_CHECKING:
    import torch

_RANK_MULTIPLE = 8
"""Rows of the common weight come in multiples of this: matrix products are slower at odd sizes."""


@contextlib.contextmanager
def grouped_linears(model: Any) -> Iterator[None]:
    """While the block runs, linear layers on a GPU that get the same input are one product, their adapters included.

    The first time, the layers' weights become views of their common weight and stay so, so that no weight is there
    twice; they hold the same numbers and can be trained around, saved and merged as before.  The layers must not be
    trained while the block runs, and gradients do not pass.
    """
    forwards = {
        member: group.forward_of(number) for group in _groups(model) for number, member in enumerate(group.members)
    }
    with replaced_forwards(forwards):
        yield


def _groups(model: Any) -> list[_OnGpu]:
    import torch

    if model.device.type == "cpu":
        return []
    with torch.inference_mode(False):  # weights that were made in inference mode could not be trained around
        return [_OnGpu(members, model.dtype) for members in _members(model)]


def _members(model: Any) -> list[list[Any]]:
    """Siblings that can become one product, and every other layer with an adapter, each by itself."""
    import torch
    from peft.tuners.lora import LoraLayer

    owners: dict[int, int] = {}
    for module in model.modules():
        for weight in module.parameters(recurse=False):
            owners[id(weight)] = owners.get(id(weight), 0) + 1
    suitable = {
        module
        for module in model.modules()
        if type(module) is torch.nn.Linear
        and module.weight.is_cuda
        and module.weight.dtype == model.dtype
        and module.weight.is_contiguous()
        and not module.weight.requires_grad
        and owners[id(module.weight)] == 1  # a tied weight can be part of one product only
    }
    found = siblings(model, suitable)
    taken = {base_of(member) for members in found for member in members}
    adapted = [each for each in model.modules() if isinstance(each, LoraLayer) and each is not base_of(each)]
    return found + [
        [each] for each in adapted if is_plain(each) and base_of(each) in suitable and base_of(each) not in taken
    ]


class _OnGpu(Group):
    """One product for the base layers and the adapters' first halves, one for the second halves."""

    def _lay_out(self, bases: Sequence[Any]) -> None:
        import torch

        num_ranks = 0 if self._halves is None else self._halves[0].shape[1]
        total = sum(self._sizes)
        num_rows = total + -(-num_ranks // _RANK_MULTIPLE) * _RANK_MULTIPLE
        self._whole = _common_weight(bases, num_rows)
        self._ranks = slice(total, total + num_ranks)
        if self._halves is not None:
            self._whole[self._ranks] = self._halves[0].T
        if self._bias is not None:
            self._bias = torch.cat([self._bias, self._bias.new_zeros(num_rows - total)])

    def _compute(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        import torch

        rows, weight = x.reshape(-1, x.shape[-1]), self._whole.T
        whole = rows @ weight if self._bias is None else torch.addmm(self._bias, rows, weight)
        output = whole[:, : self._ranks.start]
        if self._halves is not None and self._adapters_are_on():
            output.addmm_(whole[:, self._ranks], self._halves[1])
        return torch.split(output.view(*x.shape[:-1], output.shape[-1]), self._sizes, dim=-1)


def _common_weight(bases: Sequence[Any], num_rows: int) -> torch.Tensor:
    """(num_rows, inputs): the layers' weights below each other, which they are views of, and room for the adapters."""
    import torch

    weights: list[torch.Tensor] = [base.weight for base in bases]
    num_inputs = weights[0].shape[1]
    starts = list(accumulate((len(weight) for weight in weights), initial=0))
    storage = weights[0].untyped_storage()
    is_laid_out = storage.nbytes() == num_rows * num_inputs * weights[0].element_size() and all(
        weight.untyped_storage().data_ptr() == storage.data_ptr() and weight.storage_offset() == start * num_inputs
        for weight, start in zip(weights, starts, strict=False)
    )
    if is_laid_out:
        return weights[0].data.as_strided((num_rows, num_inputs), (num_inputs, 1), 0)
    whole = weights[0].data.new_zeros(num_rows, num_inputs)
    for weight, start in zip(weights, starts, strict=False):
        part = whole[start : start + len(weight)]
        part.copy_(weight.data)
        weight.data = part
    del storage, weights
    # Given back at once: no later group fits into the blocks of this one, and they would be there twice in the end.
    torch.cuda.empty_cache()
    return whole
