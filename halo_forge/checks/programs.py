"""From files on disk to verdicts: source files as they are, and the completions of a JSONL file."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from halo_forge.core.errors import ConfigError
from halo_forge.core.records import Completion, Finish, Prompt, Verdict
from halo_forge.core.source import REASONING_MARKS, canonical, extract
from halo_forge.prompts import jsonl
from halo_forge.prompts._row import Row, shown
from halo_forge.verifiers import open_verifier

if TYPE_CHECKING:
    from halo_forge.verifiers.spec import ProgramSpec

_FORM = 'write {"prompt_id": ..., "text": ...} on each line; `index`, `finish` and `policy_version` are optional'
_COLUMNS = ("prompt_id", "text", "completion", "index", "finish", "policy_version")
_REASONING_FIELDS = ("reasoning_content", "reasoning")
"""What vLLM, SGLang and llama.cpp call the reasoning beside a message's content."""
_TELLING = re.compile(r"\berror\b|undefined reference")
_RESULT = re.compile(r"(?:case|check) \d+: ")
_MOST_BYTES = 16 * 1024 * 1024  # far more than any completion, and a bound for endless devices
_NO_INPUT: Mapping[str, Any] = {"kind": "stdio", "cases": ({"stdin": "", "stdout": ""},)}


@dataclass(frozen=True, slots=True)
class NamedCompletion:
    """One completion to check, and its name in a table."""

    name: str
    prompt: Prompt
    completion: Completion


def verdicts_on(spec: ProgramSpec, named: Sequence[NamedCompletion]) -> Iterator[Verdict]:
    """The verdicts in the order of `named`, each as soon as it and those before it are there.

    Raises:
        ConfigError: A prompt's tests cannot work.
        ToolMissing: A tool is not there, or does not do its work.
    """
    with open_verifier(spec) as verifier:
        verifier.check_prompts(list({each.prompt.id: each.prompt for each in named}.values()))
        yield from verifier.verify([(each.prompt, each.completion) for each in named])


def without_tests(spec: ProgramSpec) -> ProgramSpec:
    """The settings for a file that no prompt belongs to: it is compiled and run, and there is nothing to compare."""
    if spec.stages[-1] != "tests" or not spec.runs_programs:
        return spec
    return spec.model_copy(update={"stages": spec.stages[:-1]})


def source_files(paths: Sequence[Path], spec: ProgramSpec, prompt: Prompt | None) -> list[NamedCompletion]:
    """Each file as a completion of `prompt`, or as a standalone program; as `programs`.

    Raises:
        ConfigError: A file cannot be read, is empty, is no UTF-8, is named like another language, or holds what a
            completion cannot.
    """
    for path in paths:
        named = canonical(path.suffix) if path.suffix else None
        if named is not None and named != spec.language:
            raise ConfigError(
                f"{path}: the file name says {named}, but the verifier checks {spec.language}",
                f"choose the verifier: --set verifier.kind={named}",
            )
    return programs([(str(path), _source(path)) for path in paths], spec, prompt)


def programs(sources: Iterable[tuple[str, str]], spec: ProgramSpec, prompt: Prompt | None) -> list[NamedCompletion]:
    """Each (name, source text) as a completion of `prompt`, or as a standalone program that is run without input.

    Where compiling is the last stage, a program of its own is compiled to an object and needs no `main`.

    Raises:
        ConfigError: A source is empty, or holds what a completion cannot.
    """
    named = []
    for index, (name, source) in enumerate(sources):
        own = prompt
        if own is None:
            tests = _NO_INPUT if spec.runs_programs and spec.stages != ["compile"] else None
            own = Prompt(name, ({"role": "user", "content": name},), spec.language, tests)
        if not source.strip():
            raise ConfigError(f"{name} is empty", "give a file or text that holds a program")
        text = as_completion(source, spec.language, name)
        number = 0 if prompt is None else index
        named.append(NamedCompletion(name, own, Completion(own.id, number, text, (), "stop", 0, 0)))
    return named


def as_completion(source: str, language: str, name: str) -> str:
    """`source` as a model would write it: in a code fence that nothing in it closes.

    Raises:
        ConfigError: `source` (which messages call `name`) holds text that is stripped from every completion.
    """
    fence = "```"
    while fence in source:
        fence += "`"
    text = f"{fence}{language}\n{source}{'' if source.endswith(chr(10)) else chr(10)}{fence}\n"
    found = extract(text, language).code
    if source.strip() and (found is None or found.split() != source.split()):
        raise ConfigError(
            f"{name}: it contains text that is stripped from completions (a special token, or </think>), so a different"
            " program would be checked",
            "remove that text from the program",
        )
    return text


def telling_line(verdict: Verdict) -> str:
    """The line of the diagnostics that says most: the first failed check, else the first error, else the first line."""
    lines = [line.strip() for line in verdict.diagnostics.splitlines() if line.strip()]
    results = [line for line in lines if _RESULT.match(line)]  # a program that compiled has its warnings before these
    return next(iter([*results, *filter(_TELLING.search, lines), *lines]), "")


