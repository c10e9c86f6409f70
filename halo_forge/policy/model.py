"""The model in memory."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from halo_forge.core.errors import ConfigError, ModelError
from halo_forge.core.records import Prompt
from halo_forge.core.source import ReasoningMarks
from halo_forge.hardware import ModelShape, ModelSize, Profile, detect, prepare
from halo_forge.policy.adapter import (
    LoraSettings,
    adapter_weights,
    average_weights,
    fused_adapter,
    moved_together,
    named_weights,
    trainable_weights,
    with_adapter,
)
from halo_forge.policy.chat_template import end_of_turn_id, generation_stop_ids
from halo_forge.policy.device import limit_memory, on_this_torch
from halo_forge.policy.files import (
    ADAPTER_FILES,
    ModelSettings,
    check_local,
    disk_full_is_os_error,
    explained,
    identity_of,
)
from halo_forge.policy.grouped import grouped_linears
from halo_forge.policy.heap import freed_memory_kept
from halo_forge.policy.packed import packed_linears
from halo_forge.policy.quantized import check_quantization, keep_one_layout, loading_arguments, num_weights
from halo_forge.policy.rendering import Renderer, load_tokenizer
from halo_forge.policy.threads import yielding_threads

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase


class Policy:
    """A causal language model with one trainable LoRA adapter.

    Attributes:
        model: The PEFT model; base weights frozen in `dtype` or in 4 bits, adapter weights in float32.
        tokenizer: Its tokenizer, with a chat template.
        version: Which policy version the adapter in memory is: 0 is the start model.
        end_of_turn_id: The token that ends an assistant message in the chat template; learned in training.
        stop_ids: Tokens that end a completion when sampled.
        identity: Identifies the start model, for run.json.
        rendering: How prompts are rendered.
        profile: Determines the automatic settings of sampling and training.
        trust_remote_code: Code of the model's own folder or repository may run (`model.trust_remote_code`).
        num_parameters: Of base model and adapter together.
    """

    def __init__(
        self,
        model: PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        identity: Mapping[str, str],
        response_prefix: str | None = None,
        profile: Profile | None = None,
        trust_remote_code: bool = False,
        date: datetime | None = None,
        reasoning_marks: ReasoningMarks | None = None,
    ) -> None:
        self.model = model
        self.trust_remote_code = trust_remote_code
        self.identity = dict(identity)
        self.profile = detect() if profile is None else profile
        self.num_parameters = sum(num_weights(parameter) for parameter in model.parameters())
        self.tokenizer = tokenizer
        prefix = response_prefix if response_prefix is not None else ""
        self.rendering = Renderer(tokenizer, prefix, date=date, reasoning_marks=reasoning_marks)
        self.version = 0
        self.end_of_turn_id = end_of_turn_id(tokenizer)
        self.stop_ids = frozenset({self.end_of_turn_id, *generation_stop_ids(model, tokenizer)})
        self._start_adapter = self._adapter_state()

    @classmethod
    def load(
        cls,
        settings: ModelSettings,
        lora: LoraSettings,
        *,
        seed: int,
        response_prefix: str | None = None,
        profile: Profile | None = None,
        date: datetime | None = None,
        reasoning_marks: ReasoningMarks | None = None,
    ) -> Policy:
        """Load the base model once, with the start adapter or a new one initialised from `seed` on top.

        Args:
            profile: From `hardware.prepare`; None uses the machine's own.
            date: What the chat template gets for the current time; see `Renderer`.
            reasoning_marks: Those of the model, if they are not among `REASONING_MARKS`.

        Raises:
            ModelError: The model, its tokenizer, its chat template or the start adapter cannot be used.
            ToolMissing: The package for `model.quantization` is missing or too old.
        """
        check_local(settings)
        check_quantization(settings.quantization)
        wanted = prepare() if profile is None else profile
        _no_progress_bars()
        common = {"revision": settings.revision, "trust_remote_code": settings.trust_remote_code}
        name = settings.model_name_or_path
        tokenizer = load_tokenizer(settings)
        profile = on_this_torch(wanted)
        limit_memory(profile)
        # `auto` names no kernel: transformers chooses sdpa, and eager for models without sdpa.
        attention = (
            {} if settings.attn_implementation == "auto" else {"attn_implementation": settings.attn_implementation}
        )
        dtype = resolve_dtype(settings.dtype, profile)
        quantization = loading_arguments(settings.quantization, dtype, profile.device)
        base: Any = _base_model(name, dtype=dtype, **quantization, **attention, **common)
        keep_one_layout(base)
        base.requires_grad_(False)
        on_device = base if quantization else base.to(profile.device)
        model = with_adapter(on_device, settings, lora, seed)
        model.eval()
        identity = identity_of(settings, base)
        return cls(
            model,
            tokenizer,
            identity=identity,
            response_prefix=response_prefix,
            profile=profile,
            trust_remote_code=settings.trust_remote_code,
            date=date,
            reasoning_marks=reasoning_marks,
        )

    @property
    def size(self) -> ModelSize:
        """The size of the model, from which the memory of a training pass follows."""
        shape = ModelShape.of(self.model.config.get_text_config().to_dict())
        return ModelSize(self.num_parameters, shape, self.model.dtype.itemsize)

    @property
    def lora_rank(self) -> int:
        """The rank r of the adapter's matrices."""
        rank: int = self.model.peft_config["default"].r  # type: ignore[attr-defined]  # it is a LoraConfig
        return rank

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = self.model.device
        return device

    @property
    def response_prefix(self) -> str:
        """What every completion begins with, after reasoning that the prompt opens."""
        return self.rendering.response_prefix

    def render(self, prompt: Prompt) -> str:
        """The text the model continues; see `Renderer.text`."""
        return self.rendering.text(prompt)

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        """Token ids of `render(prompt)`: the same on every call."""
        return self.rendering.ids(prompt)

    def response_start(self, prompt: Prompt) -> str:
        """What the text of every completion of this prompt begins with; see `Renderer.start`."""
        return self.rendering.start(prompt)

    @property
    def num_positions(self) -> int | None:
        """The most tokens that prompt and completion may have together; None if the model has no such limit."""
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None)

    def check_tokens(self, prompts: Iterable[Prompt]) -> None:
        """Detect a tokenizer that knows tokens which the model does not, before anything is generated.

        Tokens that occur nowhere do no harm, and are frequent: a padding token that was added to the tokenizer alone.

        Raises:
            ConfigError: A prompt, or the end of a turn, has a token without an embedding.
        """
        num_embeddings = self.model.get_input_embeddings().num_embeddings
        if len(self.tokenizer) <= num_embeddings:
            return
        for prompt in prompts:
            largest = max(*self.prompt_ids(prompt), self.end_of_turn_id)
            if largest >= num_embeddings:
                raise ConfigError(
                    f"prompt {prompt.id!r} has the token {largest} ({self.tokenizer.convert_ids_to_tokens(largest)!r}),"
                    f" but the model has embeddings for {num_embeddings} tokens",
                    "the tokenizer is another model's, or tokens were added to it alone: restore the model's own files",
                )

    def load_adapter(self, folder: Path | None, version: int) -> None:
        """Load another adapter of this run into the model in memory; None is the start adapter (v0).

        Raises:
            ModelError: The folder holds no adapter of this shape.
        """
        from peft import set_peft_model_state_dict

        weights = self._start_adapter if folder is None else adapter_weights(str(folder), self._start_adapter)
        moved = moved_together(list(weights.values()), self.device)
        set_peft_model_state_dict(self.model, dict(zip(weights, moved, strict=True)))
        self.version = version

    def save_adapter(self, folder: Path) -> None:
        """Write the adapter in memory as a plain PEFT folder that `PeftModel.from_pretrained` loads."""
        with disk_full_is_os_error():
            self.model.save_pretrained(str(folder), safe_serialization=True, save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)  # a model card template without content
        path = folder / ADAPTER_FILES[0]
        config = json.loads(path.read_text(encoding="utf-8"))
        # The library writes a set in the order of this process's string hashes; equal adapters have equal bytes.
        config["target_modules"] = sorted(config["target_modules"])
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    def trainable_weights(self) -> dict[str, torch.Tensor]:
        """A copy of the adapter in memory, in float32 and on its own device."""
        return trainable_weights(self.model)

    def average_with(self, start: Mapping[str, torch.Tensor], weight: float) -> None:
        """Average the adapter in memory, with weight `weight`, with `start`; see `adapter.average_weights`."""
        average_weights(self.model, start, weight)

    def adapter_norm(self) -> float:
        """Frobenius norm of the whole weight change, sqrt(sum over modules of ||s B A||_F^2); dimensionless.

        ||BA||_F^2 = trace((B^T B)(A A^T)), so no matrix larger than r x r is formed.  What the magnitudes of a DoRA
        adapter change is not in it.
        """
        import torch
        from peft.tuners.lora import LoraLayer

        total = torch.zeros((), dtype=torch.float64, device=self.device)
        layers: list[Any] = [module for module in self.model.modules() if isinstance(module, LoraLayer)]
        for layer in layers:
            for name, a in layer.lora_A.items():
                a_weight, b_weight = a.weight.detach().double(), layer.lora_B[name].weight.detach().double()
                gram = (b_weight.T @ b_weight) * (a_weight @ a_weight.T)
                total += layer.scaling[name] ** 2 * gram.sum()
        return math.sqrt(max(float(total), 0.0))

    @contextlib.contextmanager
    def sampling(self) -> Iterator[None]:
        """Evaluation mode, with a copy of the adapter in the base weights' dtype while the block runs.

        Merging it into the base weights would be faster still, but rounding W + sBA to bfloat16 drops updates below
        half a unit in the last place: a small learning rate would look like no learning at all.  `threads.adjust`
        works meanwhile.
        """
        self.model.eval()
        with (
            freed_memory_kept(),
            fused_adapter(self.model),
            packed_linears(self.model),
            grouped_linears(self.model),
            yielding_threads(self.device),
        ):
            yield

    def _adapter_state(self) -> dict[str, torch.Tensor]:
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in named_weights(self.model).items()}


def _base_model(name: str, **arguments: Any) -> Any:
    from transformers import AutoModelForCausalLM

    with explained(name):
        loaded: Any = AutoModelForCausalLM.from_pretrained(name, output_loading_info=True, **arguments)
    base, loading = loaded
    if loading["missing_keys"]:  # the loader fills them with random numbers
        missing = sorted(loading["missing_keys"])
        raise ModelError(
            f"model.model_name_or_path: {name}: {len(missing)} of the weights that a {type(base).__name__} needs are"
            f" not in its files: {', '.join(missing[:3])}",
            "download it again, or name a causal language model",
        )
    return base


def resolve_dtype(name: str, profile: Profile) -> torch.dtype:
    """torch's own object for `model.dtype`; `auto` is the profile's."""
    import torch

    found: torch.dtype = getattr(torch, profile.dtype() if name == "auto" else name)
    return found


def _no_progress_bars() -> None:
    """Switch off the libraries' own progress bars, which would garble ours."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
