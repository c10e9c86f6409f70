"""Native rows: `prompt` (text or messages), and optionally `id`, `language`, `tests`, `info`.

Every other column goes to `info`, so that a verifier can read it; one that looks like tests is an error (`_unread`).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from typing import Any

from halo_forge.core.errors import ConfigError
from halo_forge.core.records import Prompt
from halo_forge.prompts._checks import checked_tests
from halo_forge.prompts._json_text import from_json
from halo_forge.prompts._row import Row, shown
from halo_forge.prompts._unread import kept_as_info

NAME = "prompt rows"
COLUMNS = ("prompt",)
ROLES = ("system", "user", "assistant")
_OWN = ("id", "language", "prompt", "tests", "info")
# Beside `tests` these would be ignored, and decide what passes; with the kinds that have them.
_DECIDES = {
    "compare": ("stdio", "harness"),
    "setup": ("asserts",),
    "imports": ("asserts",),
    "entry_point": ("asserts", "compile"),
}
# Tokens of chat templates that separate turns.
_CONTROL = re.compile(
    r"<\|(?:im_start|im_end|start_header_id|end_header_id|eot_id|begin_of_text|START_OF_TURN_TOKEN|user|assistant|system"
    r"|start_of_role)\|>|<start_of_turn>|\[INST\]|<\uff5c(?:User|Assistant)\uff5c>"
)
_MESSAGES = 'write `prompt` as text, or as [{"role": "user", "content": ...}, ...] that ends with the user'


def recognises(columns: Collection[str]) -> bool:
    """Whether there is a `prompt`."""
    return "prompt" in columns


def to_prompt(row: Row) -> Prompt:
    """The prompt of one row; a row without an id gets one by hashing its messages and tests.

    Raises:
        ConfigError: A column is missing, empty, or of the wrong type or shape.
    """
    messages = messages_of(row)
    tests = checked_tests(row)
    language = row.text("language") if row.data.get("language") is not None else None
    info = _info(row, tests)
    return Prompt(id=id_of(row, "id", messages, tests), messages=messages, language=language, tests=tests, info=info)


def messages_of(row: Row) -> tuple[Mapping[str, str], ...]:
    """The messages of the column `prompt`; text is one message of the user.

    Raises:
        ConfigError: It is missing, empty, or of another type or shape.
    """
    if row.data.get("prompt") is None:
        raise missing_prompt(row, _MESSAGES)
    prompt = row.data["prompt"]
    if isinstance(prompt, str):
        prompt = _from_text(row, prompt)
        if isinstance(prompt, str) and (mark := control_token(prompt)):
            raise row.error(
                f"`prompt` contains {mark!r}: a conversation that was rendered for a model would be rendered again",
                'write its messages: [{"role": "user", "content": ...}, ...], and leave such tokens to the chat'
                " template; a prompt that is about them is one message of that form",
            )
    if not isinstance(prompt, list):
        return ({"role": "user", "content": row.text("prompt")},)
    messages = tuple(_message(row, number, message) for number, message in enumerate(prompt, start=1))
    if not messages or messages[-1]["role"] != "user":
        found = f"ends with the role {messages[-1]['role']!r}" if messages else "is an empty list"
        raise row.error(f"`prompt` {found}; the last message must be the user's", _MESSAGES)
    return messages


def control_token(text: str) -> str | None:
    """The first token of a chat template that separates turns; None where there is none."""
    found = _CONTROL.search(text)
    return None if found is None else found[0]


def missing_prompt(row: Row, hint: str) -> ConfigError:
    """The error about a row without a prompt."""
    columns = ", ".join(f"`{column}`" for column in row.data) if row.data else "no columns"
    return row.error(f"`prompt` is missing; the row has {columns}", hint)


def _from_text(row: Row, text: str) -> Any:
    """The messages that `text` is the JSON text of, as tables often store them; else the text itself."""
    if re.match(r"\s*\{\s*\"(?:role|content|from|value|messages|conversations?|prompt)\"\s*:", text):
        return _refused_object(row, text)
    if not re.match(r"\s*\[\s*\{\s*[\"'](?:role|content|from|value)[\"']\s*:", text):
        return text
    try:
        return from_json(text)
    except ValueError as error:
        raise row.error(
            f"`prompt` begins like a list of messages, but is not valid JSON: {error}", _MESSAGES
        ) from error


def _refused_object(row: Row, text: str) -> str:
    """The text, if it is not the JSON text of an object after all.

    Raises:
        ConfigError: It is.
    """
    try:
        found = from_json(text)
    except ValueError:
        return text
    keys = ", ".join(found)
    raise row.error(
        f"`prompt` is the JSON text of one object (with {keys}); messages are a list",
        f"write the list of messages, such as [{text.strip()[:60]}]" if "role" in found else _MESSAGES,
    )


def _message(row: Row, number: int, message: Any) -> Mapping[str, str]:
    if not isinstance(message, dict):
        raise row.error(f"`prompt`: message {number} is {shown(message)}; an object is needed", _MESSAGES)
    # Tables give every message the columns of all messages; the unused ones are null.
    given = {key: value for key, value in message.items() if value is not None}
    for key in given:
        if key not in ("role", "content"):
            raise row.error(f"`prompt`: message {number} has the unknown key `{key}`", _MESSAGES)
    role, content = given.get("role"), given.get("content")
    if role not in ROLES:
        raise row.error(f"`prompt`: message {number} has the role {role!r}; {', '.join(ROLES)} are allowed", _MESSAGES)
    if not isinstance(content, str) or not content.strip():
        found = "empty" if content == "" else shown(content)
        raise row.error(f"`prompt`: the content of message {number} is {found}; text is needed", _MESSAGES)
    return {"role": role, "content": content}


def id_of(row: Row, column: str, messages: tuple[Mapping[str, str], ...], tests: Mapping[str, Any] | None) -> str:
    """The id in `column`; a row without one gets a hash of its messages and tests.

    Raises:
        ConfigError: It is neither text nor a whole number.
    """
    found = row.data.get(column)
    if found is None:
        content = json.dumps([messages, tests], sort_keys=True, ensure_ascii=True)
        return "sha256:" + hashlib.sha256(content.encode("ascii")).hexdigest()[:16]
    if isinstance(found, int) and not isinstance(found, bool):
        return str(found)
    if not isinstance(found, str) or not found.strip():
        raise row.error(
            f"`{column}` is {shown(found)}; text or a whole number is needed",
            f"give the row a text `{column}`, or none",
        )
    return found


def _info(row: Row, tests: Mapping[str, Any] | None) -> dict[str, Any]:
    info = row.data.get("info")
    if info is not None and not isinstance(info, dict):
        raise row.error(f"`info` is {shown(info)}; an object is needed", 'write {"family": ...}, or remove it')
    for key, kinds in _DECIDES.items():
        if tests is not None and tests["kind"] in kinds and key not in tests and row.data.get(key):
            raise row.error(
                f"`{key}` belongs into `tests`; beside it, it is not read",
                f'write "tests": {{..., "{key}": ...}}, or put it into `info` if it is a note',
            )
    extra = kept_as_info(row, _OWN, own=_OWN, has_tests=tests is not None)
    if info is None:
        return extra
    for key in info:
        if key in extra:
            raise row.error(f"`{key}` is both a column and a key of `info`", "keep one of the two")
    return {**extra, **info}
