"""`halo-forge init`: what it writes for made-up people, what it asks, and what it refuses."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import resource
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from cli_calls import Cli, command_line
from made_up_users import QWEN_05B, QWEN_7B, cpp_rows, model_folder, python_rows, without_network, write_rows
from scripted_runs import tree
from terminal import plain
from tiny_models import CHATML, THINKING

from halo_forge.config import load_config
from halo_forge.core.errors import RunDirError
from halo_forge.prompts import hub
from halo_forge.runtime.assembly import planned
from halo_forge.runtime.config_check import check_config
from halo_forge.starter import choose
from halo_forge.starter import init as starter

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models: what can be looked at of them, without weights."""
    folder = tmp_path_factory.mktemp("models")
    model_folder(folder / "qwen-0.5b", QWEN_05B)
    model_folder(folder / "qwen-7b", QWEN_7B)
    model_folder(folder / "thinking", QWEN_7B, chat_template=THINKING)
    model_folder(folder / "base", QWEN_05B, chat_template=None)
    no_system = CHATML.replace(
        "{% for", "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}{% for", 1
    )
    model_folder(folder / "no-system", QWEN_05B, chat_template=no_system)
    model_folder(folder / "short", QWEN_05B | {"max_position_embeddings": 420})
    return folder


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Iterator[Cli]:
    """`main()` in an empty folder, without a network."""
    monkeypatch.chdir(tmp_path)
    without_network(monkeypatch)
    with command_line(monkeypatch, capsys) as run:
        yield run


def comments_above(text: str) -> dict[str, str]:
    """Key of a section -> the comment lines directly above it."""
    found, above = {}, []
    for line in text.splitlines():
        if line.startswith("  # "):
            above.append(line[4:])
        elif match := re.match(r"  (\w+): ", line):
            found[match[1]], above = " ".join(above), []
        else:
            above = []
    return found


def head(text: str) -> str:
    """The comment at the top, as one line."""
    return " ".join(line.lstrip("# ") for line in text.partition("\n\n")[0].splitlines())


# ---- three made-up people


def test_own_python_tasks_and_half_a_billion_parameters_on_cuda(cli: Cli, models: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "tasks.jsonl", python_rows(240))
    done = cli(
        "init",
        "--yes",
        "--model",
        models / "qwen-0.5b",
        "--prompts",
        "tasks.jsonl",
        "--machine",
        "cuda",
        "--time",
        "2h",
    )
    assert done.code == 0, done.err
    config = load_config("raft.yaml").config
    assert config.verifier.kind == "python" and "```python\n" == config.prompts.response_prefix
    assert config.training.learning_rate.base == pytest.approx(1.9e-4)
    assert config.training.per_device_train_batch_size == 16
    # Few of its programs pass at first, and they must not be those of a judge that accepts what parses.
    assert [phase.value for phase in config.selection.reward_threshold.phases] == [0.71, "pass"]
    # There is time to measure dev well enough for the default of the decisions.
    assert config.evaluation.samples_per_prompt == 8 and config.decisions.max_standard_error == 0.04
    assert config.engine.max_new_tokens == 256
    text = Path("raft.yaml").read_text()
    assert "asserts 240" in text and "tokens, median" in head(text) and "estimated" not in head(text)
    assert "Assumed" not in text and "warning" not in done.out
    assert "this machine is cpu" in text and "doctor` there first" in head(text)


def test_cpp_programs_of_a_judge_and_seven_billion_parameters_on_gfx1151(
    cli: Cli, models: Path, tmp_path: Path
) -> None:
    write_rows(tmp_path / "judge.jsonl", cpp_rows(600))
    options = ["--model", models / "qwen-7b", "--prompts", "judge.jsonl", "--machine", "gfx1151", "--time", "12h"]
    done = cli("init", "--yes", *options, "--name", "judge")
    assert done.code == 0, done.err
    config = load_config("judge.yaml").config
    assert config.verifier.kind == "cpp" and config.verifier.timeout_seconds == 2.0
    assert config.selection.reward_threshold.setting == "pass"
    assert config.training.learning_rate.base == pytest.approx(2.4e-4)
    assert config.output_dir == "runs/judge"
    text = Path("judge.yaml").read_text()
    assert "16.0 GB" in head(text) and "with checkpointing" in head(text)
    # The limit of the rows is the limit of all, so there is nothing to warn of.
    assert "warning" not in done.out


