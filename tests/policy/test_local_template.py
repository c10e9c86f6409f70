"""The chat template of a folder: without transformers, its text is the one that the tokenizer gives."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import pytest
from tiny_models import CHATML, CLOCK, IM_END, THINKING, build_tokenizer

from halo_forge.core.errors import ModelError
from halo_forge.core.records import Prompt
from halo_forge.policy.local_template import LocalTemplate
from halo_forge.policy.rendering import Renderer

DATE = datetime(2026, 3, 7, 9, 5, 1)
CONVERSATIONS = [
    Prompt("user", ({"role": "user", "content": " Add.\n<b>1 & 2</b>"},)),
    Prompt("system", ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Add."})),
    Prompt(
        "turns",
        (
            {"role": "user", "content": "Add."},
            {"role": "assistant", "content": "Done."},
            {"role": "user", "content": "Again."},
        ),
    ),
]
TEMPLATES = {
    "chatml": CHATML,
    "clock": CLOCK,
    "thinking": THINKING,
    "special tokens": "{{ eos_token }}" + CHATML + "{{ eos_token }}",
    "generation": CHATML.replace("{% if add", "{% generation %}{{ messages|length }}{% endgeneration %}\n{% if add"),
    "loop control": CHATML.replace("messages %}", "messages %}{% if loop.index > 5 %}{% break %}{% endif %}", 1),
    "json": "{% for message in messages %}\n    {{ message|tojson(indent=2) }}{{ message.content }}\n{% endfor %}",
    "blocks": "\n  {% set found = namespace(n=0) %}\n  {% for m in messages %}{% set found.n = found.n + 1 %}\n"
    "  {{- m.content }}{% endfor %}{{ found.n }}{{ dict(a=1) }}",
    "no tools": "{{ tools is none }}{{ documents is none }}" + CHATML,
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_text_is_that_of_the_tokenizer(name: str, tmp_path: Path) -> None:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = TEMPLATES[name]
    tokenizer.save_pretrained(tmp_path)
    mine = Renderer(cast(Any, LocalTemplate(tmp_path)), date=DATE)
    theirs = Renderer(tokenizer, date=DATE)
    assert [mine.text(each) for each in CONVERSATIONS] == [theirs.text(each) for each in CONVERSATIONS]
    assert [mine.start(each) for each in CONVERSATIONS] == [theirs.start(each) for each in CONVERSATIONS]
    assert mine.notes() == theirs.notes()


def test_a_special_token_may_be_an_object(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text("{{ eos_token + bos_token }}" + CHATML)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": IM_END}, "bos_token": None}))
    assert Renderer(cast(Any, LocalTemplate(tmp_path))).text(CONVERSATIONS[0]).startswith(f"{IM_END}<|im_start|>")


@pytest.mark.parametrize("value", [7, {"default": None}, [{"name": "default"}], {}])
def test_a_template_that_is_no_text_is_refused(value: object, tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": value}))
    with pytest.raises(ModelError, match=r"tokenizer_config\.json: chat_template is .*text is needed"):
        LocalTemplate(tmp_path)


def test_a_template_in_another_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_bytes("\u00e4".encode("latin-1"))
    with pytest.raises(ModelError, match=r"chat_template\.jinja is not UTF-8"):
        LocalTemplate(tmp_path)
