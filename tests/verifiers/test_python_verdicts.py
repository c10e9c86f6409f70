"""What answers in Python come to: every stage, every kind of test."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from python_answers import ADD, ASSERTS, HUMANEVAL, INTERPRETER, KINDS, prompt, spec, verdicts

from halo_forge.core.errors import ConfigError, ToolMissing
from halo_forge.core.records import Completion, Verdict
from halo_forge.verifiers import open_verifier
from halo_forge.verifiers.checks import Asserts
from halo_forge.verifiers.languages.c import Spec as CSpec
from halo_forge.verifiers.python import interpreter, stages
from halo_forge.verifiers.python.stages import PythonStages
from halo_forge.verifiers.python.tests import PreparedTests
from halo_forge.verifiers.verifier import ThreadedVerifier

STDIO = {"kind": "stdio", "cases": [{"stdin": "1 2\n", "stdout": "3\n"}, {"stdin": "4 -4\n", "stdout": "0"}]}
SUM = "a, b = map(int, input().split())\nprint(a + b)\n"
HARNESS = {
    "kind": "harness",
    "entry_point": "add",
    "source": "from answer import add\nprint(add(1, 2))\nprint(add('a', 'b'))\n",
    "expected": ["3", "ab"],
}


@pytest.fixture(scope="module")
def verifier() -> Iterator[ThreadedVerifier]:
    with open_verifier(spec(memory_limit_bytes=128 * 1024 * 1024)) as opened:
        yield opened


def one(verifier: ThreadedVerifier, code: str, tests: Mapping[str, Any] | None) -> Verdict:
    (found,) = verdicts(verifier, tests, code)
    return found


def asserting(*tests: str, setup: str = "", entry_point: str | None = None) -> dict[str, Any]:
    return {"kind": "asserts", "entry_point": entry_point, "setup": setup, "tests": list(tests)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("code", "stage", "status", "passed"),
    [
        (ADD, "tests", "passed", 3),
        ("def add(a, b):\n    return 2 * a - b\n", "tests", "failed", 0),
        ("def add(a, b):\n    return a + b if isinstance(a, int) else None\n", "tests", "failed", 2),
        ("add = lambda a, b: a + b", "tests", "passed", 3),
        ("def add(a, b):\n    return a +\n", "compile", "failed", 0),
        ("def plus(a, b):\n    return a + b\n", "compile", "failed", 0),
        ("add = 3", "run", "failed", 0),
        ("import nothing_of_this_name\n" + ADD, "run", "failed", 0),
        (ADD + "while True: pass\n", "run", "timeout", 0),
        (ADD + "x = [bytearray(1 << 20) for _ in range(1 << 12)]\n", "run", "out_of_memory", 0),
        (ADD + "if __name__ == '__main__':\n    raise ValueError\n", "tests", "passed", 3),
    ],
)
def test_verdicts(verifier: ThreadedVerifier, kind: str, code: str, stage: str, status: str, passed: int) -> None:
    found = one(verifier, code, KINDS[kind])
    if status == "out_of_memory":
        # The interpreter may notice first, and raise MemoryError.
        assert found.stage == stage and found.status in ("failed", "out_of_memory"), found
        return
    assert (found.stage, found.status, found.tests_passed, found.tests_total) == (stage, status, passed, 3), found


def test_diagnostics_say_what_happened(verifier: ThreadedVerifier) -> None:
    assert one(verifier, "def plus(): pass", ASSERTS).diagnostics == "the program does not define the function `add`"
    assert "answer.py:1: SyntaxError" in one(verifier, "def add(:", ASSERTS).diagnostics
    assert "ZeroDivisionError: division by zero (line 1)" in one(verifier, "1 / 0\n" + ADD, ASSERTS).diagnostics
    wrong = one(verifier, "def add(a, b):\n    return [a] if a == 1 else a / b\n", ASSERTS).diagnostics
    assert "check 1: assert add(1, 2) == 3: AssertionError; the program's last value: [1]" in wrong
    assert "check 3: assert add('a', 'b') == 'ab': the program raised TypeError: " in wrong and "(line 2)" in wrong


def test_what_passed_before_the_end_is_counted(verifier: ThreadedVerifier) -> None:
    slow = one(verifier, "def add(a, b):\n    while a == 'a': pass\n    return a + b\n", ASSERTS)
    assert (slow.stage, slow.status, slow.tests_passed) == ("run", "timeout", 2)
    ended = one(verifier, "import os\ndef add(a, b):\n    if a == 'a': os._exit(3)\n    return a + b\n", ASSERTS)
    assert (ended.stage, ended.status, ended.tests_passed, ended.exit_code) == ("run", "failed", 2, 3)
    assert "early_exit" not in ended.flags
    assert "early_exit" in one(verifier, "import os\ndef add(a, b): os._exit(0)\n", ASSERTS).flags
    crash = "import ctypes\ndef add(a, b):\n    if a == 'a': ctypes.string_at(0)\n    return a + b\n"
    crashed = one(verifier, crash, ASSERTS)
    assert (crashed.stage, crashed.status, crashed.tests_passed, crashed.signal) == ("run", "failed", 2, 11)


def test_calls_are_like_calls_in_one_process(verifier: ThreadedVerifier) -> None:
    code = (
        "import collections, re\n"
        "def sort(x, extra=None):\n    x.sort()\n    if extra is not None: extra['n'] = len(x)\n"
        "def count(x): return collections.Counter(x)\n"
        "def squares(n):\n    for i in range(n): yield i * i\n"
        "def apply(f, x): return [f(each) for each in x]\n"
        "def adder(n): return lambda x: x + n\n"
        "def find(x): return re.search('b', x)\n"
        "class Odd(ValueError): pass\n"
        "def even(n):\n    if n % 2: raise Odd('odd')\n    return n\n"
        "class Node:\n    def __init__(self, value): self.value, self.left = value, None\n"
        "    def double(self): return Node(2 * self.value)\n    def __len__(self): return 5\n"
        "    def __str__(self): return f'Node({self.value})'\n    def __getitem__(self, key): return [key]\n"
        "def depth(node): return 0 if node is None else 1 + depth(node.left)\n"
        "def same(*args, **kwargs): return args, kwargs\n"
        "def turn(d):\n    d.rotate(1)\n    return d\n"
    )
    tests = asserting(
        "x = [3, 1, 2]\nassert sort(x) is None and x == [1, 2, 3]",
        "x, d = [2, 1], {}\nsort(x, extra=d)\nassert (x, d) == ([1, 2], {'n': 2})",
        "assert count('aab') == {'a': 2, 'b': 1}",
        "assert list(squares(4)) == [0, 1, 4, 9]",
        "assert next(squares(4)) == 0 and 9 in squares(4) and 5 not in squares(4)",
        "assert apply(lambda x: x + offset, [1, 2]) == [4, 5]",
        "def bad(x):\n    raise KeyError('no')\ntry:\n    apply(bad, [1])\n    assert 1 == 2\n"
        "except KeyError as error:\n    assert error.args == ('no',)",
        "assert adder(3)(4) == 7",
        "assert find('abc') and not find('xyz')",
        "try:\n    even(3)\n    assert 1 == 2\nexcept ValueError as error:\n    assert str(error) == 'odd'",
        "assert depth(root) == 2 and root.left.value == 2 and root.double().value == 2",
        "assert len(root) == 5 and str(root) == 'Node(1)' and root[3] == [3]",
        "assert same(1, (2,), a={3}, b=None) == ((1, (2,)), {'a': {3}, 'b': None})",
        "assert type(same([True, 1.0])[0][0][0]) is bool",
        "from collections import deque\nd = deque([1, 2])\nassert turn(d) == deque([2, 1]) and d == deque([2, 1])",
        setup="offset = 3\nroot = Node(1)\nroot.left = Node(2)",
    )
    found = one(verifier, code, tests)
    assert found.passed, found.diagnostics


def test_a_preparation_that_fails_takes_its_checks_with_it(verifier: ThreadedVerifier) -> None:
    tests = asserting("assert f(k) == 1", "assert f(2) == 1", setup="k = f(None) + 1")
    found = one(verifier, "def f(x):\n    if x is None: raise ValueError('none')\n    return 1\n", tests)
    assert (found.stage, found.tests_passed) == ("tests", 0)
    assert "`k = f(None) + 1` before it: the program raised ValueError: none (line 2)" in found.diagnostics


def test_an_answer_that_goes_on_where_the_head_ends(verifier: ThreadedVerifier) -> None:
    assert one(verifier, "    return helper(a) + b\n", HUMANEVAL).passed
    assert one(verifier, "\n    # sum\n    return a + b\n\ndef helper(x): pass\n", HUMANEVAL).passed
    assert one(verifier, "def add(a: Any, b):\n    return helper(a) + b\n", HUMANEVAL).passed
    found = one(verifier, "    return a + b\n", ASSERTS)
    assert (found.stage, found.status) == ("compile", "failed")
    # The head alone defines the function, but the answer does not.
    found = one(verifier, "x = 1\n", HUMANEVAL)
    assert (found.stage, found.status) == ("compile", "failed")


def test_programs_that_read_and_print(verifier: ThreadedVerifier) -> None:
    codes = [SUM, SUM + "exit()\n", SUM + "exit(1)\n", "print(3)\n", "print(", "import os; os._exit(0)\n"]
    found = verdicts(verifier, STDIO, *codes)
    assert [(each.stage, each.status, each.tests_passed) for each in found] == [
        ("tests", "passed", 2),
        ("tests", "passed", 2),
        ("run", "failed", 0),
        ("tests", "failed", 1),
        ("compile", "failed", 0),
        ("tests", "failed", 0),
    ]
    assert 'File "answer.py", line 1' in one(verifier, "1 / 0", STDIO).diagnostics
    assert one(verifier, "import this_is_no_module", STDIO).stage == "run"


def test_a_harness_imports_the_answer(verifier: ThreadedVerifier) -> None:
    found = verdicts(verifier, HARNESS, ADD, "def add(a, b): return 3", "def plus(): pass", ADD + "1 / 0")
    assert [(each.stage, each.status, each.tests_passed) for each in found] == [
        ("tests", "passed", 2),
        ("tests", "failed", 1),
        ("compile", "failed", 0),
        ("run", "failed", 0),
    ]
    verifier.check_prompts([prompt(HARNESS)])
    with pytest.raises(ConfigError, match=r"'task'.*harness of a prompt is not valid Python.*SyntaxError"):
        verifier.check_prompts([prompt({**HARNESS, "source": "print("})])


@pytest.mark.parametrize(
    ("tests", "words"),
    [
        (
            asserting("assert add(1) == 2", setup="import nothing_of_this_name"),
            "No module named 'nothing_of_this_name'",
        ),
        (asserting("from math import nothing\nassert add(1) == nothing"), "cannot import name 'nothing'"),
        (asserting("assert add(math.nothing) == 2"), "module 'math' has no attribute"),
        ({**HUMANEVAL, "prompt": "import no_such\n" + HUMANEVAL["prompt"]}, "opening of .*No module named 'no_such'"),
        ({**HUMANEVAL, "test": "import no_such\n" + HUMANEVAL["test"]}, "No module named 'no_such'"),
    ],
)
def test_tests_that_cannot_work_are_found_first(verifier: ThreadedVerifier, tests: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=rf"'task': the tests cannot work with .*{words}"):
        verifier.check_prompts([prompt(tests)])


def test_tests_in_a_later_python_are_found_first(monkeypatch: pytest.MonkeyPatch) -> None:
    # As if the interpreter of the answers were older than ours.
    monkeypatch.setattr(PythonStages, "_speaks_our_python", lambda self, sandbox: False)

    class Later(Asserts):
        @property
        def prepared(self) -> PreparedTests:
            return PreparedTests("f", (("f", "f"),), ((True, "assert f(1) ==== 2"),))

    with open_verifier(spec()) as verifier:
        verifier.check_prompts([prompt(tests) for tests in KINDS.values()])
        with pytest.raises(ConfigError, match="SyntaxError: invalid syntax"):
            verifier._prepare_tests(Later(tests=("assert f(1)",)))


def test_tests_that_can_work_are_let_through(verifier: ThreadedVerifier) -> None:
    odd = [
        asserting("try:\n    import nothing_of_this_name\nexcept ImportError:\n    pass\nassert add(1) == 2"),
        asserting("assert 'x: ImportError: no' in add(1)", "assert add(1) == ': SyntaxError: y'"),
        asserting("assert next(add(1)).value == 2", "for each in add(1):\n    assert each", setup="k = add(0) + 1"),
        asserting("assert add(Pair(1, 2)).left == 1", "while True:\n    assert add(1)"),
    ]
    verifier.check_prompts([prompt(tests) for tests in (*KINDS.values(), *odd)])


def test_an_expected_exception(verifier: ThreadedVerifier) -> None:
    tests = asserting("try:\n    add(1, 'a')\n    assert False, 'no error'\nexcept TypeError:\n    pass")
    assert one(verifier, ADD, tests).passed
    found = one(verifier, "def add(a, b): return 0", tests)
    assert (found.stage, found.status) == ("tests", "failed")
    assert "no error" in found.diagnostics


def test_compiling_runs_nothing(verifier: ThreadedVerifier) -> None:
    hostile = "import os\nos._exit(1)\n"
    assert one(verifier, hostile, None).passed
    found = one(verifier, hostile, {"kind": "compile", "entry_point": "add"})
    assert (found.stage, found.status, found.tests_total) == ("compile", "failed", 0)
    warned = one(verifier, "x = 1 is 1\n", None)
    assert warned.passed and warned.warnings == 1 and warned.reward == 0.3
    assert one(verifier, ADD + "'\\d'\n", ASSERTS).warnings == 1


@pytest.mark.parametrize("stages", [["compile"], ["compile", "run"]])
def test_fewer_stages_check_less(stages: list[str]) -> None:
    with open_verifier(spec(stages=stages)) as verifier:
        for tests in (ASSERTS, HUMANEVAL, STDIO):
            wrong = "def add(a, b): return None"
            (found,) = verdicts(verifier, tests, wrong)
            assert (found.stage, found.status, found.tests_total) == (stages[-1], "passed", 0), found
            (found,) = verdicts(verifier, tests, "raise ValueError\n" + wrong)
            assert found.passed is (stages == ["compile"])


def test_an_empty_answer_is_no_program(verifier: ThreadedVerifier) -> None:
    for tests in KINDS.values():
        pairs = [(prompt(tests), Completion("task", index, text, (), "stop", 0, 1)) for index, text in enumerate(
            ["", "```python\n```", "I cannot do that."])]  # fmt: skip
        assert [found.reward for found in verifier.verify(pairs)] == [0.0, 0.0, 0.0]


def test_the_order_of_a_set_is_the_same_in_every_run(verifier: ThreadedVerifier) -> None:
    tests = asserting("assert f() == 1")
    codes = [f"def f():  # {index}\n    return list({{'a', 'b', 'c', 'd'}})" for index in range(4)]
    assert len({found.diagnostics for found in verdicts(verifier, tests, *codes)}) == 1


def test_other_languages_refuse_tests_in_python() -> None:
    with open_verifier(CSpec(stages=["compile"], workers=1)) as verifier:
        for tests in KINDS.values():
            with pytest.raises(ConfigError, match=rf"kind '{tests['kind']}' are for Python"):
                verifier.check_prompts([prompt(tests).__class__("task", prompt(None).messages, None, tests)])


def test_a_driver_that_does_not_work_is_our_error(monkeypatch: pytest.MonkeyPatch) -> None:
    real = interpreter.sources()
    broken = {**real, "main.py": real["main.py"].replace(b'job["names"]', b'job["nomes"]')}
    monkeypatch.setattr(stages, "sources", lambda: broken)
    with open_verifier(spec()) as verifier:
        (found,) = verdicts(verifier, ASSERTS, ADD)
    assert found.status == "error" and "KeyError" in found.diagnostics


def test_an_interpreter_that_is_none_is_missing() -> None:
    with pytest.raises(ToolMissing, match="does not say where it is"):
        open_verifier(spec(compiler="/bin/true")).__enter__()
    with pytest.raises(ToolMissing, match="not found"):
        open_verifier(spec(compiler="python-of-nobody")).__enter__()


def test_settings_in_force_are_recorded(verifier: ThreadedVerifier) -> None:
    toolchain = verifier.toolchain()
    assert toolchain["compiler"] == INTERPRETER and toolchain["version"].startswith("Python 3.")
    assert toolchain["packages"] is False


def test_imports_of_the_tests_are_there_for_the_program(verifier: ThreadedVerifier) -> None:
    tests = asserting("assert f([1, 1, 2]) == 2") | {"imports": "from collections import *\nfrom typing import *\n"}
    code = "def f(x: List[int]) -> int:\n    return Counter(x)[1]\n"
    assert one(verifier, code, tests).status == "passed"
    assert one(verifier, code, asserting("assert f([1, 1, 2]) == 2")).status == "failed"


PYTEST = asserting(
    "import pytest\ndef setup_module(module):\n    global ready\n    ready = True\n"
    "@pytest.mark.parametrize('n, twice', [(1, 2), (3, 6)])\ndef test_numbers(n, twice):\n"
    "    assert ready\n    assert tw(n) == pytest.approx(twice)\n",
    "from solution import tw\nclass TestMore:\n    def setup_method(self, method):\n        self.n = -4\n"
    "    def test_negative(self):\n        assert tw(self.n) == -8\n"
    "    def test_error(self):\n        with pytest.raises(TypeError, match='unsupported'):\n            tw(None)\n",
)
UNITTEST = asserting(
    "import unittest\nclass Doubling(unittest.TestCase):\n    @classmethod\n    def setUpClass(cls): cls.calls = []\n"
    "    def setUp(self): self.calls.append('setUp'); self.addCleanup(self.calls.append, 'cleanup')\n"
    "    def tearDown(self): self.calls.append('tearDown')\n"
    "    def test_1(self):\n        self.assertEqual(self.calls, ['setUp'])\n        self.assertEqual(tw(2), 4)\n"
    "    def test_2(self):\n        self.assertEqual(self.calls, ['setUp', 'tearDown', 'cleanup', 'setUp'])\n"
    "        for n in range(2):\n            with self.subTest(n=n):\n                self.assertEqual(tw(n), 2 * n)\n"
    "    def test_3(self):\n        with self.assertRaises(TypeError) as caught:\n            tw(None)\n"
    "        self.assertIn('unsupported', str(caught.exception))\n"
    "    @classmethod\n    def tearDownClass(cls): cls.calls.clear()\n"
    "if __name__ == '__main__':\n    unittest.main()\n",
    "assert not Doubling.calls and tw(1) == 2",
)
TWICE = "def tw(n):\n    return 2 * n\n"


def test_functions_and_classes_are_run_as_their_frameworks_run_them(verifier: ThreadedVerifier) -> None:
    verifier.check_prompts([prompt(PYTEST), prompt(UNITTEST, "other")])
    zero, picky = "def tw(n):\n    return 0\n", "def tw(n):\n    return 2 * n if n else None\n"
    found = verdicts(verifier, PYTEST, TWICE, zero, "def tw(n):\n    return [n]\n", "def tw(n):\n    return n and 2\n")
    assert [(each.stage, each.tests_passed, each.tests_total) for each in found] == [
        ("tests", 4, 4), ("tests", 0, 4), ("tests", 0, 4), ("tests", 1, 4)]  # fmt: skip
    found = verdicts(verifier, UNITTEST, TWICE, zero, picky, "raise ValueError\ndef tw(n): pass")
    assert [(each.stage, each.tests_passed, each.tests_total) for each in found] == [
        ("tests", 4, 4), ("tests", 0, 4), ("tests", 2, 4), ("run", 0, 4)]  # fmt: skip
    wrong = one(verifier, zero, PYTEST).diagnostics
    assert "test_numbers(n=1, twice=2): AssertionError, in `assert tw(n) == pytest.approx(twice)`" in wrong
    assert "TestMore.test_error(): AssertionError: DID NOT RAISE TypeError" in wrong


def test_a_class_that_cannot_be_set_up_fails_its_tests_and_no_others(verifier: ThreadedVerifier) -> None:
    tests = asserting(
        "import unittest\nclass A(unittest.TestCase):\n    @classmethod\n    def setUpClass(cls): cls.x = tw(5) + 1\n"
        "    def test_1(self): self.assertEqual(self.x, 11)\n    def test_2(self): self.assertEqual(self.x, 11)\n"
        "def test_b():\n    assert tw(3) == 6\n"
    )
    right, wrong = verdicts(verifier, tests, TWICE, "def tw(n):\n    return None if n == 5 else 2 * n\n")
    assert right.passed and (wrong.tests_passed, wrong.tests_total) == (1, 3)


def test_what_runs_as_the_main_program_is_run(verifier: ThreadedVerifier) -> None:
    tests = asserting(
        "import sys\ndef main():\n    assert tw(2) == 4\n    return 0\n"
        "if __name__ == '__main__':\n    sys.exit(main())\n"
    )
    right, wrong = verdicts(verifier, tests, TWICE, "def tw(n): return 0")
    assert right.passed and (wrong.stage, wrong.tests_passed) == ("tests", 0)
    leaving = asserting("import sys\nif tw(2) != 4:\n    sys.exit('wrong')\nassert tw(3) == 6\n")
    right, wrong = verdicts(verifier, leaving, TWICE, "def tw(n): return 6")
    assert right.passed and "the tests left with wrong" in wrong.diagnostics


def test_a_check_that_asserted_nothing_has_not_passed(verifier: ThreadedVerifier) -> None:
    tests = asserting(
        "for n in tw([1]):\n    assert n == 1",
        "import sys\nif tw([1]) == []:\n    sys.exit()\nassert tw([1]) == [1, 1]",
    )
    right, empty = verdicts(verifier, tests, TWICE, "def tw(n):\n    return []\n")
    assert right.passed and (empty.stage, empty.tests_passed) == ("tests", 0)
    assert empty.diagnostics.count("no assertion was reached") == 2


def test_an_exception_that_the_tests_expect_of_an_assertion_is_an_answer(verifier: ThreadedVerifier) -> None:
    """A direct run passes; but what catches every exception swallows a failed assertion too."""
    named = asserting("try:\n    assert inverse(0) == 0\nexcept (ZeroDivisionError, ValueError):\n    pass\n")
    raises, zero, wrong = verdicts(
        verifier,
        named,
        "def inverse(n): return 1 / n",
        "def inverse(n): return 0",
        "def inverse(n): return 5",
    )
    assert raises.passed and zero.passed and not wrong.passed
    anything = asserting("try:\n    assert inverse(0) == 0\nexcept Exception:\n    pass\n")
    right, wrong = verdicts(verifier, anything, "def inverse(n): return 0", "def inverse(n): return 5")
    assert right.passed and "no assertion was reached" in wrong.diagnostics


def test_helpers_of_numpy_work_without_numpy(verifier: ThreadedVerifier) -> None:
    plus = (
        "import numpy as np\n"
        "def is_floats(x):\n    if isinstance(x, float):\n        return True\n"
        "    if isinstance(x, (list, tuple)) and x:\n        return all(isinstance(i, float) for i in x)\n"
        "    return isinstance(x, np.ndarray) and x.dtype == np.float64\n"
        "def assertion(out, exp, atol):\n    if atol == 0 and is_floats(exp):\n        atol = 1e-6\n"
        "    if out != exp and atol != 0:\n        assert np.allclose(out, exp, rtol=1e-07, atol=atol)\n"
        "    else:\n        assert out == exp, f'out: {out}, exp: {exp}'\n"
        "inputs, results = [[1], [0.5], [[1.0]]], [2, 1.00000001, [1.0, 1.0]]\n"
        "for i, (inp, exp) in enumerate(zip(inputs, results)):\n    assertion(tw(*inp), exp, 0)\n"
    )
    tests = {"kind": "mbpp", "test_list": ["assert tw(1) == 2"], "test": plus}
    verifier.check_prompts([prompt(tests)])
    empty = "def tw(n):\n    return 2 if n == 1 else []\n"
    found = verdicts(verifier, tests, TWICE, empty, "def tw(n):\n    return 2\n", "def tw(n):\n    return n\n")
    assert [(each.tests_passed, each.tests_total) for each in found] == [(2, 2), (1, 2), (1, 2), (0, 2)]
    unknown = {**tests, "test": "import numpy as np\nfor i in (1, 2):\n    assert tw(i + 1) == np.linalg.norm([1])\n"}
    with pytest.raises(ConfigError, match=r"'task': the tests use numpy.linalg.*, and .* has no numpy"):
        verifier.check_prompts([prompt(unknown)])


def test_named_tuples_and_contexts_of_the_program_are_usable(verifier: ThreadedVerifier) -> None:
    named = {"kind": "asserts", "tests": ["assert f(1).x == 1 and f(1) == (1, 2)"]}
    make = "from collections import namedtuple\nP = namedtuple('P', 'x y')\ndef f(x): return P(x, {})\n"
    assert [each.passed for each in verdicts(verifier, named, make.format(2), make.format(3))] == [True, False]
    context = {"kind": "asserts", "tests": ["def test_f():\n    with f(1) as x:\n        assert x == 1"]}
    make = (
        "class C:\n    def __enter__(self): return {}\n    def __exit__(self, *e): return True\ndef f(x): return C()\n"
    )
    found = verdicts(verifier, context, make.format(1), make.format(2))
    assert [each.passed for each in found] == [True, False], "a context of the program swallows no failed assertion"
