"""Rows of a JSON Lines file: one object per line, UTF-8; blank lines are skipped."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from pathlib import Path

from halo_forge.core.errors import ConfigError
from halo_forge.prompts._conversion import lines_command
from halo_forge.prompts._json_text import from_json
from halo_forge.prompts._row import Row, left_out, shown

_GZIP = b"\x1f\x8b"


def read(
    path: Path, name: str | None = None, broken: list[ConfigError] | None = None, kind: str = "prompt file"
) -> Iterator[Row]:
    """The rows of `path`; errors of single lines are appended to `broken`, if given.

    Messages call the file `kind` and `name`.

    Raises:
        ConfigError: The file is missing or unreadable; a line is not UTF-8, not JSON, or not an object.
    """
    name = str(path) if name is None else name
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{kind} {name} cannot be read: {error.strerror}", "check the path and its permissions"
        ) from error
    # Some editors write a byte order mark first; it is not part of a row.
    content = content.removeprefix(codecs.BOM_UTF8)
    _refuse_other_format(f"{kind} {name}", path, content)
    # Only a line feed ends a line: JSON strings may contain other characters that `splitlines` would split at.
    for number, line in enumerate(content.split(b"\n"), start=1):
        if line.strip():
            with left_out(broken):
                yield _row(f"{name}:{number}", line)


def _refuse_other_format(called: str, path: Path, content: bytes) -> None:
    if content.startswith(_GZIP):
        raise ConfigError(f"{called} is compressed by gzip", f"unpack it: gunzip -c {path} > NEW.jsonl")
    first = content.lstrip()[:1]
    first_line = content.lstrip().split(b"\n", 1)[0].strip()
    if first_line not in (b"[", b"{") and not (first == b"[" and first_line.endswith(b"]")):
        return
    try:
        value, _ = json.JSONDecoder().raw_decode(content.decode("utf-8").lstrip())
    except (ValueError, RecursionError):
        return  # the error about the first line says where it is broken
    is_list = isinstance(value, list)
    raise ConfigError(
        f"{called} is {'one JSON list' if is_list else 'JSON over several lines'}, not one object per line",
        f"convert it: {lines_command(str(path), 'NEW.jsonl', is_list=is_list)}",
    )


def _row(place: str, line: bytes) -> Row:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{place}: byte {error.start + 1} of the line (0x{line[error.start]:02x}) is not UTF-8",
            "save the file as UTF-8",
        ) from error
    try:
        data = from_json(text)
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"{place}: column {error.colno}: not valid JSON: {error.msg}", "write one JSON object per line"
        ) from error
    except ValueError as error:
        raise ConfigError(f"{place}: {error}", "write one flat JSON object per line, of whole characters") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{place}: the row is {shown(data)}; an object is needed", "write one JSON object per line")
    return Row(place, data)
