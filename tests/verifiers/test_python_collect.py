"""Which tests are found in a text, and what is refused before anything runs: by hand, and nothing is run."""

from __future__ import annotations

import ast
from typing import Any

import pytest
from python_answers import ASSERTS, HUMANEVAL, MBPP, prompt, spec

from halo_forge.core.errors import ConfigError
from halo_forge.verifiers.checks import parse_tests
from halo_forge.verifiers.python.driver.assertions import COUNT, Assertions, always_true
from halo_forge.verifiers.python.tests import prepare_asserts

CASE = "import unittest\nclass Adding(unittest.TestCase):\n"


def checks(text: str, setup: str = "") -> list[str]:
    prepared = prepare_asserts("f", setup, (text,))
    return [source for is_check, source in prepared.steps if is_check]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("def test_a():\n    assert f(1)\ndef testb():\n    assert f(2)", ["test_a()", "testb()"]),
        ("class TestA:\n    def test_x(self):\n        assert f(1)\n    def helper(self): pass", ["TestA.test_x()"]),
        (
            CASE + "    def setUp(self): pass\n    def test_x(self):\n        self.assertEqual(f(1), 1)",
            ["Adding.test_x()"],
        ),
        (
            "class Base:\n    def test_a(self):\n        assert f(1)\nclass TestB(Base):\n    def test_b(self):\n"
            "        assert f(2)",
            ["TestB.test_a()", "TestB.test_b()"],
        ),
        ("def test_a():\n    assert f(1)\nif __name__ == '__main__':\n    test_a()\n    print('ok')", ["test_a()"]),
        ("def test_a():\n    assert f(1)\ntest_a()", ["test_a()"]),
        (
            "def test_n(n):\n    assert f(n)\ntest_n(1)\ntest_n(2)",
            ["def test_n(n):\n    assert f(n)\ntest_n(1)\ntest_n(2)"],
        ),
        ("def test_a():\n    assert f(1)\nassert f(3)", ["test_a()", "assert f(3)"]),
        ("def check():\n    assert f(1)\ncheck()", ["def check():\n    assert f(1)\ncheck()"]),
        ("for n in range(3):\n    assert f(n)", ["for n in range(3):\n    assert f(n)"]),
    ],
)
def test_what_is_collected_is_what_pytest_collects(text: str, expected: list[str]) -> None:
    assert checks(text) == expected


@pytest.mark.parametrize(
    ("decorators", "expected"),
    [
        ("@pytest.mark.parametrize('a, b', [(1, 2), (3, 4)])", ["a=1, b=2", "a=3, b=4"]),
        ("@pytest.mark.parametrize(['a', 'b'], [[1, 2], pytest.param(3, 4, id='x')])", ["a=1, b=2", "a=3, b=4"]),
        (
            "@pytest.mark.parametrize('a', [1, 2])\n@pytest.mark.parametrize('b', (3,), ids=['x'])",
            ["b=3, a=1", "b=3, a=2"],
        ),
    ],
)
def test_each_set_of_values_is_a_test(decorators: str, expected: list[str]) -> None:
    text = f"import pytest\n{decorators}\ndef test_x(a, b):\n    assert f(a) == b"
    assert checks(text) == [f"test_x({values})" for values in expected]


def test_values_that_the_source_does_not_count_are_one_test() -> None:
    text = "import pytest\nV = [(1, 2)]\n@pytest.mark.parametrize('a,b', V)\ndef test_x(a, b):\n    assert f(a) == b"
    assert checks(text) == ["[test_x(a=a, b=b) for a, b in V]"]


def test_the_program_is_what_is_imported_from_its_module() -> None:
    prepared = prepare_asserts(
        None, "", ("from solution import add as plus\ndef test_a():\n    assert plus(1, 2) == 3",)
    )
    assert prepared.entry_point == "add" and prepared.names == (("add", "add"), ("plus", "add"))
    prepared = prepare_asserts(None, "", ("from answer import *\ndef test_a():\n    assert plus(1, 2) == 3",))
    assert prepared.entry_point == "plus"


def test_imports_are_there_for_the_program_alone() -> None:
    imported = prepare_asserts("f", "", ("assert f(1)",), imports="from typing import *\n")
    assert imported.context == "from typing import *\n" and imported.steps == ((True, "assert f(1)"),)
    with pytest.raises(ValueError, match="imports is not valid Python"):
        prepare_asserts("f", "", ("assert f(1)",), imports="from")


def test_the_plus_tests_of_a_row_are_one_more_check() -> None:
    plus = "def assertion(out, exp):\n    assert out == exp\nfor i in range(3):\n    assertion(add(i, 0), i)"
    assert parse_tests(prompt({**MBPP, "test": plus}))[0].num_checks == 4
    assert parse_tests(prompt({**MBPP, "test": ""}))[0].num_checks == 3
    with pytest.raises(ConfigError, match=r"'task': tests.mbpp: .*test asserts nothing: 'x = add"):
        parse_tests(prompt({**MBPP, "test": "x = add(1, 2)"}))


