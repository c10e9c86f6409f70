"""How prompts are rendered: at a fixed date, with nothing left out, and with the reasoning that a template opens."""

from __future__ import annotations

import copy
import functools
import time
from datetime import datetime
from typing import Any

import pytest
from tiny_models import CHATML, CLOCK, THINKING, build_tokenizer, prompt

from halo_forge.core.errors import ConfigError, ModelError
from halo_forge.core.records import Prompt
from halo_forge.policy.chat_template import end_of_turn_id
from halo_forge.policy.rendering import Renderer

DATE = datetime(2026, 3, 7, 9, 5, 1)


TOKENIZER = functools.cache(build_tokenizer)


def with_template(template: str) -> Any:
    tokenizer = copy.copy(TOKENIZER())
    tokenizer.chat_template = template
    return tokenizer


def renderer(template: str = CHATML, prefix: str = "", **options: Any) -> Renderer:
    return Renderer(with_template(template), prefix, **options)


def with_format(form: str) -> str:
    return CHATML.replace("{% for", "{{ strftime_now(" + repr(form) + ") }}|{% for", 1)


@pytest.mark.parametrize(
    "form",
    [
        "%d %b %Y",
        "%B %d, %Y",
        "%Y-%m-%dT%H:%M:%S",
        "%A %a %p %I %j %y",
        "%-d.%-m. 100%% of %Y",
        "%%d",
        "%F %T",
        "no date",
    ],
)
def test_a_template_gets_the_date_of_the_run(form: str) -> None:
    assert renderer(with_format(form), date=DATE).text(prompt(0, "add")).startswith(DATE.strftime(form) + "|")


def test_the_published_ways_to_ask_for_the_date() -> None:
    llama = (
        "\n{%- if not date_string is defined %}{%- if strftime_now is defined %}{%- set date_string ="
        " strftime_now('%d %b %Y') %}{%- else %}{%- set date_string = '26 Jul 2024' %}{%- endif %}{%- endif %}"
        "{{- 'Today Date: ' + date_string + '\n' }}" + CHATML
    )
    granite = (
        "{%- macro today() %}{{ strftime_now('%B %d, %Y') }}{%- endmacro %}Today's Date: {{ today() }}.\n" + CHATML
    )
    assert renderer(llama, date=DATE).text(prompt(0, "add")).startswith("Today Date: 07 Mar 2026\n")
    assert renderer(granite, date=DATE).text(prompt(0, "add")).startswith("Today's Date: March 07, 2026.\n")


def test_a_clock_that_stands_still_changes_nothing_else() -> None:
    plain = "\n\n  {% if true %}\n x\n{% endif %}\n" + CHATML
    clocked = plain + "{% if false %}{{ strftime_now('%Y') }}{% endif %}"
    assert renderer(clocked, date=DATE).text(prompt(0, "add")) == renderer(plain).text(prompt(0, "add"))


@pytest.mark.parametrize("aside", ["{# strftime_now gives the date #}", "{{ 'strftime_now' }}", "strftime_now "])
def test_a_template_that_only_mentions_the_clock_does_not_read_it(aside: str) -> None:
    made = renderer(aside + CHATML, date=DATE)
    assert not made.reads_clock
    assert made.record([prompt(0, "add")])["date"] is None
    assert not any("clock" in note for note in made.notes())


def test_without_a_date_it_is_the_time_at_which_the_model_was_loaded() -> None:
    made = renderer(CLOCK)
    first = made.text(prompt(0, "add"))
    time.sleep(1.1)
    assert made.text(prompt(0, "add")) == first
    assert made.text(prompt(1, "add")) == first
    assert abs((datetime.now() - made.date).total_seconds()) < 60


def test_the_record_tells_other_dates_and_other_templates_apart() -> None:
    asked = [prompt(0, "add"), prompt(1, "subtract")]
    record = renderer(CLOCK, date=DATE).record(asked)
    assert record == renderer(CLOCK, date=DATE).record(asked)
    assert record["date"] == "2026-03-07 09:05:01"
    others = [
        renderer(CLOCK, date=DATE.replace(second=2)),
        renderer(CLOCK + " ", date=DATE),
        renderer(CLOCK, "```c\n", date=DATE),
    ]
    assert len({each.record(asked)["prompt_ids_sha256"] for each in [*others, renderer(CLOCK, date=DATE)]}) == 4
    assert renderer().record(asked)["date"] is None


def test_another_clock_is_refused() -> None:
    with pytest.raises(ModelError, match=r"'now' is undefined") as caught:
        renderer("{{ now() }}" + CHATML).text(prompt(0, "add"))
    assert "strftime_now" in caught.value.hint


