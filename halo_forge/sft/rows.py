"""Rows to train on: prompts with completions, conversations, and prompts with reference solutions.

The last are the prompt sets of RAFT: their reference becomes the completion.  Everything else about a row (its id, its
tests, its language) is read as that of a prompt.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from halo_forge.core.errors import ConfigError
from halo_forge.core.records import Prompt
from halo_forge.core.wording import counted
from halo_forge.prompts import Row, filtered, open_rows, shown, to_prompts
from halo_forge.prompts.native import control_token, messages_of
from halo_forge.prompts.similarity import messages_digest
from halo_forge.prompts.split import apply, limited
from halo_forge.runtime.prompt_sets import with_system
from halo_forge.sft.config import DataSection

_OWN = ("id", "language", "prompt", "tests", "info")
_FORMS = (
    'write {"prompt": ..., "completion": ...}, {"messages": [...]} that ends with the assistant, or a prompt with a'
    " reference solution in info.reference"
)
_CONVERSATION = (
    'write [{"role": "user", "content": ...}, {"role": "assistant", "content": ...}, ...]: texts of system, user and'
    " assistant, with the user right before the last message; halo-forge knows no tool calls"
)


@dataclass(frozen=True)
class SftRow:
    """One row as read.

    Attributes:
        place: Where it was found: `rows.jsonl:12`.
        completion: What the model is to write; "" where the row has none.
        is_reference: It is a program alone, which still has to be put into a fence.
    """

    prompt: Prompt
    place: str
    completion: str
    is_reference: bool = False

    @property
    def prompt_sha256(self) -> str:
        """Of its messages: the same for every row with this prompt, whatever its id."""
        return messages_digest(self.prompt)


@dataclass
class ReadRows:
    """The rows of one source.

    Attributes:
        notes: What was left out, and what is only context, in words.
    """

    rows: list[SftRow] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_rows(data: DataSection, source: str, *, judged: bool, limit: int | None = None) -> ReadRows:
    """The rows that `source` names, with the system prompt in front.

    Args:
        judged: The verifier will judge them, so nothing that looks like tests may be overlooked.

    Raises:
        ConfigError: The source cannot be read or is empty, or a row is of no form that is known.
    """
    found = ReadRows()
    rows, split = open_rows(source)
    completions: dict[str, tuple[str, bool]] = {}
    places: dict[str, str] = {}
    prompts = []
    for row, prompt in to_prompts(_as_prompts(rows, completions, found, judged=judged)):
        if row.place not in completions:
            reference = prompt.info.get("reference")
            completions[row.place] = (reference if isinstance(reference, str) else "", True)
        places[prompt.id] = row.place
        prompts.append(prompt)
    if split is not None:
        prompts = apply(prompts, split)
    if data.where:
        prompts = _filtered(source, prompts, data)
    if limit is not None:
        prompts = limited(prompts, limit)
    if not prompts:
        raise ConfigError(f"{source!r} has no rows{'' if split is None else f' in the split {split}'}", "add rows")
    for prompt in prompts:
        completion, is_reference = completions[places[prompt.id]]
        prompt = with_system(prompt, data.system_prompt)
        found.rows.append(SftRow(prompt, places[prompt.id], completion, is_reference))
    return found


def _filtered(source: str, prompts: list[Prompt], data: DataSection) -> list[Prompt]:
    try:
        return filtered(source, prompts, data.where)
    except ConfigError as error:
        raise ConfigError(error.message.replace("prompts.where", "data.where"), "correct data.where") from error


def _as_prompts(
    rows: Iterator[Row], completions: dict[str, tuple[str, bool]], found: ReadRows, *, judged: bool
) -> Iterator[Row]:
    """The rows as those of a prompt set; the completions that they have go to `completions`, by place."""
    seen: set[str] = set()
    num_repeated = num_turns = 0
    for row in rows:
        parts = _parts(row)
        if parts is None:
            yield row
            continue
        asked, completion = parts
        messages = [{"role": "user", "content": asked}] if isinstance(asked, str) else asked
        num_turns += any(isinstance(each, Mapping) and each.get("role") == "assistant" for each in messages)
        content = json.dumps([messages, completion, row.data.get("tests")], sort_keys=True, ensure_ascii=True)
        digest = "sha256:" + hashlib.sha256(content.encode()).hexdigest()[:16]
        if digest in seen:
            num_repeated += 1
            continue
        seen.add(digest)
        completions[row.place] = (completion, False)
        given = row.data.get("id")
        rest = {key: value for key, value in row.data.items() if key not in ("messages", "prompt", "completion")}
        if not judged:
            rest = _unjudged(row, rest)
        yield Row(row.place, {**rest, "id": digest if given is None else given, "prompt": asked})
    if num_repeated:
        found.notes.append(
            f"left out because they repeat an earlier row, prompt and completion: {counted(num_repeated, 'row')}"
        )
    if num_turns:
        found.notes.append(
            f"earlier messages of the assistant are context, only the last one is trained on:"
            f" {counted(num_turns, 'conversation')}"
        )


def _unjudged(row: Row, rest: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of a row that nothing judges: what is no part of a prompt is a note."""
    own = {key: value for key, value in rest.items() if key in _OWN}
    notes = {key: value for key, value in rest.items() if key not in _OWN}
    info = own.get("info")
    if info is not None and not isinstance(info, dict):
        raise row.error(f"`info` is {shown(info)}; an object is needed", 'write {"family": ...}, or remove it')
    return {**own, "info": {**notes, **(info or {})}}