def asserting(text: str, setup: str = "") -> dict[str, Any]:
    return {"kind": "asserts", "entry_point": "f", "setup": setup, "tests": ["assert f(0)", text]}


ONE = "    assert f(1)\n"
NODE = "class Node:\n    def __init__(self, x): self.x = x\n"


@pytest.mark.parametrize(
    ("tests", "message", "fix"),
    [
        (asserting('assert (f(1) == 2, "no")'), "test 2, line 1: `assert .* always holds: a tuple", "parentheses"),
        (asserting("assert [f(1)]"), "always holds", "compare"),
        (asserting("assert (x == 1 for x in f(1))"), "always holds", "compare"),
        (asserting("assert f(1) or True"), "always holds", "compare"),
        (asserting("def test_a(tmp_path):\n" + ONE), "test 2, line 1: `test_a` takes `tmp_path`.*fixtures", "setUp"),
        (asserting("@pytest.fixture\ndef x(): return 1\ndef test_a(x):\n" + ONE), "line 2: `x` is a fixture", "plain"),
        (asserting("@pytest.mark.skip\ndef test_a():\n" + ONE), "line 1: `skip`: a test that is skipped", "remove"),
        (
            asserting(CASE + "    @unittest.expectedFailure\n    def test_a(self):\n    " + ONE),
            "expectedFailure",
            "remove",
        ),
        (asserting("async def test_a():\n" + ONE), "`test_a` is a coroutine", "plain function"),
        (
            asserting(f"{NODE}assert f(Node(1)) == 1"),
            "line 3: `f` is given `Node.1.`, an object of a class",
            "plain values",
        ),
        (asserting(f"{NODE}n = Node(1)\nassert f(x=n) == 1"), "is given `n`, an object of a class", "plain values"),
        (asserting(f"{NODE}def make(x): return Node(x)\nassert f(make(1)) == 1"), "is given `make.1.`", "plain values"),
        (asserting(f"def test_a():\n{ONE}def test_a():\n{ONE}"), "line 3: `test_a` is defined in line 1 too", "own"),
        (asserting("def verify():\n" + ONE), "nothing runs the function `verify` .line 1", "test_, or call it"),
        (asserting(f"class Checks:\n    def test_a(self):\n    {ONE}"), "nothing runs the class `Checks`", "Test"),
        (
            asserting(f"def test_a():\n    def inner():\n    {ONE}"),
            "test 2, line 1: `test_a` asserts nothing",
            "remove",
        ),
        (asserting("def test_a():\n    f(1)"), "`test_a` asserts nothing", "remove"),
        (
            asserting(f"def check():\n{ONE}def test_a():\n    def inner():\n        check()"),
            "line 3: `test_a` asserts nothing",
            "remove",
        ),
        (
            asserting(f"class TestA:\n    def __init__(self): pass\n    def test_a(self):\n    {ONE}"),
            "__init__",
            "setup_m",
        ),
        (
            asserting(f"def setup_module(module):\n    module.x = 1\ndef test_a():\n{ONE}"),
            "test 2, line 1: `setup_module` uses the module",
            "global",
        ),
        (asserting("from contextlib import redirect_stdout\n" + ONE.strip()), "prints, which is in a process", "stdio"),
        (asserting("import sys\nsys.stdout = None\n" + ONE.strip()), "`sys.stdout` is replaced", "stdio"),
        (asserting("from unittest.mock import patch\n" + ONE.strip()), "`patch` does not reach", "stdio"),
        (
            asserting("try:\n    f(1)\n    assert False\nexcept Broke:\n    pass"),
            "line 4: the class `Broke` of",
            "builtin",
        ),
        (
            asserting("def test_a():\n    with pytest.raises((ValueError, Broke)):\n        f(1)"),
            "line 2: .*`Broke`",
            "b",
        ),
        (asserting("import asyncio\nassert asyncio.run(f(1)) == 2"), "line 2: `f` is awaited", "plain function"),
        (
            asserting("import asyncio\nasync def g():\n    assert await f(1)\nasyncio.run(g())"),
            "line 3: `f` is awaited",
            "plain function",
        ),
        (asserting("assert isinstance(f(1), Shape)"), "the class `Shape` of the program", "attributes"),
        (asserting("assert f(1)", "def test_b():\n" + ONE), "setup defines the test `test_b`", "move it"),
        (asserting(f"@pytest.mark.parametrize('a', [])\ndef test_a(a):\n{ONE}"), "gives no values", "give"),
        (
            asserting(f"@pytest.mark.parametrize('a,b', [(1, 2)])\ndef test_a(a):\n{ONE}"),
            "has no parameter `b`",
            "test_a",
        ),
        (
            asserting(f"@pytest.mark.parametrize('a,b', [(2,)])\ndef test_a(a, b):\n{ONE}"),
            "1 values for 2 names",
            "a, b",
        ),
        (
            {**HUMANEVAL, "test": "def check(c):\n    def test_a():\n        assert c(1)\n    assert c(2)"},
            "nothing calls",
            "c",
        ),
        ({**HUMANEVAL, "test": "def check(c):\n    assert True\n"}, "`test` asserts nothing", "check"),
        ({**HUMANEVAL, "test": "def check(c):\n    assert (c(1), 2)\n"}, "line 2: .* always holds", "parentheses"),
        ({**ASSERTS, "tests": ["assert (add(1, 2) == 3, 'x')"]}, "always holds", "parentheses"),
        ({**MBPP, "test_list": ["def test_a():\n    add(1, 2)"]}, "asserts nothing", "remove"),
    ],
)
def test_what_cannot_be_run_or_asserts_nothing_is_refused(tests: dict[str, Any], message: str, fix: str) -> None:
    with pytest.raises(ConfigError, match=f"'task': tests.{tests['kind']}: .*{message}") as refused:
        spec().tests_of(prompt(tests))
    assert fix in refused.value.hint


