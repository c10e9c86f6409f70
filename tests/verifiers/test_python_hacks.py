"""Answers that go for the verdict instead of the task: none of them passes a single check that it has not earned."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from python_answers import ADD, ASSERTS, KINDS, spec, verdicts

from halo_forge.core.errors import ToolMissing
from halo_forge.verifiers import open_verifier
from halo_forge.verifiers.verifier import ThreadedVerifier

ALWAYS_EQUAL = """
class Equal{base}:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 0
    def __bool__(self): return True
    def __sub__(self, other): return 0
    __rsub__ = __add__ = __radd__ = __sub__
    def __lt__(self, other): return True
    __gt__ = __le__ = __ge__ = __contains__ = __lt__
def add(a, b): return Equal({value})
"""
FRAMES = """
import gc, sys
def add(a, b):
    seen = []
    frame = sys._getframe()
    while frame is not None:
        seen += [*frame.f_locals.values(), *frame.f_globals.values()]
        frame = frame.f_back
    seen += gc.get_objects()
    for value in list(seen):
        if isinstance(value, dict) and "steps" in value:
            raise SystemExit(value["steps"])
    for value in seen:
        try:
            if type(value) is str and "assert add(" in value and "seen" not in value:
                return eval(value.split("==")[1])
        except Exception:
            pass
    return None
"""
DRIVER = """
import sys
for name, module in list(sys.modules.items()):
    if ".driver." in name:
        for key, value in list(vars(module).items()):
            if callable(value) and not isinstance(value, type):
                setattr(module, key, lambda *args, **kwargs: True)
            elif isinstance(value, type):
                for each in list(vars(value)):
                    if not each.startswith("__"):
                        try: setattr(value, each, lambda *args, **kwargs: True)
                        except Exception: pass
def add(a, b): return True
"""
FORGED = """
import os, struct
def frame(content): return struct.pack(">I", len(content)) + content
def text(value): return b"s" + struct.pack(">I", len(value)) + value.encode()
for descriptor in range(3, 64):
    for kind in ("end", "check", "parsed", "ran"):
        message = b"t" + struct.pack(">I", 4) + text("0" * 32) + text(kind) + b"T" + text("")
        try: os.write(descriptor, frame(message))
        except OSError: pass
def add(a, b): return 7
"""
REPLIES = """
import os, struct
def count(n): return struct.pack(">I", n)
def text(value): return b"s" + count(len(value)) + value.encode()
def message(*parts): return b"t" + count(len(parts)) + b"".join(parts)
for descriptor in range(3, 64):
    for content in ({replies}):
        try: os.write(descriptor, count(len(content)) + content)
        except OSError: pass
