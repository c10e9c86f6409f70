"""What the text and the tests of a task file say about it: pure, nothing is run."""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from halo_forge.core.errors import ConfigError
from halo_forge.core.output_rule import OutputRule
from halo_forge.core.records import Prompt, Record
from halo_forge.core.source import digest, normalise
from halo_forge.core.wording import counted
from halo_forge.prompts import near_duplicates
from halo_forge.verifiers.checks import parse_tests
from halo_forge.verifiers.comparison import compare_output, encoded, texts

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
FEWEST_CHECKS = 5
SAME_STATEMENT = 0.8
"""From this share of common word triples on, two statements are one task in other words."""
SIMILAR_STATEMENT = 0.5
"""From this share on, one of two statements helps with the other."""

_DECIMAL = re.compile(r"(?<![\w.])\d+\.\d+(?![\w.])")
# A zero, a negative number, an empty text or list, nothing at all, or the end of a range, as C, Python, Rust and Go
# write them.
_EDGE = re.compile(
    r"(?<![\w.])-\s?\d|(?<![\w.])0(?:\.0*)?[uUlLfF]{0,3}(?![\w.])|\"\"|''|\[\]|\{\s*\}|\(\s*\)|\bNULL\b|\bnullptr\b"
    r"|\bNone\b|\bnil\b|\w*_(?:MAX|MIN)\b|::(?:MAX|MIN)\b|\bMax[IU]\w+|\bvec!\[\]"
)


@dataclass(frozen=True, slots=True)
class Finding(Record):
    """Something about one prompt (or two).

    Attributes:
        severity: "error" is wrong: a broken task, one that can be cheated, or a leak across splits; "warning" is weak;
            "note" may be meant.
        code: A short stable name, such as "reference_fails".
    """

    severity: Severity
    prompt_id: str
    code: str
    message: str


def text_findings(groups: Mapping[str, Sequence[Prompt]]) -> list[Finding]:
    """What can be said without running anything.

    Args:
        groups: Name of a split or a file -> its prompts; what is alike in two groups is a leak.
    """
    prompts = [prompt for group in groups.values() for prompt in group]
    found = [finding for prompt in prompts for finding in _of_one(prompt)]
    return [*found, *_leaks(groups)]


def _of_one(prompt: Prompt) -> Iterator[Finding]:
    if prompt.tests is None or prompt.tests.get("kind") == "compile":
        yield Finding("note", prompt.id, "compile_only", "no tests: only compilation is checked")
    yield from _statement(prompt)
    checks = num_checks(prompt)
    if checks is not None and checks < FEWEST_CHECKS:
        found = f"{counted(checks, 'check')}; a wrong program may pass by chance"
        yield Finding("warning", prompt.id, "few_checks", found)
    constant = constant_output(prompt.tests)
    if constant is not None:
        text = f"every expected output is {constant!r}: a program that always prints it passes"
        yield Finding("error", prompt.id, "constant_passes", text)
    if _numbers_as_text(prompt.tests):
        text = "expected outputs have decimals, compared as text unless verifier.compare sets a tolerance"
        yield Finding("note", prompt.id, "numbers_as_text", text)
    inputs = _inputs(prompt.tests)
    if inputs is not None and not any(not each.strip() or _EDGE.search(each) for each in inputs):
        text = "no edge case (0, negative number, empty input, end of a range) among the inputs"
        yield Finding("note", prompt.id, "no_edge_case", text)


def _statement(prompt: Prompt) -> Iterator[Finding]:
    entry_point = None if prompt.tests is None else prompt.tests.get("entry_point")
    if not isinstance(entry_point, str) or not entry_point:
        return
    if re.search(rf"(?<!\w){re.escape(entry_point)}(?!\w)", prompt.text) is None:
        text = f"the statement does not name `{entry_point}`, which the tests call"
        yield Finding("error", prompt.id, "unnamed_entry_point", text)
    elif re.search(rf"(?<!\w){re.escape(entry_point)}\s*(?:<[^>]*>\s*)?\(", prompt.text) is None:
        text = f"the statement names `{entry_point}`, but not its parameters"
        yield Finding("warning", prompt.id, "no_signature", text)


