"""The chat template of a model folder, rendered without transformers: whether it works is known before a run starts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from halo_forge.core.errors import ModelError
from halo_forge.core.records import Prompt
from halo_forge.core.source import ReasoningMarks
from halo_forge.policy.chat_template import after_assistant
from halo_forge.policy.files import no_chat_template
from halo_forge.policy.folder_checks import KEY, read_object
from halo_forge.policy.jinja import CLOCK, environment
from halo_forge.policy.rendering import Renderer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
_LISTS = ("extra_special_tokens", "additional_special_tokens")


def check_template(
    name: str,
    prompts: Iterable[Prompt],
    response_prefix: str,
    *,
    date: datetime | None,
    reasoning_marks: ReasoningMarks | None,
    when: str,
) -> list[str]:
    """Render one prompt of each sequence of roles, and one reply; see `Renderer`.

    Args:
        name: A model folder.
        when: What notes call the date, if it is not known yet.

    Returns:
        What the template does to every prompt, as far as a user should know.

    Raises:
        ConfigError: The response prefix is within reasoning that the chat template opens.
        ModelError: There is no chat template, or several and no default; or it fails, or leaves something out.
    """
    template = LocalTemplate(Path(name).expanduser())
    # Of a tokenizer, rendering as text uses no more than this class has.
    tokenizer = cast("PreTrainedTokenizerBase", template)
    renderer = Renderer(tokenizer, response_prefix, date=date, reasoning_marks=reasoning_marks)
    by_roles = {tuple(message["role"] for message in prompt.messages): prompt for prompt in prompts}
    for prompt in by_roles.values():
        renderer.start(prompt)
    after_assistant(tokenizer)
    return renderer.notes(when if date is None else None)


class LocalTemplate:
    """What a tokenizer knows of its chat template, from the files of a model folder.

    Attributes:
        all_special_tokens: Those that the files name, such as the BOS token.
        chat_template: The template, or several by name.

    Raises:
        ModelError: There is none, or a file cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.name_or_path = str(folder)
        settings = _settings(folder, "tokenizer_config.json")
        named = {key: "" for key in _SPECIAL}  # tokenizers may have them without naming them in a file
        others = []
        for found in (_settings(folder, "special_tokens_map.json"), settings):
            named |= {key: _token(value) for key, value in found.items() if key.endswith("_token")}
            others += [_token(each) for key in _LISTS for each in _items(found.get(key))]
        self._named = named
        self.all_special_tokens = [token for token in dict.fromkeys([*named.values(), *others]) if token]
        self.chat_template = _template(folder, settings)

    def get_chat_template(self) -> str:
        """The template for conversations.

        Raises:
            ValueError: There are several, and none is named default.
        """
        if isinstance(self.chat_template, str):
            return self.chat_template
        if "default" not in self.chat_template:
            raise ValueError("no template is named default")
        return self.chat_template["default"]

    def apply_chat_template(
        self,
        messages: Sequence[dict[str, str]],
        *,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        tokenize: bool = False,
    ) -> str:
        """The text of the messages.

        Raises:
            TemplateError: The template refuses them, or is not valid.
        """
        assert not tokenize, "a template has no tokens"
        template = environment().from_string(self.get_chat_template() if chat_template is None else chat_template)
        return template.render(
            messages=messages,
            tools=None,
            documents=None,
            add_generation_prompt=add_generation_prompt,
            **{CLOCK: lambda form: datetime.now().strftime(form)},
            **self._named,
        )


def _settings(folder: Path, name: str) -> dict[str, Any]:
    return read_object(folder / name, KEY) if (folder / name).is_file() else {}


def _token(value: Any) -> str:
    """A special token as a file may have it: text, or an object with its content; null is none."""
    found = value.get("content") if isinstance(value, dict) else value
    return found if isinstance(found, str) else ""


def _items(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []


def _template(folder: Path, settings: dict[str, Any]) -> str | dict[str, str]:
    files = {"default": folder / "chat_template.jinja"} if (folder / "chat_template.jinja").is_file() else {}
    files |= {path.stem: path for path in sorted((folder / "additional_chat_templates").glob("*.jinja"))}
    found = {name: _text(path) for name, path in files.items()} if files else settings.get("chat_template")
    if isinstance(found, list) and all(isinstance(each, dict) for each in found):
        found = {str(each.get("name")): each.get("template") for each in found}
    if found is None:
        raise no_chat_template(str(folder))
    texts = list(found.values()) if isinstance(found, dict) else [found]
    if not texts or not all(isinstance(each, str) for each in texts):
        raise ModelError(
            f"{KEY}: {folder / 'tokenizer_config.json'}: chat_template is {str(found)[:80]!r}; text is needed",
            "write the template as text, or into chat_template.jinja beside it",
        )
    return cast("str | dict[str, str]", found)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ModelError(f"{KEY}: {path} is not UTF-8: {error.reason}", "save the file as UTF-8") from error
