"""The samples of a page: completions of v_0 and of one other version, as the page's script reads them.

A completion is a list of pieces, each with the number of a kind of token, so that the script only sets text: nothing
that a model wrote is ever parsed as HTML.  All of it is compressed, up to a size; what does not fit is counted.
"""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

from halo_forge.core.records import Prompt
from halo_forge.core.wording import counted, escaped, is_shown, visible
from halo_forge.store.compared import ComparedPrompt, compared_prompts, num_passed, reached
from halo_forge.store.samples import StoredSample

SETS = ("dev", "test", "train")
"""In the order in which they get the room that there is."""
MOST_CHARACTERS = {"completion": 12_000, "diagnostics": 4_000, "prompt": 6_000, "name": 300}
"""Of one text; the page says how much is left out."""

_MOST_AT_END = 64
"""Bytes that close the compressed data."""

KINDS = ("", "keyword", "name", "string", "number", "comment", "preprocessor", "escape")
"""Kinds of pieces, as classes of the style sheet; "escape" is a character that `visible` writes differently."""
_ESCAPE = KINDS.index("escape")


@dataclass(frozen=True)
class Payload:
    """What the script gets, and what it does not.

    Attributes:
        data: JSON, compressed by zlib, as base64.
        notes: What is left out, in words.
    """

    data: str
    notes: tuple[str, ...]


def payload(
    root: Path, other: int, prompts: Mapping[str, Prompt], language: str, *, most_bytes: int | None = None
) -> Payload:
    """The samples of v_0 and v_`other` in the run in `root`.

    Args:
        prompts: Prompt id -> prompt, as far as they are known: for their texts, families and difficulties.
        language: Of prompts that name none.
        most_bytes: Of `Payload.data`; None for no limit.

    Raises:
        RunDirError: A file cannot be read.
    """
    sets = ((set_name, compared_prompts(root, set_name, other), prompts) for set_name in SETS)
    return payload_of(sets, ("v0", f"v{other}"), language, most_bytes=most_bytes)


def payload_of(
    sets: Iterable[tuple[str, list[ComparedPrompt], Mapping[str, Prompt]]],
    names: tuple[str, str],
    language: str,
    *,
    most_bytes: int | None = None,
) -> Payload:
    """The samples of two sides.

    Args:
        sets: (name, its compared prompts, prompt id -> prompt as far as they are known), the most important first.
        names: Of the sides; "" for one that is not there.
        language, most_bytes: As for `payload`.
    """
    head = {"versions": [_shown(name, "name") for name in names], "kinds": KINDS}
    compressor = zlib.compressobj(9)
    parts = [compressor.compress((json.dumps(head)[:-1] + ', "prompts": [null').encode())]
    size, notes = sum(map(len, parts)), []
    limit = math.inf if most_bytes is None else most_bytes * 3 // 4 - _MOST_AT_END  # base64 takes a third more
    for set_name, every, prompts in sets:
        every.sort(key=_interest)
        for at, compared in enumerate(every):
            entry = _prompt(compared, set_name, prompts.get(compared.prompt_id), language)
            longer = compressor.copy()
            part = longer.compress(b", " + json.dumps(entry).encode()) + longer.flush(zlib.Z_SYNC_FLUSH)
            if size + len(part) > limit:
                notes.append(f"{counted(len(every) - at, f'{set_name} prompt')} of {len(every)}")
                break
            compressor, size = longer, size + len(part)
            parts.append(part)
    parts += [compressor.compress(b"]}"), compressor.flush()]
    return Payload(base64.b64encode(b"".join(parts)).decode("ascii"), tuple(notes))


def _interest(compared: ComparedPrompt) -> int:
    """What comes first: prompts that pass more or less often, then those with a mark; the order else stays."""
    return 0 if compared.change in ("gained", "lost") else 1 if compared.marks else 2


def _prompt(compared: ComparedPrompt, set_name: str, prompt: Prompt | None, language: str) -> dict[str, Any]:
    info = {} if prompt is None else prompt.info
    spoken = language if prompt is None or prompt.language is None else prompt.language
    return {
        "id": _shown(compared.prompt_id, "name"),
        "set": set_name,
        "change": compared.change,
        "marks": sorted(compared.marks),
        "family": _shown(str(info.get("family", "")), "name"),
        "difficulty": _shown(str(info.get("difficulty", "")), "name"),
        "text": "" if prompt is None else _shown(prompt.text, "prompt"),
        "passes": [num_passed(compared.start), num_passed(compared.other)],
        "samples": [[_sample(each, spoken) for each in samples] for samples in (compared.start, compared.other)],
    }


