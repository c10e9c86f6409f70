"""`halo-forge verify`: files and answers by the real compiler, and stored verdicts under other rewards."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from cli_calls import Cli, command_line
from scripted_runs import MemoryVerifier, execute, rows, tree, write_inputs, write_rows

from halo_forge.checks import programs
from halo_forge.checks.programs import as_completion, completions
from halo_forge.core.errors import ConfigError
from halo_forge.core.records import Prompt, Verdict
from halo_forge.core.source import extract

PROGRAM = '#include <stdio.h>\nint main(void) { puts("hi"); return 0; }\n'
ADD = "int add(int a, int b) { return a + b; }\n"
HARNESS = {
    "kind": "harness",
    "entry_point": "add",
    "source": "#include <stdio.h>\nint add(int, int);\n"
    'int main(void) { printf("%d\\n%d\\n", add(1, 2), add(3, -3)); }\n',
    "expected": ["3", "0"],
}
FIELDS = {field.name for field in dataclasses.fields(Verdict)}


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Iterator[Cli]:
    monkeypatch.chdir(tmp_path)
    with command_line(monkeypatch, capsys) as run:
        yield run


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_inputs(tmp_path / "inputs", tests=HARNESS, verifier__workers=2)


def put(name: str, text: str) -> str:
    Path(name).write_text(text, encoding="utf-8")
    return name


def brief(found: Mapping[str, Any]) -> tuple[str, str, int]:
    return found["stage"], found["status"], found["tests_passed"]


def test_programs_are_compiled_and_run(cli: Cli, config: Path) -> None:
    good = put("good.c", PROGRAM)
    bad = put("bad.c", "int main(void) { return nothing; }\n")
    crash = put("crash.c", PROGRAM.replace("return 0", "return 3"))
    done = cli("verify", config, good, bad, crash, "--json")
    assert done.code == 1
    assert "1 of 3 pass" in done.err
    assert all(set(row) == FIELDS and list(row)[:2] == ["prompt_id", "index"] for row in done.json)
    assert [row["prompt_id"] for row in done.json] == [good, bad, crash]
    assert [brief(row) for row in done.json] == [("run", "passed", 0), ("compile", "failed", 0), ("run", "failed", 0)]
    done = cli("verify", config, good)
    assert (done.code, "passed" in done.out, "good.c" in done.out) == (0, True, True)


def test_a_file_against_the_tests_of_a_prompt(cli: Cli, config: Path) -> None:
    right, wrong = put("right.c", ADD), put("wrong.c", ADD.replace("a + b", "a - b"))
    done = cli("verify", config, wrong, right, "--prompt", "dev1", "--json")
    assert [brief(row) for row in done.json] == [("tests", "failed", 0), ("tests", "passed", 2)]
    assert [(row["prompt_id"], row["index"]) for row in done.json] == [("dev1", 0), ("dev1", 1)]
    # In the table the line that says what is wrong, not only that something is.
    assert "check 1: expected '3', found '-1'" in cli("verify", config, wrong, "--prompt", "dev1").out
    warned = put("warned.c", ADD.replace("a + b", "a"))  # the compiler's warning comes before the failed check
    assert "check 1: expected '3', found '" in cli("verify", config, warned, "--prompt", "dev1").out


def test_a_function_alone_is_checked_where_compiling_is_all(cli: Cli, config: Path) -> None:
    function = put("add.c", ADD)
    assert cli("verify", config, function).code == 1  # a program needs a main
    assert cli("verify", config, function, "--set", "verifier.stages=[compile]").code == 0


def test_completions_keep_their_order_and_get_numbers(cli: Cli, config: Path, tmp_path: Path) -> None:
    fenced = f"Sure:\n```c\n{ADD}```\n"
    table = [
        {"prompt_id": "dev1", "text": fenced},
        {"prompt_id": "train1", "text": "I cannot."},
        {"prompt_id": "dev1", "completion": fenced.replace("a + b", "a"), "finish": "length"},
        {"prompt_id": "dev1", "text": fenced, "index": 7, "policy_version": 2, "token_ids": [1], "seed": 3},
        {"prompt_id": "dev1", "completion": [{"role": "assistant", "content": fenced}], "prompt": "ignored"},
    ]
    done = cli("verify", config, write_rows(tmp_path / "answers.jsonl", table), "--json")
    assert done.code == 1
    found = [(row["prompt_id"], row["index"], *brief(row)) for row in done.json]
    assert found == [
        ("dev1", 0, "tests", "passed", 2),
        ("train1", 0, "extract", "failed", 0),
        ("dev1", 1, "tests", "failed", 0),
        ("dev1", 7, "tests", "passed", 2),
        ("dev1", 3, "tests", "passed", 2),
    ]
    assert "truncated" in done.json[2]["flags"]
    assert done.json[3]["policy_version"] == 2


def test_rows_of_several_files_are_told_apart(tmp_path: Path) -> None:
    row = {"prompt_id": "dev1", "text": "I cannot."}
    paths = [write_rows(tmp_path / name, [row]) for name in ("a.jsonl", "b.jsonl")]
    prompts = {"dev1": Prompt("dev1", ({"role": "user", "content": "x"},), "c", None)}
    assert [each.name for each in completions(paths, prompts)] == [f"{paths[0]}:1 dev1 0", f"{paths[1]}:1 dev1 1"]
    assert [each.name for each in completions(paths[:1], prompts)] == ["dev1 0"]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"text": "x"}, "`prompt_id` is missing"),
        ({"prompt_id": "dev9", "text": "x"}, "did you mean 'dev"),
        ({"prompt_id": "dev1"}, "neither `text` nor `completion`"),
        ({"prompt_id": "dev1", "text": "x", "completion": "y"}, "text and completion"),
        ({"prompt_id": "dev1", "text": 3}, "text is needed"),
        ({"prompt_id": "dev1", "text": "x", "index": -1}, "`index`"),
        ({"prompt_id": "dev1", "text": "x", "index": True}, "`index`"),
        ({"prompt_id": "dev1", "text": "x", "finish": "eos"}, "`finish`"),
    ],
)
def test_rows_that_are_wrong(cli: Cli, config: Path, tmp_path: Path, row: dict[str, Any], words: str) -> None:
    done = cli("verify", config, write_rows(tmp_path / "answers.jsonl", [row]))
    assert done.code == 2
    assert words in done.err and "answers.jsonl:1" in done.err


def test_usage(cli: Cli, config: Path, tmp_path: Path) -> None:
    good, empty = put("good.c", PROGRAM), put("empty.jsonl", "\n")
    binary = tmp_path / "binary.c"
    binary.write_bytes(b"\xff\xfe")
    for arguments, words in (
        ((), "a configuration and at least one file"),
        ((config,), "a configuration and at least one file"),
        ((config, "missing.c"), "missing.c cannot be read"),
        ((config, "missing.jsonl"), "file of completions missing.jsonl"),
        ((config, put("empty.c", "\n")), "empty.c is empty"),
        ((config, empty), "no row"),
        ((config, good, empty), "separately"),
        ((config, empty, "--prompt", "dev1"), "separately"),
        ((config, binary), "not UTF-8"),
        ((config, "/dev/zero"), "is larger than"),
        ((config, tmp_path), "Is a directory"),
        ((tmp_path, good), "is a folder"),
        ((config, put("list.jsonl", "[1]\n")), "is one JSON list"),
        ((config, put("good.py", "")), "says python"),
        ((config, good, "--prompt", "dev11"), "did you mean"),
        (("no.yaml", good), "no.yaml"),
        ((config, good, "--set", "verifier.kind=nothing"), "verifier.kind"),
    ):
        done = cli("verify", *arguments)
        assert done.code == 2, arguments
        assert words in done.err, (arguments, done.err)
    missing = cli("verify", config, good, "--set", "verifier.compiler=no-such-compiler")
    assert missing.code == 4 and "no-such-compiler" in missing.err


@pytest.mark.parametrize(
    "source",
    [
        ADD,
        'char *s = "```";\n',
        "/*\n````\n```c\n*/\nint x;\n",
        "int x; // no newline",
        *(f'char *s = "{text}";\n{text}\nint x;\n' for text in ("<think>", "<|im_end|>", "</s>")),
        'char *s = "</think>";\n',
    ],
)
def test_a_file_is_checked_as_it_stands(source: str) -> None:
    found = extract(as_completion(source, "c", "x.c"), "c")
    assert found.code is not None and found.code.rstrip("\n") == source.rstrip("\n")


def test_a_byte_order_mark_is_no_part_of_a_program(cli: Cli, config: Path) -> None:
    path = put("marked.py", "\ufeffprint(1)\n")
    assert cli("verify", config, path, "--set", "verifier.kind=python").code == 0


def test_what_would_be_another_program_as_an_answer_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "extract", lambda text, language: extract(text.replace("x", ""), language))
    with pytest.raises(ConfigError, match=r"x\.c.*stripped"):
        as_completion("int x;\n", "c", "x.c")


# ---- --rescore


@pytest.fixture
def run(config: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A finished run of 2 cycles whose every prompt has one of each verdict: pass, pass, fail, broken."""
    monkeypatch.setattr("halo_forge.verifiers.verifier.ThreadedVerifier", lambda spec: MemoryVerifier())
    inputs = write_inputs(tmp_path / "run_inputs", tests=HARNESS, raft__samples_per_prompt=4)
    execute(inputs, tmp_path / "run")
    return tmp_path / "run"


