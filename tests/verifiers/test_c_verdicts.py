"""Answers in C: what each of them reaches, and what it is worth.  gcc is real here."""

from __future__ import annotations

import re

import pytest
from c_answers import ADD, COMPILE, HARNESS, STDIO, Check, answer, prompt, sum_program

from halo_forge.verifiers import open_verifier
from halo_forge.verifiers.languages.c import Spec

PRINT = "#include <stdio.h>\n#include <stdlib.h>\n"


@pytest.mark.parametrize(
    ("code", "stage", "status", "passed", "reward"),
    [
        (ADD, "tests", "passed", 4, 1.0),
        # its own main, a demonstration, is not what runs
        (PRINT + ADD + 'int main(void) { printf("%d\\n", add(1, 1)); return 1; }\n', "tests", "passed", 4, 1.0),
        # right for one check of four: 0.7 + 0.3 / 4
        ("int add(int a, int b) { return a == 1 ? a + b : 1; }\n", "tests", "failed", 1, 0.775),
        ("int add(int a, int b) { return a * 99 + b * 98; }\n", "tests", "failed", 0, 0.7),
        # prints more than was asked for: each line is compared with another
        (PRINT + 'int add(int a, int b) { puts("hm"); return a + b; }\n', "tests", "failed", 0, 0.7),
        # nothing of the answer runs when the harness has come to its end
        (
            PRINT + 'static void more(void) { puts("1"); }\n'
            "int add(int a, int b) { if (a == 5) atexit(more); return a + b; }\n",
            "tests",
            "passed",
            4,
            1.0,
        ),
        # leaves early: what it has printed may not be the harness's
        (PRINT + "int add(int a, int b) { if (a == 20) exit(0); return a + b; }\n", "run", "failed", 0, 0.5),
        (PRINT + "int add(int a, int b) { if (a == 20) exit(3); return a + b; }\n", "run", "failed", 2, 0.5),
        (PRINT + "int add(int a, int b) { if (a == 20) abort(); return a + b; }\n", "run", "failed", 2, 0.5),
        # an unfinished line of a program that crashes is no line
        (PRINT + 'int add(int a, int b) { if (a == 20) { printf("42"); fflush(stdout); abort(); } return a + b; }\n',
         "run", "failed", 2, 0.5),
        ("int add(int a, int b) { while (a != 1) { } return a + b; }\n", "run", "timeout", 1, 0.5),
        (PRINT + "int add(int a, int b) { for (;;) { volatile char *p = malloc(1 << 20);\n"
         "    if (p) for (int i = 0; i < 1 << 20; i += 512) p[i] = (char)(a + b); } }\n",
         "run", "out_of_memory", 0, 0.5),
        (PRINT + 'int add(int a, int b) { for (;;) printf("%d", a + b); }\n', "run", "failed", 0, 0.5),
        # the symbol is not there, or is not visible
        ("int sum(int a, int b) { return a + b; }\n", "compile", "failed", 0, 0.0),
        ("static int add(int a, int b) { return a + b; }\nint use(void) { return add(1, 2); }\n",
         "compile", "failed", 0, 0.0),
        ("int add(int a, int b) { return a + b }\n", "compile", "failed", 0, 0.0),
        ("int add(int a, int b);\n", "compile", "failed", 0, 0.0),
        # linked with the maths library
        ("#include <math.h>\nint add(int a, int b) { return (int)lround(floor(a + b + 0.5)); }\n",
         "tests", "passed", 4, 1.0),
    ],
)  # fmt: skip
def test_function_tasks(check: Check, code: str, stage: str, status: str, passed: int, reward: float) -> None:
    verdict = check(code, HARNESS)
    assert (verdict.stage, verdict.status, verdict.tests_passed) == (stage, status, passed), verdict.diagnostics
    assert verdict.reward == pytest.approx(reward)
    assert verdict.tests_total == 4
    assert verdict.passed == (status == "passed") and verdict.compiled == (stage != "compile")


@pytest.mark.parametrize(
    ("body", "status", "reward"),
    [
        ("int unused; return a + b;", "passed", 1.0),
        ("int unused; return a * 99 + b * 98;", "failed", 0.7),
        ("int unused; *(volatile int *)0 = a; return b;", "failed", 0.3),
        ("int unused; for (;;) a += b;", "timeout", 0.3),
    ],
)
def test_warnings_lower_what_compiling_is_worth(check: Check, body: str, status: str, reward: float) -> None:
    verdict = check(f"int add(int a, int b) {{ {body} }}\n", HARNESS)
    assert (verdict.warnings, verdict.status, verdict.reward) == (1, status, reward)
    assert "unused variable" in verdict.diagnostics


@pytest.mark.parametrize(
    ("body", "stage", "status", "passed", "reward"),
    [
        ('printf("%d \\n", a + b);', "tests", "passed", 3, 1.0),
        ('printf("%d", a + b);', "tests", "passed", 3, 1.0),
        ('printf("%d\\n", a == 9 ? 17 : a + b);', "tests", "failed", 2, 0.9),
        ('printf("\\n%d\\n", a + b);', "tests", "failed", 0, 0.7),
        ('printf("%d\\n", a + b); if (a == 4) abort();', "run", "failed", 2, 0.5),
        ('printf("%d\\n", a + b); if (a == 4) return 1;', "run", "failed", 2, 0.5),
        ('printf("%d\\n", a + b); while (a == 4) { }', "run", "timeout", 1, 0.5),
        ('printf("%d\\n", a + b); while (b == 9) { }', "run", "timeout", 2, 0.5),
    ],
)
def test_program_tasks(check: Check, body: str, stage: str, status: str, passed: int, reward: float) -> None:
    verdict = check(sum_program(body), STDIO)
    assert (verdict.stage, verdict.status, verdict.tests_passed) == (stage, status, passed), verdict.diagnostics
    assert (verdict.tests_total, verdict.reward) == (3, pytest.approx(reward))
    assert ("cases after 2 were not run" in verdict.diagnostics) == ("a == 4) { }" in body)