def _sample(sample: StoredSample, language: str) -> dict[str, Any]:
    verdict, completion = sample.verdict, sample.completion
    found: dict[str, Any] = {
        "index": completion.index,
        "reached": reached(verdict),
        "cut": completion.finish == "length",
        "pieces": _pieces(sample, language),
    }
    if sample.kept is not None:
        found["selection"] = "kept" if sample.kept else f"dropped: {sample.dropped_for}"
    if verdict is not None:
        found["reward"] = round(verdict.reward, 3)
        found["status"] = verdict.status
        found["flags"] = [visible(flag) for flag in verdict.flags]
        found["diagnostics"] = _shown(verdict.diagnostics, "diagnostics")
        if verdict.stage == "tests":
            found["tests"] = [verdict.tests_passed, verdict.tests_total]
    if sample.second_verdict is not None and reached(sample.second_verdict) != reached(verdict):
        found["second"] = reached(sample.second_verdict)
    return found


def _shown(text: str, kind: str) -> str:
    limit = MOST_CHARACTERS[kind]
    if len(text) <= limit:
        return visible(text)
    return f"{visible(text[:limit])} … ({counted(len(text) - limit, 'more character')} left out)"


def _pieces(sample: StoredSample, language: str) -> list[int | str]:
    """The completion as [kind, text, kind, text ...]: its program in colours, all else plain."""
    text = sample.completion.text
    limit = MOST_CHARACTERS["completion"]
    extraction = None if sample.verdict is None else sample.verdict.extraction
    span = None if extraction is None else extraction.get("lines")
    pieces = list(_coloured(text[:limit], tuple(span) if span else None, language))
    if len(text) > limit:
        pieces.append((0, f" … ({counted(len(text) - limit, 'more character')} left out)"))
    return [value for piece in pieces for value in piece]


@lru_cache(maxsize=20_000)
def _coloured(text: str, span: tuple[int, int] | None, language: str) -> tuple[tuple[int, str], ...]:
    """(kind, text) pieces; `span` are the numbers of the first and the last line of the program, from 1."""
    if span is None:
        return tuple(_escapes(0, text))
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")  # as the program was found (core.source)
    first, last = span
    before, program, after = lines[: first - 1], lines[first - 1 : last], lines[last:]
    joined = [(0, "\n".join([*before, ""])), *_tokens("\n".join(program), language), (0, "\n".join(["", *after]))]
    merged = ((kind, "".join(part for _, part in group)) for kind, group in groupby(joined, lambda each: each[0]))
    return tuple(piece for kind, part in merged for piece in _escapes(kind, part))


def _escapes(kind: int, text: str) -> Iterator[tuple[int, str]]:
    for shown, group in groupby(text, is_shown):
        part = "".join(group)
        yield (kind, part) if shown else (_ESCAPE, "".join(map(escaped, part)))


def _tokens(program: str, language: str) -> Sequence[tuple[int, str]]:
    from pygments.util import ClassNotFound

    try:
        lexer = _lexer(language)
    except ClassNotFound:  # a language of a plugin
        return [(0, program)]
    return [(_kind(str(token)), value) for token, value in lexer.get_tokens(program)]


@lru_cache
def _lexer(language: str) -> Any:
    from pygments.lexers import get_lexer_by_name

    return get_lexer_by_name(language, stripnl=False, ensurenl=False)


_KIND_OF = {
    "Token.Keyword": "keyword", "Token.Name.Function": "name", "Token.Name.Class": "name", "Token.Name.Builtin": "name",
    "Token.Literal.String": "string", "Token.Literal.Number": "number", "Token.Comment.Preproc": "preprocessor",
    "Token.Comment": "comment",
}  # fmt: skip


def _kind(token: str) -> int:
    """The kind of a Pygments token: of the first of its ancestors that has one."""
    return next((KINDS.index(kind) for start, kind in _KIND_OF.items() if token.startswith(start)), 0)
