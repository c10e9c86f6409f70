"""Which prompts are too long for a model: known from its tokenizer and its settings, before its weights are loaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from halo_forge.core.records import Prompt
from halo_forge.policy.chat_template import apply_template
from halo_forge.policy.files import ModelSettings, explained, no_chat_template

_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Overlong:
    """Prompts that leave no room for a completion.

    Attributes:
        num_tokens: Prompt id -> tokens of the rendered prompt, in the order of the prompts.
        num_prompts: How many were looked at.
        max_new_tokens: The longest completion.
        num_positions: The most tokens that prompt and completion may have together; None if there is no such limit.
    """

    num_tokens: Mapping[str, int]
    num_prompts: int
    max_new_tokens: int
    num_positions: int | None

    def __str__(self) -> str:
        shown = ", ".join(f"{each!r} ({number} tokens)" for each, number in list(self.num_tokens.items())[:_SHOWN])
        more = ", ..." if len(self.num_tokens) > _SHOWN else ""
        return (
            f"{len(self.num_tokens)} of {self.num_prompts} prompts are too long: with engine.max_new_tokens"
            f" {self.max_new_tokens} they exceed the {self.num_positions} positions of the model: {shown}{more}"
        )


def overlong_prompts(
    settings: ModelSettings, prompts: Iterable[Prompt], response_prefix: str | None, max_new_tokens: int
) -> Overlong:
    """Render and count the tokens of every prompt.

    Raises:
        ModelError: The tokenizer or its chat template cannot be used.
    """
    from transformers import AutoConfig, AutoTokenizer

    name = settings.model_name_or_path
    common = {"revision": settings.revision, "trust_remote_code": settings.trust_remote_code}
    with explained(name):
        tokenizer = AutoTokenizer.from_pretrained(name, **common)
        config = AutoConfig.from_pretrained(name, **common)
    if tokenizer.chat_template is None:
        raise no_chat_template(name)
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    prefix = "" if response_prefix is None else response_prefix
    asked = list(prompts)
    found = {}
    for prompt in asked:
        messages = [dict(message) for message in prompt.messages]
        text = apply_template(tokenizer, messages, add_generation_prompt=True) + prefix
        num_tokens = len(tokenizer(text, add_special_tokens=False)["input_ids"])
        if positions is not None and num_tokens + max_new_tokens > positions:
            found[prompt.id] = num_tokens
    return Overlong(found, len(asked), max_new_tokens, positions)