def test_a_data_set_and_a_model_of_the_hub_without_a_network(cli: Cli) -> None:
    options = ["--model", "Qwen/Qwen2.5-Coder-1.5B-Instruct", "--prompts", "somebody/tasks", "--language", "rust"]
    done = cli("init", "--yes", *options)
    assert done.code == 0, done.err
    config = load_config("raft.yaml").config
    assert config.prompts.train == "somebody/tasks:train[:60%]"
    assert config.prompts.test == "somebody/tasks:train[80%:]"
    assert config.prompts.train_limit is not None and config.raft.prompts_per_cycle is None
    # 5e-4 * (2000 / 1536) ** 0.0775 * sqrt(rows / 128), of a shape that is typical of the size in the name
    assert config.training.learning_rate.base == pytest.approx(
        5e-4 * 1.0207 * (config.training.per_device_train_batch_size / 128) ** 0.5, rel=0.05
    )
    text = head(Path("raft.yaml").read_text())
    for what in ("could not be looked at (no network", "a split named train", "assumed to have tests"):
        assert what in text and f"{what}" in done.out
    assert "What it can show" not in text  # nobody knows how many prompts there are


@pytest.mark.parametrize(
    ("model", "seconds"), [("qwen-0.5b", "20m"), ("qwen-0.5b", "8h"), ("qwen-7b", "8h"), ("thinking", "8h")]
)
def test_what_is_written_passes_the_check_and_the_dry_run(
    model: str, seconds: str, cli: Cli, models: Path, tmp_path: Path
) -> None:
    """Every value but a section's obvious ones has a reason above it, and no warning could have been avoided."""
    write_rows(tmp_path / "tasks.jsonl", python_rows(150))
    done = cli("init", "--yes", "--model", models / model, "--prompts", "tasks.jsonl", "--time", seconds)
    assert done.code == 0, done.err
    config = load_config("raft.yaml").config
    assert check_config(config).warnings == ()
    found = planned(config)
    assert found.warnings == () and found.advice == ()
    assert cli("config", "check", "raft.yaml").code == 0
    assert cli("raft", "run", "raft.yaml", "--dry-run").code == 0
    text = Path("raft.yaml").read_text()
    without = {key for key, reason in comments_above(text).items() if not reason}
    assert without <= {"model_name_or_path", "kind", "gradient_accumulation_steps"}
    assert [line for line in text.splitlines() if line.lstrip().startswith("#") and len(line) > 80] == []


def test_the_packaged_tasks(cli: Cli, models: Path) -> None:
    assert cli("init", "--yes", "--model", models / "qwen-0.5b", "--prompts", "builtin:c").code == 0
    config = load_config("raft.yaml").config
    assert (config.prompts.train, config.prompts.test) == ("builtin:c/train", "builtin:c/test")
    assert [phase.value for phase in config.selection.reward_threshold.phases] == [0.5, "pass"]


def test_three_sets_as_given(cli: Cli, models: Path, tmp_path: Path) -> None:
    rows = python_rows(120)
    for at, name in enumerate(("train", "dev", "test")):
        write_rows(tmp_path / f"{name}.jsonl", rows[40 * at : 40 * at + 40])
    options = ["--model", models / "qwen-0.5b", "--prompts", "train.jsonl"]
    refused = cli("init", "--yes", *options, "--dev", "dev.jsonl")
    assert refused.code == 2 and "--dev is given without --test" in refused.err
    assert cli("init", "--yes", *options, "--dev", "dev.jsonl", "--test", "test.jsonl").code == 0
    assert load_config("raft.yaml").config.prompts.dev == "dev.jsonl"


