"""Tests as other tools write them, as tests of ours: inputs with outputs, calls with results, and Python asserts."""

from __future__ import annotations

import base64
import binascii
import io
import pickle
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from halo_forge.prompts._json_text import from_json
from halo_forge.prompts._row import Row, shown
from halo_forge.prompts._unread import JUDGES, unused_judge

_MOST_BYTES = 1 << 28
_ZLIB = b"x"  # with which compressed data begins
_HINT = (
    "tests are read from {inputs, outputs, fn_name}, from [{input, output}, ...], and from Python asserts; write others"
    " as `prompt` and `tests` (`halo-forge docs prompts`)"
)
# A call may return a tuple where the file, which is JSON, can only have a list.
_PLAIN = (
    "def _plain(value):\n    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value\n"
)

# LiveCodeBench, APPS and TACO put these before every program: `List[int]` in their starter code needs no import.
_IMPORTED = (
    "string re datetime collections heapq bisect copy math random statistics itertools functools operator io sys json"
    " builtins typing".split()
)
_IMPORTS = (
    "".join(f"from {module} import *\n" for module in _IMPORTED)
    + f"import {', '.join(_IMPORTED)}\nsys.setrecursionlimit(50_000)\n"
)


@dataclass(frozen=True, slots=True)
class Case:
    """One input with its right output; a call of `function` if it is not None, else what a program reads and prints."""

    given: Any
    output: Any
    function: str | None


def tests_of(row: Row, column: str, value: Any, *, function: str | None, starter: str) -> Mapping[str, Any]:
    """The `tests` of a prompt from what `column` holds.

    Args:
        function: The function that cases call which name none.
        starter: Code that the statement shows; where it is a class `Solution`, functions are its methods.

    Raises:
        ConfigError: It is of no known form, or has no test.
    """
    value = parsed(row, column, value)
    if isinstance(value, str) and not value.strip():
        raise row.error(f"`{column}` is empty", "remove rows without tests, or add tests")
    texts = [value] if isinstance(value, str) else value
    if isinstance(texts, list) and texts and all(isinstance(item, str) for item in texts):
        if any("assert" in item for item in texts):
            return {"kind": "asserts", "tests": [item for item in texts if item.strip()]}
        raise row.error(f"`{column}` is {shown(value)}; that is no test of a program", _HINT)
    cases = cases_of(row, column, value, function)
    if not cases:
        raise row.error(f"`{column}` has no test", "add tests, or remove the row")
    return from_cases(row, column, cases, starter)


def parsed(row: Row, column: str, value: Any) -> Any:
    """The value of JSON text; other text as it is.

    LiveCodeBench hides tests as base64 of a compressed pickle of JSON text; only that text is accepted from it.
    """
    if not isinstance(value, str):
        return value
    try:
        return from_json(value)
    except ValueError:
        if not re.fullmatch(r"[A-Za-z0-9+/\s]{16,}={0,2}\s*", value):
            return value
    try:
        packed = base64.b64decode(value)
    except binascii.Error:
        return value
    if packed[:1] != _ZLIB and " " in value.strip():
        return value  # words, which only look like base64
    try:
        unpacked = zlib.decompressobj().decompress(packed, _MOST_BYTES)
        text = _TextOnly(io.BytesIO(unpacked)).load()
        return from_json(text) if isinstance(text, str) else text
    except (zlib.error, *_BROKEN_PICKLE) as error:
        raise row.error(f"`{column}` is packed in an unknown way: {error}", _HINT) from error


# What a pickle can raise that was cut off or made by hand.
_BROKEN_PICKLE = (
    pickle.UnpicklingError,
    ValueError,
    TypeError,
    AttributeError,
    EOFError,
    LookupError,
    ArithmeticError,
    MemoryError,
    RecursionError,
)


class _TextOnly(pickle.Unpickler):
    """Loads plain data and never a class, so that a file cannot run code."""

    def find_class(self, module: str, name: str) -> NoReturn:
        """Refuse.

        Raises:
            UnpicklingError: Always.
        """
        raise pickle.UnpicklingError(f"it names {module}.{name}")


