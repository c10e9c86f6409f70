"""The same tasks in every compiled language, so that one table of verdicts holds for all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from halo_forge.core.records import Completion, Prompt, Verdict

STDIO = {
    "kind": "stdio",
    "cases": [
        {"stdin": "1 2\n", "stdout": "3\n"},
        {"stdin": "4 -4\n", "stdout": "0"},
        {"stdin": "9 9", "stdout": "18\n\n"},
    ],
}
EXPECTED = ["3", "0", "42", "-2"]

Check = Callable[[str, Mapping[str, Any] | None], Verdict]


@dataclass(frozen=True)
class Language:
    """How one language says what the tests need.

    Attributes:
        program: A whole program that reads `a` and `b`; `@` stands for what it does with them.
        function: A function `add`; `@` stands for its body.
        show: Prints the sum of `a` and `b`.
        harness: Calls `add` four times.
        bodies: Name of a behaviour -> statements that have it, for `program` and `function`.
    """

    kind: str
    program: str
    function: str
    show: str
    harness: str
    sum: str
    bodies: Mapping[str, str] = field(default_factory=dict)

    def adding(self, body: str) -> str:
        return self.function.replace("@", body)

    def reading(self, body: str) -> str:
        return self.program.replace("@", body)

    @property
    def tests(self) -> dict[str, Any]:
        return {"kind": "harness", "entry_point": "add", "source": self.harness, "expected": EXPECTED}


_C_BODIES = {
    "endless": "for (;;) { volatile int x = a; (void)x; }",
    "crash": "abort();",
    "exit": "exit(3);",
    "greedy": "for (;;) { volatile char *p = (char *)malloc(1 << 20); if (p) for (int i = 0; i < 1 << 20; i += 512)"
    " p[i] = (char)(a + b); }",
    "warn": "int unused; ",
}
CPP = Language(
    kind="cpp",
    program="#include <cstdlib>\n#include <iostream>\n"
    "int main() { int a, b; if (!(std::cin >> a >> b)) return 1; @ }\n",
    function="#include <cstdlib>\nint add(int a, int b) { @ }\n",
    show="std::cout << a + b << std::endl;",
    sum="return a + b;",
    harness="#include <iostream>\nint add(int a, int b);\nint main() {\n"
    '    std::cout << add(1, 2) << "\\n" << add(-4, 4) << "\\n";\n'
    '    std::cout << add(20, 22) << "\\n" << add(5, -7) << std::endl;\n}\n',
    bodies=_C_BODIES,
)
RUST = Language(
    kind="rust",
    program="use std::io::Read;\nfn main() {\n    let mut text = String::new();\n"
    "    std::io::stdin().read_to_string(&mut text).unwrap();\n"
    "    let numbers: Vec<i32> = text.split_whitespace().map(|word| word.parse().unwrap()).collect();\n"
    "    let (a, b) = (numbers[0], numbers[1]); @ }\n",
    function="fn add(a: i32, b: i32) -> i32 { @ }\n",
    show='println!("{}", a + b);',
    sum="a + b",
    harness='use std::fmt::Display;\nfn show(value: impl Display) { println!("{}", value); }\n'
    "fn main() { show(add(1, 2)); show(add(-4, 4)); show(add(20, 22)); show(add(5, -7)); }\n",
    bodies={
        "endless": "loop { std::hint::black_box(a + b); }",
        "crash": 'panic!("{}", a + b);',
        "exit": 'if a + b > -100 { std::process::exit(3) } else { panic!("") }',
        "greedy": "let mut all: Vec<Vec<u8>> = Vec::new(); loop { all.push(vec![(a + b) as u8 | 1; 1 << 20]); }",
        "warn": "let unused = 1; ",
    },
)
GO = Language(
    kind="go",
    program='package main\nimport (\n\t"fmt"\n\t"os"\n)\nfunc main() { var a, b int\n'
    "if n, _ := fmt.Scan(&a, &b); n != 2 { os.Exit(1) }\n@ }\n",
    function='package main\nimport "os"\nvar _ = os.Args\nfunc add(a int, b int) int { @ }\n',
    show="fmt.Println(a + b)",
    sum="return a + b",
    harness='package main\nimport "fmt"\nfunc main() {\n\tfmt.Println(add(1, 2))\n\tfmt.Println(add(-4, 4))\n'
    "\tfmt.Println(add(20, 22))\n\tfmt.Println(add(5, -7))\n}\n",
    bodies={
        "endless": "for { a++ }",
        "crash": 'panic("no")',
        "exit": "os.Exit(3); return a",
        "greedy": "all := [][]byte{}\nfor { one := make([]byte, 1<<20); for i := range one { one[i] = byte(a | 1) }\n"
        "all = append(all, one) }",
    },
)


def prompt(language: str, tests: Mapping[str, Any] | None) -> Prompt:
    return Prompt("task", ({"role": "user", "content": "Write it."},), language, tests)


def answer(language: str, code: str) -> Completion:
    return Completion("task", 0, f"```{language}\n{code}\n```\n", (), "stop", 0, 1)
