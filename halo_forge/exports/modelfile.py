"""Ollama's Modelfile: how to ask the exported model as the run asked it.

Ollama's templates are written in Go's template language, and the chat template of a model in Jinja.  So the model's own
template is rendered here with a placeholder for each message, and what it put around them is written down: one turn,
which is what the model was trained on.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from halo_forge.core.errors import ModelError
from halo_forge.core.records import Prompt
from halo_forge.evaluations.ask import Settings
from halo_forge.policy.chat_template import after_assistant
from halo_forge.policy.rendering import Renderer

_SYSTEM, _PROMPT = "@@halo-system@@", "@@halo-prompt@@"
_QUOTES = '"""'
_ALONE = {"{": '"{"', '"': r'"\""'}
"""Characters at the end of a literal text -> how Go writes them as a value."""
_SAMPLED_NEUTRALLY = ("repeat_penalty 1.0", "min_p 0.0")
"""Ollama's own defaults would change what is sampled."""


def modelfile(
    renderer: Renderer, settings: Settings, *, model: str, adapter: str | None, system_prompt: str | None
) -> str:
    """The text of a Modelfile.

    Args:
        renderer: Of the run's prompts: chat template, date and response prefix.
        model, adapter: Files that lie beside it; "" is the folder itself.
        system_prompt: That of the run's prompts; None leaves it to the chat template.

    Raises:
        ModelError: The chat template leaves out what a user says.
    """
    tokenizer: Any = renderer.tokenizer
    lines = [*_notes(renderer), f"FROM ./{model}"]
    if adapter is not None:
        lines.append(f"ADAPTER ./{adapter}")
    lines += ["", f"TEMPLATE {_QUOTES}{template(renderer)}{_QUOTES}", ""]
    if system_prompt is not None:
        lines += [_instruction("SYSTEM", system_prompt), ""]
    values = [f"temperature {settings.temperature:g}", f"top_p {settings.top_p:g}"]
    # 0 switches it off; Ollama's own default would not.
    values += [f"top_k {0 if settings.engine.top_k is None else settings.engine.top_k}", *_SAMPLED_NEUTRALLY]
    values += [f"num_predict {settings.engine.max_new_tokens}"]
    lines += [f"PARAMETER {value}" for value in values]
    ends = [tokenizer.decode([each]) for each in sorted(_end_ids(tokenizer))]
    lines += [_instruction("PARAMETER stop", text) for text in dict.fromkeys([*settings.engine.stop, *ends])]
    return "\n".join(lines) + "\n"


def template(renderer: Renderer) -> str:
    """The chat template for one turn, in Go's template language.

    Raises:
        ModelError: The chat template leaves out what a user says.
    """
    system, prompt = ({"role": role, "content": text} for role, text in (("system", _SYSTEM), ("user", _PROMPT)))
    without = _in_go(renderer, renderer.text(Prompt("modelfile", (prompt,))))
    try:
        with_system = _in_go(renderer, renderer.text(Prompt("modelfile", (system, prompt))))
    except ModelError:  # some templates know no system message
        turn = without
    else:
        turn = f"{{{{ if .System }}}}{with_system}{{{{ else }}}}{without}{{{{ end }}}}"
    return f"{turn}{{{{ .Response }}}}{_literal(after_assistant(renderer.tokenizer))}"


def _in_go(renderer: Renderer, rendered: str) -> str:
    tokenizer: Any = renderer.tokenizer
    first = tokenizer.bos_token
    # llama.cpp adds this token itself where the tokenizer does, and a second one would be another prompt.
    adds_it = first is not None and tokenizer("x")["input_ids"][:1] == [tokenizer.bos_token_id]
    rest = rendered.removeprefix(first) if adds_it else rendered
    before, _, after = rest.partition(_PROMPT)
    own, mark, between = before.partition(_SYSTEM)
    system = f"{_literal(own)}{{{{ .System }}}}{_literal(between)}" if mark else _literal(own)
    return f"{system}{{{{ .Prompt }}}}{_literal(after)}"


def _literal(text: str) -> str:
    """Text of a template that neither Go's template language nor the Modelfile's quotes take for their own."""
    written = text.replace("{{", '{{ "{{" }}').replace(_QUOTES, r'{{ "\"\"\"" }}')
    # Before an action, or before the quotes that end the template, one more of these would be read as part of them.
    last = written[-1:]
    return f"{written[:-1]}{{{{ {_ALONE[last]} }}}}" if last in _ALONE else written


def _instruction(name: str, text: str) -> str:
    """An instruction with a text in quotes, as far as they can hold it."""
    if _QUOTES in text or text.endswith('"'):
        return f"# {name}: left out, because a Modelfile cannot quote {text!r}"
    quotes = _QUOTES if '"' in text or "\n" in text else '"'
    return f"{name} {quotes}{text}{quotes}"


def _notes(renderer: Renderer) -> Iterator[str]:
    yield "# ollama create NAME -f Modelfile   (in this folder)"
    yield "# TEMPLATE is the model's chat template for one turn, with the prompts' response prefix, as the run used it."
    if renderer.response_prefix:
        yield "# It ends with the response prefix, which Ollama's answers therefore do not repeat."
    if renderer.reads_clock:
        date = renderer.date.isoformat(sep=" ")
        yield f"# The chat template reads the clock: {date}, as in the run, is written into it."


def _end_ids(tokenizer: Any) -> set[int]:
    from halo_forge.policy.chat_template import end_of_turn_id

    return {end_of_turn_id(tokenizer), *([] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id])}
