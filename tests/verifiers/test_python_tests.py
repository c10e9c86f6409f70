"""What the tests of a prompt come to, by hand: nothing is run here."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from python_answers import ASSERTS, HUMANEVAL, MBPP, prompt, spec

from halo_forge.core.errors import ConfigError
from halo_forge.verifiers.checks import parse_tests
from halo_forge.verifiers.python.tests import prepare_asserts, prepare_humaneval

HEAD = "import math\n\ndef poly(x):\n    return x\n\ndef f(x):\n    '''Doc.'''\n"


def test_asserts_are_checks_and_free_names_are_the_answers() -> None:
    prepared = prepare_asserts(
        None, "import re\nk = 3", ("assert f(k) == len(re.escape('a'))", "assert g(1)\nassert f(Pair)")
    )
    assert prepared.entry_point == "f" and prepared.num_checks == 2
    assert prepared.names == (("Pair", "Pair"), ("f", "f"), ("g", "g"))
    assert [is_check for is_check, _ in prepared.steps] == [False, True, True]


def test_modules_are_not_the_answers_unless_called() -> None:
    prepared = prepare_asserts(None, "", ("assert math.isclose(bisect(1), 2)",))
    assert prepared.names == (("bisect", "bisect"),) and prepared.steps[0] == (False, "import math")


@pytest.mark.parametrize(
    ("entry", "tests", "names"),
    [
        (None, ("assert sum(1, 2) == 3",), ("sum",)),
        (None, ("assert sorted(f(1)) == [len('a')]",), ("f",)),
        ("sum", ("assert sum(f(1)) == 3",), ("f", "sum")),
        (None, ("assert [x for x in f(1)] == [1]",), ("f",)),
        (None, ("try:\n    f(1)\nexcept ValueError as e:\n    assert str(e)",), ("f",)),
    ],
)
def test_names_of_builtins(entry: str | None, tests: tuple[str, ...], names: tuple[str, ...]) -> None:
    assert tuple(name for name, _ in prepare_asserts(entry, "", tests).names) == names


def test_a_humaneval_check_is_split_into_what_it_asserts() -> None:
    body = (
        "    '''Doc.'''\n    assert True\n    n = 3\n    assert f2(n) == 1, 'why'\n"
        "    for i in range(3):\n        assert f2(i)\n    pass\n"
    )
    prepared = prepare_humaneval("f", f"M = 1\ndef check(f2):\n{body}", HEAD)
    assert prepared.names == (("f2", "f"),) and prepared.num_checks == 2 and not prepared.tests_use_context
    assert prepared.steps == (
        (False, "M = 1"),
        (False, "n = 3"),
        (True, "assert f2(n) == 1, 'why'"),
        (True, "for i in range(3):\n    assert f2(i)"),
    )
    assert (prepared.head, prepared.context) == (HEAD, HEAD)


@pytest.mark.parametrize(
    "body",
    ["    if c(1) != 1:\n        return\n    assert c(2)\n", "    global x\n    assert c(1)\n"],
)
def test_a_humaneval_check_that_cannot_be_split_is_one_check(body: str) -> None:
    test = f"def check(c):\n{body}"
    assert prepare_humaneval("f", test, HEAD).steps == ((False, test), (True, "check(c)"))


@pytest.mark.parametrize(
    "check",
    [
        "try:\n    f(-1)\n    assert False\nexcept ValueError:\n    pass",
        "try:\n    f(-1)\nexcept ValueError:\n    pass\nelse:\n    assert 0, 'no error'",
        "if f(1) != 2:\n    raise AssertionError('not 2')",
        "if f(1) != 2:\n    raise AssertionError",
    ],
)
def test_what_can_only_fail_asserts_something(check: str) -> None:
    assert prepare_asserts("f", "", (check,)).num_checks == 1
    body = "".join(f"    {line}\n" for line in check.replace("f(", "c(").splitlines())
    prepared = prepare_humaneval("f", f"def check(c):\n    assert c(3)\n{body}", HEAD)
    assert [is_check for is_check, _ in prepared.steps] == [True, True]


def test_what_comes_after_the_last_check_belongs_to_it() -> None:
    test = "def same(a, b):\n    return a == b\n\ndef check(c):\n    assert c(1)\n    n = 2\n    same(c(n), 2)\n"
    assert prepare_humaneval("f", test, HEAD).steps[1:] == ((True, "assert c(1)\nn = 2\nsame(c(n), 2)"),)


def test_a_call_of_a_function_that_asserts_is_a_check() -> None:
    test = "def same(a, b):\n    assert a == b\n\ndef check(c):\n    assert c(1)\n    n = 2\n    same(c(n), 2)\n"
    prepared = prepare_humaneval("f", test + "check(f)\n", HEAD)
    assert prepared.steps[1:] == ((True, "assert c(1)"), (False, "n = 2"), (True, "same(c(n), 2)"))
    assert prepared.counts_assertions and "check(" not in prepared.steps[0][1]


def test_names_that_only_a_reference_can_tell() -> None:
    tests = {**ASSERTS, "tests": ["assert ad(1, 2) == 3", "assert add(1, Two()) == 3"]}
    whole = "class Two(int): pass\ndef ad(a, b): return 3\ndef add(a, b): return 3\n"
    for reference, words in (
        (None, None),
        ("def add(", None),  # says nothing
        (whole, None),
        ("from helpers import *", None),
        (whole.replace("ad(", "plus("), "'task': its tests use ad, which neither"),
        ("def add(a, b): return a + b", "its tests use Two, ad,"),
    ):
        asked = dataclasses.replace(prompt(tests), info={"reference": reference})
        if words is None:
            spec().tests_of(asked)
        else:
            with pytest.raises(ConfigError, match=words):
                spec().tests_of(asked)
    mbpp = {**MBPP, "test_list": ["assert add(root, 1)"]}
    spec().tests_of(dataclasses.replace(prompt(mbpp), info={"reference": "def add(a, b): return a"}))


def test_a_return_of_an_inner_function_does_not_keep_a_check_whole() -> None:
    prepared = prepare_humaneval("f", "def check(c):\n    def g(x):\n        return x\n    assert c(1) == g(1)\n", HEAD)
    assert [is_check for is_check, _ in prepared.steps] == [False, True]


def test_what_the_tests_use_of_the_head() -> None:
    prepared = prepare_humaneval("f", "def check(c):\n    assert math.sqrt(poly(c(1))) == f(2)\n", HEAD)
    assert prepared.tests_use_context and prepared.names == (("c", "f"), ("f", "f"))
    bare = prepare_humaneval("f", "def check(c):\n    assert c(1)\n", "def f(x):\n")
    assert bare.context == "def f(x):\n    pass\n" and bare.head == "def f(x):\n"


def test_kinds_and_their_checks() -> None:
    kinds = [parse_tests(prompt(tests))[0] for tests in (ASSERTS, MBPP, HUMANEVAL)]
    assert [(tests.kind, tests.entry_point, tests.num_checks) for tests in kinds] == [
        ("asserts", "add", 3),
        ("mbpp", "add", 3),
        ("humaneval", "add", 3),
    ]


@pytest.mark.parametrize(
    ("tests", "message"),
    [
        ({**ASSERTS, "tests": []}, "tests"),
        ({**ASSERTS, "tests": ["f(1)"]}, "test 1 asserts nothing"),
        ({**ASSERTS, "tests": ["assert f(1)", "assert True"]}, "test 2 asserts nothing"),
        ({**ASSERTS, "tests": ["assert f(1"]}, "test 1 is not valid Python"),
        ({**ASSERTS, "tests": ["assert f(1)\nreturn"]}, "test 1 is not valid Python: 'return' outside function"),
        ({**ASSERTS, "tests": ["f(1)\nassert False"]}, "test 1 cannot hold"),
        ({**ASSERTS, "tests": ["try:\n    f(1)\n    assert True\nexcept ValueError: pass"]}, "test 1 asserts nothing"),
        ({**HUMANEVAL, "test": "def check(c):\n    assert c(1) == exp(1)"}, "`test` uses exp, which neither"),
        ({**ASSERTS, "entry_point": ""}, "entry_point"),
        ({**ASSERTS, "setup": "import ("}, "setup is not valid Python"),
        ({**ASSERTS, "entry_point": None, "tests": ["assert x == 1"]}, "call nothing of the program"),
        ({**MBPP, "test_list": ["assert 1 == 1"]}, "call nothing of the program"),
        ({**HUMANEVAL, "test": "def chekc(c): pass"}, "no function `check`"),
        ({**HUMANEVAL, "test": "def check(): pass"}, "no function `check`"),
        ({**HUMANEVAL, "prompt": "def add(a:"}, "prompt is not valid Python"),
        ({**HUMANEVAL, "tests": []}, "tests"),
    ],
)
def test_malformed_tests_are_an_error(tests: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=rf"'broken'(?s:.*){message}"):
        parse_tests(prompt(tests, "broken"))


@pytest.mark.parametrize(
    "test",
    [
        "def check(candidate):\n    assert candidate(1) == 2\ncheck(area)",
        "def check(area):\n    assert area(1) == 2\ncheck(area)",
        "import pytest\n@pytest.mark.parametrize('call', [area])\ndef test_a(call):\n    assert call(1) == 2",
        "def helper():\n    area = 3\n    return area\ndef test_a():\n    assert area(1) == 2",
    ],
)
def test_a_function_that_is_passed_on_is_the_programs(test: str) -> None:
    prepared = prepare_asserts(None, "", (test,))
    assert prepared.entry_point == "area"
    assert prepared.names == (("area", "area"),)


def test_what_the_tests_bind_at_module_level_is_theirs() -> None:
    test = "limit = 3\ndef set_it():\n    global seen\n    seen = area(1)\nset_it()\nassert seen < limit"
    assert prepare_asserts(None, "", (test,)).names == (("area", "area"),)