def test_a_model_that_reasons_gets_no_prefix_and_room(cli: Cli, models: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "tasks.jsonl", python_rows(150))
    assert cli("init", "--yes", "--model", models / "thinking", "--prompts", "tasks.jsonl").code == 0
    config = load_config("raft.yaml").config
    assert config.prompts.response_prefix is None and config.engine.stop == []
    assert config.engine.max_new_tokens == 2048
    assert "opens the reasoning with <think>" in head(Path("raft.yaml").read_text())


def test_a_model_without_room_for_long_completions_and_without_system_messages(
    cli: Cli, models: Path, tmp_path: Path
) -> None:
    rows = [row | {"info": {}} for row in python_rows(150)]  # no reference: 512 tokens would be the guess
    write_rows(tmp_path / "tasks.jsonl", rows)
    assert cli("init", "--yes", "--model", models / "short", "--prompts", "tasks.jsonl", "--name", "a").code == 0
    config = load_config("a.yaml").config
    assert 128 <= config.engine.max_new_tokens < 420 - 60
    assert cli("init", "--yes", "--model", models / "no-system", "--prompts", "tasks.jsonl", "--name", "b").code == 0
    assert "no system messages" in head(Path("b.yaml").read_text())


def test_prompts_that_leave_no_room_are_dropped_and_counted(cli: Cli, models: Path, tmp_path: Path) -> None:
    rows = python_rows(150)
    rows[7]["prompt"] += " Do not print anything." * 20
    write_rows(tmp_path / "tasks.jsonl", rows)
    assert cli("init", "--yes", "--model", models / "short", "--prompts", "tasks.jsonl").code == 0
    assert load_config("raft.yaml").config.prompts.overlong == "drop"
    assert comments_above(Path("raft.yaml").read_text())["overlong"].startswith(
        "1 prompt without room in the model's 420"
    )


def test_only_prompts_that_fit_count(cli: Cli, models: Path, tmp_path: Path) -> None:
    rows = python_rows(300)
    for row in rows[:200]:
        row["prompt"] += " Do not print anything." * 20
    write_rows(tmp_path / "tasks.jsonl", rows)
    done = cli("init", "--yes", "--model", models / "short", "--prompts", "tasks.jsonl", "--json").json
    assert any("about 100 of 300 prompts leave the model room" in each for each in done["warnings"])
    write_rows(tmp_path / "few.jsonl", rows[200:])
    alone = cli("init", "--yes", "--model", models / "short", "--prompts", "few.jsonl", "--name", "b", "--json").json
    assert done["detectable"] == alone["detectable"]
    assert "train_limit" not in done["values"]["prompts"] and "dev_limit" not in done["values"]["prompts"]


@pytest.mark.parametrize("changes", [{"num_attention_heads": 0}, {"hidden_size": 0}, {"max_position_embeddings": -1}])
def test_a_model_of_impossible_sizes_has_those_of_its_name(changes: dict[str, int], cli: Cli, tmp_path: Path) -> None:
    model_folder(tmp_path / "odd-0.5b", QWEN_05B | changes)
    write_rows(tmp_path / "tasks.jsonl", python_rows(150))
    done = cli("init", "--yes", "--model", "odd-0.5b", "--prompts", "tasks.jsonl", "--json")
    assert done.code == 0 and load_config("raft.yaml").config.prompts.overlong != "drop"
    found = done.json
    assert any("of its size is assumed" in each for each in found["assumed"]) != ("max_position_embeddings" in changes)


def test_commands_and_paths_with_spaces_can_be_copied(cli: Cli, models: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "my tasks.jsonl", python_rows(150))
    done = cli("init", "my work", "--yes", "--model", models / "qwen-0.5b", "--prompts", "my tasks.jsonl")
    assert "cd 'my work' && halo-forge" in done.out
    assert f"halo-forge tasks check '{tmp_path}/my tasks.jsonl'" in Path("my work/raft.yaml").read_text()