def _source(path: Path) -> str:
    try:
        with path.open("rb") as handle:
            content = handle.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise ConfigError(f"{path} is larger than {_MOST_BYTES} bytes", "give source files or .jsonl files")
        return content.decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", "give source files or .jsonl files") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start + 1} is not UTF-8", "save the file as UTF-8") from error


def completions(paths: Sequence[Path], prompts: Mapping[str, Prompt]) -> list[NamedCompletion]:
    """The rows of JSONL files: `completions.jsonl` and `selection.jsonl` of a run, or rows of the user's own.

    Raises:
        ConfigError: A file cannot be read or has no row, or a row is wrong or names no prompt of `prompts`.
    """
    rows = (row for path in paths for row in jsonl.read(path, kind="file of completions"))
    named = completion_rows(rows, prompts, show_places=len(paths) > 1)
    if not named:
        raise ConfigError(f"{', '.join(map(str, paths))}: no row", _FORM)
    return named


def completion_rows(
    rows: Iterable[Row], prompts: Mapping[str, Prompt], *, show_places: bool = False
) -> list[NamedCompletion]:
    """Rows as in the JSONL files above; one without an index gets the number of rows of its prompt before it.

    Args:
        show_places: Names of completions begin with the place of their row.

    Raises:
        ConfigError: A row is wrong or names no prompt of `prompts`.
    """
    named: list[NamedCompletion] = []
    seen: dict[str, int] = {}
    for row in rows:
        prompt_id = row.text("prompt_id")
        if prompt_id not in prompts:
            raise row.error(f"no prompt has the id {prompt_id!r}{nearest(prompt_id, prompts)}", _ids_hint())
        _refuse_misspelt(row)
        index = _whole(row, "index", seen.get(prompt_id, 0))
        seen[prompt_id] = seen.get(prompt_id, 0) + 1
        version = _whole(row, "policy_version", 0)
        completion = Completion(prompt_id, index, _text(row), (), _finish(row), 0, version)
        name = f"{row.place} {prompt_id} {index}" if show_places else f"{prompt_id} {index}"
        named.append(NamedCompletion(name, prompts[prompt_id], completion))
    return named


def _refuse_misspelt(row: Row) -> None:
    for column in row.data:
        meant = difflib.get_close_matches(column, _COLUMNS, n=1, cutoff=0.75)
        if column == "finish_reason":
            meant = ["finish"]
        if meant and column not in _COLUMNS and meant[0] not in row.data:
            raise row.error(f"`{column}` is not read; did you mean `{meant[0]}`?", _FORM)


def one_prompt(prompt_id: str, prompts: Mapping[str, Prompt]) -> Prompt:
    """The prompt of `--prompt ID`.

    Raises:
        ConfigError: There is none.
    """
    if prompt_id not in prompts:
        raise ConfigError(f"no prompt has the id {prompt_id!r}{nearest(prompt_id, prompts)}", _ids_hint())
    return prompts[prompt_id]


def nearest(prompt_id: str, prompts: Mapping[str, Prompt]) -> str:
    """`; did you mean ...?` with the most similar ids, or nothing."""
    found = difflib.get_close_matches(prompt_id, list(prompts), n=3)
    return f"; did you mean {' or '.join(map(repr, found))}?" if found else ""


def _ids_hint() -> str:
    return (
        "use an id of the prompts that the configuration uses: those of prompts.train, dev and test that prompts.where"
        " and the limits leave"
    )


def _text(row: Row) -> str:
    given = [key for key in ("text", "completion") if row.data.get(key) is not None]
    if len(given) != 1:
        raise row.error(f"the row has {' and '.join(given) or 'neither `text` nor `completion`'}", _FORM)
    value = row.data[given[0]]
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
        value = _message_text(value[0], row)
    if not isinstance(value, str):
        raise row.error(f"`{given[0]}` is {shown(value)}; text is needed", _FORM)
    return value


def _message_text(message: Mapping[str, Any], row: Row) -> Any:
    """The content of a chat message, after the reasoning that servers with a reasoning parser take out of it."""
    role = message.get("role", "assistant")
    if role != "assistant":
        raise row.error(f"the completion is a message of the role {shown(role)}; assistant is needed", _FORM)
    content = message.get("content")
    reasoning = next((message[key] for key in _REASONING_FIELDS if message.get(key)), None)
    if reasoning is None:
        return content
    opening, closing = REASONING_MARKS[0]
    # A reply without content was cut off in its reasoning.
    return f"{opening}\n{reasoning}" + (f"\n{closing}\n\n{content}" if content else "")


def _whole(row: Row, column: str, default: int) -> int:
    value = row.data.get(column)
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise row.error(f"`{column}` is {shown(value)}; a non-negative integer is needed", _FORM)
    return value


def _finish(row: Row) -> Finish:
    value = row.data.get("finish")
    if value not in (None, "stop", "length"):
        raise row.error(f"`finish` is {shown(value)}; stop or length is allowed", _FORM)
    return "length" if value == "length" else "stop"
