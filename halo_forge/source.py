"""From a model's answer to the program in it, and from a program to what makes it distinct.

Nothing here repairs code, joins blocks, or guesses the language: the task says the language, and what the answer
holds is taken as it stands.
"""

from __future__ import annotations

import builtins
import hashlib
import keyword
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

How = Literal["fence", "raw", "none"]

ALIASES: dict[str, str] = {
    **dict.fromkeys(("c", "h"), "c"),
    **dict.fromkeys(("cpp", "c++", "cxx", "cc", "hpp"), "cpp"),
    **dict.fromkeys(("python", "py", "python3"), "python"),
    **dict.fromkeys(("rust", "rs"), "rust"),
    **dict.fromkeys(("go", "golang"), "go"),
}

_C_START = (
    r"#\s*(?:include|define|undef|pragma|ifn?def|if)\b|//|/\*"
    r"|(?:typedef|struct|union|enum|static|extern|const|inline|unsigned|signed|void|bool|_Bool|char|short|int|long|float"
    r"|double|size_t|ssize_t|FILE|u?int(?:8|16|32|64|ptr|max)_t)\b[\w\s*]{0,80}(?:[*\s]\w{1,80}\s{0,9}[({;=\[,]|\{)"
)
_CPP_START = r"using\b|namespace\b|template\s*<|class\s+\w+|std::|auto\s+\w+\s*[=(]|"
_STARTS: dict[str, str] = {
    "c": _C_START,
    "cpp": _CPP_START + _C_START,
    "python": r"import\s+\w|from\s+[\w.]+\s+import\b|(?:async\s+)?def\s+\w+\s*\(|class\s+\w+\s*[:(]|@\w|#|\"{3}|if\b",
    "rust": r"use\s+[\w:]+|(?:pub\s+)?(?:fn|struct|enum|mod|trait|const|static)\s+\w+|impl\b|#!?\[|//|/\*",
    "go": r"package\s+\w+|import\s*[(\"]|func\s*[\w(]|//|/\*",
}

_SPECIAL_TOKEN = re.compile(r"<\|[A-Za-z0-9_]{1,40}\|>|</s>|<eos>|<end_of_turn>")
_FENCE = re.compile(r"(?P<prefix>[ \t]*(?:>[ \t]?)*[ \t]*)(?P<marker>`{3,}|~{3,})[ \t]*(?P<info>.*)")
_OPEN_REASONING = re.compile(r"^[ \t]*<think(?:ing)?>", re.MULTILINE)
_CLOSE_REASONING = re.compile(r"</think(?:ing)?>")
_MAX_INLINE_TAG = 12


@dataclass(frozen=True, slots=True)
class Extraction:
    """The program found in an answer.

    Attributes:
        code: The program, None when there is none.
        how: Whether it came from a fenced block, or is the answer itself.
        tag: The language tag of its block, as a canonical name where it is known; None without one.
        num_blocks: Fenced blocks in the answer, whatever their language.
        flags: Sorted; of "closing_fence_inline", "no_code", "no_fence", "several_blocks", "unfinished_reasoning",
            "unterminated_fence".
    """

    code: str | None
    how: How
    tag: str | None
    num_blocks: int
    flags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Block:
    tag: str | None
    code: str
    flag: str | None


def extract(text: str, language: str, entry_point: str | None = None) -> Extraction:
    """The program in `language` that an answer holds.

    Of the fenced blocks tagged with the language (else of the untagged ones, never of those in another language)
    it is the last that defines `entry_point`, else the last that mentions it, else the longest.  Without any fence
    the answer itself is taken if it starts like code.
    """
    language = canonical(language) or language
    text = _SPECIAL_TOKEN.sub("", text.replace("\r\n", "\n").replace("\r", "\n").removeprefix("\ufeff"))
    closed = list(_CLOSE_REASONING.finditer(text))
    if closed:
        text = text[closed[-1].end() :]
    if _OPEN_REASONING.search(text):
        return Extraction(None, "none", None, 0, ("no_code", "unfinished_reasoning"))
    blocks = _blocks(text)
    if not blocks:
        return _raw(text, language)
    candidates = [block for block in blocks if block.tag == language] or [
        block for block in blocks if block.tag is None
    ]
    candidates = [block for block in candidates if block.code.strip()]
    if not candidates:
        return Extraction(None, "none", None, len(blocks), ("no_code",))
    chosen = _choose(candidates, entry_point, language)
    flags = {chosen.flag} if chosen.flag is not None else set()
    if len(candidates) > 1:
        flags.add("several_blocks")
    return Extraction(chosen.code, "fence", chosen.tag, len(blocks), tuple(sorted(flags)))


def canonical(tag: str) -> str | None:
    """The language that a tag such as "C++17", "{.cpp}" or "python3" names; None when it is unknown."""
    word = tag.strip().lower().removeprefix("language-").removeprefix("lang-").strip("{}.")
    return ALIASES.get(word) or ALIASES.get(word.rstrip("0123456789xyz"))


