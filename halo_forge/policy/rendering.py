"""Prompts as the model sees them: each is rendered once, at the date of the run, and sampled and trained on as such."""

from __future__ import annotations

import hashlib
import re
from array import array
from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from halo_forge.core.errors import ConfigError, ModelError
from halo_forge.core.records import Prompt
from halo_forge.core.source import ReasoningMarks, end_of_reasoning, opened_reasoning
from halo_forge.policy.chat_template import apply_template, check_clock, own_words, reads_clock
from halo_forge.policy.files import ModelSettings, explained, no_chat_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SHOWN = 100
_OPENING = re.compile(r"(?:<(?!/)[^<>\s]+>|\[(?!/)[^\[\]\s]+\])\s*$")
"""What could open the reasoning at the end of a generation prompt: a mark of its own, and none that closes."""
_PROBE = (
    {"role": "user", "content": "@@question@@"},
    {"role": "assistant", "content": "@@reply@@"},
)


def load_tokenizer(settings: ModelSettings) -> PreTrainedTokenizerBase:
    """The model's tokenizer, with a chat template.

    Raises:
        ModelError: It cannot be loaded, or has no chat template.
    """
    from transformers import AutoTokenizer

    name = settings.model_name_or_path
    with explained(name):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            name, revision=settings.revision, trust_remote_code=settings.trust_remote_code
        )
    if tokenizer.chat_template is None:
        raise no_chat_template(name)
    return tokenizer


class Renderer:
    """Renders prompts with a chat template and a response prefix.

    Args:
        date: What the chat template gets for the current time; None is the current time, once for all prompts.
        reasoning_marks: Those of the model, if they are not among `REASONING_MARKS`.

    Attributes:
        reads_clock: The template asks for the current date or time, so `date` is part of the prompts.

    Raises:
        ModelError: The template reads a clock that cannot be set.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        response_prefix: str = "",
        *,
        date: datetime | None = None,
        reasoning_marks: ReasoningMarks | None = None,
    ) -> None:
        check_clock(tokenizer)
        self.tokenizer = tokenizer
        self.response_prefix = response_prefix
        self.date = datetime.now().replace(microsecond=0) if date is None else date
        self.reasoning_marks = reasoning_marks
        self.reads_clock = reads_clock(tokenizer)
        self._ids: dict[tuple[tuple[str, str], ...], array[int]] = {}

    def text(self, prompt: Prompt) -> str:
        """The text that the model continues: chat template, generation prompt and response prefix.

        Raises:
            ModelError: The template refuses the messages (some know no system message), or leaves one out.
        """
        return self._templated(prompt) + self.response_prefix

    def start(self, prompt: Prompt) -> str:
        """What of `text` belongs to the completion: reasoning that the generation prompt opens, and the prefix.

        Raises:
            ConfigError: The response prefix is within the reasoning.
        """
        opened = opened_reasoning(self._templated(prompt), self.reasoning_marks)
        start = opened + self.response_prefix
        if opened and self.response_prefix.strip() and end_of_reasoning(start, self.reasoning_marks)[1]:
            raise ConfigError(
                f"prompts.response_prefix: found {self.response_prefix!r}; the chat template has opened the reasoning"
                f" with {opened.strip()!r} before it, so every completion would be unfinished reasoning",
                "leave the prefix out, or begin it with the closing mark to sample without reasoning",
            )
        return start

    def ids(self, prompt: Prompt) -> list[int]:
        """Token ids of `text(prompt)`; the template has its own special tokens, so none are added."""
        key = tuple((message["role"], message["content"]) for message in prompt.messages)
        if key not in self._ids:
            self._ids[key] = array("q", self.tokenizer(self.text(prompt), add_special_tokens=False)["input_ids"])
        return self._ids[key].tolist()

    def record(self, prompts: Iterable[Prompt]) -> dict[str, Any]:
        """What the rendering of these prompts depends on, for run.json; equal records are equal token ids."""
        digest = hashlib.sha256()
        for prompt in prompts:
            digest.update(f"{prompt.id}\0{self.ids(prompt)}\n".encode())
        date = self.date.isoformat(sep=" ") if self.reads_clock else None
        return {"date": date, "prompt_ids_sha256": digest.hexdigest()}

    @property
    def opened_reasoning(self) -> str:
        """The mark with which the generation prompt opens the reasoning, and what follows it; "" if it does not."""
        return opened_reasoning(self._added_by_generation_prompt(), self.reasoning_marks)

    def notes(self, when: str | None = None) -> list[str]:
        """What the template does to every prompt, as far as a user should know.

        Args:
            when: What to call the date; None is the date itself.
        """
        said = []
        if self.reads_clock:
            gets = self.date.isoformat(sep=" ") if when is None else when
            said.append(
                f"the chat template reads the clock: it gets {gets} throughout this run"
                " (prompts.date sets another date)"
            )
        if words := own_words(self.tokenizer, self.date):
            said.append(f"the chat template begins prompts without a system message with its own text: {_short(words)}")
        added = self._added_by_generation_prompt()
        if opened := self.opened_reasoning:
            said.append(
                f"the chat template opens the reasoning ({opened.strip()}): a completion that does not close it is"
                " unfinished and is not checked"
            )
        elif _OPENING.search(added) and end_of_reasoning(added, self.reasoning_marks)[0] == 0:
            said.append(
                f"the generation prompt ends with {_short(added)}: if that opens the reasoning, set"
                " verifier.reasoning_marks"
            )
        return said

    def _added_by_generation_prompt(self) -> str:
        """What the generation prompt has beyond the header of an assistant's message; "" where that is unknown."""
        question, reply = _PROBE
        asked = self._apply([question], add_generation_prompt=True).rpartition(question["content"])[2]
        told = self._apply([question, reply], add_generation_prompt=False).rpartition(question["content"])[2]
        header = told.partition(reply["content"])[0]
        return asked.removeprefix(header) if asked.startswith(header) else ""

    def _templated(self, prompt: Prompt) -> str:
        messages = [dict(message) for message in prompt.messages]
        text = self._apply(messages, add_generation_prompt=True)
        for message in messages:
            if message["role"] != "assistant" and message["content"].strip() not in text:
                raise ModelError(
                    f"{self.tokenizer.name_or_path}: its chat template leaves out or changes the {message['role']}"
                    f" message of prompt {prompt.id!r}",
                    "drop prompts.system_prompt if the template knows no system message, or fix chat_template.jinja",
                )
        return text

    def _apply(self, messages: list[dict[str, str]], *, add_generation_prompt: bool) -> str:
        return apply_template(self.tokenizer, messages, add_generation_prompt=add_generation_prompt, date=self.date)


def _short(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")
