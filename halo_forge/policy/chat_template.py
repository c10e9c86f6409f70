"""The chat template: what messages look like to the model, at a fixed date, and which token ends a completion."""

from __future__ import annotations

import functools
import string
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from halo_forge.core.errors import ModelError
from halo_forge.policy.jinja import CLOCK, uses

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase

_PROBE = "@@halo@@"


def end_of_turn_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The special token right after an assistant message in the chat template; else the tokenizer's own EOS.

    Raises:
        ModelError: Neither exists, so a model could never learn to stop; or the template drops an assistant message.
    """
    after = after_assistant(tokenizer)
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


def after_assistant(tokenizer: PreTrainedTokenizerBase) -> str:
    """What the chat template puts after a message of the assistant.

    Raises:
        ModelError: It refuses such a message, or drops it.
    """
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": _PROBE}]
    rendered = apply_template(tokenizer, messages, add_generation_prompt=False)
    if _PROBE not in rendered:
        raise ModelError(
            f"{tokenizer.name_or_path}: its chat template leaves out what the assistant says, so where a completion"
            " ends is unknown",
            "fix chat_template.jinja in a local copy of the model",
        )
    return rendered.rpartition(_PROBE)[2]


def apply_template(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[dict[str, str]],
    *,
    add_generation_prompt: bool,
    date: datetime | None = None,
) -> str:
    """The text of the messages in the model's chat template.

    Args:
        date: What the template gets for the current time; None is the current time.

    Raises:
        ModelError: The template refuses them.
    """
    from jinja2 import TemplateError, UndefinedError

    template = None if date is None or not reads_clock(tokenizer) else _at(date, _template(tokenizer))
    try:
        text = tokenizer.apply_chat_template(
            list(messages), chat_template=template, add_generation_prompt=add_generation_prompt, tokenize=False
        )
    except TemplateError as error:
        roles = ", ".join(message["role"] for message in messages)
        undefined = f"use nothing in chat_template.jinja that transformers does not define (a clock is `{CLOCK}`)"
        refused = "drop prompts.system_prompt if the template knows no system message, or fix chat_template.jinja"
        raise ModelError(
            f"{tokenizer.name_or_path}: its chat template cannot render a conversation of {roles}: {error}",
            undefined if isinstance(error, UndefinedError) else refused,
        ) from error
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        raise ModelError(
            f"{tokenizer.name_or_path}: its chat template fails: {type(error).__name__}: {error}",
            "fix chat_template.jinja in a local copy of the model",
        ) from error
    return str(text)


def reads_clock(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the chat template asks for the current date or time."""
    return _uses_clock(_template(tokenizer))


@functools.lru_cache(maxsize=8)
def _uses_clock(template: str) -> bool:
    return uses(CLOCK, template)


def check_clock(tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer whose chat template reads a clock that cannot be set.

    Raises:
        ModelError: Its own code renders the template, and ignores the one it is given.
    """
    if not reads_clock(tokenizer):
        return
    template = f"{{{{ {CLOCK}('%Y-%m-%d') }}}}"
    date = datetime(1999, 12, 31)
    asked = [{"role": "user", "content": "x"}]
    text = tokenizer.apply_chat_template(asked, chat_template=_at(date, template), tokenize=False)
    if text != "1999-12-31":
        raise ModelError(
            f"{tokenizer.name_or_path}: its chat template reads a clock that cannot be set, so prompts would change"
            " while a run trains on them",
            f"write the date into chat_template.jinja of a local copy of the model, in place of `{CLOCK}`",
        )


def own_words(tokenizer: PreTrainedTokenizerBase, date: datetime) -> str:
    """What the template puts before the first message of a user on its own, such as a default system prompt."""
    messages = [{"role": "user", "content": _PROBE}]
    before = apply_template(tokenizer, messages, add_generation_prompt=False, date=date).partition(_PROBE)[0]
    for token in tokenizer.all_special_tokens:
        before = before.replace(token, " ")
    text = " ".join(before.split()).removeprefix("system ").removesuffix(" user")
    return text if " " in text else ""  # one word is the name of a role


def _template(tokenizer: PreTrainedTokenizerBase) -> str:
    try:
        return str(tokenizer.get_chat_template())
    except ValueError as error:
        names = ", ".join(tokenizer.chat_template)
        raise ModelError(
            f"{tokenizer.name_or_path}: it has several chat templates ({names}), and none is named default",
            "keep one of them as chat_template.jinja in a local copy of the model",
        ) from error


def _at(date: datetime, template: str) -> str:
    """The template with a clock that stands still: a macro in place of the function of the same name."""
    names = [f"%{flag}{letter}" for flag in ("", "-", "_") for letter in string.ascii_letters]
    values = [(name, value) for name in names if "%" not in (value := date.strftime(name))]  # else it is no directive
    # Two percent signs are one of the text, so they are out of the way while directives are replaced.
    body = (
        "{% set made = namespace(text=format|replace('%%', '\\0')) %}"
        f"{{% for name, value in {values!r} %}}{{% set made.text = made.text|replace(name, value) %}}{{% endfor %}}"
        "{{ made.text|replace('\\0', '%') }}"
    )
    # `+` keeps a line break at the beginning of the template, which trim_blocks would remove.
    return f"{{% macro {CLOCK}(format) %}}{body}{{% endmacro +%}}{template}"


def generation_stop_ids(model: PeftModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The EOS ids of the model's generation_config.json and of its tokenizer.

    Raises:
        ModelError: One of them is not a token.
    """
    config = getattr(model, "generation_config", None)
    configured = getattr(config, "eos_token_id", None)
    ids = configured if isinstance(configured, list) else [configured]
    found = [token for token in [*ids, tokenizer.eos_token_id] if token is not None]
    num_tokens = model.config.get_text_config().vocab_size
    wrong = [token for token in found if isinstance(token, bool) or token not in range(num_tokens)]
    if wrong:
        raise ModelError(
            f"{tokenizer.name_or_path}: its eos_token_id {wrong[0]!r} is not one of the model's {num_tokens} tokens",
            "correct generation_config.json or tokenizer_config.json in a local copy of the model",
        )
    return set(found)
