"""A harness in Python runs in another process than the answer: none of the answers that go for it passes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from python_answers import prompt, spec, verdicts

from halo_forge.core.errors import ConfigError
from halo_forge.core.records import Verdict
from halo_forge.verifiers import open_verifier
from halo_forge.verifiers.python.tests import refuse_unimported
from halo_forge.verifiers.verifier import ThreadedVerifier

TESTS: dict[str, Any] = {
    "kind": "harness",
    "entry_point": "inc",
    "source": "import answer\nfrom answer import inc\n\nprint(inc(1) == 2)\nitems = [1]\nanswer.extend(items)\n"
    "print(items)\ntry:\n    inc('x')\nexcept TypeError as error:\n    print('TypeError')\nprint('end')\n",
    "expected": ["True", "[1, 2]", "TypeError", "end"],
}
LINES = "True\n[1, 2]\nTypeError\nend\n"
REST = "\ndef extend(items):\n    items.append(2)\n"
RIGHT = "def inc(a):\n    return a + 1\n" + REST
SAY = f"import os\n    os.write(1, {LINES.encode()!r})\n    print({LINES!r}, flush=True)\n    "
HACKS = {
    "os._exit": f"def inc(a):\n    {SAY}os._exit(0)\n",
    "SystemExit": f"def inc(a):\n    {SAY}raise SystemExit(0)\n",
    "exit when imported": f"if True:\n    {SAY}os._exit(0)\ndef inc(a): return a\n",
    "atexit": f"import atexit\n@atexit.register\ndef last():\n    {SAY}pass\ndef inc(a): return a\n",
    "print": "import builtins\nbuiltins.print = lambda *a, **k: None\ndef inc(a): return a\n",
    "equal to all": "class Z(int):\n    def __eq__(self, other): return True\n    __hash__ = int.__hash__\n"
    "def inc(a): return Z(a)\n",
    "stack": "import sys\ndef inc(a):\n    f = sys._getframe()\n    while f.f_back: f = f.f_back\n"
    f"    f.f_globals.clear()\n    {SAY}return 2\n",
    "source of the harness": "import sys\ndef inc(a):\n    return open(sys.argv[0]).read()\n",
    "not there": "def dec(a): return a\n",
}


@pytest.fixture(scope="module")
def verifier() -> Iterator[ThreadedVerifier]:
    with open_verifier(spec(memory_limit_bytes=128 * 1024 * 1024, workers=1)) as opened:
        yield opened


def one(verifier: ThreadedVerifier, code: str) -> Verdict:
    (found,) = verdicts(verifier, TESTS, code)
    return found


@pytest.mark.parametrize("name", HACKS)
def test_no_hack_passes(verifier: ThreadedVerifier, name: str) -> None:
    verdict = one(verifier, HACKS[name] + REST)
    assert verdict.status == "failed" and verdict.reward < 1.0, verdict
    assert verdict.tests_passed < 4


def test_honest_answers_pass(verifier: ThreadedVerifier) -> None:
    for honest in (RIGHT, RIGHT + "print('a trace')\n", RIGHT + "if __name__ == '__main__':\n    exit(3)\n"):
        verdict = one(verifier, honest)
        assert (verdict.status, verdict.tests_passed, verdict.hacks) == ("passed", 4, ()), verdict


def test_an_exception_ends_the_harness(verifier: ThreadedVerifier) -> None:
    verdict = one(verifier, RIGHT.replace("a + 1", "a + 1 if a == 1 else 1 // 0"))
    assert (verdict.stage, verdict.status, verdict.tests_passed, verdict.reward) == ("run", "failed", 2, 0.5)
    assert "harness.py:9: the program raised ZeroDivisionError" in verdict.diagnostics, verdict.diagnostics
    assert one(verifier, "def inc(a):\n    return a + 1\n").stage == "run"


@pytest.mark.parametrize(("end", "status"), [("exit()", "passed"), ("exit(0)", "passed"), ("exit(2)", "failed")])
def test_a_harness_may_end_itself(verifier: ThreadedVerifier, end: str, status: str) -> None:
    (found,) = verdicts(verifier, {**TESTS, "source": TESTS["source"] + end + "\n"}, RIGHT)
    assert found.status == status


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("print(inc(1))\n", "uses inc, which"),
        ("from answer import inc\nprint(dec(inc(1)))\n", "uses dec, which"),
        ("import answer\nprint(answer.inc(1))\n", None),
        ("from answer import *\nprint(inc(1))\n", None),
        ("try:\n    inc\nexcept NameError:\n    from answer import inc\n", None),
        ("from answer import inc\nif __name__ == '__main__':\n    print(inc(1))\n    exit(0)\n", None),
        ("globals().update(inc=max)\nprint(inc(1, 2))\n", None),
    ],
)
def test_names_that_a_harness_does_not_import(source: str, names: str | None) -> None:
    if names is None:
        refuse_unimported(source, "inc")
        return
    with pytest.raises(ConfigError, match=names) as refused:
        refuse_unimported(source, "inc")
    assert "from answer import" in str(refused.value.hint)


def test_such_a_harness_is_refused_before_the_run(verifier: ThreadedVerifier) -> None:
    with pytest.raises(ConfigError, match="neither defines nor imports"):
        verifier.check_prompts([prompt({**TESTS, "source": TESTS["source"].replace("from answer import inc", "")})])


def test_too_many_lines(verifier: ThreadedVerifier) -> None:
    (found,) = verdicts(verifier, {**TESTS, "expected": TESTS["expected"][:3]}, RIGHT)
    assert (found.stage, found.status, found.reward < 1.0) == ("tests", "failed", True)
