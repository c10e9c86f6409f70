"""Whether a source defines a function, for languages whose objects do not show it."""

from __future__ import annotations

import re

# Rust's and Go's: raw strings, strings, characters (a lifetime such as 'a has no closing quote), comments.
_NO_CODE = re.compile(
    r"""//[^\n]*|/\*.*?(?:\*/|\Z)|\br(#*)".*?"\1|"(?:\\.|[^"\\])*"|`[^`]*`|'(?:\\[^\n]{1,10}?|[^'\\\n])'""", re.DOTALL
)


def defines_function(source: bytes, keyword: str, name: str) -> bool:
    """Whether `keyword name` opens a definition outside of comments and strings."""
    code = _NO_CODE.sub(" ", source.decode("utf-8", errors="backslashreplace"))
    return re.search(rf"\b{keyword}\s+(?:r#)?{re.escape(name)}\s*[(<\[]", code) is not None
