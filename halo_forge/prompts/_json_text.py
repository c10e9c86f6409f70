"""JSON as rows hold it: strict, so that nothing is read otherwise than its writer meant."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn


def from_json(text: str) -> Any:
    """The value of JSON text.

    Raises:
        ValueError: It is not JSON, has a key twice in one object, NaN or Infinity, half a surrogate pair, or is nested
            too deeply.  The message says which; a JSONDecodeError also says where.
    """
    try:
        data = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite)
    except RecursionError as error:
        raise ValueError("nested too deeply to be read") from error
    # Half a surrogate pair parses when escaped, but neither a tokenizer nor a file accepts it.
    if "\\ud" in text.lower():
        try:
            json.dumps(data, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError as error:
            # A UnicodeEncodeError is a ValueError too; its own text tells a user nothing.
            raise ValueError("a string contains half a surrogate pair") from error
    return data


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r} appears twice in one object")
        found[key] = value
    return found


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"the number {digits[:30]} is too large")
    return number


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value; numbers, text, true, false and null are allowed")