def test_sets_that_share_a_prompt_are_refused_and_leave_no_folder(cli: Cli, models: Path, tmp_path: Path) -> None:
    for name, number in (("a", 150), ("b", 60), ("c", 30)):
        write_rows(tmp_path / f"{name}.jsonl", python_rows(number))
    done = cli(
        "init", "work", "--model", models / "qwen-0.5b", "--prompts", "a.jsonl", "--dev", "b.jsonl", "--test", "c.jsonl"
    )
    assert done.code == 2 and "is in prompts.train and in prompts.dev" in done.err
    assert ".init-" not in done.err and not Path("work").exists()


def test_paths_lead_to_the_same_files_from_the_new_folder(cli: Cli, models: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "tasks.jsonl", python_rows(150))
    os.symlink(models / "qwen-0.5b", tmp_path / "model")
    done = cli("init", "work", "--yes", "--model", "./model", "--prompts", "tasks.jsonl")
    assert done.code == 0 and "cd work && halo-forge raft run raft.yaml --dry-run" in done.out
    os.chdir("work")
    config = load_config("raft.yaml").config
    assert Path(config.prompts.train) == tmp_path / "tasks.jsonl:train"
    assert check_config(config).warnings == ()
    os.chdir("..")
    write_rows(tmp_path / "work/own.jsonl", python_rows(150))
    assert cli("init", "work", "--yes", "--model", "./model", "--prompts", "work/own.jsonl", "--name", "own").code == 0
    assert load_config("work/own.yaml").config.prompts.train == "own.jsonl:train"


def test_as_json(cli: Cli, models: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "tasks.jsonl", python_rows(150))
    done = cli("init", "--model", models / "qwen-0.5b", "--prompts", "tasks.jsonl", "--json")
    assert done.json["path"] == "raft.yaml" and done.json["fits"] is True
    values = done.json["values"]
    assert values["prompts"]["train"]["value"] == "tasks.jsonl:train"
    assert "hypothesis" in values["training"]["learning_rate"]["reason"]
    assert done.json["run_seconds"] > done.json["cycle_seconds"] > 0
    assert set(done.json["found"]) == {"model", "prompts", "language", "machine", "tools"}


# ---- data sets that can be read


