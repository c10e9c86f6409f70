"""Prompts and answers in C for the tests of this directory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from halo_forge.core.records import Completion, Finish, Prompt, Verdict

HARNESS = {
    "kind": "harness",
    "entry_point": "add",
    "source": "#include <stdio.h>\n\nint add(int a, int b);\n\nint main(void) {\n"
    "    printf(\"%d\", add(1, 2)); putchar('\\n'); fflush(stdout);\n"
    "    printf(\"%d\", add(-4, 4)); putchar('\\n'); fflush(stdout);\n"
    "    printf(\"%d\", add(20, 22)); putchar('\\n'); fflush(stdout);\n"
    "    printf(\"%d\", add(5, -7)); putchar('\\n'); fflush(stdout);\n"
    "    return 0;\n}\n",
    "expected": ["3", "0", "42", "-2"],
}
STDIO = {
    "kind": "stdio",
    "cases": [
        {"stdin": "1 2\n", "stdout": "3\n"},
        {"stdin": "4 -4\n", "stdout": "0"},
        {"stdin": "9 9", "stdout": "18\n\n"},
    ],
}
COMPILE = {"kind": "compile", "entry_point": "add"}
ADD = "int add(int a, int b) { return a + b; }\n"

Check = Callable[[str, Mapping[str, Any] | None], Verdict]


def prompt(tests: Mapping[str, Any] | None, name: str = "task", language: str | None = "c") -> Prompt:
    return Prompt(name, ({"role": "user", "content": "Write it."},), language, tests)


def answer(code: str, index: int = 0, name: str = "task", finish: Finish = "stop") -> Completion:
    return Completion(name, index, f"```c\n{code}```\n", (), finish, 0, 1)


def sum_program(body: str = 'printf("%d \\n", a + b);') -> str:
    return (
        "#include <stdio.h>\n#include <stdlib.h>\nint main(void) {\n    int a, b;\n"
        f'    if (scanf("%d %d", &a, &b) != 2) return 1;\n    {body}\n    return 0;\n}}\n'
    )
