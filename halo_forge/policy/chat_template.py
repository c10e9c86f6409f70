"""The chat template: what a prompt looks like to the model, and which token ends an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from halo_forge.core.errors import ModelError

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase


def end_of_turn_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The special token right after an assistant message in the chat template; else the tokenizer's own EOS.

    Raises:
        ModelError: Neither exists, so a model could never learn to stop.
    """
    probe = "@@halo@@"
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": probe}]
    after = apply_template(tokenizer, messages, add_generation_prompt=False).rpartition(probe)[2]
    ids = tokenizer(after, add_special_tokens=False)["input_ids"] if after else []
    # Many tokenizers mark their turn tokens as special without listing them among their named special tokens.
    marked = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
    special = marked | set(tokenizer.all_special_ids)
    for token in ids:
        if token in special:
            return int(token)
    if tokenizer.eos_token_id is None:
        raise ModelError("the tokenizer has no end-of-turn token", "use a tokenizer with an eos_token")
    return int(tokenizer.eos_token_id)


def apply_template(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], *, add_generation_prompt: bool
) -> str:
    """The text of the messages in the model's chat template.

    Raises:
        ModelError: The template refuses them.
    """
    from jinja2 import TemplateError

    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=add_generation_prompt))
    except TemplateError as error:
        roles = ", ".join(message["role"] for message in messages)
        raise ModelError(
            f"{tokenizer.name_or_path}: its chat template cannot render a conversation of {roles}: {error}",
            "drop prompts.system_prompt if the template knows no system message, or fix chat_template.jinja",
        ) from error


def generation_stop_ids(model: PeftModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    config = getattr(model, "generation_config", None)
    configured = getattr(config, "eos_token_id", None)
    ids = configured if isinstance(configured, list) else [configured]
    return {int(token) for token in [*ids, tokenizer.eos_token_id] if token is not None}