def _tag(info: str) -> str | None:
    words = re.split(r"[\s,:{}]+", info.strip().strip("{}"))
    word = next((word for word in words if word and "=" not in word), None)
    if word is None:
        return None
    return canonical(word) or word.lower()


def _blocks(text: str) -> list[_Block]:
    lines = text.split("\n")
    blocks: list[_Block] = []
    position = 0
    while position < len(lines):
        opening = _FENCE.fullmatch(lines[position])
        position += 1
        # CommonMark: the words after a backtick fence hold no backtick, else it is inline code.
        if opening is None or (opening["marker"][0] == "`" and "`" in opening["info"]):
            continue
        body: list[str] = []
        flag: str | None = "unterminated_fence"
        while position < len(lines):
            line = _without_prefix(lines[position], opening["prefix"])
            position += 1
            if _closes(line, opening["marker"]):
                flag = None
                break
            body.append(line)
        if flag is not None and body and body[-1].rstrip().endswith(opening["marker"]):
            # A stop string ends the answer with the fence, which need not stand on a line of its own.
            body[-1] = body[-1].rstrip().removesuffix(opening["marker"])
            flag = "closing_fence_inline"
        blocks.append(_block(_tag(opening["info"]), body, flag))
    return blocks


def _without_prefix(line: str, prefix: str) -> str:
    for mark in prefix:
        if mark == ">":
            line = line.lstrip(" \t").removeprefix(">")
        elif line[:1] in (" ", "\t"):
            line = line[1:]
    return line


def _closes(line: str, marker: str) -> bool:
    stripped = line.strip()
    return len(stripped) >= len(marker) and set(stripped) == {marker[0]}


def _block(tag: str | None, body: list[str], flag: str | None) -> _Block:
    if tag is None and body and len(body[0].strip()) <= _MAX_INLINE_TAG and canonical(body[0]) is not None:
        tag, body = canonical(body[0]), body[1:]
    code = "\n".join(body)
    return _Block(tag, code if code.endswith("\n") or not code else code + "\n", flag)


def _choose(candidates: list[_Block], entry_point: str | None, language: str) -> _Block:
    if entry_point is not None:
        name = rf"(?<!\w){re.escape(entry_point)}"
        # An answer often shows afterwards how its function is called; that call is not the program.
        if language == "python":
            defines = rf"\b(?:def|class)\s+{name}(?!\w)"
        else:
            defines = rf"{name}\s*\((?:[^;{{}}()]|\([^;{{}}()]*\))*\)[^;{{}}()=?:]*\{{"
        for pattern in (defines, rf"{name}(?!\w)"):
            found = [block for block in candidates if re.search(pattern, block.code)]
            if found:
                return found[-1]
    return max(candidates, key=lambda block: len(block.code))


def _raw(text: str, language: str) -> Extraction:
    first, _, rest = text.lstrip().partition("\n")
    tag = canonical(first) if len(first) <= _MAX_INLINE_TAG else None
    if tag == language:
        text = rest
    start = _STARTS.get(language)
    if not text.strip() or start is None or re.match(start, text.lstrip()) is None:
        return Extraction(None, "none", None, 0, ("no_code",))
    code = text.strip("\n") + "\n"
    return Extraction(code, "raw", tag if tag == language else None, 0, ("no_fence",))


def digest(text: str) -> str:
    """SHA-256 of the text in UTF-8, as 64 hexadecimal digits; lone surrogates count as escapes."""
    return hashlib.sha256(text.encode("utf-8", errors="backslashreplace")).hexdigest()


# Of C, C++, Rust and Go together: a keyword of one is seldom a name in another.
_KEYWORDS = frozenset(
    "alignas alignof auto bool break case char class const const_cast constexpr continue decltype default delete do"
    " double dynamic_cast else enum explicit extern false float for friend goto if inline int long mutable namespace"
    " new noexcept nullptr operator private protected public register reinterpret_cast restrict return short signed"
    " sizeof static static_assert static_cast struct switch template this throw true try catch typedef typename"
    " union unsigned using virtual void volatile while _Bool _Static_assert wchar_t as async await box chan defer"
    " dyn fallthrough fn func go impl import in interface let loop map match mod move mut package pub range ref"
    " select self Self super trait type unsafe use var where".split()
)
# Renaming these would make `toupper` and `tolower` the same program.
_C_LIBRARY = frozenset(
    "NULL EOF INT_MAX INT_MIN LONG_MAX LONG_MIN LLONG_MAX LLONG_MIN UINT_MAX SIZE_MAX CHAR_BIT CHAR_MAX DBL_MAX"
    " DBL_MIN EXIT_SUCCESS EXIT_FAILURE M_PI INFINITY NAN RAND_MAX stdin stdout stderr FILE main size_t ptrdiff_t"
    " int8_t int16_t int32_t int64_t uint8_t uint16_t uint32_t uint64_t intmax_t uintmax_t intptr_t uintptr_t"
    " va_list va_start va_arg va_end assert isalnum isalpha isblank iscntrl isdigit isgraph islower isprint ispunct"
    " isspace isupper isxdigit tolower toupper acos asin atan atan2 cbrt ceil copysign cos cosh exp exp2 expm1 fabs"
    " fdim floor fma fmax fmin fmod frexp hypot isfinite isinf isnan ldexp llround log log10 log1p log2 lround modf"
    " nearbyint pow remainder rint round sin sinh sqrt tan tanh trunc fflush fgetc fgets fopen fclose fprintf fputc"
    " fputs fread freopen fscanf fwrite getc getchar getline gets perror printf putc putchar puts scanf snprintf"
    " sprintf sscanf ungetc vprintf vsnprintf abort abs labs llabs atexit atof atoi atol atoll bsearch calloc div"
    " ldiv exit free getenv malloc qsort rand realloc srand strtod strtol strtoll strtoul strtoull memchr memcmp"
    " memcpy memmove memset strcasecmp strcat strchr strcmp strcoll strcpy strcspn strdup strerror strlen strncat"
    " strncmp strncpy strpbrk strrchr strspn strstr strtok strtok_r clock time difftime mktime gmtime localtime"
    " strftime".split()
)
_PYTHON = frozenset(keyword.kwlist) | frozenset(keyword.softkwlist) | frozenset(dir(builtins))

