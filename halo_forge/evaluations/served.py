"""A server's model: how its prompts are rendered and what ends its completions, without its weights."""

from __future__ import annotations

from datetime import datetime
from types import SimpleNamespace

from halo_forge.config.sections import ModelSection
from halo_forge.core.records import Prompt
from halo_forge.core.source import ReasoningMarks
from halo_forge.policy import explained
from halo_forge.policy.chat_template import end_of_turn_id, generation_stop_ids
from halo_forge.policy.rendering import Renderer, load_tokenizer


class ServedModel:
    """As much of a `Policy` as an engine asks for that sends prompts to a server and checks nothing about its weights.

    Attributes:
        version: Always 0: whatever is served is the start model to the engine.
    """

    version = 0

    def __init__(
        self,
        settings: ModelSection,
        *,
        response_prefix: str | None,
        date: datetime,
        reasoning_marks: ReasoningMarks | None,
    ) -> None:
        from transformers import AutoConfig, GenerationConfig

        name, revision = settings.model_name_or_path, settings.revision
        common = {"revision": revision, "trust_remote_code": settings.trust_remote_code}
        self.tokenizer = load_tokenizer(settings)
        with explained(name):
            config = AutoConfig.from_pretrained(name, **common)
        try:
            generation = GenerationConfig.from_pretrained(name, revision="main" if revision is None else revision)
        except OSError:  # a model without generation_config.json has its EOS in the tokenizer alone
            generation = None
        known = SimpleNamespace(config=config, generation_config=generation)
        stop_ids = generation_stop_ids(known, self.tokenizer)  # type: ignore[arg-type]  # reads these two only
        self.stop_ids = frozenset({end_of_turn_id(self.tokenizer), *stop_ids})
        self.num_positions: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
        self.identity = {"model_name_or_path": name}
        prefix = "" if response_prefix is None else response_prefix
        self.rendering = Renderer(self.tokenizer, prefix, date=date, reasoning_marks=reasoning_marks)

    def render(self, prompt: Prompt) -> str:
        """See `Renderer.text`."""
        return self.rendering.text(prompt)

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        """See `Renderer.ids`."""
        return self.rendering.ids(prompt)

    def response_start(self, prompt: Prompt) -> str:
        """See `Renderer.start`."""
        return self.rendering.start(prompt)

    def adapter_norm(self) -> float:
        """No adapter is sent to the server."""
        return 0.0
