"""When an output is right: tolerance, several right outputs, white space, and checkers, per prompt and per set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from c_answers import answer, prompt, sum_program
from pydantic import ValidationError

from halo_forge.core.errors import ConfigError
from halo_forge.core.output_rule import OutputRule
from halo_forge.core.records import Completion, Prompt, Verdict
from halo_forge.prompts import load_prompts
from halo_forge.verifiers import open_verifier
from halo_forge.verifiers.comparison import compare_lines, compare_output
from halo_forge.verifiers.languages import c, command, python

CLOSE = {"absolute_tolerance": 1e-6, "relative_tolerance": 1e-6}


@pytest.mark.parametrize(
    ("rule", "output", "expected", "right"),
    [
        # as text, where nothing is said
        ({}, b"0.50\n", "0.5", False),
        ({}, b"1  2\n", "1 2", False),
        # numbers by value
        (CLOSE, b"0.50\n", "0.5", True),
        (CLOSE, b"0.5000004\n", "0.5", True),
        (CLOSE, b"0.500002\n", "0.5", False),
        (CLOSE, b"1e3\n", "1000.0", True),
        (CLOSE, b"1000.0009\n", "1000", True),
        (CLOSE, b"+.5 -0 3.\n", "0.5 0 3", True),
        (CLOSE, b"x = 0.50000001, ok\n", "x = 0.5, ok", False),  # `0.5,` is no number
        (CLOSE, b"x = 0.50000001 ok\n", "x = 0.5 ok", True),
        (CLOSE, b"x = 0.50000001  ok\n", "x = 0.5 ok", False),  # white space within a line still counts
        (CLOSE, b"nan\n", "0.5", False),
        (CLOSE, b"inf\n", "1e999", False),
        (CLOSE, b"0x1p-1\n", "0.5", False),
        (CLOSE, b"0.5\n0.5\n", "0.5", False),
        ({"absolute_tolerance": 0.1}, b"0.7\n", "0.6", True),
        ({"absolute_tolerance": 0.1}, b"1.1\n", "1.0", True),
        ({"absolute_tolerance": 0.1}, b"1.10000000000000000001\n", "1.0", False),
        ({"absolute_tolerance": 0.0}, b"1.000\n", "1", True),
        ({"absolute_tolerance": 0.0}, b"1.001\n", "1", False),
        ({"relative_tolerance": 0.01}, b"1010\n", "1000", True),
        ({"relative_tolerance": 0.01}, b"1000\n", "1010.2", False),
        ({"relative_tolerance": 0.01}, b"0.000001\n", "0", False),
        # white space
        ({"whitespace": "tokens"}, b" 1\n\n2   3", "1 2\n3\n", True),
        ({"whitespace": "tokens"}, b"12 3", "1 2 3", False),
        ({"whitespace": "tokens"}, b"1 2", "1 2 3", False),
        ({"whitespace": "tokens"}, b"YES\n", "Yes\n", False),
        ({"whitespace": "tokens", **CLOSE}, b"1.0 2\n", "1\n2.0000001\n", True),
        ({"whitespace": "exact"}, b"1\n", "1\n", True),
        ({"whitespace": "exact"}, b"1", "1\n", False),
        ({"whitespace": "exact"}, b"1 \n", "1\n", False),
        ({"whitespace": "exact", **CLOSE}, b"1.0\n", "1\n", True),
        ({"whitespace": "exact", **CLOSE}, b"1.0 \n", "1\n", False),
        # several right outputs
        ({}, b"2 1\n", ["1 2", "2 1"], True),
        ({}, b"2 2\n", ["1 2", "2 1"], False),
        (CLOSE, b"2.0\n", ["1", "2"], True),
    ],
)
def test_a_rule_says_when_an_output_is_right(
    rule: dict[str, Any], output: bytes, expected: str | list[str], right: bool
) -> None:
    difference = compare_output(output, expected, OutputRule(**rule))
    assert (difference is None) == right, difference


def test_a_difference_names_its_place_by_the_rule() -> None:
    tokens = OutputRule(whitespace="tokens")
    assert compare_output(b"1 2 4", "1\n2\n3", tokens) == "token 3: expected '3', found '4'"
    assert compare_output(b"1 2", "1\n2\n3", tokens) == "token 3: expected '3', found nothing"
    close = OutputRule(absolute_tolerance=0.1)
    assert compare_output(b"1.05\n3\n", "1\n2\n", close) == "line 2: expected '2', found '3'"
    assert compare_output(b"3", ["1", "2"], OutputRule()) == "line 1: expected '1', found '3'"


def test_the_lines_of_a_harness_follow_the_same_rule() -> None:
    close = OutputRule(whitespace="tokens", absolute_tolerance=0.01)
    found = compare_lines(b"0.501\n a  b\nred\n9\n", ("0.5", "a b", ("blue", "red"), "8"), True, close)
    assert (found.num_equal, found.right) == (3, False)
    assert found.differences == ("check 4: expected '8', found '9'",)
    exact = OutputRule(whitespace="exact")
    assert compare_lines(b"1 \n", ("1",), True, exact).num_equal == 0
    assert compare_lines(b"1\n", ("1",), True, exact).right


def test_huge_numbers_take_no_time_and_decide_nothing_by_accident() -> None:
    close = OutputRule(**CLOSE)
    for number in ("1" * 200_000, "1e99999999999999999999", "1e999999999", "1e-999999999999"):
        assert compare_output(number.encode(), number, close) is None
        assert compare_output(number.encode(), "1", close) is not None


@pytest.mark.parametrize(
    "rule",
    [
        {"whitespace": "none"},
        {"absolute_tolerance": -1.0},
        {"absolute_tolerance": float("nan")},
        {"relative_tolerance": "1e-6"},
        {"tolerance": 1e-6},
        {"checker": {"language": "perl", "source": "1"}},
        {"checker": {"language": "c", "source": ""}},
        {"checker": {"language": "c", "source": "int x;"}, "whitespace": "tokens"},
    ],
)
def test_what_is_no_rule_is_refused(rule: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        OutputRule(**rule)


def checked(tests: dict[str, Any], code: str, spec: Any = None) -> Verdict:
    with open_verifier(c.Spec(workers=1) if spec is None else spec) as verifier:
        verifier.check_prompts([prompt(tests)])
        (verdict,) = verifier.verify([(prompt(tests), answer(code))])
        return verdict


HALF = '#include <stdio.h>\nint main(void) { printf("0.500000\\n"); return 0; }\n'
HALVES = {"kind": "stdio", "cases": [{"stdin": "", "stdout": "0.5\n"}]}


def test_a_prompt_or_the_configuration_sets_the_rule_and_the_prompt_wins() -> None:
    assert checked(HALVES, HALF).status == "failed"
    assert checked({**HALVES, "compare": {"absolute_tolerance": 0}}, HALF).status == "passed"
    loose = c.Spec(workers=1, compare={"absolute_tolerance": 0.0})
    assert checked(HALVES, HALF, loose).status == "passed"
    assert checked({**HALVES, "compare": {"whitespace": "tokens"}}, HALF, loose).status == "failed"


def test_a_constant_program_that_passes_under_the_rule_is_not_flagged() -> None:
    cases = [{"stdin": "", "stdout": ["1", "0.5"]}, {"stdin": "", "stdout": "0.5"}]
    verdict = checked({"kind": "stdio", "cases": cases, "compare": {"absolute_tolerance": 0.0}}, HALF)
    assert (verdict.status, verdict.flags) == ("passed", ())
    wrong = [{"stdin": "", "stdout": "1"}, {"stdin": "", "stdout": "0.5"}]
    assert "identical_outputs" in checked({"kind": "stdio", "cases": wrong}, HALF.replace("0.500000", "0.5")).flags


def test_python_programs_and_harnesses_follow_the_rule_too() -> None:
    spec = python.Spec(workers=1, compare={"absolute_tolerance": 0.01})
    harness = {
        "kind": "harness",
        "entry_point": "f",
        "source": "from answer import f\nprint(f(1))\nprint(f(2))\n",
        "expected": ["0.333", ["0.667", "none"]],
    }
    code = "def f(n):\n    return n / 3\n"
    with open_verifier(spec) as verifier:
        asked = Prompt("p", ({"role": "user", "content": "x"},), "python", harness)
        (verdict,) = verifier.verify([(asked, Completion("p", 0, f"```python\n{code}```\n", (), "stop", 0, 1))])
    assert (verdict.status, verdict.tests_passed, verdict.flags) == ("passed", 2, ())


CHECKER_C = """#include <stdio.h>
#include <string.h>
int main(int argc, char **argv) {
    FILE *in = fopen(argv[1], "r"), *out = fopen(argv[2], "r"), *expected = fopen(argv[3], "r");
    int a, b, x, y, wanted;
    if (argc != 4 || !in || !out || !expected) return 3;
    if (fscanf(in, "%d %d", &a, &b) != 2 || fscanf(expected, "%d", &wanted) != 1) return 3;
    if (fscanf(out, "%d", &x) != 1) { fprintf(stderr, "no number"); return 2; }
    if (x == 666) { char *p = NULL; *p = 1; }
    if (x == 777) for (;;) { }
    if (x == 888) return 3;
    y = x - a - b;
    if (y != 0) fprintf(stderr, "off by %d", y);
    return y != 0;
}
"""
CHECKER_PYTHON = """import sys
given, output, expected = (open(name).read().split() for name in sys.argv[1:])
sys.exit(0 if len(output) == 1 and int(output[0]) == sum(map(int, given)) else "not the sum")
"""
CHECKER_CPP = """#include <fstream>
int main(int argc, char **argv) {
    std::ifstream in(argv[1]), out(argv[2]);
    long a = 0, b = 0, x = 0;
    in >> a >> b;
    return (out >> x) && x == a + b ? 0 : 1;
}
"""
SUM = {"kind": "stdio", "cases": [{"stdin": "1 2\n", "stdout": "3\n"}, {"stdin": "5 6\n", "stdout": "11\n"}]}


def judged_by(source: str, language: str = "c") -> dict[str, Any]:
    return {**SUM, "compare": {"checker": {"language": language, "source": source}}}


@pytest.mark.parametrize(("language", "source"), [("c", CHECKER_C), ("cpp", CHECKER_CPP), ("python", CHECKER_PYTHON)])
def test_a_checker_decides_by_its_exit_code(language: str, source: str) -> None:
    tests = judged_by(source, language)
    right = checked(tests, sum_program('printf("  %d\\n\\n\\n", a + b);'))
    assert (right.stage, right.status, right.tests_passed, right.exit_code) == ("tests", "passed", 2, 0)
    wrong = checked(tests, sum_program('printf("%d", a + b + (a == 5));'))
    assert (wrong.stage, wrong.status, wrong.tests_passed, wrong.exit_code) == ("tests", "failed", 1, 0)
    assert "case 2: the checker says: " in wrong.diagnostics and "(exit code 1)" in wrong.diagnostics


def test_what_a_checker_says_is_in_the_verdict() -> None:
    verdict = checked(judged_by(CHECKER_C), sum_program('printf("%d", a + b + 4);'))
    assert "case 1: the checker says: off by 4 (exit code 1)" in verdict.diagnostics
    verdict = checked(judged_by(CHECKER_C), sum_program('printf("none");'))
    assert "case 1: the checker says: no number (exit code 2)" in verdict.diagnostics


def test_an_output_that_breaks_a_working_checker_is_wrong_and_leaves_no_rate() -> None:
    for number, how in (("666", "SIGSEGV"), ("777", "CPU time")):
        spec = c.Spec(workers=1, compile_timeout_seconds=1.0)
        verdict = checked(judged_by(CHECKER_C), sum_program(f'printf("{number}");'), spec)
        assert (verdict.stage, verdict.status, verdict.tests_passed) == ("tests", "failed", 0)
        assert "the checker has no verdict on this output" in verdict.diagnostics and how in verdict.diagnostics


def test_a_checker_that_fails_is_a_failure_of_ours() -> None:
    verdict = checked(judged_by(CHECKER_C), sum_program('printf("888");'))
    assert verdict.status == "error" and "the checker of the tests failed: exit code 3" in verdict.diagnostics


@pytest.mark.parametrize(
    ("language", "source", "said"),
    [
        ("c", "int main(void) { return not_there; }", "does not compile.*not_there"),
        ("python", "def f(:\n", "does not compile.*SyntaxError"),
        ("python", "import sys\nsys.exit('never')\n", r"refuses the expected output itself \(exit code 1\): never"),
        ("c", "int main(void) { return 3; }", "refuses the expected output itself"),
    ],
)
def test_a_checker_that_cannot_work_is_found_before_the_run(language: str, source: str, said: str) -> None:
    with pytest.raises(ConfigError, match=rf"(?s)'task'.*{said}"):
        checked(judged_by(source, language), sum_program())


def test_cases_without_an_expected_output_are_up_to_the_checker() -> None:
    source = "import sys\nsys.exit(open(sys.argv[2]).read().strip() not in ('3', '11'))\n"
    cases = [{**case, "stdout": ""} for case in SUM["cases"]]  # type: ignore[union-attr]
    verdict = checked({**judged_by(source, "python"), "cases": cases}, sum_program())
    assert (verdict.status, verdict.tests_passed) == ("passed", 2)


def test_several_outputs_beside_a_checker_are_refused() -> None:
    cases = ({"stdin": "1 2", "stdout": ("3", "03")},)
    tests = {"kind": "stdio", "cases": cases, "compare": {"checker": {"language": "c", "source": CHECKER_C}}}
    with open_verifier(c.Spec(workers=1)) as verifier, pytest.raises(ConfigError, match="several right outputs, and a"):
        verifier.check_prompts([prompt(tests)])


def test_a_checker_sees_only_its_own_three_files() -> None:
    source = "import os, sys\nsys.exit(' '.join(sorted(os.listdir('.'))))\n"
    spec = c.Spec(workers=1)
    cases = [{"stdin": "1 2\n", "stdout": ""}]
    verdict = checked({**judged_by(source, "python"), "cases": cases}, sum_program(), spec)
    assert "checker.py expected.txt input.txt output.txt" in verdict.diagnostics


def test_a_checker_of_the_set_is_for_whole_programs() -> None:
    spec = c.Spec(workers=1, compare={"checker": {"language": "c", "source": CHECKER_C}})
    assert checked(SUM, sum_program('printf("\\n%d", a + b);'), spec).status == "passed"
    harness = {"kind": "harness", "entry_point": "f", "source": "int main(void) { return 0; }", "expected": ["1"]}
    with pytest.raises(ConfigError, match=r"'task'.*a checker, which judges whole programs"):
        checked(harness, "int f(void) { return 1; }\n", spec)
    own = {**harness, "compare": {"whitespace": "line_ends"}}
    assert checked(own, "int f(void) { return 1; }\n", spec).stage == "tests"


def test_a_command_compares_by_itself() -> None:
    with pytest.raises(ValidationError, match="the command itself decides"):
        command.Spec(command=["true"], language="x", compare={"whitespace": "tokens"})


@pytest.mark.parametrize(
    ("tests", "said"),
    [
        ({**SUM, "compare": {"whitespace": "token"}}, "tests.compare.whitespace"),
        ({**SUM, "compare": {"tolerance": 1}}, "tests.compare.tolerance`: unknown key"),
        ({**SUM, "compare": {"whitespaces": "exact"}}, 'unknown key; did you mean "whitespace"'),
        ({**SUM, "compare": "tokens"}, "tests.compare"),
        ({**SUM, "compares": {}}, 'did you mean "compare"'),
        ({**SUM, "compare": {"checker": {"language": "c"}}}, "tests.compare.checker.source"),
        ({"kind": "stdio", "cases": [{"stdin": "", "stdout": []}]}, "stdout"),
        ({"kind": "stdio", "cases": [{"stdin": "", "stdout": ["a", 1]}]}, "stdout"),
    ],
)
def test_a_row_with_a_broken_rule_is_named(tests: dict[str, Any], said: str, tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps({"id": "a", "prompt": "x", "language": "c", "tests": tests}) + "\n")
    with pytest.raises(ConfigError, match=rf"p\.jsonl:1.*{said}"):
        load_prompts(str(path), language="c")


def test_a_row_with_a_rule_is_read_and_nulls_of_a_table_are_not_settings(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    tests = {
        "kind": "stdio",
        "cases": [{"stdin": "", "stdout": ["a", "b"]}],
        "compare": {"absolute_tolerance": 0, "whitespace": "tokens", "checker": None},
    }
    path.write_text(json.dumps({"id": "a", "prompt": "x", "language": "c", "tests": tests}) + "\n")
    (found,) = load_prompts(str(path), language="c")
    assert found.tests is not None and found.tests["compare"] == {"absolute_tolerance": 0, "whitespace": "tokens"}


def test_what_a_checker_costs_counts() -> None:
    slow = CHECKER_C.replace(
        "int a, b, x, y, wanted;", "int a, b, x, y, wanted; for (volatile long i = 0; i < 200000000; i++) { }"
    )
    fast, delayed = (checked(judged_by(source), sum_program()).cpu_seconds for source in (CHECKER_C, slow))
    assert delayed > fast + 0.1
