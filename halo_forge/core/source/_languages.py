"""Names of languages in fences, and how their source code begins."""

from __future__ import annotations

import re

ALIASES: dict[str, str] = {
    **dict.fromkeys(("c", "h"), "c"),
    **dict.fromkeys(("cpp", "c++", "cxx", "cc", "hpp"), "cpp"),
    **dict.fromkeys(("python", "py", "python3", "ipython", "pycon"), "python"),
    **dict.fromkeys(("rust", "rs"), "rust"),
    **dict.fromkeys(("go", "golang"), "go"),
}

_C_START = (
    r"#\s*(?:include|define|undef|pragma|ifn?def|if)\b|//|/\*"
    r"|(?:typedef|struct|union|enum|static|extern|const|inline|unsigned|signed|void|bool|_Bool|char|short|int|long|float"
    r"|double|size_t|ssize_t|FILE|u?int(?:8|16|32|64|ptr|max)_t)\b[\w\s*]{0,80}(?:[*\s]\w{1,80}\s{0,9}[({;=\[,]|\{)"
)
_CPP_START = r"using\b|namespace\b|template\s*<|class\s+\w+|std::|auto\s+\w+\s*[=(]|"
_PYTHON_START = (
    r"import\s+\w|from\s+[\w.]+\s+import\b|(?:async\s+)?def\s+\w+\s*\(|class\s+\w+\s*[:(]|@\w|#|[rRuUfFbB]?(?:\"{3}|'{3})|if\b"
    r"|(?:async\s+)?(?:for|while|with|match)\b[^\n]{1,400}:|try\s*:|assert\b|raise\b|(?:global|nonlocal|del)\s+\w|pass\b"
    r"|[^\W\d][\w.]{0,80}(?:[\[,][^=\n]{0,200})?\s*(?::[^=\n]{1,80})?(?:[-+*/%&|^@]|//|\*\*|<<|>>)?=(?!=)"
    r"|[^\W\d][\w.]{0,80}\([^\n]{0,400}(?:\)[ \t;]*(?:\#[^\n]*)?$|[(,]$)"
)
# Other ways in which the body of a function can begin.
PYTHON_BODY_START = _PYTHON_START + r"|return\b|yield\b|await\b|\.{3}|[\"'([{]"
STARTS: dict[str, str] = {
    "c": _C_START,
    "cpp": _CPP_START + _C_START,
    "python": _PYTHON_START,
    "rust": r"use\s+[\w:]+|(?:pub\s+)?(?:fn|struct|enum|mod|trait|const|static)\s+\w+|impl\b|#!?\[|//|/\*",
    "go": r"package\s+\w+|import\s*[(\"]|func\s*[\w(]|//|/\*",
}
# The end of "c++17", "c2x", "py3" and "python3.11".
_VERSION = re.compile(r"-?\d[\d.]{0,9}[a-z]?\Z")


def canonical(tag: str) -> str | None:
    """The language that a tag such as "C++17", "{.cpp}" or "python3" names; None if it is unknown."""
    word = tag.strip().lower().removeprefix("language-").removeprefix("lang-").strip("{}.")
    return ALIASES.get(word) or ALIASES.get(_VERSION.sub("", word))