def num_checks(prompt: Prompt) -> int | None:
    """How many checks a prompt has, None where that cannot be seen; of unknown tests, how many are listed."""
    if prompt.tests is None:
        return None
    try:
        return parse_tests(prompt)[0].num_checks or None
    except ConfigError:  # malformed, which the verifier says, or of a kind that only a command knows
        lists = [prompt.tests.get(key) for key in ("expected", "cases", "tests", "test_list")]
        return next((len(found) for found in lists if isinstance(found, list | tuple)), None)


def constant_output(tests: Mapping[str, Any] | None) -> str | None:
    """An output that is right for every check; None where there is none, or where the tests do not say."""
    if tests is None or tests.get("kind") not in ("harness", "stdio"):
        return None
    rule = OutputRule.model_validate(tests.get("compare") or {})
    if rule.checker is not None:
        return None  # only it knows
    expected = tests["expected"] if tests["kind"] == "harness" else [case["stdout"] for case in tests["cases"]]
    first = (text.rstrip() for text in texts(expected[0]))
    return next(
        (text for text in first if all(compare_output(encoded(text), each, rule) is None for each in expected)), None
    )


def _numbers_as_text(tests: Mapping[str, Any] | None) -> bool:
    """Whether a whole program prints decimals in a form of its own, and another form of the same number is wrong."""
    if tests is None or tests.get("kind") != "stdio" or tests.get("compare"):
        return False
    return any(_DECIMAL.search(text) for case in tests["cases"] for text in texts(case["stdout"]))


def _inputs(tests: Mapping[str, Any] | None) -> list[str] | None:
    """What the checks put in, as text; None where that cannot be seen."""
    if tests is None:
        return None
    if tests.get("kind") == "stdio":
        return [case["stdin"] for case in tests["cases"]]
    if tests.get("kind") == "harness":
        # The calls, and where they are made: an argument is often a variable declared a line above.
        return [line for line in tests["source"].splitlines() if not line.rstrip().endswith(("return 0;", "main() {"))]
    return None


def _leaks(groups: Mapping[str, Sequence[Prompt]]) -> Iterator[Finding]:
    prompts = [prompt for group in groups.values() for prompt in group]
    group_of = {id(prompt): name for name, group in groups.items() for prompt in group}
    yield from _shared_ids(groups)
    by_id = {prompt.id: prompt for prompt in prompts}
    for first, second, share in near_duplicates(prompts, SIMILAR_STATEMENT) if len(prompts) > 1 else ():
        names = [group_of[id(by_id[each])] for each in (first, second)]
        across = names[0] != names[1]
        if first == second or (not across and share < SAME_STATEMENT):
            continue
        severity: Severity = "error" if across and share >= SAME_STATEMENT else "warning"
        where = f"in {names[0]} and in {names[1]}" if across else f"both in {names[0]}"
        text = f"its statement is {share:.0%} similar to that of {second!r} ({where})"
        yield Finding(severity, first, "same_statement" if share >= SAME_STATEMENT else "similar_statement", text)
    yield from _shared(groups, "same_entry_point", "the function `{}` is also asked for in {} ({})", _entry_point)
    yield from _shared(groups, "same_reference", "its reference is that of a task in {1} ({2}), up to renaming", _form)


def _shared_ids(groups: Mapping[str, Sequence[Prompt]]) -> Iterator[Finding]:
    first: dict[str, str] = {}
    for name, group in groups.items():
        for prompt in group:
            other = first.setdefault(prompt.id, name)
            if other != name:
                yield Finding("error", prompt.id, "same_id", f"the id is in {other} and in {name}")


def _shared(groups: Mapping[str, Sequence[Prompt]], code: str, text: str, key_of: Any) -> Iterator[Finding]:
    holders: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    for name, group in groups.items():
        for prompt in group:
            key = key_of(prompt)
            if key is not None:
                holders[key].append((name, prompt.id))
    for key, found in holders.items():
        for (name, prompt_id), (other, other_id) in itertools.pairwise(found):
            if name != other:
                yield Finding("warning", prompt_id, code, text.format(key, other, other_id))


def _entry_point(prompt: Prompt) -> str | None:
    found = None if prompt.tests is None else prompt.tests.get("entry_point")
    return found if isinstance(found, str) else None


def _form(prompt: Prompt) -> str | None:
    reference = prompt.info.get("reference")
    if not isinstance(reference, str) or prompt.language is None:
        return None
    return digest(normalise(reference, prompt.language))