_LITERALS = r"""
    (?P<number>\.?\d(?:[eEpP][+-]|[\w.'])*)
  | (?P<name>[^\W\d]\w*)
  | (?P<sign>->|=>|::|\+\+|--|<<=?|>>=?|&&|\|\||[-+*/%&|^<>=!:]=|\S)
"""
_C_TOKEN = re.compile(
    r"""
    (?P<space>\s+|\\\n|//[^\n]*|/\*.*?(?:\*/|\Z))
  | (?P<include>\#[ \t]*include[ \t]*[<"][^>"\n]{0,200}[>"])
  | (?P<text>R"(?P<delimiter>[^()\s"]{0,16})\(.*?(?:\)(?P=delimiter)"|\Z)|(?:u8|[uULbr])?"(?:\\.|[^"\\])*(?:"|\\?\Z)
      |[uUL]?'(?:\\[^'\n]{1,10}|\\'|[^'\\\n])'|`[^`]*`)
  | """
    + _LITERALS,
    re.VERBOSE | re.DOTALL,
)
_PYTHON_TOKEN = re.compile(
    r"""
    (?P<line>(?:[ \t]*(?:\#[^\n]*)?\n)+[ \t]*)
  | (?P<space>[ \t\f]+|\\\n|\#[^\n]*)
  | (?P<text>(?i:[rbuft]{0,2})(?:\"{3}(?:\\.|.)*?(?:\"{3}|\Z)|'{3}(?:\\.|.)*?(?:'{3}|\Z)
      |"(?:\\.|[^"\\\n])*(?:"|\\?\Z|(?=\n))|'(?:\\.|[^'\\\n])*(?:'|\\?\Z|(?=\n))))
  | """
    + _LITERALS,
    re.VERBOSE | re.DOTALL,
)


def normalise(code: str, language: str) -> str:
    """The program without what does not make it another program, for finding duplicates.

    Comments and spacing are dropped (in Python the depth of the indentation stays), identifiers are renamed `v0`,
    `v1` ... in the order in which they appear; keywords, literals, included headers, library names (outside C: also
    whatever follows a dot) and operators stay.  The result is for comparing, not for compiling, and code that does
    not lex gives some result too.
    """
    python = (canonical(language) or language) == "python"
    kept = _PYTHON if python else _KEYWORDS | _C_LIBRARY
    after_dot = frozenset() if canonical(language) == "c" else frozenset((".", "::"))
    names: dict[str, str] = {}
    tokens: list[str] = []
    for kind, token in _python_tokens(code) if python else _c_tokens(code):
        if kind == "name" and token not in kept and not (tokens and tokens[-1] in after_dot):
            token = names.setdefault(token, f"v{len(names)}")
        tokens.append(token)
    return " ".join(tokens)


def _c_tokens(code: str) -> Iterator[tuple[str | None, str]]:
    for match in _C_TOKEN.finditer(code):
        if match["include"] is not None:
            yield "include", "#include " + re.sub(r"\A#\s*include\s*", "", match[0])
        elif match["space"] is None:
            yield ("name" if match["name"] is not None else None), match[0]


def _python_tokens(code: str) -> Iterator[tuple[str | None, str]]:
    depth, widths = 0, [0]
    for match in _PYTHON_TOKEN.finditer("\n" + code.expandtabs(8).strip("\n") + "\n"):
        if match["line"] is not None:
            width = len(match["line"]) - match["line"].rfind("\n") - 1
            if depth > 0 or match.end() == len(match.string):
                continue  # inside brackets a line break means nothing, and at the end there is no line to indent
            while width < widths[-1]:
                widths.pop()
            if width > widths[-1]:
                widths.append(width)
            yield None, f"<{len(widths) - 1}>"
        elif match["space"] is None:
            depth = max(0, depth + {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(match[0], 0))
            yield ("name" if match["name"] is not None else None), match[0]