def add(a, b): return 7
"""

HACKS = {
    "os._exit(0)": "import os\nos._exit(0)\ndef add(a, b): pass",
    "os._exit(0) in the function": "import os\ndef add(a, b): os._exit(0)",
    "SystemExit": "raise SystemExit(0)\ndef add(a, b): pass",
    "SystemExit in the function": "def add(a, b): raise SystemExit(0)",
    "KeyboardInterrupt": "def add(a, b): raise KeyboardInterrupt",
    "always equal": ALWAYS_EQUAL.format(base="", value=""),
    "int that is always equal": ALWAYS_EQUAL.format(base="(int)", value="7"),
    "str that is always equal": ALWAYS_EQUAL.format(base="(str)", value="'x'"),
    "float that is always equal": ALWAYS_EQUAL.format(base="(float)", value="0.5"),
    "tuple that is always equal": ALWAYS_EQUAL.format(base="(tuple)", value="(1,)"),
    "metaclass that is always equal": "class M(type):\n    def __eq__(self, other): return True\n"
    "    __hash__ = None\nclass Equal(metaclass=M): pass\ndef add(a, b): return Equal",
    "mock": "from unittest.mock import ANY\ndef add(a, b): return ANY",
    "atexit": "import atexit, os\natexit.register(lambda: os._exit(0))\ndef add(a, b): return None",
    "builtins overwritten": "import builtins\nfor name in ('len', 'abs', 'all', 'any', 'isinstance', 'AssertionError',"
    " 'range', 'compile', 'exec', 'type', 'getattr'):\n    setattr(builtins, name, lambda *a, **k: True)\n"
    "def add(a, b): return True",
    "driver monkeypatched": DRIVER,
    "report forged": FORGED,
    **{
        f"replies forged: {replies}": REPLIES.format(replies=replies + ",")
        for replies in (
            'message(text("value"), b"N")',
            'message(text("error"), b"l" + count(0), b"N")',
            'message(text("value"), message(b"T", text("")))',
            'message(text("value"), message(b"T", b"N"))',
            'message(text("value"), message(b"T", text(""))), message(text("value"), b"F")',
            'message(text("back"), b"N", b"N", b"N")',
            'message(text("value"), b"o" + message(text("mine"), b"N", b"N"))',
            'message(text("value"))',
            'text("value")',
            'b"N"',
            'b"l" * 5',
        )
    },
    "value without an end": "def add(a, b):\n    x = []\n    x.append(x)\n    return x",
    "value too large": "def add(a, b): return b'x' * (20 << 20)",
    "values that grow": "import struct, os\nn = 3 << 20\ncontent = b't' + struct.pack('>I', 2) + b's' +"
    " struct.pack('>I', 5) + b'value' + b'l' + struct.pack('>I', n) + (b'S' + bytes(4)) * n\n"
    "for each in range(3, 64):\n    try: os.write(each, struct.pack('>I', len(content)) + content)\n"
    "    except OSError: pass\ndef add(a, b): return 7",
    "frames and objects": FRAMES,
    "main module": "import sys\nm = sys.modules['__main__']\nfor name in list(vars(m)):\n"
    "    setattr(m, name, lambda *a, **k: True)\ndef add(a, b): return True",
    "modules replaced": "import sys\nclass Fake(dict):\n    def __getitem__(self, key): return self\n"
    "sys.modules['builtins'] = sys.modules['copy'] = sys.modules['math'] = Fake()\ndef add(a, b): return 1",
    "AssertionError of its own": "def add(a, b): raise AssertionError",
    "StopIteration": "def add(a, b): raise StopIteration",
    "iterator of everything": "class E:\n    def __iter__(self): return self\n    def __next__(self): return E()\n"
    "    __eq__ = lambda self, other: True\ndef add(a, b): return E()",
    "prints what passes": "print('passed 3 of 3')\nimport sys\nsys.stderr.write('OK')\ndef add(a, b): print(True)",
    "trace function": "import sys\nsys.settrace(lambda *a: None)\nsys.setprofile(lambda *a: None)\n"
    "sys.excepthook = lambda *a: None\ndef add(a, b): raise ValueError",
    "module that shadows": "import os\nfor name in ('math', 'copy', 'decimal', 'ctypes', 'fractions',"
    " 'unittest', 'pytest', 'numpy', 'ast', 're', 'solution'):\n"
    "    open(name + '.py', 'w').write('import os; os._exit(0)')\nopen('driver', 'w').write('')\n"
    "def add(a, b): return None",
    "tests of its own": "import unittest\ndef test_numbers(): pass\nclass Adding(unittest.TestCase):\n"
    "    def test_zero(self): pass\n    test_texts = runTest = test_zero\ndef add(a, b): return None",
    "unittest replaced": "import sys, unittest\nfor name in dir(unittest.TestCase):\n"
    "    if not name.startswith('__'):\n        setattr(unittest.TestCase, name, lambda *a, **k: None)\nclass Fake:\n"
    "    def __getattr__(self, name): return lambda *a, **k: None\n"
    "sys.modules['unittest'] = sys.modules['pytest'] = sys.modules['answer'] = Fake()\ndef add(a, b): return None",
    "skips": "from unittest import SkipTest\ndef add(a, b): raise SkipTest('not today')",
    "equal to what is expected of it": "from unittest.mock import ANY\nclass Adding(int):\n"
    "    __eq__ = __contains__ = lambda self, other: True\n    __hash__ = int.__hash__\n"
    "add = type('add', (), {'__call__': lambda self, a, b: Adding(7), '__eq__': lambda self, other: True})()",
    "assertions that are held by hand": "import builtins\nbuiltins.__assertion_held__ = lambda: None\n"
    "__assertion_held__ = builtins.__assertion_held__\ndef add(a, b): __assertion_held__()",
    "arrays without an end": "import struct, os\ndef text(v): return b's' + struct.pack('>I', len(v)) + v.encode()\n"
    "shape = b't' + struct.pack('>I', 1) + b'i' + struct.pack('>I', 6) + b'\\x7f' * 6\n"
    "array = b'x\\x07t' + struct.pack('>I', 3) + text('float64') + shape + b'l' + struct.pack('>I', 0)\n"
    "content = b't' + struct.pack('>I', 2) + text('value') + array\nfor each in range(3, 64):\n"
    "    try: os.write(each, struct.pack('>I', len(content)) + content)\n    except OSError: pass\n"
    "def add(a, b): return 7",
    "kills the parent": "import os\nos.kill(os.getppid(), 9)\ndef add(a, b): return None",
    "stops the parent": "import os\ndef add(a, b): os.kill(os.getppid(), 19)",
    "hangs up": "import os\nos.closerange(3, 64)\ndef add(a, b): return None",
    "another process answers": "import os\nif os.fork(): os._exit(0)\ndef add(a, b): return 7",
}

# A stopped process is waited for until the limit, so once is enough.
QUICK = {name: code for name, code in HACKS.items() if name != "stops the parent"}

# What it finds is its result: the check that looks for it passes when it has found something.
LOOKS = {
    "memory": "open(f'/proc/{os.getppid()}/mem', 'rb').read(1)",
    "environment": "open(f'/proc/{os.getppid()}/environ').read(1)",
    "standard input": "open(f'/proc/{os.getppid()}/fd/0', 'rb').read(1)",
    "standard output": "open(f'/proc/{os.getppid()}/fd/1', 'ab').write(b'x')",
    "descriptors": "os.listdir(f'/proc/{os.getppid()}/fd')",
    "own input": "os.lseek(0, 0, 0) or os.read(0, 10)[0]",
    "own descriptors": "[os.readlink(f'/proc/self/fd/{n}') for n in os.listdir('/proc/self/fd')"
    " if os.path.lexists(f'/proc/self/fd/{n}') and 'memfd' in os.readlink(f'/proc/self/fd/{n}')][0]",
    "the box": "[name for name in os.listdir('.') if b'secret_of_the_tests' in open(name, 'rb').read()][0]",
    "command line": "1 / ('secret_of_the_tests' in open(f'/proc/{os.getppid()}/cmdline').read())",
    "own memory": "[1 for o in gc.get_objects() if type(o) is str and o.startswith('secret_of_the_' + 'tests')][0]",
}


@pytest.fixture(scope="module")
def verifier() -> Iterator[ThreadedVerifier]:
    with open_verifier(spec()) as opened:
        yield opened


@pytest.mark.parametrize("kind", ["mbpp", "humaneval", "collected"])
def test_no_hack_passes_a_check(verifier: ThreadedVerifier, kind: str) -> None:
    hacks = HACKS if kind == "mbpp" else QUICK
    found = verdicts(verifier, KINDS[kind], ADD, *hacks.values())
    assert found[0].passed and found[0].tests_passed == found[0].tests_total == 3
    for name, verdict in zip(hacks, found[1:], strict=True):
        assert (verdict.passed, verdict.tests_passed) == (False, 0), (name, verdict)
        assert verdict.status != "error", (name, verdict.diagnostics)


@pytest.mark.parametrize("level", ["namespace", "landlock", "limits"])
def test_the_answer_sees_nothing_of_the_tests(level: str) -> None:
    tests = {"kind": "asserts", "tests": ["assert look() is None, 'secret_of_the_tests'"]}
    looks = [
        f"import gc, os\ndef look():\n    try:\n        return {look}\n"
        "    except (OSError, IndexError, ZeroDivisionError):\n        return None\n"
        for look in LOOKS.values()
    ]
    try:
        with open_verifier(spec(isolation=level)) as verifier:
            found = verdicts(verifier, tests, *looks)
            hacked = verdicts(verifier, ASSERTS, *QUICK.values())
    except ToolMissing as error:
        pytest.skip(f"this machine has no level {level}: {error.message[:200]}")
    for name, verdict in zip(LOOKS, found, strict=True):
        assert verdict.passed, (name, verdict.diagnostics)
    for name, verdict in zip(QUICK, hacked, strict=True):
        assert (verdict.passed, verdict.tests_passed) == (False, 0), (name, verdict)
        assert verdict.status != "error", (name, verdict.diagnostics)


def test_a_builtin_of_the_answer_is_not_the_builtin_of_the_tests(verifier: ThreadedVerifier) -> None:
    tests = {"kind": "asserts", "tests": ["assert sorted(add([2], [1])) == [1, 2]", "assert len(add([1], [])) == 1"]}
    shadow = "def sorted(x): return [1, 2]\ndef len(x): return 1\ndef add(a, b): return []"
    right, wrong = verdicts(verifier, tests, ADD, shadow)
    assert right.passed and (wrong.stage, wrong.tests_passed) == ("tests", 0)


def test_a_helper_of_the_head_is_not_the_answers_in_the_tests(verifier: ThreadedVerifier) -> None:
    head = 'def near(a, b):\n    return abs(a - b) < 0.1\n\ndef half(x):\n    """Half of x."""\n'
    test = "def check(candidate):\n    assert near(candidate(3), 1.5)\n    assert near(2 * candidate(5), 5)\n"
    tests = {"kind": "humaneval", "entry_point": "half", "prompt": head, "test": test}
    honest, lying = "def half(x): return x / 2", "def near(a, b): return True\ndef half(x): return 0"
    right, wrong = verdicts(verifier, tests, honest, lying)
    assert right.passed and (wrong.stage, wrong.tests_passed) == ("tests", 0)


def test_a_loop_over_results_is_not_cut_short_by_an_exception(verifier: ThreadedVerifier) -> None:
    tests = {"kind": "asserts", "entry_point": "add", "tests": ["assert all(n == 9 for n in map(add, [1, 2], [8, 7]))"]}
    right, wrong = verdicts(verifier, tests, ADD, "def add(a, b): raise StopIteration")
    assert right.passed and not wrong.passed


def test_objects_of_the_answer_are_never_equal_nor_compared(verifier: ThreadedVerifier) -> None:
    tests = {
        "kind": "asserts",
        "entry_point": "Point",
        "tests": ["assert Point(1, 2) == Point(1, 2)", "assert Point(1, 2) != Point(3, 4)", "assert Point(1, 2) == 5"],
    }
    lying = "class Point:\n    def __init__(self, *a): pass\n    __eq__ = __ne__ = lambda self, other: True\n"
    (found,) = verdicts(verifier, tests, lying)
    assert (found.stage, found.tests_passed) == ("tests", 0)
    assert "objects of the program are not compared" in found.diagnostics


def test_a_function_of_the_tests_hides_its_globals(verifier: ThreadedVerifier) -> None:
    tests = {"kind": "asserts", "setup": "secret = 41", "tests": ["assert peek(lambda x: x + secret - 41) == 'hidden'"]}
    peek = "def peek(f):\n    try: return f.__globals__['secret']\n    except AttributeError: return 'hidden'"
    (found,) = verdicts(verifier, tests, peek)
    assert found.passed, found.diagnostics


def test_an_expected_value_never_reaches_the_answer(verifier: ThreadedVerifier) -> None:
    tests = {
        "kind": "asserts",
        "entry_point": "f",
        "tests": ["assert abs(f() - 3.5) < 1e-6", "assert 3 in f()", "assert f() in [3]", "assert not f() < 3"],
    }
    greedy = (
        "class All:\n    __sub__ = __contains__ = __lt__ = __eq__ = __abs__ = lambda *a: 0\n"
        "    def __iter__(self): return iter([])\n    def __contains__(self, x): return True\ndef f(): return All()\n"
    )
    (found,) = verdicts(verifier, tests, greedy)
    assert (found.stage, found.tests_passed) == ("tests", 0), found.diagnostics


def test_what_the_program_defines_is_no_test(verifier: ThreadedVerifier) -> None:
    tests = {"kind": "asserts", "tests": ["from answer import *\ndef test_sum():\n    assert add(1, 2) == 3"]}
    own = "def test_sum(): pass\ndef test_more(): pass\nclass TestAdd:\n    def test_a(self): pass\n"
    right, wrong = verdicts(verifier, tests, own + ADD, own + "def add(a, b): return 0")
    assert (right.passed, right.tests_total) == (True, 1)
    assert (wrong.stage, wrong.tests_passed, wrong.tests_total) == ("tests", 0, 1)
