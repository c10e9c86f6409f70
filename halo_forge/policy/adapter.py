"""The LoRA adapter on the base model: initialised from a seed, or loaded and checked."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from halo_forge.core.errors import ModelError
from halo_forge.core.seeds import derive_seed
from halo_forge.policy.files import ModelSettings, explained
from halo_forge.policy.forwards import replaced_forwards

if TYPE_CHECKING:
    import torch
    from peft import PeftModel


class LoraSettings(Protocol):
    """The `lora` section of the configuration."""

    @property
    def r(self) -> int: ...
    @property
    def lora_alpha(self) -> float: ...
    @property
    def lora_dropout(self) -> float: ...
    @property
    def target_modules(self) -> str | list[str]: ...
    @property
    def use_rslora(self) -> bool: ...


def with_adapter(base: Any, settings: ModelSettings, lora: LoraSettings, seed: int) -> PeftModel:
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model

    if settings.adapter is not None:
        with explained(settings.adapter):
            model = PeftModel.from_pretrained(base, settings.adapter, is_trainable=True)
        loaded = model.peft_config["default"]
        if not isinstance(loaded, LoraConfig):
            kind = getattr(loaded.peft_type, "value", loaded.peft_type)
            raise ModelError(
                f"model.adapter: {settings.adapter} is an adapter of type {kind}, allowed: LORA",
                "name the folder of a LoRA adapter",
            )
        for key in ("r", "lora_alpha", "use_rslora"):
            found, wanted = getattr(loaded, key), getattr(lora, key)
            if found != wanted:
                raise ModelError(
                    f"model.adapter: {settings.adapter} has {key} {found}, but lora.{key} is {wanted}",
                    f"set lora.{key} to {found}",
                )
        modules = set(loaded.target_modules or ())
        if lora.target_modules != "all-linear" and modules != set(lora.target_modules):
            raise ModelError(
                f"model.adapter: {settings.adapter} is on {sorted(modules)}, but lora.target_modules is"
                f" {list(lora.target_modules)}",
                f"set lora.target_modules to {sorted(modules)}",
            )
        # The library initialises weights that the file lacks randomly.
        adapter_weights(settings.adapter, named_weights(model))
        return _trainable(model)
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.lora_alpha,  # type: ignore[arg-type]  # PEFT divides it by r: any number does
        lora_dropout=lora.lora_dropout,
        target_modules=lora.target_modules,
        use_rslora=lora.use_rslora,
        bias="none",
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(), explained("lora.target_modules"):
        torch.manual_seed(derive_seed(seed, "lora_init"))
        return _trainable(get_peft_model(base, config))


def _trainable(model: PeftModel) -> PeftModel:
    """The model, if the trainer can train its adapter; checked here rather than after the first cycle's sampling."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    if isinstance(model.get_output_embeddings(), BaseTunerLayer):
        raise ModelError(
            "lora.target_modules: an adapter on the output layer (lm_head) cannot be trained: the loss is computed"
            " from the layer's own weight",
            "remove lm_head from lora.target_modules",
        )
    return model


@contextlib.contextmanager
def fused_adapter(model: PeftModel) -> Iterator[None]:
    """While the block runs, every plain LoRA layer adds s B A x to its output in one product, in the model's dtype.

    PEFT's forward casts its input to float32, scales and adds in separate passes over the output.  The float32 weights
    are unchanged; gradients reach them through the cast.  Base weights may be in 4 bits.  Layers that compute more than
    W x + s B A x, and those with dropout during training, keep PEFT's forward.
    """
    layers = [module for module in model.modules() if is_fusable_lora(module)]
    # All before the first is used: if the memory runs out here, no layer keeps a copy of its weights.
    forwards = [_fused_forward(layer, model.dtype) for layer in layers]
    with replaced_forwards(dict(zip(layers, forwards, strict=True))):
        yield


def is_fusable_lora(module: Any) -> bool:
    """Whether a module is a LoRA layer that computes W x + s B A x and nothing else."""
    from peft.tuners import lora

    # Only present if bitsandbytes is.
    plain = {lora.Linear, getattr(lora, "Linear4bit", lora.Linear)}
    return type(module) in plain and not module.lora_variant


def _fused_forward(layer: Any, dtype: torch.dtype) -> Callable[..., torch.Tensor]:
    import torch

    (name,) = layer.active_adapters
    down, up, scale = layer.lora_A[name], layer.lora_B[name], layer.scaling[name]
    drops = not isinstance(layer.lora_dropout[name], torch.nn.Identity)

    def weights() -> tuple[torch.Tensor, torch.Tensor]:
        return down.weight.T.to(dtype), (scale * up.weight).T.to(dtype)

    with torch.no_grad():
        fixed = weights()

    def forward(x: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        if drops and layer.training:
            unfused: torch.Tensor = type(layer).forward(layer, x, *arguments, **options)
            return unfused
        output: torch.Tensor = layer.base_layer(x, *arguments, **options)
        if layer.disable_adapters:
            return output
        a, b = weights() if torch.is_grad_enabled() else fixed
        if torch.is_grad_enabled():
            return torch.addmm(output.flatten(0, -2), x.flatten(0, -2) @ a, b).view_as(output)
        output.view(-1, output.shape[-1]).addmm_(x.flatten(0, -2) @ a, b)  # nothing else holds the base layer's output
        return output

    return forward


def named_weights(model: PeftModel) -> dict[str, torch.Tensor]:
    from peft import get_peft_model_state_dict

    # Never the embeddings: by default the library asks a model hub whether the vocabulary was resized.
    return dict(get_peft_model_state_dict(model, save_embedding_layers=False))


def moved_together(tensors: Sequence[torch.Tensor], device: torch.device | str) -> list[torch.Tensor]:
    """Copies of many small tensors of one dtype on another device, in one transfer, so a GPU is waited for once."""
    import torch

    flat = torch.cat([tensor.flatten() for tensor in tensors]).to(device)
    parts = torch.split(flat, [tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


def trainable_weights(model: PeftModel) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}


def average_weights(model: PeftModel, start: Mapping[str, torch.Tensor], weight: float) -> None:
    """Every trained tensor becomes `(1 - weight) * start + weight * trained`.

    A and B are averaged separately.  Averaging the products B A would need twice the rank, and truncating that to rank
    r by its singular values would rotate the axes in which the next cycle trains and its optimizer state is kept.
    With a = weight, and dA and dB the changes of this cycle, the product is the average of the products less
    `a (1 - a) dB dA`: of second order in the change of one cycle.  That is small only because `start` is where this
    training began; independently trained adapters have no common axes, and must not be averaged like this.
    """
    import torch

    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.requires_grad:
                value.copy_(torch.lerp(start[name], value, weight))


def adapter_weights(folder: str, wanted: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights in an adapter folder, checked to have the names and shapes of `wanted`."""
    from peft import load_peft_weights

    with explained(folder):
        weights = dict(load_peft_weights(folder, device="cpu"))
    for name in sorted(wanted.keys() | weights.keys()):
        shapes = [tuple(each[name].shape) if name in each else "none" for each in (weights, wanted)]
        if shapes[0] != shapes[1]:
            raise ModelError(
                f"{folder}: the adapter does not match this model: {name} is {shapes[0]}, {shapes[1]} is needed",
                "use it with the base model and the lora section that it was created with",
            )
    return weights
