"""The types of settings that are paths: what the system cannot take as it is written is refused."""

from __future__ import annotations

import os
import re
from typing import Annotated

from pydantic import AfterValidator, StringConstraints

_VARIABLE = re.compile(r"\$(\w+|\{[^}]*\})")
_LONGEST_NAME = 255

Text = Annotated[str, StringConstraints(min_length=1)]


def _plain(text: str) -> str:
    if "\0" in text:
        raise ValueError("a path cannot contain a NUL character")
    if variable := _VARIABLE.search(text):
        raise ValueError(f"found {variable[0]} in it: variables are not expanded; write out the path, ~ for the home")
    if (longest := max(len(os.fsencode(name)) for name in text.split("/"))) > _LONGEST_NAME:
        raise ValueError(f"found a name of {longest} bytes in it, allowed: at most {_LONGEST_NAME}")
    return text


def _expanded(text: str) -> str:
    return os.path.expanduser(_plain(text))


PlainPath = Annotated[Text, AfterValidator(_plain)]
"""A path, or the name of something on a hub, as it is written."""
PathText = Annotated[Text, AfterValidator(_expanded)]
"""A path, with `~` expanded."""