def test_what_the_program_wrote_need_not_be_text(check: Check) -> None:
    verdict = check(sum_program("putchar(0); putchar(255); putchar(254);"), STDIO)
    assert (verdict.stage, verdict.status) == ("tests", "failed")
    assert "\\xff\\xfe" in verdict.diagnostics


@pytest.mark.parametrize(
    ("code", "stage", "status", "reward"),
    [
        ("int main(void) { return 2; }\n", "compile", "passed", 0.5),
        (ADD, "compile", "passed", 0.5),
        ("int add(int a) { return b; }\n", "compile", "failed", 0.0),
    ],
)
def test_without_tests_compiling_is_all_there_is_to_check(
    check: Check, code: str, stage: str, status: str, reward: float
) -> None:
    verdict = check(code, None)
    assert (verdict.stage, verdict.status, verdict.reward) == (stage, status, reward)
    assert (verdict.tests_passed, verdict.tests_total) == (0, 0)


@pytest.mark.parametrize(
    ("code", "entry_point", "status"),
    [
        (ADD, "add", "passed"),
        ("int helper(int);\nint add(int a) { return helper(a); }\n", "add", "passed"),
        (ADD, "subtract", "failed"),
        ("int add = 3;\n", "add", "failed"),
        ("int add(int a, int b);\n", "add", "failed"),
        ("int x;\n", None, "passed"),
        ("int x\n", None, "failed"),
    ],
)
def test_an_object_is_enough_where_the_prompt_says_so(
    check: Check, code: str, entry_point: str | None, status: str
) -> None:
    verdict = check(code, {**COMPILE, "entry_point": entry_point})
    assert (verdict.stage, verdict.status) == ("compile", status)
    assert verdict.reward == (0.5 if status == "passed" else 0.0)


def test_the_answer_never_sees_the_harness(check: Check) -> None:
    for stolen in ('#include "harness.c"', '#include "harness.o"', '__asm__(".incbin \\"harness.o\\"");'):
        verdict = check(f"{stolen}\n{ADD}", HARNESS)
        assert (verdict.stage, verdict.status) == ("compile", "failed"), stolen


def test_link_errors_are_shown(check: Check) -> None:
    verdict = check("int sum(void) { return 0; }\n", HARNESS)
    assert re.search("undefined reference to [`']add'", verdict.diagnostics)
    assert verdict.exit_code == 1


@pytest.mark.parametrize(
    "code",
    [
        '#include "/dev/zero"\n',
        '#include "answer.c"\n',
        "int a[1 << 30] = {1};\n",
        '__asm__(".space 4294967295");\n',
        "#define A(x) x x x x x x x x\n#define B(x) A(A(A(A(x))))\n#define C(x) B(B(B(x)))\nint f(void) { C(C(1;)) }\n",
        "int f(void) { return " + "(" * 20_000 + "1" + ")" * 20_000 + "; }\n",
        "\n".join(f"int f{i}(void) {{ return x{i}; }}" for i in range(3000)),
    ],
    ids=["endless file", "includes itself", "huge object", "huge section", "macros", "nesting", "errors"],
)
def test_what_breaks_compilers_is_a_program_that_does_not_compile(code: str) -> None:
    with open_verifier(Spec(compile_timeout_seconds=1.0, workers=1)) as verifier:
        (verdict,) = verifier.verify([(prompt(HARNESS), answer(code + ADD))])
    assert verdict.stage == "compile" or code.startswith("int f(void) { return (((")
    assert verdict.status in ("failed", "timeout", "out_of_memory") or verdict.stage != "compile"
    assert len(verdict.diagnostics.encode()) <= 10 * 1024
    assert verdict.wall_seconds < 12


ORDINARY = {
    "M_PI": '#include <math.h>\n#include <stdio.h>\nint main(void) { printf("%.6f\\n", M_PI * 4.0); return 0; }\n',
    "strdup": "#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n"
    'int main(void) { char *d = strdup("12.566371"); puts(d); free(d); return 0; }\n',
    "getline": "#include <stdio.h>\n#include <stdlib.h>\nint main(void) { char *line = NULL; size_t room = 0;\n"
    "    if (getline(&line, &room, stdin) < 0) return 1;\n    fputs(line, stdout); free(line); return 0; }\n",
}
PI = {"kind": "stdio", "cases": [{"stdin": "12.566371\n", "stdout": "12.566371\n"}]}


@pytest.mark.parametrize("name", sorted(ORDINARY))
def test_programs_written_for_an_ordinary_compiler_pass_by_default(check: Check, name: str) -> None:
    verdict = check(ORDINARY[name], PI)
    assert (verdict.stage, verdict.status, verdict.warnings) == ("tests", "passed", 0), verdict.diagnostics


def test_the_strict_standard_is_still_there_and_hides_what_is_not_iso_c() -> None:
    with open_verifier(Spec(standard="c17", isolation="auto")) as verifier:
        (verdict,) = verifier.verify([(prompt(PI), answer(ORDINARY["M_PI"]))])
    assert (verdict.stage, verdict.status) == ("compile", "failed") and "M_PI" in verdict.diagnostics