def counted(source: str) -> int:
    """How often the counting code counts when a source runs to its end."""
    calls: list[int] = []
    tree = Assertions([ast.parse(source)], ["f"]).counting(ast.parse(source))
    space: dict[str, Any] = {COUNT: lambda: calls.append(1), "f": lambda x: x}
    exec(compile(tree, "tests", "exec"), space)
    return len(calls)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("assert f(1)", 1),
        ("for n in []:\n    assert f(n)", 0),
        ("for n in [1, 2]:\n    assert f(n)", 2),
        ("def g():\n    assert f(1)", 0),
        ("def g():\n    'Doc.'\n    assert f(1)\ng()", 1),
        ("if f(0):\n    raise AssertionError", 1),
        ("if f(0):\n    assert False\nelse:\n    pass", 1),
        ("try:\n    int('x')\n    assert False\nexcept ValueError:\n    pass", 1),
        ("def g():\n    try:\n        int('x')\n    except ValueError:\n        return\n    assert False\ng()", 1),
        ("def no(why):\n    raise AssertionError(why)\nif f(0):\n    no('x')", 1),
        ("def no(why):\n    raise AssertionError(why)\nif f(0):\n    print()", 0),
        ("try:\n    assert f(0)\nexcept AssertionError:\n    pass", 0),
        ("assert True", 0),
        ("def assert_same(a, b):\n    return a == b\nassert_same(1, 2)", 0),
        ("def assert_same(a, b):\n    assert a == b\nassert_same(2, 2)", 1),
        ("import unittest\nt = unittest.TestCase()\nt.assertEqual(f(1), 1)", 1),
        ("import unittest\nt = unittest.TestCase()\nt.assertRaises(ValueError)", 0),
        ("import unittest\nt = unittest.TestCase()\nt.assertRaises(ValueError, int, 'x')", 1),
        ("import unittest\nt = unittest.TestCase()\nwith t.assertRaises(ValueError):\n    int('x')", 1),
        ("with open('/dev/null') as h:\n    assert not h.read()", 1),
        ("def raises(x):\n    return open('/dev/null')\nwith raises(1):\n    pass", 0),
    ],
)
def test_assertions_are_counted_when_they_have_held(source: str, expected: int) -> None:
    assert counted(source) == expected


def test_what_is_true_whatever_the_program_does() -> None:
    for source in ("(x, 1)", "[x]", "{x: 1}", "{x}", "(y for y in x)", "lambda: x", "x or 1", "1 and [x]", "'a'"):
        assert always_true(ast.parse(source, mode="eval").body), source
    for source in ("()", "[]", "[*x]", "{**x}", "x", "x and 1", "f(x)", "0", "x == (1, 2)", "not (x, 1)"):
        assert not always_true(ast.parse(source, mode="eval").body), source


@pytest.mark.parametrize(
    "text",
    [
        f"{NODE}assert f(Node(1).x) == 1",
        f"{NODE}n = Node(1)\nn = 3\nassert f(n) == 1",
        f"{NODE}def value(x): return Node(x).x\nassert f(value(1)) == 1",
        "class Double:\n    def __call__(self, x): return 2 * x\nassert f(Double()) == 1",
        "class Words(list): pass\nassert f(Words('ab')) == 1",
        "assert f(Node(1)) == 1",
    ],
)
def test_plain_values_functions_and_classes_of_the_program_are_passed_on(text: str) -> None:
    (check,) = checks(text)
    assert check == text
