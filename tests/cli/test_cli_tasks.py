"""`halo-forge tasks check`: what running proves, what the text tells, and when it says that something is wrong."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from cli_calls import Cli, command_line
from docs_text import ROOT, table
from scripted_runs import write_rows

from halo_forge.checks import tasks, weaknesses
from halo_forge.checks.tasks import load_groups
from halo_forge.checks.weaknesses import text_findings
from halo_forge.core.errors import ConfigError
from halo_forge.core.records import Prompt
from halo_forge.prompts import split_of
from halo_forge.verifiers.stages import Stages

HEAD = "#include <stdio.h>\n"
EXPECTED = ["3", "0", "-2", "7", "100"]
CALLS = ["add(1, 2)", "add(0, 0)", "add(-1, -1)", "add(3, 4)", "add(99, 1)"]


def harness(name: str = "add", expected: list[str] | None = None, calls: list[str] | None = None) -> dict[str, Any]:
    expected = EXPECTED if expected is None else expected
    calls = [call.replace("add", name) for call in (CALLS if calls is None else calls)][: len(expected)]
    lines = "".join(f'    printf("%d\\n", {call});\n' for call in calls)
    source = f"{HEAD}int {name}(int a, int b);\nint main(void) {{\n{lines}    return 0;\n}}\n"
    return {"kind": "harness", "entry_point": name, "source": source, "expected": expected}


def function(name: str = "add", body: str = "a + b") -> str:
    return f"int {name}(int a, int b) {{ return {body}; }}\n"


def row(prompt_id: str = "add", **changes: Any) -> dict[str, Any]:
    """A task that nothing is wrong with, but for the changes."""
    good: dict[str, Any] = {
        "id": prompt_id,
        "language": "c",
        "prompt": "Write a C function `int add(int a, int b)` that returns the sum of `a` and `b`.",
        "tests": harness(),
        "info": {"reference": function(), "wrong": function(body="a - b")},
    }
    info = {**good["info"], **changes.pop("info", {})}
    return {**good, **changes, "info": {key: value for key, value in info.items() if value is not None}}


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Iterator[Cli]:
    monkeypatch.chdir(tmp_path)
    with command_line(monkeypatch, capsys) as run:
        yield run


def found(report: Mapping[str, Any]) -> set[tuple[str, str, str]]:
    return {(each["severity"], each["prompt_id"], each["code"]) for each in report["findings"]}


# ---- by running


def test_a_good_file(cli: Cli, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "tasks.jsonl", [row()])
    done = cli("tasks", "check", file, "--json")
    assert done.code == 0
    assert done.json == {
        "files": [str(file)],
        "num_prompts": 1,
        "num_references": 1,
        "num_references_passed": 1,
        "num_wrong": 1,
        "num_wrong_failed": 1,
        "findings": [],
    }
    assert "1 of 1 references pass, 1 of 1 wrong solutions fail" in cli("tasks", "check", file).out


def test_what_running_shows(cli: Cli, tmp_path: Path) -> None:
    program = HEAD + 'int main(void) { int a, b; scanf("%d %d", &a, &b); printf("%d\\n", a + b); return 0; }\n'
    cases = [{"stdin": f"{a} {b}\n", "stdout": f"{a + b}\n"} for a, b in ((1, 2), (0, 0), (-1, 5), (7, 7), (9, 1))]
    rows = [
        row("reference_fails", info={"reference": function(body="a * b")}),
        row("reference_warns", info={"reference": function(body="a + b; int unused = a")}),
        row("wrong_passes", info={"wrong": [function(body="a - b"), function(body="b + a")]}),
        row("wrong_does_not_compile", info={"wrong": "int add(int a, int b) { return a +; }\n"}),
        row("harness_does_not_compile", tests={**harness(), "source": "int main(void) { return add(0, 2) }"}),
        row("no_reference", info={"reference": None}),
        row("no_wrong", info={"wrong": None}),
        row("stdio", prompt="Write a C program that reads two integers and prints their sum.",
            tests={"kind": "stdio", "cases": cases},
            info={"reference": program, "wrong": program.replace("a + b", "a - b")}),
    ]  # fmt: skip
    done = cli("tasks", "check", write_rows(tmp_path / "tasks.jsonl", rows), "--json")
    assert done.code == 1
    about_running = {each for each in found(done.json) if not each[2].startswith("same_")}
    assert about_running == {
        ("error", "reference_fails", "reference_fails"),
        ("error", "wrong_passes", "wrong_passes"),
        ("error", "harness_does_not_compile", "broken_tests"),
        ("warning", "reference_warns", "reference_warns"),
        ("warning", "wrong_does_not_compile", "wrong_not_compiling"),
        ("warning", "no_reference", "no_reference"),
        ("note", "no_wrong", "no_wrong_solution"),
    }
    report = done.json
    assert (report["num_prompts"], report["num_references"], report["num_references_passed"]) == (8, 6, 5)
    # Two wrong solutions of one task; of the eight that are run, one passes.
    assert (report["num_wrong"], report["num_wrong_failed"]) == (7, 6)
    severities = [each["severity"] for each in report["findings"]]
    assert severities == sorted(severities, key=["error", "warning", "note"].index)


def test_weak_is_not_wrong(cli: Cli, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "tasks.jsonl", [row(tests=harness(expected=EXPECTED[:2]))])
    done = cli("tasks", "check", file)
    assert done.code == 0
    assert "few_checks" in done.out and "2 checks" in done.out


def test_a_checker_of_ones_own(cli: Cli, tmp_path: Path, open_path: Path) -> None:
    script = open_path / "check.sh"
    passed, failed = '{"status": "passed"}', '{"status": "failed", "tests_total": 1}'
    script.write_text(f"#!/bin/sh\nif grep -q 42 answer; then echo '{passed}'; else echo '{failed}'; fi\n")
    script.chmod(0o755)
    config = tmp_path / "riddle.yaml"
    config.write_text(
        "model: {model_name_or_path: nobody/nothing}\n"
        f"verifier: {{kind: command, command: ./check.sh, language: riddle, files: ['{script}']}}\n"
    )
    rows = [
        {"id": name, "prompt": f"What is {name}?", "tests": {"kind": "riddle"}, "reference": reference, "wrong": wrong}
        for name, reference, wrong in (("seven times six", "42", "41"), ("the answer to it all", "41", "42"))
    ]
    file = write_rows(tmp_path / "tasks.jsonl", rows)
    done = cli("tasks", "check", file, "--config", config, "--json")
    assert found(done.json) == {
        ("error", "the answer to it all", "reference_fails"),
        ("error", "the answer to it all", "wrong_passes"),
    }
    assert cli("tasks", "check", file).code == 2  # without it nobody knows the language


def test_one_bad_row_does_not_hide_the_others(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "tasks.jsonl"
    rows = [
        row("wrong_passes", info={"wrong": function(body="b + a")}),
        row("numbers", info={"reference": 3, "wrong": [function(body="a - b"), ["a"]]}),
        row("cobol", language="cobol"),
        {"id": "no prompt"},
        row("wrong_passes"),
        row("no_harness", tests={"kind": "harness", "entry_point": "add"}),
    ]
    write_rows(file, rows)
    file.write_bytes(file.read_bytes() + b'{"id": \n\xff\n')
    done = cli("tasks", "check", file, "--json")
    assert done.code == 1
    assert {each for each in found(done.json) if each[0] == "error" and not each[2].startswith("same_")} == {
        ("error", f"{file}:4", "broken_row"),
        ("error", f"{file}:5", "broken_row"),
        ("error", f"{file}:7", "broken_row"),
        ("error", f"{file}:8", "broken_row"),
        ("error", f"{file}:6", "broken_row"),
        ("error", "cobol", "no_verifier"),
        ("error", "numbers", "unreadable_solution"),
        ("error", "wrong_passes", "wrong_passes"),
    }
    unreadable = [each["message"] for each in done.json["findings"] if each["code"] == "unreadable_solution"]
    assert unreadable == [
        "info.reference: it is a number (3); text is needed",
        "info.wrong: it is a list (['a']); text is needed",
    ]
    assert (done.json["num_prompts"], done.json["num_references"], done.json["num_wrong_failed"]) == (3, 1, 1)


def test_tests_that_turn_out_not_to_work_only_while_checking(cli: Cli, tmp_path: Path) -> None:
    def check(self: Any, source: str, tests: Any, sandbox: Any) -> Any:
        if tests.entry_point == "sub":
            raise ConfigError("the harness is no good", "fix it")
        return real(self, source, tests, sandbox)

    real = Stages.check
    others = {"prompt": "Write `int sub(int a, int b)`, a less b.", "tests": harness("sub")}
    rows = [row("first"), row("unfit", **others, info={"reference": function("sub")}), row("last")]
    file = write_rows(tmp_path / "tasks.jsonl", rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stages, "check", check)
        done = cli("tasks", "check", file, "--json")
    errors = [each for each in done.json["findings"] if each["severity"] == "error" and each["code"] == "broken_tests"]
    assert [(each["prompt_id"], each["message"]) for each in errors] == [("unfit", "the harness is no good")]
    assert (done.json["num_references_passed"], done.json["num_wrong_failed"]) == (2, 2)


def test_no_file_twice(cli: Cli, tmp_path: Path) -> None:
    file, other = (write_rows(tmp_path / name, [row()]) for name in ("a.jsonl", "b.jsonl"))
    (tmp_path / "link.jsonl").symlink_to(file)
    for files in (
        (file, file),
        (file, "a.jsonl"),
        (file, other, tmp_path / "link.jsonl"),
        (f"{file}:train", f"{file}:train"),
        (f"{file}:train", file),
        ("builtin:c", "builtin:c/dev"),
        ("builtin:c/dev", "builtin:c/dev"),
    ):
        done = cli("tasks", "check", *files)
        assert done.code == 2 and "given twice" in done.err, (files, done.err)
    assert set(load_groups(["builtin:c/dev", "builtin:c/test"], None)) == {"builtin:c/dev", "builtin:c/test"}


def test_usage(cli: Cli, tmp_path: Path) -> None:
    nameless = {key: value for key, value in row().items() if key != "language"}
    file = write_rows(tmp_path / "tasks.jsonl", [nameless])
    for arguments, words in (
        (("missing.jsonl",), "missing.jsonl"),
        (("builtin:cobol",), "builtin:cobol"),
        ((tmp_path,), "neither .jsonl nor .parquet"),
        ((write_rows(tmp_path / "empty.jsonl", []),), "is empty"),
        ((file,), "names no language"),
        ((file, "--language", "cobol"), "cobol"),
        ((file, "--language", "c", "--config", "x.yaml"), "cannot be combined"),
        ((file, "--set", "seed=1"), "needs a configuration"),
        ((write_rows(tmp_path / "broken.jsonl", [{"prompt": 3}]),), "broken.jsonl:1"),
    ):
        done = cli("tasks", "check", *arguments)
        assert done.code == 2, arguments
        assert words in done.err, (arguments, done.err)
    assert cli("tasks", "check", file, "--language", "C").code == 0


# ---- by reading


def prompt(prompt_id: str = "add", **changes: Any) -> Prompt:
    given = row(prompt_id, **changes)
    messages = ({"role": "user", "content": given["prompt"]},)
    return Prompt(given["id"], messages, given["language"], given["tests"], given["info"])


def codes(*prompts: Prompt) -> list[tuple[str, str]]:
    return [(each.severity, each.code) for each in text_findings({"train": list(prompts)})]


def test_a_good_prompt_has_no_findings() -> None:
    assert codes(prompt()) == []
    checker = {"checker": {"language": "python", "source": "import sys\nsys.exit(1)\n"}}
    cases = [{"stdin": f"{i}\n", "stdout": ""} for i in range(5)]
    assert codes(prompt(tests={"kind": "stdio", "cases": cases, "compare": checker})) == []


@pytest.mark.parametrize(
    ("changes", "finding"),
    [
        ({"tests": None}, ("note", "compile_only")),
        ({"tests": {"kind": "compile", "entry_point": "add"}}, ("note", "compile_only")),
        ({"prompt": "Write a function that returns the sum of two numbers."}, ("error", "unnamed_entry_point")),
        ({"prompt": "Write `addition(a, b)`, the sum of two numbers."}, ("error", "unnamed_entry_point")),
        ({"prompt": "Write the function `add`, the sum of two numbers."}, ("warning", "no_signature")),
        ({"tests": harness(expected=EXPECTED[:4])}, ("warning", "few_checks")),
        ({"tests": harness(expected=["0", "0 ", "0", "0", "0"])}, ("error", "constant_passes")),
        ({"tests": harness(calls=["add(1, 2)"] * 5)}, ("note", "no_edge_case")),
        ({"tests": {"kind": "stdio", "cases": [{"stdin": f"{i}\n", "stdout": f"{i}"} for i in range(1, 6)]}},
         ("note", "no_edge_case")),
        ({"tests": {"kind": "stdio", "cases": [{"stdin": f"{i}\n", "stdout": "1"} for i in range(5)]}},
         ("error", "constant_passes")),
        ({"tests": {"kind": "stdio", "cases": [{"stdin": f"{i}\n", "stdout": ["1", f"{i}", "0"]} for i in range(5)]}},
         ("error", "constant_passes")),
        ({"tests": {"kind": "stdio", "cases": [{"stdin": f"{i}\n", "stdout": f"{i}.5"} for i in range(5)],
                    "compare": {"absolute_tolerance": 4}}},
         ("error", "constant_passes")),
        ({"tests": harness(expected=["0", ["0", "1"], ["2", "0"], "0", "0"])}, ("error", "constant_passes")),
    ],
)  # fmt: skip
def test_what_one_prompt_tells(changes: dict[str, Any], finding: tuple[str, str]) -> None:
    assert codes(prompt(**changes)) == [finding]


@pytest.mark.parametrize("edge", ["add(0, 5)", "add(-3, 5)", "add(INT_MAX, 1)", 'add(len(""), 1)', "add(f(), 5)"])
def test_edges_are_seen(edge: str) -> None:
    assert codes(prompt(tests=harness(calls=["add(1, 2)"] * 4 + [edge]))) == []


def leaks(first: Prompt, second: Prompt, *, across: bool = True) -> set[tuple[str, str]]:
    groups = {"train": [first], "dev": [second]} if across else {"train": [first, second]}
    return {(each.severity, each.code) for each in text_findings(groups)}


def test_what_is_in_two_splits() -> None:
    text = "Write a C function `int {}(int a, int b)` that returns the {} of the two whole numbers `a` and `b`."
    one = prompt("one", prompt=text.format("add", "sum"))
    same = prompt("two", prompt=text.format("add", "sum").replace("Write", "Please write"))
    other = prompt(
        "three", prompt="Given `int times(int a, int b)`, multiply.", tests=harness("times"),
        info={"reference": function("times", "a * b")},
    )  # fmt: skip
    assert leaks(one, other) == set()
    assert leaks(one, same) == {
        ("error", "same_statement"),
        ("warning", "same_entry_point"),
        ("warning", "same_reference"),
    }
    assert leaks(one, same, across=False) == {("warning", "same_statement")}
    renamed = prompt(
        "four", prompt=text.format("add_up", "sum"), tests=harness("add_up"), info={"reference": function("add_up")}
    )
    assert ("warning", "same_reference") in leaks(one, renamed)
    assert ("error", "same_id") in leaks(one, prompt("one", prompt="Something else with `add(a, b)` entirely."))


def test_one_file_is_split_by_its_ids_and_several_are_splits(tmp_path: Path) -> None:
    ids = [f"task{number}" for number in range(30)]
    one = write_rows(tmp_path / "one.jsonl", [row(each) for each in ids])
    two = write_rows(tmp_path / "two.jsonl", [row("another")])
    groups = load_groups([str(one)], None)
    assert {name: [each.id for each in group] for name, group in groups.items()} == {
        name: [each for each in ids if split_of(each) == name] for name in ("train", "dev", "test")
    }
    assert {name: len(group) for name, group in load_groups([str(one), str(two)], None).items()} == {
        str(one): 30,
        str(two): 1,
    }
    assert set(load_groups(["builtin:c"], None)) == {"train", "dev", "test"}


def test_every_finding_is_described() -> None:
    sources = [Path(module.__file__ or "").read_text(encoding="utf-8") for module in (tasks, weaknesses)]
    made = set(re.findall(r"\"(?:error|warning|note)\", [\w.]+, \"(\w+)\"", "".join(sources)))
    made |= {"same_statement", "similar_statement", "same_entry_point", "same_reference"}  # made in other words
    described = {row[0].strip("`") for row in table(ROOT / "docs/checking.md", "## Prompt files: `tasks check`")}
    assert described == made


def test_the_packaged_tasks_have_no_weakness_in_their_text() -> None:
    found_there = text_findings(load_groups(["builtin:c"], None))
    assert [each for each in found_there if each.severity != "note"] == []


def test_limits_are_told_as_limits_and_not_as_wrong_programs(cli: Cli, tmp_path: Path) -> None:
    program = HEAD + "int main(void) { for (volatile int i = 0;; i++) { } return 0; }\n"
    case = {"stdin": "", "stdout": "1\n"}
    rows = [
        row("slow", prompt="Print 1.", tests={"kind": "stdio", "cases": [case]}, info={"reference": program}),
        row("long", prompt="Print 2.", tests={"kind": "stdio", "cases": [{**case, "stdout": "2" * 2_000_000}]}),
    ]
    config = tmp_path / "c.yaml"
    config.write_text("model: {model_name_or_path: none}\nverifier: {timeout_seconds: 0.3}\n")
    done = cli("tasks", "check", write_rows(tmp_path / "tasks.jsonl", rows), "--config", config, "--json")
    assert done.code == 1
    said = {each["code"]: each["message"] for each in done.json["findings"] if each["severity"] == "error"}
    assert "raise verifier.timeout_seconds (now 0.3)" in said["reference_reaches_limit"]
    assert "2,000,000 bytes, but verifier.output_limit_bytes is 1,048,576" in said["broken_tests"]
    assert "reference_fails" not in said
