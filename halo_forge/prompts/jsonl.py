"""Rows of a JSON Lines file: one object per line, UTF-8; blank lines are skipped."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from pathlib import Path

from halo_forge.core.errors import ConfigError
from halo_forge.prompts._json_text import from_json
from halo_forge.prompts._row import Row, left_out, shown


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
    # Only a line feed ends a line: JSON strings may contain other characters that `splitlines` would split at.
    for number, line in enumerate(content.split(b"\n"), start=1):
        if line.strip():
            with left_out(broken):
                yield _row(f"{name}:{number}", line)


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