def cases_of(row: Row, column: str, value: Any, function: str | None = None) -> list[Case]:
    """The cases of `{inputs, outputs, fn_name}` or of a list of `{input, output}`; none where there is nothing.

    Raises:
        ConfigError: It is neither, or inputs and outputs are not as many.
    """
    value = parsed(row, column, value)
    if isinstance(value, Mapping):
        if judge := next((key for key in JUDGES if value.get(key)), None):
            raise unused_judge(row, f"`{judge}` of `{column}`", f'"{judge}": ...')
        inputs, outputs = (value.get(key, value.get(f"{key}s")) for key in ("input", "output"))
        named = value.get("fn_name")
        if isinstance(inputs, list) and isinstance(outputs, list):
            if len(inputs) != len(outputs):
                raise row.error(
                    f"`{column}` has {len(inputs)} inputs and {len(outputs)} outputs", "give every input its output"
                )
            pairs = zip(inputs, outputs, strict=True)
            return [
                Case(given, output, named if isinstance(named, str) and named else function) for given, output in pairs
            ]
    elif isinstance(value, list):
        return [_case(row, column, number, item, function) for number, item in enumerate(value, start=1)]
    raise row.error(f"`{column}` is {shown(value)}; that is no test of a program", _HINT)


def _case(row: Row, column: str, number: int, item: Any, function: str | None) -> Case:
    if not isinstance(item, Mapping) or "input" not in item or "output" not in item:
        raise row.error(f"`{column}`: test {number} is {shown(item)}; `input` and `output` are needed", _HINT)
    kind = item.get("type", item.get("testtype"))
    named = item.get("fn_name")
    called = named if isinstance(named, str) and named else function
    if kind in ("stdin", "stdin_stdout"):
        called = None
    elif kind in ("functional", "function_call") and called is None:
        raise row.error(f"`{column}`: test {number} calls a function, but names none", _HINT)
    return Case(item["input"], item["output"], called)


def from_cases(row: Row, column: str, cases: Sequence[Case], starter: str) -> Mapping[str, Any]:
    """Tests of the kind stdio, or of the kind asserts where functions are called.

    Raises:
        ConfigError: Some cases call a function and some do not, or an input is not text.
    """
    called = {case.function for case in cases}
    if called == {None}:
        pairs = [(_text(row, column, case.given), _text(row, column, case.output)) for case in cases]
        return {"kind": "stdio", "cases": [{"stdin": given, "stdout": output} for given, output in pairs]}
    if None in called:
        raise row.error(f"`{column}` has tests that call a function and tests that run a program", _HINT)
    in_class = re.search(r"^\s*class Solution\b", starter, re.MULTILINE) is not None
    asserts = []
    for case in cases:
        if re.fullmatch(r"[A-Za-z_]\w*", str(case.function)) is None:
            raise row.error(f"`{column}`: the function {case.function!r} is no name", _HINT)
        callee = f"Solution().{case.function}" if in_class else str(case.function)
        # Where arguments are JSON text, so is the result; else the text "12" is a result of type str.
        expected = _value(case.output) if isinstance(case.given, str) else case.output
        # APPS wraps many results in a list of one; its own checker takes both.
        either = [expected, expected[0]] if isinstance(expected, list) and len(expected) == 1 else [expected]
        asserts.append(f"assert _plain({callee}(*{_arguments(case.given)!r})) in {either!r}")
    entry_point = "Solution" if in_class else str(cases[0].function)
    return {"kind": "asserts", "entry_point": entry_point, "setup": _PLAIN, "imports": _IMPORTS, "tests": asserts}


def _arguments(given: Any) -> list[Any]:
    """A list as it is; in text, one JSON value on each line is one argument."""
    if isinstance(given, str):
        return [_value(line) for line in given.split("\n") if line.strip()]
    return given if isinstance(given, list) else [given]


def _value(text: Any) -> Any:
    if not isinstance(text, str):
        return text
    try:
        return from_json(text)
    except ValueError:
        return text


def _text(row: Row, column: str, value: Any) -> str:
    lines = value if isinstance(value, list) else [value]
    if not all(isinstance(line, str | int | float) and not isinstance(line, bool) for line in lines):
        raise row.error(f"`{column}`: an input or output is {shown(value)}; text is needed", _HINT)
    return "\n".join(str(line) for line in lines)
