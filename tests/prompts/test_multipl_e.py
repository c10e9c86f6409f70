"""MultiPL-E rows: the completion is a whole function, and every assert of the row is a check of its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from halo_forge.config import load_config
from halo_forge.core.errors import ConfigError
from halo_forge.core.records import Completion, Prompt, Verdict
from halo_forge.prompts import load_prompts
from halo_forge.verifiers import open_verifier

CPP: dict[str, Any] = {
    "name": "Made_0_scaled",
    "language": "cpp",
    "prompt": (
        "#include<assert.h>\n#include<bits/stdc++.h>\n// Every number times a factor.\n"
        "std::vector<long> scaled(std::vector<long> numbers, long factor) {\n"
    ),
    "tests": (
        "}\nint main() {\n    auto candidate = scaled;\n"
        "    assert(candidate((std::vector<long>({1, 2})), (3)) == (std::vector<long>({(long)3, (long)6})));\n"
        "    assert(candidate((std::vector<long>()), (3)) == (std::vector<long>()));\n}\n"
    ),
    "stop_tokens": ["\n}"],
    "doctests": "transform",
    "original": "/tmp/made_0.py",
    "prompt_terminology": "reworded",
}
RUST: dict[str, Any] = {
    **CPP,
    "language": "rs",
    "prompt": "/// Every number times a factor.\nfn scaled(numbers: Vec<isize>, factor: isize) -> Vec<isize> {\n",
    "tests": (
        "}\n\nfn main() {\n    let candidate = scaled;\n    assert_eq!(candidate(vec![1, 2], 3), vec![3, 6]);\n"
        "    assert_eq!(candidate(Vec::<isize>::new(), 3), Vec::<isize>::new());\n}\n"
    ),
}
GO: dict[str, Any] = {
    **CPP,
    "language": "go",
    "prompt": (
        'package scaled_test\n\nimport (\n    "testing"\n    "fmt"\n)\n\n// Every number times a factor.\n'
        "func scaled(numbers []int, factor int) []int {\n"
    ),
    "tests": (
        "func TestScaled(t *testing.T) {\n  candidate := scaled\n\ttype test struct {\n\t\tactual   interface{}\n"
        "\t\texpected interface{}\n\t}\n   tests := []test{\n"
        "     { actual: candidate([]int{1, 2}, 3), expected: []int{3, 6} },\n"
        "     { actual: candidate([]int{}, 3), expected: []int{} },\n   }\n\n\tfor i, tc := range tests {\n"
        '\t\tt.Run(fmt.Sprintf("test num % d", i), func(t *testing.T) {\n'
        '\t\t\tif fmt.Sprintf("%v", tc.actual) != fmt.Sprintf("%v", tc.expected) {\n'
        "\t\t\t\tt.Errorf(\"expected '%s', got '%s'\", tc.expected, tc.actual)\n\t\t\t}\n\t\t})\n\t}\n}\n"
    ),
}
ROWS = {"cpp": CPP, "rust": RUST, "go": GO}
RIGHT = {
    "cpp": (
        "#include <vector>\nstd::vector<long> scaled(std::vector<long> numbers, long factor) {\n"
        "    for (auto &each : numbers) each *= factor;\n    return numbers;\n}\n"
    ),
    "rust": (
        "fn scaled(numbers: Vec<isize>, factor: isize) -> Vec<isize> {\n"
        "    numbers.iter().map(|each| each * factor).collect()\n}\n"
    ),
    "go": (
        "package main\n\nfunc scaled(numbers []int, factor int) []int {\n    found := []int{}\n"
        "    for _, each := range numbers {\n        found = append(found, each*factor)\n    }\n    return found\n}\n"
    ),
}
WRONG = {
    "cpp": RIGHT["cpp"].replace("each *= factor", "each += factor"),
    "rust": RIGHT["rust"].replace("each * factor", "each + factor"),
    "go": RIGHT["go"].replace("each*factor", "each+factor"),
}
EARLY = {
    "cpp": (
        "#include <cstdlib>\n#include <cstdio>\n#include <vector>\n"
        'std::vector<long> scaled(std::vector<long>, long) { std::puts("ok"); std::puts("ok"); std::exit(0); }\n'
    ),
    "rust": (
        "fn scaled(_: Vec<isize>, _: isize) -> Vec<isize> {\n"
        '    println!("ok"); println!("ok"); std::process::exit(0)\n}\n'
    ),
    "go": (
        'package main\n\nimport (\n    "fmt"\n    "os"\n)\n\nfunc scaled(numbers []int, factor int) []int {\n'
        '    fmt.Println("ok")\n    fmt.Println("ok")\n    os.Exit(0)\n    return nil\n}\n'
    ),
}
TOOLS = {"cpp": "g++", "rust": "rustc", "go": "go"}


def load(tmp_path: Path, *rows: dict[str, Any]) -> list[Prompt]:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return load_prompts(str(path), language=None)


def verdicts(prompt: Prompt, *programs: str) -> list[Verdict]:
    settings = {"model": {"model_name_or_path": "none"}, "output_dir": "none", "verifier": {"kind": prompt.language}}
    pairs = [
        (prompt, Completion(prompt.id, index, f"```{prompt.language}\n{program}```", (), "stop", 0, 0))
        for index, program in enumerate(programs)
    ]
    with open_verifier(load_config(settings).config.verifier) as verifier:
        verifier.check_prompts([prompt])
        return list(verifier.verify(pairs))


@pytest.mark.parametrize("language", ROWS)
def test_a_row_asks_for_the_function_and_is_checked_by_each_assert(language: str, tmp_path: Path) -> None:
    (prompt,) = load(tmp_path, ROWS[language])
    assert prompt.id == f"{ROWS[language]['language']}/Made_0_scaled"
    assert prompt.language == language
    assert "Every number times a factor" in prompt.text
    assert "import" not in prompt.text.partition("```")[2]
    assert prompt.tests is not None
    assert (prompt.tests["kind"], prompt.tests["entry_point"]) == ("harness", "scaled")
    assert prompt.tests["expected"] == ("ok", "ok")
    assert not prompt.info


@pytest.mark.parametrize("language", ROWS)
def test_a_right_function_passes_and_a_wrong_or_an_early_end_does_not(language: str, tmp_path: Path) -> None:
    if shutil.which(TOOLS[language]) is None:
        pytest.skip(f"{TOOLS[language]} is not installed")
    (prompt,) = load(tmp_path, ROWS[language])
    right, wrong, early = verdicts(prompt, RIGHT[language], WRONG[language], EARLY[language])
    assert (right.stage, right.status, right.tests_passed) == ("tests", "passed", 2), right.diagnostics
    assert (wrong.stage, wrong.status, wrong.tests_passed) == ("tests", "failed", 1), wrong.diagnostics
    assert not early.passed


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**CPP, "language": "js"}, "of MultiPL-E cpp, rs, go are read"),
        ({**CPP, "tests": "}\nint main() {}\n"}, "gives no function to `candidate`"),
        ({**CPP, "tests": "}\nint main() {\n    auto candidate = scaled;\n}\n"}, "asserts nothing"),
        (
            {**CPP, "tests": CPP["tests"].replace("    assert(candidate((std::vector<long>())", "    if (candidate(")},
            "which is no assert of one line",
        ),
        ({**RUST, "prompt": "fn other() {\n"}, "does not end with the opening of a function"),
        ({**GO, "tests": GO["tests"].replace("tests := []test{", "all := []test{")}, "has no table"),
        ({**GO, "tests": GO["tests"].replace("expected: []int{} }", "want: 1 }")}, "a row of the table of tests"),
        ({**CPP, "checker": "special"}, "`checker` decides which outputs are right"),
    ],
)
def test_a_row_of_another_form_is_refused_with_its_place(row: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        load(tmp_path, row)
    assert refused.value.message.startswith(f"{tmp_path}/rows.jsonl:1: ")
    assert message in refused.value.message