def test_a_run_scored_again(cli: Cli, run: Path) -> None:
    before = tree(run)
    done = cli("verify", "--rescore", run, "--set", "verifier.rewards.runs=0.6", "--json")
    assert done.code == 0
    assert tree(run) == before, "the run's files are not changed"
    assert done.json["rewards"]["old"]["runs"] == 0.7
    assert done.json["rewards"]["new"]["runs"] == 0.6
    by_set = {(row["cycle"], row["name"]): row for row in done.json["cycles"]}
    assert set(by_set) == {(cycle, name) for cycle in (1, 2, 3) for name in ("train", "dev")} | {(None, "test")}
    for cycle in (1, 2):
        stored = [row["reward"] for row in rows(run / f"cycles/00{cycle}/verdicts.jsonl")]
        row = by_set[cycle, "train"]
        assert row["num_verdicts"] == len(stored) == 12
        assert row["reward_mean_old"] == pytest.approx(sum(stored) / len(stored))
        # Only the answers that fail their one test pay less: 0.7 becomes 0.6.
        assert row["num_changed"] == stored.count(0.7) > 0
        assert row["reward_mean_new"] == pytest.approx(row["reward_mean_old"] - 0.1 * stored.count(0.7) / 12)
        assert (row["threshold_old"], row["threshold_new"]) == ("pass", "pass")
        assert row["num_above_old"] == row["num_above_new"] == stored.count(1.0)
    assert by_set[1, "dev"]["threshold_old"] is None
    assert by_set[3, "train"]["threshold_old"] is None  # the final evaluation selects nothing
    assert "mean new" in cli("verify", "--rescore", run, "--set", "verifier.rewards.runs=0.6").out


