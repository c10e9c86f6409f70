"""Ollama's Modelfile: its template renders what the run rendered."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

import pytest
from measuring import settings
from tiny_models import CHATML, CLOCK, THINKING, build_tokenizer

from halo_forge.core.records import Prompt
from halo_forge.exports.modelfile import modelfile, template
from halo_forge.policy.rendering import Renderer

pytest.importorskip("torch")

DEFAULT_SYSTEM = "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}" + CHATML
BRACES = '{{ \'{{ .Prompt }} """\' }}' + CHATML
ONE_BRACE = (
    "{% for m in messages %}{ \"{{ m['role'] }}\": {{ '{' }}{{ m['content'] }}{{ '}\"' }}{% endfor %}"
    '{% if add_generation_prompt %}A"{% endif %}'
)
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHATML
WRITE = "Write a program: {{ x }}"


def renderer(chat_template: str, prefix: str = "```c\n") -> Renderer:
    return Renderer(build_tokenizer(chat_template=chat_template), prefix, date=datetime(2026, 11, 30, 9, 30))


def in_go(text: str, system: str, prompt: str) -> str:
    """What Ollama makes of a template up to the model's answer: the few actions that are used here."""
    text = text.partition("{{ .Response }}")[0]
    match = re.fullmatch(r"\{\{ if \.System \}\}(.*?)\{\{ else \}\}(.*)\{\{ end \}\}", text, re.DOTALL)
    if match is not None:
        text = match[1] if system else match[2]
    assert "{{ if" not in text
    values = {".System": system, ".Prompt": prompt, '"{{"': "{{", r'"\"\"\""': '"""', '"{"': "{", r'"\""': '"'}
    assert "{{{" not in text  # Go reads the first two as the beginning of an action
    return re.sub(r'\{\{ (\.\w+|"(?:\\.|[^"])*") \}\}', lambda found: values[found[1]], text)


@pytest.mark.parametrize("chat_template", [CHATML, DEFAULT_SYSTEM, BRACES, ONE_BRACE, CLOCK, THINKING, NO_SYSTEM])
def test_the_template_renders_what_the_run_rendered(chat_template: str) -> None:
    prefix = "" if chat_template == THINKING else "```c\n"
    known = renderer(chat_template, prefix)
    user = {"role": "user", "content": WRITE}
    assert in_go(template(known), "", WRITE) == known.text(Prompt("p", (user,)))
    if chat_template == NO_SYSTEM:
        assert ".System" not in template(known)
        return
    asked = Prompt("p", ({"role": "system", "content": "Be brief."}, user))
    assert in_go(template(known), "Be brief.", WRITE) == known.text(asked)


def test_a_token_that_llama_cpp_adds_itself_is_left_out() -> None:
    known = renderer("{{ bos_token }}" + CHATML)
    tokenizer: Any = known.tokenizer
    tokenizer.bos_token = "<|endoftext|>"
    assert template(known).count("<|endoftext|>") == 2  # with and without a system message
    known.tokenizer = adding = _AddsBos(tokenizer)  # type: ignore[assignment]
    assert adding("x")["input_ids"][0] == tokenizer.bos_token_id
    assert "<|endoftext|>" not in template(known)


class _AddsBos:
    """The tokenizer, which begins every text with its first token."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __call__(self, text: str, **options: Any) -> dict[str, list[int]]:
        ids = self._tokenizer(text, **options)["input_ids"]
        return {"input_ids": [self._tokenizer.bos_token_id, *ids]}


def test_it_asks_as_the_run_did() -> None:
    asked = settings(
        engine={"max_new_tokens": 99, "stop": ["```", 'say "no"', 'ends with "', "two\nlines"], "top_k": 7},
        evaluation__temperature=0.3,
        evaluation__top_p=0.9,
    )
    text = modelfile(renderer(CHATML), asked, model="m.gguf", adapter="a.gguf", system_prompt="You write C.\nOnly C.")
    lines = text.splitlines()
    assert lines[2:5] == [
        "# It ends with the response prefix, which Ollama's answers therefore do not repeat.",
        "FROM ./m.gguf",
        "ADAPTER ./a.gguf",
    ]
    for wanted in ("temperature 0.3", "top_p 0.9", "top_k 7", "num_predict 99", "repeat_penalty 1.0", "min_p 0.0"):
        assert f"PARAMETER {wanted}" in lines
    assert 'SYSTEM """You write C.\nOnly C."""' in text
    assert 'PARAMETER stop "```"\nPARAMETER stop """say "no""""' not in text  # quotes that would run into each other
    assert 'PARAMETER stop "```"' in lines and 'PARAMETER stop "<|im_end|>"' in lines
    assert 'PARAMETER stop """two\nlines"""' in text
    assert "left out, because a Modelfile cannot quote 'ends with \"'" in text


def test_a_clock_is_written_down_and_said() -> None:
    text = modelfile(renderer(CLOCK), settings(), model="m.gguf", adapter=None, system_prompt=None)
    assert "Today is 30 November 2026, 09:30:00" in text
    assert "# The chat template reads the clock: 2026-11-30 09:30:00, as in the run" in text
    assert "SYSTEM" not in text and "ADAPTER" not in text
