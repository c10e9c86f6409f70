"""One row as read, before its shape is known."""

from __future__ import annotations

import datetime
import decimal
import difflib
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from halo_forge.core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Row:
    """Column name -> plain JSON value, and where it was found (`tasks.jsonl:12`, `tasks.parquet row 12`)."""

    place: str
    data: Mapping[str, Any]

    def error(self, found: str, hint: str) -> ConfigError:
        """The error to raise about this row."""
        return ConfigError(f"{self.place}: {found}", hint)

    def text(self, column: str) -> str:
        """The text in `column`.

        Raises:
            ConfigError: It is missing, not text, or blank.
        """
        value = self.data.get(column)
        if value is None:
            raise self.error(f"`{column}` is missing", f"give every row a text `{column}`")
        if not isinstance(value, str):
            raise self.error(f"`{column}` is {shown(value)}; text is needed", f"write `{column}` as text")
        if not value.strip():
            raise self.error(f"`{column}` is empty", f"give every row a `{column}`, or remove the row")
        return value

    def texts(self, column: str) -> tuple[str, ...]:
        """The list of strings in `column`, none of them blank; an absent column is an empty list.

        Raises:
            ConfigError: It is not a list, or an item is not text or is blank.
        """
        value = self.data.get(column)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(item, str) and item.strip() for item in value):
            raise self.error(
                f"`{column}` is {shown(value)}; a list of texts is needed", f"write `{column}` as [text, ...]"
            )
        return tuple(value)


@contextmanager
def left_out(broken: list[ConfigError] | None) -> Iterator[None]:
    """Append a ConfigError of this block to `broken` and continue; raise it if `broken` is None."""
    try:
        yield
    except ConfigError as error:
        if broken is None:
            raise
        broken.append(error)


def shown(value: Any) -> str:
    """A value for an error message: its JSON type and the start of its text."""
    names = {dict: "an object", list: "a list", str: "text", bool: "a boolean", int: "a number", float: "a number"}
    text = repr(value)
    kind = "null" if value is None else names.get(type(value), type(value).__name__)
    return kind if value is None else f"{kind} ({text if len(text) <= 60 else text[:57] + '...'})"


def did_you_mean(found: str, allowed: Iterable[str]) -> str:
    """`; did you mean "x"?` for the nearest allowed name, or an empty string."""
    nearest = difflib.get_close_matches(found, list(allowed), n=1)
    return f'; did you mean "{nearest[0]}"?' if nearest else ""


def plain(place: str, column: str, value: Any) -> Any:
    """A cell of a table file as JSON data: dates become ISO text, decimals text, NaN null.

    Raises:
        ConfigError: The cell is bytes, an image, or something else that JSON cannot represent.
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, Mapping):
        return {str(key): plain(place, f"{column}.{key}", item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(place, column, item) for item in value]
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return str(value)
    raise ConfigError(
        f"{place}: column `{column}` contains {type(value).__name__}; text, numbers, lists and objects are allowed",
        f"remove the column `{column}`, or convert it to text",
    )