def _parts(row: Row) -> tuple[Any, str] | None:
    """The prompt as it is given, and the completion; None for a row that has neither `messages` nor `completion`."""
    data = row.data
    if data.get("tools"):
        raise row.error(
            "the row has `tools`, which no prompt of halo-forge describes to the model",
            "leave out rows with tools; where the model needs none, remove the column",
        )
    if data.get("messages") is not None:
        if data.get("completion") is not None or data.get("prompt") is not None:
            raise row.error("the row has `messages` beside `prompt` or `completion`", "keep one of the two forms")
        return _conversation(row, data["messages"])
    if "completion" not in data:
        if data.get("prompt") is None and not isinstance(data.get("task_id"), str | int):
            columns = ", ".join(f"`{column}`" for column in data) or "no columns"
            raise row.error(f"the row has {columns}", _FORMS)
        return None
    completion, prompt = data["completion"], data.get("prompt")
    if isinstance(completion, list):
        if len(completion) != 1:
            raise row.error(f"`completion` is a list of {len(completion)} messages; one is needed", _FORMS)
        completion = _content(row, completion[0], "`completion`")
    if completion is not None and not isinstance(completion, str):
        raise row.error(f"`completion` is {shown(completion)}; text is needed", _FORMS)
    if prompt is None:
        raise row.error("`prompt` is missing", _FORMS)
    return prompt, _checked(row, completion)


def _conversation(row: Row, messages: Any) -> tuple[list[Any], str]:
    if not isinstance(messages, list) or not messages:
        raise row.error(f"`messages` is {shown(messages)}; a list of messages is needed", _FORMS)
    *asked, last = messages
    if not isinstance(last, Mapping) or last.get("role") != "assistant":
        return list(messages), ""  # nothing to learn; said as a row without a completion
    if not asked:
        raise row.error("`messages` has no message before that of the assistant", _FORMS)
    try:
        messages_of(Row(row.place, {"prompt": asked}))
    except ConfigError as error:
        message = error.message.replace("`prompt`", "`messages` without its last one", 1)
        raise ConfigError(message, _CONVERSATION) from error
    return asked, _checked(row, _content(row, last, "the last message"))


def _content(row: Row, message: Any, where: str) -> str | None:
    if not isinstance(message, Mapping) or message.get("role") != "assistant":
        raise row.error(f"{where} is {shown(message)}; a message of the assistant is needed", _FORMS)
    unread = [key for key, value in message.items() if key not in ("role", "content") and value is not None]
    if unread:
        raise row.error(f"{where} has the unknown key `{unread[0]}`", "messages have `role` and `content`")
    content = message.get("content")
    if content is not None and not isinstance(content, str):
        raise row.error(f"the content of {where} is {shown(content)}; text is needed", _FORMS)
    return content


def _checked(row: Row, completion: str | None) -> str:
    if completion is None or not completion.strip():
        return ""
    if (mark := control_token(completion)) is not None:
        raise row.error(
            f"the completion contains {mark!r}, a token of a chat template", "leave such tokens to the chat template"
        )
    return completion


def with_prefix(row: SftRow, start: str) -> str:
    """The whole completion of a row, which begins with `start`.

    A reference solution is put into a fence.  Where `start` opens one with lines of its own, such as an include, those
    lines are not repeated.

    Raises:
        ValueError: The completion is empty, or does not begin like that.
    """
    if not row.completion.strip():
        raise ValueError("it has no completion")
    if not row.is_reference:
        if not row.completion.startswith(start):
            raise ValueError(f"its completion does not begin with {start!r}, as completions of this run do")
        return row.completion
    if row.prompt.language is None:
        raise ValueError("its reference solution is in an unknown language, so no fence can be written")
    code = row.completion.strip("\n")
    fenced = f"```{row.prompt.language}\n{code}\n```"
    if fenced.startswith(start):
        return fenced
    _, fence, opened = start.rpartition("```")
    if not fence:
        raise ValueError(f"its reference solution cannot begin with {start!r}, which opens no fence")
    own = opened.split("\n")[1:]
    if "\n" not in opened or own[-1]:
        raise ValueError(f"its reference solution does not begin with {start!r}")
    given = {line.strip() for line in own if line.strip()}
    rest = "\n".join(line for line in code.split("\n") if line.strip() not in given)
    return start + rest.lstrip("\n") + "\n```"


def held_out_prompts(rows: Sequence[SftRow], fraction: float) -> set[str]:
    """Digests of the prompts whose rows are held out: `fraction` of them, at least 1, those of the lowest digests.

    Rows of one prompt stay together: a completion of a prompt that was trained on says little about others.
    """
    if fraction == 0:
        return set()
    prompts = sorted({row.prompt_sha256 for row in rows})
    return set(prompts[: max(1, round(fraction * len(prompts)))])
