"""A program that keeps the compiler from warning does not count as clean, and one that breaks a limit is not run on."""

from __future__ import annotations

import time

import pytest
from c_answers import COMPILE, STDIO, Check, answer, prompt, sum_program

from halo_forge.verifiers import open_verifier
from halo_forge.verifiers.diagnostics import silences_warnings
from halo_forge.verifiers.languages.c import Spec

ADD = "int add(int a, int b) { int unused; return a + b; }\n"
SILENCING = {
    "line marker": '# 1 "answer.c" 3\n' + ADD,
    "name that hides": '#line 1 " answer.c"\n' + ADD,
    "pragma": '#pragma GCC diagnostic ignored "-Wunused-variable"\n' + ADD,
    "clang's": '#pragma clang diagnostic ignored "-Wall"\n' + ADD,
    "header": "#ifndef A\n#define A\n#include __FILE__\n#else\n#pragma GCC system_header\n" + ADD + "#endif\n",
    "operator": '_Pragma("GCC diagnostic ignored \\"-Wunused-variable\\"")\n' + ADD,
    "pasted": '#define P(a, b) a##b\nP(_Pra, gma)("GCC diagnostic ignored \\"-Wunused-variable\\"")\n' + ADD,
    "digraph": "%: pragma GCC diagnostic ignored \"-Wunused-variable\"\n" + ADD,
    "trigraph": "?\x3f=pragma GCC diagnostic ignored \"-Wunused-variable\"\n" + ADD,
    "splice": '#pra\\\ngma GCC diagnostic ignored "-Wunused-variable"\n' + ADD,
    "behind a comment": '/* x\n*/ #pragma GCC diagnostic ignored "-Wunused-variable"\n' + ADD,
    "comment within": '# /**/ pragma GCC diagnostic ignored "-Wunused-variable"\n' + ADD,
}  # fmt: skip
HARMLESS = [
    '#pragma once\n#pragma GCC optimize("O3,unroll-loops")\n#pragma GCC target("avx2")\n#pragma omp parallel for\n',
    "#pragma pack(push, 1)\nstruct s { int a; };\n#pragma pack(pop)\n",
    '#include <stdio.h>\nint main(void) { puts("# 1 line"); puts("#pragma x"); return 0; }\n',
    "#define CAT(a, b) a##b\n#define SHOW(x) #x\nint CAT(x, y);\n",
    "/*\n * #1 first\n # 2. second\n */\nint x; // _Pragmatic\n",
]


@pytest.mark.parametrize("name", SILENCING)
def test_what_can_hide_warnings_counts_as_one(check: Check, name: str) -> None:
    if name == "trigraph":  # of ISO C only
        with open_verifier(Spec(standard="c17")) as verifier:
            (verdict,) = verifier.verify([(prompt(COMPILE), answer(SILENCING[name]))])
    else:
        verdict = check(SILENCING[name], COMPILE)
    assert (verdict.stage, verdict.status) == ("compile", "passed"), verdict.diagnostics
    assert verdict.warnings > 0 and verdict.reward == 0.3


@pytest.mark.parametrize("source", HARMLESS)
def test_other_directives_are_left_alone(source: str) -> None:
    assert not silences_warnings(source)


@pytest.mark.parametrize("piece", ["#", "# ", "/*", "*/", "*/ #", "\\\n", "_", "##", "#pragma ", "\n \n#"])
def test_a_long_source_takes_no_time(piece: str) -> None:
    started = time.process_time()
    silences_warnings("##" + piece * (250_000 // len(piece)))
    assert time.process_time() - started < 2.0


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ('for (;;) printf("%d", a + b);', "failed"),
        ("for (;;) { volatile char *p = malloc(1 << 20); for (int i = 0; i < 1 << 20; i += 4096) p[i] = 1; }",
         "out_of_memory"),
    ],
)  # fmt: skip
def test_the_cases_after_a_broken_limit_are_not_run(check: Check, body: str, status: str) -> None:
    verdict = check(sum_program(body), STDIO)
    assert (verdict.stage, verdict.status) == ("run", status), verdict.diagnostics
    assert "cases after 1 were not run" in verdict.diagnostics
