"""Tiny causal language models with random weights, saved as real model folders: no hub, no download.

The tokenizer is a byte-level BPE over ASCII, so every sampled token decodes to plain characters.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from halo_forge.core.records import Prompt, SampleRequest

IM_START, IM_END, END_OF_TEXT = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
CLOCK = "{{ '<|im_start|>system\\nToday is ' + strftime_now('%d %B %Y, %H:%M:%S') + '<|im_end|>\\n' }}" + CHATML
"""Reads the clock by the second, where published templates read it by the day."""
THINKING = CHATML.replace("assistant\\n'", "assistant\\n<think>\\n'")
"""Opens the reasoning, as the templates of R1 distillates, QwQ and Qwen3-Thinking do."""
TEXTS = [
    string.printable,
    "int main(void) { return 0; }",
    "for (int i = 0; i < n; i++) { sum += values[i]; }",
    "Write a C function that adds two numbers and returns the sum.",
    "the user and the assistant and the system",
    '```c\nint add(int a, int b) {\n    return a + b;\n}\n```\nif (x > 0) printf("%d", x);',
]
ARCHITECTURES = ("llama", "qwen2", "gemma2")


@dataclass(frozen=True)
class ModelOptions:
    """The `model` section of a configuration."""

    model_name_or_path: str
    revision: str | None = None
    adapter: str | None = None
    dtype: str = "float32"
    quantization: str = "none"
    attn_implementation: str = "auto"
    trust_remote_code: bool = False


@dataclass(frozen=True)
class LoraOptions:
    """The `lora` section of a configuration."""

    r: int = 4
    lora_alpha: float = 8
    lora_dropout: float = 0.0
    target_modules: Any = "all-linear"
    use_rslora: bool = False


@dataclass(frozen=True)
class TrainingOptions:
    """The `training` section of a configuration."""

    lr_scheduler_type: Any = "linear"
    lr_scheduler_kwargs: dict[str, Any] = field(default_factory=dict)
    warmup_steps: int = 1
    per_device_train_batch_size: int = 2
    max_tokens_per_pass: Any = "auto"
    gradient_checkpointing: Any = "auto"


def build_tokenizer(*, pad_is_eos: bool = False, chat_template: str | None = CHATML, by_character: bool = False) -> Any:
    """A fast tokenizer with a ChatML template; padding is `<|endoftext|>`, or the end of turn itself.

    Args:
        by_character: Every token is one character, so that a text is tokenised as the model wrote it.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=0 if by_character else 200,
        special_tokens=[END_OF_TEXT, IM_START, IM_END],
        min_frequency=1,
        show_progress=False,
    )
    inner.train_from_iterator(TEXTS, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token=IM_END, pad_token=IM_END if pad_is_eos else END_OF_TEXT
    )
    tokenizer.add_special_tokens({"additional_special_tokens": [IM_START]})
    tokenizer.chat_template = chat_template
    return tokenizer


def _config(architecture: str, tokenizer: Any, num_layers: int, hidden_size: int) -> Any:
    from transformers import Gemma2Config, LlamaConfig, Olmo2Config, Qwen2Config

    shared = {
        "vocab_size": len(tokenizer),
        "hidden_size": hidden_size,
        "intermediate_size": 48,
        "num_hidden_layers": num_layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        # Wide weights, so that next-token distributions differ from one context to the next.
        "initializer_range": 0.3,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if architecture == "llama":
        return LlamaConfig(**shared)
    if architecture == "qwen2":
        return Qwen2Config(**shared)
    if architecture == "olmo2":
        return Olmo2Config(**shared)
    # One sliding and one full layer; the window is shorter than prompt and answer.
    return Gemma2Config(**shared, head_dim=8, query_pre_attn_scalar=8, sliding_window=12)


def save_model(
    folder: Path,
    architecture: str = "llama",
    *,
    seed: int = 0,
    layers: int = 2,
    hidden_size: int = 32,
    endless: bool = False,
    **tokenizer_options: Any,
) -> Path:
    """A model folder that `from_pretrained` loads: float32 safetensors, tokenizer, chat template.

    Args:
        endless: Scores of special tokens are 0 in every context, and of any adapter on the linear layers, so that one
            is never the likeliest token: a greedy completion has its full length, whatever was trained.
    """
    import torch
    from transformers import AutoModelForCausalLM

    tokenizer = build_tokenizer(**tokenizer_options)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(
            _config(architecture, tokenizer, layers, hidden_size), dtype=torch.float32
        )
    if endless:
        with torch.no_grad():
            model.lm_head.weight[tokenizer.all_special_ids] = 0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def load_policy(folder: Path, *, seed: int = 0, lora: LoraOptions | None = None, **options: Any) -> Any:
    """The policy on a saved tiny model; other arguments of `Policy.load` and fields of `ModelOptions` as keywords."""
    from halo_forge.policy import Policy

    others = {name: options.pop(name, None) for name in ("response_prefix", "profile", "date", "reasoning_marks")}
    settings = ModelOptions(str(folder), **options)
    return Policy.load(settings, LoraOptions() if lora is None else lora, seed=seed, **others)


def disturb_adapter(policy: Any, *, seed: int = 1, scale: float = 0.3) -> None:
    """Random B matrices: a new adapter has B = 0 and changes nothing."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    for name, parameter in policy.model.named_parameters():
        if "lora_B" in name:
            parameter.data = (torch.randn(parameter.shape, generator=generator) * scale).to(parameter.device)


def adapter_weights(policy: Any) -> dict[str, Any]:
    """A copy of every adapter weight by name."""
    return {name: value.detach().clone() for name, value in policy.model.named_parameters() if "lora_" in name}


def base_weights(policy: Any) -> dict[str, Any]:
    """A copy of every other weight by name."""
    return {name: value.detach().clone() for name, value in policy.model.named_parameters() if "lora_" not in name}


def same_bits(left: dict[str, Any], right: dict[str, Any]) -> bool:
    """Both have the same tensors: names, dtypes, bytes."""
    import torch

    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype
        and torch.equal(left[name].view(torch.uint8), right[name].view(torch.uint8))
        for name in left
    )


def prompt(number: int, text: str) -> Prompt:
    """A prompt of one user message."""
    return Prompt(f"p{number}", ({"role": "user", "content": text},))


def prompts(texts: Sequence[str]) -> dict[str, Prompt]:
    """Prompts by id: p0, p1, ..."""
    return {f"p{number}": prompt(number, text) for number, text in enumerate(texts)}


def request(prompt_id: str, index: int = 0, **values: Any) -> SampleRequest:
    """A request; its seed follows from prompt and index."""
    from halo_forge.core.seeds import derive_seed

    defaults: dict[str, Any] = {
        "seed": derive_seed("test", prompt_id, index),
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": None,
        "max_new_tokens": 24,
    }
    return SampleRequest(prompt_id, index, **{**defaults, **values})
