"""Columns that a shape does not read: kept as info, unless that would change what a "pass" means.

A row whose tests are in a column that nobody reads is checked by compiling alone, so every wrong program passes and is
trained on.  Such a column is an error.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping
from typing import Any

from halo_forge.core.errors import ConfigError
from halo_forge.core.source import canonical
from halo_forge.prompts._json_text import from_json
from halo_forge.prompts._row import Row

SOLUTIONS = ("reference", "wrong", "solution", "solutions", "canonical_solution", "code", "completion", "response")
"""Columns with programs; what looks like a test in them belongs to the program."""
JUDGES = ("checker", "checker_code", "checker_source", "generated_checker", "custom_checker", "special_judge", "spj")
"""Columns and keys with what decides which outputs are right."""
_TEST_WORDS = frozenset(
    "test tests testcase testcases testlist testing unittest unittests pytest pytests assert asserts assertion"
    " assertions doctest doctests harness stdio cases checks checker grader grading verification".split()
)
# Beside tests these are something else, such as a program that checks the input.
_JUDGING_WORDS = frozenset("validator evaluator verifier scorer judge oracle".split())
_RESULT_WORDS = frozenset(
    "answer answers gt ground_truth groundtruth fail_to_pass pass_to_pass"
    " expected expected_output expected_outputs output outputs stdout target"
    " gold gold_standard_solution gold_output label expected_result expected_results expected_answer"
    " correct_answer correct_output reference_output sample_output sample_outputs output_sample final_answer".split()
)
_INPUTS = ("input", "inputs", "stdin", "in", "args", "sample_input")
_OUTPUTS = ("output", "outputs", "stdout", "out", "expected", "expected_output", "answer", "sample_output")
_KINDS = ("harness", "stdio", "asserts", "humaneval", "mbpp")
_LANGUAGE = ("lang", "programming_language", "code_language", "prog_lang")
_ASSERT = re.compile(r"\s*(?:assert\b|def (?:test_|check\()|self\.assert|class Test|#\[test\]|func Test)")
# In a whole text of tests imports and helpers come before the first assertion.
_TEST_CODE = re.compile(
    r"^(?:assert .*[=<>(]|[ \t]+self\.assert\w+\(|def test\w*\(|class \w+\(.*TestCase\)|[ \t]*#\[test\]|func Test\w*\("
    r"|(?:from|import) (?:pytest|unittest)\b|#include [<\"](?:gtest|catch2)|[ \t]*(?:TEST|TEST_F|TEST_CASE)\()",
    re.MULTILINE,
)
_PAIRS = frozenset("samples sample example pairs io_pairs in_out inout io input_output_pairs input_outputs".split())
_ALIKE = 0.85
_ONE_WORD = re.compile(r"\s*[\w.:/-]{1,80}\s*")
_FILE = re.compile(r"\s*[\w./-]*(?:/[\w.-]+|\w\.[A-Za-z]\w{0,6})\s*")
_LONGEST_PARSED = 1_000_000


def kept_as_info(
    row: Row,
    read: Collection[str],
    *,
    own: Collection[str] = (),
    notes: Collection[str] = (),
    has_tests: bool = True,
) -> dict[str, Any]:
    """The columns of `row` that are not in `read`.

    Args:
        read: Columns that the shape reads, or leaves out on purpose.
        own: Columns of which a misspelling is an error.
        notes: Columns that look like tests, but are known to be weaker than those that are read.
        has_tests: The row has tests, if only to say that compiling is all there is to check.

    Raises:
        ConfigError: One of them looks like tests or like a misspelt column, decides which outputs are right, or, in a
            row without tests, looks like the result of a right program.
    """
    kept = {column: value for column, value in row.data.items() if column not in read}
    for column, value in kept.items():
        if column.lower() in JUDGES and not _is_empty(value) and value is not False:
            raise unused_judge(row, f"`{column}`", f'"{column}": ...')
        if column in notes or _is_empty(value):
            continue
        if meant := _misspelt(column, own):
            raise row.error(
                f'the unknown column `{column}`; did you mean "{meant}"?',
                f"rename it to `{meant}`, or put it into `info` if it is a note",
            )
        where = path_to_tests(column, value)
        if where or (not has_tests and _may_be_tests(column, value)):
            raise _lost_tests(row, where or column, has_tests)
        if not has_tests and _is_result(column, value):
            raise row.error(
                f"the row has no `tests`, and `{column}` is not used to check anything",
                'write the check as `tests`; if compiling is all there is to check, say so: "tests": {"kind":'
                f' "compile"}}; notes, and what your own checker reads, belong into `info`: {{"{column}": ...}}',
            )
        if column in _LANGUAGE and row.data.get("language") is None and isinstance(value, str) and canonical(value):
            raise row.error(
                f"the language is in `{column}` ({value!r}), which is not read", f"rename `{column}` to `language`"
            )
    return kept


def unused_judge(row: Row, where: str, note: str) -> ConfigError:
    """The error about a checker of another form than ours."""
    return row.error(
        f"{where} decides which outputs are right, and is not used: right outputs other than those listed would fail",
        'write it into `tests`, as "compare": {"checker": {"language": "cpp" | "c" | "python", "source": ...}}'
        " (`halo-forge docs verifiers#when-an-output-is-right` says how it is called); if the listed outputs decide,"
        f" put it into `info`: {{{note}}}, or remove it",
    )


def _lost_tests(row: Row, where: str, has_tests: bool) -> Exception:
    column = where.partition(".")[0]
    if has_tests:
        found = f"`{where}` looks like further tests, which would not be used"
        hint = f"put all tests into one column, or put `{column}` into `info` if it is meant as a note"
    else:
        found = (
            f'`{where}` looks like tests, but is not read; did you mean "tests"? Every program that compiles would pass'
        )
        hint = (
            "write them as `tests` (`halo-forge docs prompts` lists what is read); what only your"
            f' own checker reads belongs into `info`: {{"{column}": ...}}'
        )
    return row.error(found, hint)


def path_to_tests(name: str, value: Any) -> str | None:
    """The path, such as `reward_model.ground_truth`, of what looks like tests in a column; None where nothing does."""
    if _is_empty(value) or isinstance(value, bool | int | float) or name.lower() in SOLUTIONS:
        return None
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "[") and len(value) <= _LONGEST_PARSED:
        try:
            value = from_json(value)
        except ValueError:
            pass  # text that only begins like JSON
    # One word says what tests are, such as "pytest"; what is longer holds them, maybe encoded.
    if _named_like_tests(name) and not (isinstance(value, str) and _ONE_WORD.fullmatch(value)):
        return name
    if _is_case(value) or (isinstance(value, list) and any(map(_is_case, value))) or _all_asserts(value):
        return name
    if isinstance(value, Mapping):
        if any(str(key).lower() in ("ground_truth", "groundtruth") and not _is_empty(value[key]) for key in value):
            return next(f"{name}.{key}" for key in value if str(key).lower() in ("ground_truth", "groundtruth"))
        inner = (path_to_tests(str(key), item) for key, item in value.items())
        return next((f"{name}.{found}" for found in inner if found), None)
    return None


def _may_be_tests(name: str, value: Any) -> bool:
    """What is taken for tests only where a row has no others: code with tests in it, lists under a telling name."""
    if name.lower() in SOLUTIONS:
        return False
    if name.lower() in _PAIRS and isinstance(value, list | Mapping):
        return True
    if isinstance(value, str) and _named_like_tests(name) and _FILE.fullmatch(value):
        return True
    if isinstance(value, str) and not _JUDGING_WORDS.isdisjoint(_words(name)) and not _ONE_WORD.fullmatch(value):
        return True
    items = value if isinstance(value, list) else [value]
    return any(isinstance(item, str) and _TEST_CODE.search(item[:_LONGEST_PARSED]) is not None for item in items)


def _is_result(name: str, value: Any) -> bool:
    """Whether a column holds what a right program prints, returns or is."""
    words = _words(name)
    if "_".join(words) in (*_RESULT_WORDS, *SOLUTIONS[2:]):
        return True
    ends_so = not {"output", "outputs", "answer", "answers"}.isdisjoint(words[-1:])
    return ends_so and words[0] not in ("num", "has", "is", "max") and not isinstance(value, bool)


def _words(name: str) -> list[str]:
    """The words of a name such as `expectedOutput`, `Expected Output` or `expected_output`."""
    return re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower())


def _named_like_tests(name: str) -> bool:
    words = _words(name)
    return bool(words) and not _TEST_WORDS.isdisjoint(words) and words[-1] not in ("id", "ids", "count", "num", "name")


def _is_case(value: Any) -> bool:
    """Tests of one of our kinds, or inputs with outputs."""
    if not isinstance(value, Mapping):
        return False
    keys = {str(key).lower() for key, item in value.items() if item is not None}
    return value.get("kind") in _KINDS or (not keys.isdisjoint(_INPUTS) and not keys.isdisjoint(_OUTPUTS))


def _all_asserts(value: Any) -> bool:
    items = value if isinstance(value, list) else [value]
    return bool(items) and all(isinstance(item, str) and _ASSERT.match(item) is not None for item in items)


def _is_empty(value: Any) -> bool:
    """Nothing, or a table's way to write nothing: empty text, or a struct of nulls."""
    if isinstance(value, Mapping):
        return all(_is_empty(item) for item in value.values())
    if isinstance(value, list | tuple):
        return all(_is_empty(item) for item in value)
    return value is None or (isinstance(value, str) and value.strip() in ("", "[]", "{}", "null"))


def _misspelt(column: str, own: Collection[str]) -> str | None:
    lower = column.lower()
    if lower in own and lower != column:
        return lower
    close = difflib.get_close_matches(lower, [name for name in own if len(name) > 3], n=1, cutoff=_ALIKE)
    return close[0] if close and lower not in own else None