def test_another_threshold(cli: Cli, run: Path) -> None:
    stored = [row["reward"] for row in rows(run / "cycles/001/verdicts.jsonl")]
    found = cli("verify", "--rescore", run, "--set", "selection.reward_threshold=0.7", "--json").json["cycles"][0]
    assert (found["threshold_old"], found["threshold_new"]) == ("pass", 0.7)
    assert found["num_above_old"] == stored.count(1.0)
    assert found["num_above_new"] == stored.count(1.0) + stored.count(0.7)
    assert found["num_changed"] == 0


def test_errors_of_ours_count_for_nothing(cli: Cli, run: Path) -> None:
    path = run / "cycles/001/verdicts.jsonl"
    table = rows(path)
    table[0] |= {"stage": "extract", "status": "error", "reward": 0.0}
    write_rows(path, table)
    row = cli("verify", "--rescore", run, "--set", "verifier.rewards.runs=0.6", "--json").json["cycles"][0]
    assert (row["num_verdicts"], row["num_errors"]) == (11, 1)
    assert row["reward_mean_old"] == pytest.approx(sum(row["reward"] for row in table[1:]) / 11)


def test_rescore_usage(cli: Cli, run: Path, config: Path, tmp_path: Path) -> None:
    for arguments, words in (
        ((), "no reward is changed"),
        (("--set", "verifier.rewards.runs=0.7"), "no reward is changed"),
        (("--set", "verifier.rewards.runs=2"), "verifier.rewards.runs"),
        (("--set", "verifier.rewards.compiles=0.9"), "must not be above"),
        (("--set", "verifier.timeout_seconds=1"), "verifier.timeout_seconds cannot be changed"),
        (("--set", "verifier.rewards.runs=0.6", "--set", "seed=3"), "seed cannot be changed"),
        ((config, "--set", "verifier.rewards.runs=0.6"), "--rescore takes no configuration"),
    ):
        done = cli("verify", "--rescore", run, *arguments)
        assert done.code == 2, arguments
        assert words in done.err, (arguments, done.err)
    nowhere = cli("verify", "--rescore", tmp_path, "--set", "verifier.rewards.runs=0.6")
    assert nowhere.code == 3 and "not a run directory" in nowhere.err
    (run / "cycles/001/verdicts.jsonl").write_text("{}\n", encoding="utf-8")
    torn = cli("verify", "--rescore", run, "--set", "verifier.rewards.runs=0.6")
    assert torn.code == 3 and "verdicts.jsonl:1: stage: Field required" in torn.err