def loaded(monkeypatch: pytest.MonkeyPatch, splits: Mapping[str, int]) -> None:
    import datasets

    monkeypatch.setattr(hub, "_check_reachable", lambda spec, dataset_id: None)
    rows = [{"id": row["id"], "prompt": row["prompt"], "tests": json.dumps(row["tests"])} for row in python_rows(500)]
    found = datasets.DatasetDict()
    for name, number in splits.items():
        found[name], rows = datasets.Dataset.from_list(rows[:number]), rows[number:]

    def load(dataset_id: str, name: str | None = None, split: str | None = None) -> Any:
        if split is None:
            return found
        base, _, cut = split.partition("[")
        low, high = (part.strip("%]") for part in (cut or ":").split(":"))
        size = len(found[base])
        return found[base].select(range(size * int(low or 0) // 100, size * int(high or 100) // 100))

    monkeypatch.setattr(datasets, "load_dataset", load)


@pytest.mark.parametrize(
    ("splits", "given", "specs"),
    [
        ({"train": 200, "validation": 60, "test": 60}, "x/y", ("x/y:train", "x/y:validation", "x/y:test")),
        ({"train": 200, "test": 120}, "x/y", ("x/y:train", "x/y:test[:50%]", "x/y:test[50%:]")),
        ({"test": 300}, "x/y", ("x/y:test[:60%]", "x/y:test[60%:80%]", "x/y:test[80%:]")),
        ({"train": 9, "test": 300}, "x/y:test", ("x/y:test[:60%]", "x/y:test[60%:80%]", "x/y:test[80%:]")),
    ],
)
def test_the_splits_of_a_data_set_become_the_three_sets(
    splits: Mapping[str, int],
    given: str,
    specs: tuple[str, ...],
    cli: Cli,
    models: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded(monkeypatch, splits)
    done = cli("init", "--yes", "--model", models / "qwen-0.5b", "--prompts", given)
    assert done.code == 0, done.err
    prompts = load_config("raft.yaml").config.prompts
    assert (prompts.train, prompts.dev, prompts.test) == specs
    assert "asserts" in done.out and "What it can show" in done.out


def test_an_unknown_data_set_is_an_error(cli: Cli, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(spec: str, dataset_id: str) -> None:
        raise hub.UnknownDataSet(f"data set {spec!r}: the Hub has no data set {dataset_id}", "correct the id")

    monkeypatch.setattr(hub, "_check_reachable", unknown)
    done = cli("init", "--yes", "--model", models / "qwen-0.5b", "--prompts", "x/y")
    assert done.code == 2 and "has no data set x/y" in done.err and not Path("raft.yaml").exists()


# ---- what is refused


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "--model and --prompts are missing, and standard input is not a terminal"),
        (["--yes", "--model", "MODELS/qwen-0.5b"], "--prompts is missing"),
        (["--model", "MODELS/nowhere", "--prompts", "tasks.jsonl"], "no such folder"),
        (["--model", "MODELS/base", "--prompts", "tasks.jsonl"], "its tokenizer has no chat template"),
        (["--model", "MODELS/qwen-0.5b", "--prompts", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--model", "MODELS/qwen-0.5b", "--prompts", "tasks.csv"], "neither .jsonl nor .parquet"),
        (["--model", "MODELS/qwen-0.5b", "--prompts", "tasks.jsonl:train"], "one split of a file"),
        (["--model", "MODELS/qwen-0.5b", "--prompts", "broken.jsonl"], "broken.jsonl:3"),
        (["--model", "MODELS/qwen-0.5b", "--prompts", "a/b:train[:9]", "--language", "c"], "a part of a split"),
        (
            ["--model", "MODELS/qwen-0.5b", *(f"--{each}=tasks.jsonl" for each in ("prompts", "dev", "test"))],
            "the same",
        ),
        (["--model", "MODELS/short", "--prompts", "long.jsonl"], "none of the train prompts fits: the shortest has"),
        (["--model", "MODELS/qwen-0.5b", "--prompts", "mixed.jsonl"], "in several languages: cpp"),
        (["--model", "MODELS/qwen-0.5b", "--prompts", "bare.jsonl"], "the language of the programs is unknown"),
        (["--model", "MODELS/qwen-0.5b", "--prompts", "tasks.jsonl", "--language", "c"], "the prompts are in python"),
        (["--model", "MODELS/qwen-0.5b", "--prompts", "tasks.jsonl", "--language", "cobol"], "found 'cobol', allowed:"),
        (["--model", "MODELS/qwen-0.5b", "--prompts", "tasks.jsonl", "--machine", "tpu"], "found 'tpu', allowed: auto"),
        (["--model", "MODELS/qwen-0.5b", "--prompts", "tasks.jsonl", "--time", "soon"], "found 'soon', allowed:"),
        (["--model", "MODELS/qwen-0.5b", "--prompts", "tasks.jsonl", "--name", "a/b"], "found 'a/b', allowed:"),
    ],
)
def test_wrong_input_is_an_error_that_names_it_and_leaves_nothing(
    options: list[str], said: str, cli: Cli, models: Path, tmp_path: Path
) -> None:
    write_rows(tmp_path / "tasks.jsonl", python_rows(60))
    (tmp_path / "tasks.csv").write_text("id,prompt\n")
    broken = python_rows(60)
    broken[2]["tests"] = {"kind": "asserts", "tests": ["assert"]}
    write_rows(tmp_path / "broken.jsonl", broken)
    write_rows(tmp_path / "mixed.jsonl", [*python_rows(30), *(row | {"language": "c++"} for row in cpp_rows(30))])
    write_rows(tmp_path / "bare.jsonl", [{"id": str(at), "prompt": f"Write program {at}."} for at in range(60)])
    write_rows(tmp_path / "long.jsonl", [row | {"prompt": "Do it. " * 200} for row in python_rows(60)])
    before = tree(tmp_path)
    done = cli("init", *(option.replace("MODELS", str(models)) for option in options))
    assert done.code == 2 and said in done.err and "\n  fix: " in done.err, done.err
    assert tree(tmp_path) == before


def test_prompts_without_tests_are_said_and_judged_by_compiling(cli: Cli, models: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "bare.jsonl", [{"id": str(at), "prompt": f"Write C program {at}."} for at in range(120)])
    options = ["--model", models / "qwen-0.5b", "--prompts", "bare.jsonl", "--language", "c"]
    done = cli("init", "--yes", *options)
    assert done.code == 0 and "no prompt has tests" in done.out
    config = load_config("raft.yaml").config
    assert config.decisions.metric == "dev/compile_rate" and config.selection.reward_threshold.setting == "pass"
    assert "no prompt has tests" in head(Path("raft.yaml").read_text())


def test_too_few_prompts_are_said(cli: Cli, models: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "tasks.jsonl", python_rows(30))
    done = cli("init", "--yes", "--model", models / "qwen-0.5b", "--prompts", "tasks.jsonl")
    assert done.code == 0 and "dev prompts are too few" in done.out


@pytest.mark.parametrize("kind", ["file", "folder", "broken link"])
def test_what_is_there_is_never_overwritten(kind: str, cli: Cli, models: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "tasks.jsonl", python_rows(60))
    path = tmp_path / "raft.yaml"
    {"file": lambda: path.write_text("mine"), "folder": path.mkdir, "broken link": lambda: path.symlink_to("no")}[
        kind
    ]()
    before = tree(tmp_path)
    done = cli("init", "--yes", "--model", models / "qwen-0.5b", "--prompts", "tasks.jsonl")
    assert done.code == 3 and "never overwritten" in done.err and "--name" in done.err
    assert tree(tmp_path) == before and (kind != "file" or path.read_text() == "mine")


def test_a_full_disk_leaves_nothing(models: Path, tmp_path: Path) -> None:
    """The limit on the size of a file stands for the disk: the error comes from a real write."""
    write_rows(tmp_path / "tasks.jsonl", python_rows(60))
    init = f"{sys.executable} -m halo_forge init new --yes --model {models}/qwen-0.5b --prompts tasks.jsonl"
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-c", f"ulimit -f 1; exec {init}"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 3 and "File too large" in done.stderr and "free some space" in done.stderr, done.stderr
    assert not (tmp_path / "new").exists()


def test_a_disk_that_fills_up_leaves_no_half_of_a_file(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(RunDirError, match="File too large"):
            starter.write_demo(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_may_not_be_written_to(cli: Cli, models: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "tasks.jsonl", python_rows(60))
    (tmp_path / "file").touch()
    done = cli("init", "file/work", "--yes", "--model", models / "qwen-0.5b", "--prompts", "tasks.jsonl")
    assert done.code == 3 and "file/work" in done.err and "fix:" in done.err


# ---- in a terminal


CONTROL = ("\x03", "\x04")


def in_terminal(folder: Path, answers: list[str], width: int, *options: str) -> tuple[int, str]:
    """The exit code and what is seen of `init` in a terminal of this width; each answer follows a question."""
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(folder)
        os.environ |= {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "TERM": "xterm"}
        os.execv(sys.executable, [sys.executable, "-m", "halo_forge", "init", *options])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
    seen, waiting = "", list(answers)
    while True:
        try:
            chunk = os.read(terminal, 65536)
        except OSError:  # the other end is closed
            break
        if not chunk:
            break
        seen += chunk.decode()
        if waiting and re.search(r": $", plain(seen)):
            answer = waiting.pop(0)
            if answer in CONTROL:  # Python does not notice a signal that comes just before it waits for a line
                time.sleep(1.0)
            os.write(terminal, answer.encode() if answer in CONTROL else f"{answer}\n".encode())
    os.close(terminal)
    assert waiting == [], seen
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), plain(seen).replace("\r\n", "\n")


@pytest.mark.parametrize("width", [80, 200])
def test_it_asks_in_a_terminal_until_the_answers_can_be_used(width: int, models: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "tasks.jsonl", python_rows(120))
    os.symlink(models / "qwen-0.5b", tmp_path / "model")
    answers = ["./nowhere", "./model", "tasks.json", "tasks.jsonl", "", "tpu", "gfx1151", "", "n"]
    code, seen = in_terminal(tmp_path, answers[:-1], width)
    assert code == 0, seen
    for question in ("Model (a folder", "Prompts (a", "Language (c, cpp", "[python]", "Machine (auto", "[8h]"):
        assert question in seen
    assert "no such folder" in seen and "found 'tpu', allowed: auto" in seen and "fix:" in seen
    assert load_config(tmp_path / "raft.yaml").config.verifier.kind == "python"
    printed = seen[seen.index("model: ") :]
    assert [line for line in printed.splitlines() if len(line) > width] == []
    assert "written: raft.yaml" in printed and "next: halo-forge raft run raft.yaml --dry-run" in printed


def test_only_what_has_no_flag_is_asked(models: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "tasks.jsonl", python_rows(120))
    options = ["--model", str(models / "qwen-0.5b"), "--prompts", "tasks.jsonl", "--machine", "cpu", "--time", "1h"]
    code, seen = in_terminal(tmp_path, [""], 100, *options)
    assert code == 0 and "Language" in seen and "Model (" not in seen and "Machine (" not in seen


@pytest.mark.parametrize("key", ["\x03", "\x04"], ids=["Ctrl-C", "Ctrl-D"])
def test_leaving_at_a_question_writes_nothing(key: str, tmp_path: Path) -> None:
    code, seen = in_terminal(tmp_path, [key], 80)
    assert code == 130 and "Interrupted." in seen and "Traceback" not in seen
    assert list(tmp_path.iterdir()) == []


def test_of_a_large_set_some_lengths_are_measured(
    cli: Cli, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choose, "MOST_MEASURED", 50)
    write_rows(tmp_path / "tasks.jsonl", python_rows(150))
    done = cli("init", "--yes", "--model", models / "qwen-0.5b", "--prompts", "tasks.jsonl")
    assert done.code == 0 and "(50 of them measured)" in done.out and "asserts 150" in done.out
    assert "reading" not in done.err
    monkeypatch.setattr("halo_forge.cli.init._LARGE_BYTES", 1000)
    again = cli("init", "again", "--yes", "--model", models / "qwen-0.5b", "--prompts", "tasks.jsonl")
    assert again.code == 0 and "MB of prompts, and checking every row" in again.err


def test_looking_at_files_loads_no_model_library(models: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "tasks.jsonl", python_rows(60))
    program = (
        "import sys; from halo_forge.cli.app import app;"
        f"options = ['--yes', '--model', {str(models / 'qwen-0.5b')!r}, '--prompts', 'tasks.jsonl'];"
        "app(['init', *options], standalone_mode=False);"
        "print(sorted({'torch', 'transformers', 'datasets'} & sys.modules.keys()))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "[]", done.stdout + done.stderr


# ---- the demo


def test_the_demo_is_written_and_its_model_fetched(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from halo_forge.starter import small_model

    fetched: list[Path] = []
    monkeypatch.setattr(small_model, "make_small_model", lambda target, report: fetched.append(target))
    done = cli("init", "demo", "--demo")
    assert done.code == 0 and "cd demo && halo-forge raft run quickstart.yaml" in done.out
    assert fetched == [Path("demo/models/smollm2-135m-instruct")]
    config = load_config("demo/quickstart.yaml").config
    assert config == load_config(ROOT / "configs/quickstart.yaml").config
    assert Path(config.model.model_name_or_path) == small_model.DEFAULT_TARGET  # seen from that folder
    assert cli("init", "demo", "--demo").code == 0  # again, as after an interruption of the download
    Path("demo/quickstart.yaml").write_text("mine")
    refused = cli("init", "demo", "--demo")
    assert refused.code == 3 and "never overwritten" in refused.err and "--name" not in refused.err
    assert Path("demo/quickstart.yaml").read_text() == "mine" and len(fetched) == 2
    for flag in ("--model", "--name"):
        other = cli("init", "other", "--demo", flag, "x")
        assert other.code == 2 and f"takes no {flag}" in other.err and not Path("other").exists()


def test_the_demo_exists_once() -> None:
    assert (ROOT / "configs/quickstart.yaml").resolve() == starter.QUICKSTART.resolve()