def test_a_tokenizer_that_renders_by_its_own_code_is_refused_if_it_reads_the_clock() -> None:
    tokenizer = with_template(CLOCK)
    tokenizer.apply_chat_template = lambda *arguments, **options: "It is noon."
    with pytest.raises(ModelError, match="reads a clock that cannot be set"):
        Renderer(tokenizer)


@pytest.mark.parametrize("role", ["system", "user"])
def test_a_template_that_drops_a_message_is_refused(role: str) -> None:
    made = renderer(
        CHATML.replace("message['content']", f"(message['content'] if message['role'] != '{role}' else '')")
    )
    asked = Prompt("p", ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Add."}))
    with pytest.raises(ModelError, match=f"leaves out or changes the {role} message of prompt 'p'"):
        made.text(asked)


def test_a_template_may_strip_messages() -> None:
    made = renderer(CHATML.replace("message['content']", "message['content']|trim"))
    assert "Add.<|im_end|>" in made.text(prompt(0, " \nAdd.\n "))


def test_a_template_that_drops_what_the_assistant_says_is_refused() -> None:
    template = CHATML.replace("message['content']", "(message['content'] if message['role'] == 'user' else '')")
    with pytest.raises(ModelError, match="leaves out what the assistant says"):
        end_of_turn_id(with_template(template))


@pytest.mark.parametrize(
    ("opening", "marks", "start"),
    [
        ("<think>\n", None, "<think>\n"),
        ("<think>", None, "<think>"),
        ("[THINK]", None, "[THINK]"),
        ("<think>\n\n</think>\n\n", None, ""),
        ("<ponder>\n", None, ""),
        ("<ponder>\n", ("<ponder>", "</ponder>"), "<ponder>\n"),
    ],
)
def test_completions_begin_with_the_reasoning_that_the_template_opens(
    opening: str, marks: tuple[str, str] | None, start: str
) -> None:
    template = CHATML.replace("assistant\\n'", "assistant\\n" + opening.replace("\n", "\\n") + "'")
    made = renderer(template, reasoning_marks=marks)
    asked = prompt(0, "What does <think> mean?")
    assert made.start(asked) == start
    assert made.text(asked).endswith("<|im_start|>assistant\n" + opening)


def test_a_response_prefix_within_the_reasoning_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"prompts\.response_prefix: found '```c\\n'.*'<think>'") as caught:
        renderer(THINKING, "```c\n").start(prompt(0, "add"))
    assert "closing mark" in caught.value.hint
    assert renderer(THINKING, "</think>\n```c\n").start(prompt(0, "add")) == "<think>\n</think>\n```c\n"


def test_what_a_template_does_is_said() -> None:
    def notes(template: str) -> str:
        return "\n".join(renderer(template, date=DATE).notes())

    assert notes(CHATML) == ""
    assert "reads the clock: it gets 2026-03-07 09:05:01" in notes(CLOCK)
    assert "opens the reasoning (<think>)" in notes(THINKING)
    assert "ends with '<ponder>\\n'" in notes(CHATML.replace("assistant\\n'", "assistant\\n<ponder>\\n'"))
    assert notes(CHATML.replace("assistant\\n'", "assistant\\n<think>\\n\\n</think>\\n\\n'")) == ""
    default = "<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n"
    assert "'You are a helpful assistant.'" in notes("{{ '" + default + "' }}" + CHATML)


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ messages + 1 }}" + CHATML, "its chat template fails: TypeError"),
        ("{{ messages[0].content|int // 0 }}" + CHATML, "its chat template fails: ZeroDivisionError"),
        ({"rag": CHATML, "tool_use": CHATML}, r"several chat templates \(rag, tool_use\), and none is named default"),
    ],
)
def test_a_template_that_fails_is_an_error_about_the_model(template: Any, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        renderer(template).text(prompt("a", "hi"))


@pytest.mark.parametrize(
    ("added", "is_told"),
    [("<ponder>\n", True), ("[THOUGHTS]", True), ("</think>", False), ("Answer: ", False), ("[/THOUGHTS]", False)],
)
def test_only_what_could_open_the_reasoning_is_told(added: str, is_told: bool) -> None:
    template = CHATML.replace("assistant\\n'", "assistant\\n" + added.replace("\n", "\\n") + "'")
    assert added in renderer(template).text(prompt(0, "add"))
    assert any("if that opens the reasoning" in note for note in renderer(template).notes()) is is_told