def test_damaged_files_are_named_with_their_line(cli: Cli, run: Path) -> None:
    path = run / "cycles/001/verdicts.jsonl"
    whole = path.read_bytes()
    good = json.loads(whole.splitlines()[1])
    for second_line, words in (
        ("{", "not JSON"),
        ("\xff", "not JSON"),
        ("[" * 5000, "not JSON"),
        ("[]", "not a JSON object"),
        ('"a"', "not a JSON object"),
        ("{}", "stage: Field required"),
        *((json.dumps({**good, **changes}), key) for changes, key in (
            ({"reward": "1"}, "reward"), ({"reward": None}, "reward"), ({"reward": 1.5}, "reward 1.5"),
            ({"reward": float("nan")}, "reward"), ({"stage": "link"}, "stage"), ({"status": 1}, "status"),
            ({"tests_passed": True}, "tests_passed"), ({"tests_passed": 9}, "9 of 1 tests"), ({"flags": "no"}, "flags"),
            ({"flags": [1]}, "flags.0"), ({"extraction": []}, "extraction"), ({"index": 0.5}, "index"),
            ({"made_up": 1}, "made_up"),
        )),
    ):  # fmt: skip
        lines = whole.splitlines(keepends=True)
        path.write_bytes(b"".join([lines[0], second_line.encode("latin-1") + b"\n", *lines[2:]]))
        done = cli("verify", "--rescore", run, "--set", "verifier.rewards.runs=0.6")
        assert done.code == 3, (second_line[:80], done.err)
        assert "verdicts.jsonl:2: " in done.err and words in done.err, done.err


