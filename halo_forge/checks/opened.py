"""Completions from outside a run, read as those of a run: with the reasoning that the model's chat template opens."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from halo_forge.checks.programs import NamedCompletion
from halo_forge.config import RaftConfig
from halo_forge.core.source import REASONING_MARKS

_FILES = ("chat_template.jinja", "tokenizer_config.json", "chat_template.json")


def as_sampled(asked: Sequence[NamedCompletion], config: RaftConfig) -> tuple[list[NamedCompletion], list[str]]:
    """The completions as the run's own engine would have written them, and what is to be said about that.

    A chat template that opens the reasoning puts the opening mark into the prompt.  The completions of a run begin with
    it; those of other programs often do not, and would be read as if nothing were unfinished.

    Raises:
        ModelError: The template opens reasoning, but the tokenizer cannot be loaded or refuses a prompt.
    """
    if not config.engine.needs_policy:
        return list(asked), []
    templates = list(_template_texts(config))
    if not templates:
        name = config.model.model_name_or_path
        return list(asked), [
            f"{name} is not on this machine, so it is unknown whether its chat template opens the reasoning;"
            " completions are checked as they are"
        ]
    marks = config.verifier.own_marks
    known = REASONING_MARKS if marks is None else (marks, *REASONING_MARKS)
    if not any(opening in text for text in templates for opening, _ in known):
        return list(asked), []
    # Late: a library of a second or two that most configurations do not need here.
    from halo_forge.policy.rendering import Renderer, load_tokenizer

    prefix = config.prompts.response_prefix if config.prompts.response_prefix is not None else ""
    renderer = Renderer(load_tokenizer(config.model), prefix, reasoning_marks=marks)
    openings = {each.prompt.id: renderer.start(each.prompt).removesuffix(prefix) for each in asked}
    found = [_opened(each, openings[each.prompt.id], prefix) for each in asked]
    num = sum(one is not other for one, other in zip(found, asked, strict=True))
    if not num:
        return found, []
    opening = next(filter(None, openings.values())).strip()
    return found, [
        f"the chat template opens the reasoning ({opening}): {num} of {len(found)} completions do not begin with it and"
        " are read as if they did"
    ]


def _opened(asked: NamedCompletion, opening: str, prefix: str) -> NamedCompletion:
    completion, text = asked.completion, asked.completion.text
    if not opening or text.lstrip().startswith(opening.strip()):
        return asked
    if not text.lstrip().startswith(prefix.strip()):
        text = prefix + text
    return dataclasses.replace(asked, completion=dataclasses.replace(completion, text=opening + text))


def _template_texts(config: RaftConfig) -> Iterator[str]:
    """The texts of the model's files that can hold its chat template, from its folder or the hub's cache."""
    from huggingface_hub import try_to_load_from_cache

    name = config.model.model_name_or_path
    folder = Path(name).expanduser()
    for file in _FILES:
        if folder.is_dir():
            path = folder / file
        elif name.count("/") == 1:
            cached = try_to_load_from_cache(name, file, revision=config.model.revision)
            path = Path(cached) if isinstance(cached, str) else Path(name, file)
        else:
            return
        if path.is_file():
            text = path.read_text(encoding="utf-8", errors="replace")
            yield text if path.suffix == ".jinja" else _unescaped(text)


def _unescaped(text: str) -> str:
    """The characters that JSON writes as escapes: a tokenizer's file may spell a mark that way."""
    try:
        return json.dumps(json.loads(text), ensure_ascii=False)
    except ValueError:
        return text  # whoever loads it says what is wrong with it
