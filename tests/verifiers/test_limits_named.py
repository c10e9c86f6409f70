"""Limits that right programs can reach: found before the run where that is possible, and named in the verdict."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from c_answers import HARNESS, answer, prompt
from languages import answer as answer_in
from languages import prompt as prompt_in
from test_compiled_languages import verifier_of

from halo_forge.core.errors import ConfigError, ToolMissing
from halo_forge.core.records import Prompt, Verdict
from halo_forge.verifiers import open_verifier
from halo_forge.verifiers.languages import c, python
from halo_forge.verifiers.limits import reached_limit, reference_warnings

MIB = 1 << 20
# A right search to a depth of a million; each frame takes about 150 bytes.
DEEP = """#include <cstdio>
#include <vector>
std::vector<int> next[1000001];
long total = 0;
__attribute__((noinline)) void visit(int at, int from) {
    volatile char kept[80];
    kept[0] = (char)at;
    for (int to : next[at])
        if (to != from) visit(to, at);
    total += at + 0 * kept[0];
}
int main() {
    for (int i = 1; i < 1000000; i++) { next[i].push_back(i + 1); next[i + 1].push_back(i); }
    visit(1, 0);
    printf("%ld\\n", total);
}
"""
DEEP_TESTS = {"kind": "stdio", "cases": [{"stdin": "", "stdout": "500000500000\n"}]}


def deep(**settings: Any) -> Verdict:
    with verifier_of("g++", workers=1, **settings) as verifier:
        (verdict,) = verifier.verify([(prompt_in("cpp", DEEP_TESTS), answer_in("cpp", DEEP))])
        return verdict


def test_a_deep_recursion_has_as_much_stack_as_memory() -> None:
    verdict = deep(memory_limit_bytes=512 * MIB)
    assert (verdict.stage, verdict.status) == ("tests", "passed"), verdict.diagnostics


def test_a_stack_limit_of_its_own_is_named_where_it_ends_a_program() -> None:
    verdict = deep(memory_limit_bytes=512 * MIB, stack_limit_bytes=64 * MIB)
    assert (verdict.stage, verdict.status) == ("run", "failed")
    assert "(SIGSEGV): an invalid address, or more than its stack limit of 67108864 bytes" in verdict.diagnostics


def test_endless_recursion_ends_by_a_limit_that_is_named() -> None:
    code = "int f(int n) { volatile char b[100]; b[0] = (char)n; return f(n + 1) + b[0]; }\n"
    code += "int main(void) { return f(0); }\n"
    with open_verifier(c.Spec(workers=1)) as verifier:
        (verdict,) = verifier.verify([(prompt(stdio("1")), answer(code))])
    assert verdict.stage == "run" and verdict.status in ("failed", "out_of_memory")
    assert "limit of 268435456 bytes" in verdict.diagnostics


def test_a_large_stack_leaves_room_for_threads() -> None:
    code = (
        "#include <cstdio>\n#include <thread>\n#include <vector>\nint main() {\n    std::vector<std::thread> all;\n"
        "    for (int i = 0; i < 8; i++) all.emplace_back([] { volatile int x = 0; while (x < 100000) x = x + 1; });\n"
        '    for (auto &each : all) each.join();\n    puts("8");\n}\n'
    )
    with verifier_of("g++", workers=1) as verifier:
        (verdict,) = verifier.verify([(prompt_in("cpp", stdio("8")), answer_in("cpp", code))])
    assert (verdict.stage, verdict.status) == ("tests", "passed"), verdict.diagnostics


def test_a_session_that_cannot_give_the_stack_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda _: (8 * MIB, 64 * MIB))
    with pytest.raises(ToolMissing, match=r"stack of 268435456 bytes.*67108864") as caught, open_verifier(c.Spec()):
        pass
    assert "verifier.stack_limit_bytes to 67108864" in str(caught.value)


def stdio(*outputs: Any) -> dict[str, Any]:
    return {"kind": "stdio", "cases": [{"stdin": "", "stdout": each} for each in outputs]}


@pytest.mark.parametrize(
    ("tests", "said"),
    [
        (stdio("1", "x" * 2048), "'long': the expected output of case 2 has 2,048 bytes"),
        (stdio(["1", "x" * 2048]), "'long': the expected output of case 1 has 2,048 bytes"),
        ({**HARNESS, "expected": ["x" * 511] * 4}, "'long': the expected output of the harness has 2,048 bytes"),
    ],
)
def test_an_expected_output_that_no_program_may_print_is_found_before_the_run(tests: dict[str, Any], said: str) -> None:
    prompts = [prompt(stdio("1")), prompt(tests, "long"), prompt(stdio("y" * 4000), "longer")]
    with open_verifier(c.Spec(workers=1, output_limit_bytes=2048)) as verifier, pytest.raises(ConfigError) as caught:
        verifier.check_prompts(prompts)
    assert said in str(caught.value) and "verifier.output_limit_bytes is 2,048" in str(caught.value)
    assert "2 prompts are affected" in str(caught.value) and "to 6024 or more" in str(caught.value)
    with open_verifier(c.Spec(workers=1, output_limit_bytes=6024)) as verifier:
        verifier.check_prompts(prompts[:1] if "source" in tests else prompts)


PRINTS = "#include <stdio.h>\nint main(void) { for (int i = 0; i < 3000; i++) putchar('y'); return 0; }\n"
LOOPS = "int main(void) { for (volatile int i = 0;; i++) { } }\n"
GROWS = (
    "#include <stdlib.h>\n#include <string.h>\n"
    "int main(void) { for (;;) { char *p = malloc(1 << 20); if (!p) return 1; memset(p, 1, 1 << 20); } }\n"
)
FORKS = (
    "#include <unistd.h>\nint main(void) {\n    for (int i = 0; i < 6; i++)\n"
    "        if (fork() == 0) { sleep(1); return 0; }\n    sleep(1);\n    return 0;\n}\n"
)
CRASHES = "int main(void) { volatile int *p = 0; return *p; }\n"
WRONG = "int main(void) { return 0; }\n"


@pytest.mark.parametrize(
    ("code", "limit", "shown"),
    [
        (LOOPS, "verifier.timeout_seconds (now 0.2)", "exceeded its 0.2 s of CPU time"),
        (GROWS, "verifier.memory_limit_bytes (now 33554432)", "exceeded its memory limit of 33554432 bytes"),
        (PRINTS, "verifier.output_limit_bytes (now 2048)", "limit of 2048 bytes"),
        (FORKS, "verifier.process_limit (now 4)", "started more than 4 processes"),
        (CRASHES, "perhaps verifier.stack_limit_bytes (now 33554432)", "stack limit of 33554432 bytes"),
        (WRONG, None, ""),
    ],
)
def test_a_reference_that_reaches_a_limit_is_told_as_that(code: str, limit: str | None, shown: str) -> None:
    spec = c.Spec(workers=1, timeout_seconds=0.2, memory_limit_bytes=32 * MIB, output_limit_bytes=2048, process_limit=4)
    task = dataclasses.replace(prompt(stdio("1")), info={"reference": code})
    passing = dataclasses.replace(
        task, id="fine", info={"reference": '#include <stdio.h>\nint main(void) { puts("1"); }\n'}
    )
    with open_verifier(spec) as verifier:
        (failure,) = verifier.check_references([task, passing, prompt(stdio("1"), "without a reference")])
    assert (failure.prompt_id, failure.limit) == ("task", limit)
    assert shown in failure.result.diagnostics
    (said,) = reference_warnings([failure])
    assert ("raise " + limit in said) if limit is not None else ("does not pass the tests ('task')" in said)
    assert reached_limit(failure.result, spec) == limit


def test_references_in_python_are_run_too() -> None:
    tests = {"kind": "asserts", "entry_point": "f", "tests": ["assert f(2) == 4"]}
    tasks = [
        Prompt(
            name, ({"role": "user", "content": "x"},), "python", tests, {"reference": f"def f(n):\n    return {body}\n"}
        )
        for name, body in (("right", "n * 2"), ("wrong", "n * 3"))
    ]
    with open_verifier(python.Spec(workers=1)) as verifier:
        failures = verifier.check_references(tasks)
    assert [(each.prompt_id, each.limit) for each in failures] == [("wrong", None)]


def test_many_failures_are_one_sentence_for_each_limit() -> None:
    with open_verifier(c.Spec(workers=1)) as verifier:
        failures = verifier.check_references(
            [dataclasses.replace(prompt(stdio("1"), f"p{n}"), info={"reference": WRONG}) for n in range(7)]
        )
    (said,) = reference_warnings(failures)
    assert said.startswith(
        "the reference solution of 7 prompts does not pass the tests ('p0', 'p1', 'p2', 'p3', 'p4', ...)"
    )
    assert reference_warnings([]) == ()