def test_damage_of_any_kind_is_no_traceback(cli: Cli, run: Path) -> None:
    chance = random.Random(7)
    names = ["run.json", "config.resolved.yaml"]
    names += [f"cycles/001/{name}" for name in ("measurement.json", "settings.json", "verdicts.jsonl")]
    for name in names:
        path = run / name
        whole = path.read_bytes()
        damaged = [b"", b"\0" * 40, b"[]\n", b'{"metrics": {"a": "b"}, "cycle": null}\n', whole[: len(whole) // 2]]
        for _ in range(6):
            place = chance.randrange(len(whole))
            damaged.append(whole[:place] + bytes(chance.choices(range(256), k=3)) + whole[place + 2 :])
        for content in damaged:
            path.write_bytes(content)
            # `cli` itself refuses a traceback, and an exit code without a word.
            assert cli("verify", "--rescore", run, "--set", "verifier.rewards.runs=0.6").code in (0, 2, 3), content
        path.write_bytes(whole)


def test_help_says_both(cli: Cli) -> None:
    said = cli("verify", "--help").out
    assert "--rescore" in said and "--prompt" in said


# --- reasoning ----------------------------------------------------------------------------------------------

DRAFT = f"A draft:\n```c\n{ADD}```\nWait, I should check"


@pytest.fixture
def thinking(tmp_path: Path) -> Path:
    """The configuration of a run whose model's chat template opens the reasoning; there are no weights."""
    from tiny_models import THINKING, build_tokenizer

    build_tokenizer(chat_template=THINKING).save_pretrained(tmp_path / "thinking")
    return write_inputs(
        tmp_path / "inputs",
        tests=HARNESS,
        engine={"kind": "transformers"},
        model={"model_name_or_path": str(tmp_path / "thinking")},
        verifier__workers=2,
    )


def stages(cli: Cli, config: Path, *completions: Mapping[str, Any]) -> list[str]:
    path = write_rows(Path("asked.jsonl"), [{"prompt_id": "dev1", **each} for each in completions])
    return [row["stage"] for row in cli("verify", config, path, "--json").json]


def test_a_draft_in_reasoning_that_the_template_opens_is_not_judged(cli: Cli, thinking: Path) -> None:
    closed = {"text": f"{DRAFT}</think>\n```c\n{ADD}```\n"}
    given = [{"text": DRAFT}, {"text": f"<think>\n{DRAFT}"}, closed, {"text": f"<think>\n{closed['text']}"}]
    assert stages(cli, thinking, *given) == ["extract", "extract", "tests", "tests"]
    done = cli("verify", thinking, "asked.jsonl")
    assert "opens the reasoning (<think>): 2 of 4 completions do not begin with it" in done.err


def test_a_response_prefix_that_closes_the_reasoning_is_part_of_what_is_judged(cli: Cli, thinking: Path) -> None:
    config = yaml.safe_load(thinking.read_text())
    config["prompts"]["response_prefix"] = "</think>\n"
    thinking.write_text(yaml.safe_dump(config))
    program = f"```c\n{ADD}```\n"
    given = [{"text": text + program} for text in ("", "</think>\n", "<think>\n</think>\n")]
    assert stages(cli, thinking, *given, {"text": f"<think>\n{program}"}) == ["tests"] * 3 + ["extract"]


def test_without_the_model_nothing_is_assumed_and_that_is_said(cli: Cli, thinking: Path) -> None:
    thinking.write_text(thinking.read_text().replace(str(thinking.parent.parent / "thinking"), "nobody/nothing"))
    assert stages(cli, thinking, {"text": DRAFT}) == ["tests"]
    assert "nobody/nothing is not on this machine" in cli("verify", thinking, "asked.jsonl").err


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_chat_messages_of_servers_with_a_reasoning_parser(cli: Cli, config: Path, field: str) -> None:
    program = f"```c\n{ADD}```\n"
    replies = [
        {"role": "assistant", field: "Let me see.", "content": program},
        {"role": "assistant", field: DRAFT, "content": None},
        {"role": "assistant", field: DRAFT, "content": ""},
        {"role": "assistant", field: None, "content": program},
        {"content": program},
    ]
    found = stages(cli, config, *({"completion": [each]} for each in replies))
    assert found == ["tests", "extract", "extract", "tests", "tests"]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"text": ADD, "finish_reason": "length"}, "`finish_reason` is not read; did you mean `finish`?"),
        ({"text": ADD, "indx": 1}, "`indx` is not read; did you mean `index`?"),
        ({"completion": [{"role": "user", "content": ADD}]}, "the completion is a message of the role"),
        ({"completion": [{"content": ADD}, {"content": ADD}]}, "text is needed"),
    ],
)
def test_fields_of_other_tools_are_not_ignored(cli: Cli, config: Path, row: Mapping[str, Any], said: str) -> None:
    path = write_rows(Path("asked.jsonl"), [{"prompt_id": "dev1", **row}])
    done = cli("verify", config, path)
    assert (done.code, said in done.err) == (2, True), done.err


def test_marks_of_reasoning_that_only_the_configuration_knows(cli: Cli, config: Path) -> None:
    path = write_rows(Path("asked.jsonl"), [{"prompt_id": "dev1", "text": f"<<ponder>>\n{DRAFT}"}])
    marks = ("--set", 'verifier.reasoning_marks=["<<ponder>>", "<</ponder>>"]')
    assert [row["stage"] for row in cli("verify", config, path, "--json").json] == ["tests"]
    assert [row["stage"] for row in cli("verify", config, path, "--json", *marks).json] == ["extract"]
    done = cli("verify", config, path, "--set", "verifier.reasoning_marks=[one]")
    assert (done.code, "verifier.reasoning_marks" in done.err) == (2, True)
    done = cli("verify", config, path, "--set", "verifier.reasoning_marks=[one, one]")
    assert (done.code, "must differ" in done.err) == (2, True)
