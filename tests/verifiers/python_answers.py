"""What the tests of the Python verifier share."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from halo_forge.core.records import Completion, Prompt, Verdict
from halo_forge.verifiers.languages.python import Spec
from halo_forge.verifiers.verifier import ThreadedVerifier

# One that every user may start, where there is one: jobs of root run as another user.
INTERPRETER = "/usr/bin/python3" if os.access("/usr/bin/python3", os.X_OK) else "python3"

ASSERTS = {
    "kind": "asserts",
    "entry_point": "add",
    "tests": ["assert add(1, 2) == 3", "assert add(-4, 4) == 0", "assert add('a', 'b') == 'ab'"],
}
MBPP = {"kind": "mbpp", "test_list": ASSERTS["tests"], "test_setup_code": ""}
HUMANEVAL = {
    "kind": "humaneval",
    "entry_point": "add",
    "prompt": "from typing import Any\n\ndef helper(x):\n    return x\n\n"
    'def add(a: Any, b: Any) -> Any:\n    """Add."""\n',
    "test": "METADATA = {}\n\ndef check(candidate):\n    assert True, 'it runs'\n    assert candidate(1, 2) == 3\n"
    "    for n in range(3):\n        assert candidate(n, -4) == n - 4\n    assert candidate('a', 'b') == 'ab'\n",
}
COLLECTED = {
    "kind": "asserts",
    "tests": [
        "from answer import add\nimport unittest\ndef test_numbers():\n    assert add(1, 2) == 3\n"
        "class Adding(unittest.TestCase):\n    def test_zero(self):\n        self.assertEqual(add(-4, 4), 0)\n"
        "    def test_texts(self):\n        found = add('a', 'b')\n        self.assertEqual(found, 'ab')\n"
    ],
}
KINDS = {"asserts": ASSERTS, "mbpp": MBPP, "humaneval": HUMANEVAL, "collected": COLLECTED}
ADD = "def add(a, b):\n    return a + b\n"


def spec(**settings: Any) -> Spec:
    """Short limits, and an interpreter that can be started."""
    return Spec(**{"compiler": INTERPRETER, "timeout_seconds": 1.0, "workers": 2, **settings})


def prompt(tests: Mapping[str, Any] | None, name: str = "task") -> Prompt:
    return Prompt(name, ({"role": "user", "content": "Write it."},), "python", tests)


def answer(code: str, index: int = 0, name: str = "task") -> Completion:
    return Completion(name, index, f"```python\n{code}\n```\n", (), "stop", 0, 1)


def verdicts(verifier: ThreadedVerifier, tests: Mapping[str, Any] | None, *codes: str) -> list[Verdict]:
    """The verdicts on some answers to one prompt."""
    return list(verifier.verify([(prompt(tests), answer(code, index)) for index, code in enumerate(codes)]))
