"""Normalised programs for comparison: tokens without comments, spacing and chosen names."""

from __future__ import annotations

import builtins
import hashlib
import itertools
import keyword
import re
from collections.abc import Iterator

from halo_forge.core.source._languages import canonical


def digest(text: str) -> str:
    """SHA-256 of the text in UTF-8, as 64 hexadecimal digits; lone surrogates count as escapes."""
    return hashlib.sha256(text.encode("utf-8", errors="backslashreplace")).hexdigest()


# Of C, C++, Rust and Go together: a keyword of one is rarely a name in another.
KEYWORDS = frozenset(
    "alignas alignof auto bool break case char class const const_cast constexpr continue decltype default delete do"
    " double dynamic_cast else enum explicit extern false float for friend goto if inline int long mutable namespace"
    " new noexcept nullptr operator private protected public register reinterpret_cast restrict return short signed"
    " sizeof static static_assert static_cast struct switch template this throw true try catch typedef typename"
    " union unsigned using virtual void volatile while _Bool _Static_assert wchar_t as async await box chan defer"
    " dyn fallthrough fn func go impl import in interface let loop map match mod move mut package pub range ref"
    " select self Self super trait type unsafe use var where".split()
)
# Not renamed, otherwise programs that differ in `toupper` and `tolower` would be equal.
C_LIBRARY = frozenset(
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
PYTHON_NAMES = frozenset(keyword.kwlist) | frozenset(keyword.softkwlist) | frozenset(dir(builtins))

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
    """The program in a normal form, for finding duplicates.

    Comments and spacing are dropped (in Python the depth of the indentation is kept), identifiers are renamed `v0`,
    `v1` ... in the order in which they appear; keywords, literals, included headers, library names (outside C: also
    whatever follows a dot) and operators are kept.  The result is for comparing, not for compiling, and code that does
    not lex gives some result too.
    """
    python = (canonical(language) or language) == "python"
    kept = PYTHON_NAMES if python else KEYWORDS | C_LIBRARY
    after_dot = frozenset() if canonical(language) == "c" else frozenset((".", "::"))
    names: dict[str, str] = {}
    tokens: list[str] = []
    for kind, token in python_tokens(code) if python else c_tokens(code):
        if kind == "name" and token not in kept and not (tokens and tokens[-1] in after_dot):
            token = names.setdefault(token, f"v{len(names)}")
        tokens.append(token)
    return " ".join(tokens)


def c_tokens(code: str) -> Iterator[tuple[str | None, str]]:
    for match in _C_TOKEN.finditer(code):
        if match["include"] is not None:
            yield "include", "#include " + re.sub(r"\A#\s*include\s*", "", match[0])
        elif match["space"] is None:
            yield ("name" if match["name"] is not None else None), match[0]


def python_tokens(code: str) -> Iterator[tuple[str | None, str]]:
    depth, widths = 0, [0]
    for match in _PYTHON_TOKEN.finditer("\n" + code.expandtabs(8).strip("\n") + "\n"):
        if match["line"] is not None:
            width = len(match["line"]) - match["line"].rfind("\n") - 1
            if depth > 0 or match.end() == len(match.string):
                continue  # inside brackets a line break has no meaning, and after the last line there is none to indent
            while width < widths[-1]:
                widths.pop()
            if width > widths[-1]:
                widths.append(width)
            yield None, f"<{len(widths) - 1}>"
        elif match["space"] is None:
            depth = max(0, depth + {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(match[0], 0))
            yield ("name" if match["name"] is not None else None), match[0]


def returns_outside_functions(code: str) -> bool:
    """Whether a line of Python without indentation is a `return`, as only the body of a function has it."""
    tokens = [token for _, token in python_tokens(code)]
    return ("<0>", "return") in itertools.pairwise(tokens)


def lines_within_text(code: str) -> set[int]:
    """The numbers, from 0, of the lines of Python that begin within a string literal."""
    found: set[int] = set()
    for match in _PYTHON_TOKEN.finditer(code):
        if match["text"] is not None:
            first = code.count("\n", 0, match.start())
            found.update(range(first + 1, first + 1 + match[0].count("\n")))
    return found
