"""Which prompts are too long for a model: known from its tokenizer and its settings, before its weights are loaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from halo_forge.core.records import Prompt
from halo_forge.core.source import ReasoningMarks
from halo_forge.policy.files import ModelSettings, explained
from halo_forge.policy.rendering import Renderer, load_tokenizer

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
    settings: ModelSettings,
    prompts: Iterable[Prompt],
    response_prefix: str | None,
    max_new_tokens: int,
    *,
    date: datetime | None = None,
    reasoning_marks: ReasoningMarks | None = None,
) -> Overlong:
    """Render and count the tokens of every prompt; see `Renderer`.

    Raises:
        ConfigError: The response prefix is within reasoning that the chat template opens.
        ModelError: The tokenizer or its chat template cannot be used.
    """
    from transformers import AutoConfig

    name = settings.model_name_or_path
    common = {"revision": settings.revision, "trust_remote_code": settings.trust_remote_code}
    tokenizer = load_tokenizer(settings)
    with explained(name):
        config = AutoConfig.from_pretrained(name, **common)
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    prefix = "" if response_prefix is None else response_prefix
    renderer = Renderer(tokenizer, prefix, date=date, reasoning_marks=reasoning_marks)
    asked = list(prompts)
    found = {}
    for prompt in asked:
        renderer.start(prompt)
        num_tokens = len(renderer.ids(prompt))
        if positions is not None and num_tokens + max_new_tokens > positions:
            found[prompt.id] = num_tokens
    return Overlong(found, len(asked), max_new_tokens, positions)
