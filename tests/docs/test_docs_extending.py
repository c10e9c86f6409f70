"""docs/extending.md: its two files, written into a copy of the package, are found and work."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from docs_text import ROOT, blocks

PAGE = ROOT / "docs/extending.md"
MODULES = ("halo_forge/core/schedules/sawtooth.py", "halo_forge/verifiers/languages/bash.py")
ANSWERS = {
    "double": ['double() {\n    echo "$(($1 * 2))"\n}', 'double() {\n    echo "$1$1"\n}', "double() {\n    if\n}"],
    "count": ["wc -l", "echo 2", "cat <<END"],
}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the package with the two modules of the page, the page's prompts and its configuration."""
    folder = tmp_path_factory.mktemp("extended")
    shutil.copytree(ROOT / "halo_forge", folder / "halo_forge", ignore=shutil.ignore_patterns("__pycache__"))
    sources = {block.text.split()[1]: block.text for block in blocks(PAGE) if block.language == "python"}
    assert tuple(sources) == MODULES
    for name, source in sources.items():
        assert not (folder / name).exists(), "the example is part of the package now: choose another one"
        (folder / name).write_text(source, encoding="utf-8")
    (config,) = (block.text for block in blocks(PAGE) if "a complete configuration" in block.text)
    (folder / "bash.yaml").write_text(config, encoding="utf-8")
    write_prompts(folder)
    return folder


def write_prompts(folder: Path) -> None:
    """The page's rows as train, dev and test, and answers of which one is right, one wrong, one no program."""
    (text,) = (block.text for block in blocks(PAGE) if block.language == "jsonl")
    rows = [json.loads(line) for line in text.splitlines()]
    assert [row["id"] for row in rows] == list(ANSWERS)
    answers = []
    for name in ("train", "dev", "test"):
        named = [{**row, "id": f"{row['id']}_{name}"} for row in rows]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in named), encoding="utf-8")
        for row in rows:
            texts = [f"```bash\n{code}\n```" for code in ANSWERS[row["id"]]]
            answers.append({"prompt_id": f"{row['id']}_{name}", "answers": texts})
    (folder / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in answers), encoding="utf-8")


def python(folder: Path, *arguments: str) -> str:
    """What a fresh interpreter says that imports the package from `folder`."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    command: Sequence[str] = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_examples_are_clean(copy: Path) -> None:
    ruff = Path(sys.executable).parent / "ruff"
    options = ["--no-cache", "--config", str(ROOT / "pyproject.toml")]
    for check in (["check"], ["format", "--check"]):
        done = subprocess.run([ruff, *check, *options, *MODULES], cwd=copy, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_schedule_is_found_and_keeps_the_contract(copy: Path) -> None:
    contract = ROOT / "tests/core/schedules/test_schedule_contract.py"
    said = python(copy, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "sawtooth", str(contract))
    passed = re.search(r"(\d+) passed", said)
    assert passed is not None and int(passed[1]) >= 10, said


def test_the_configuration_of_the_page_is_valid_and_planned(copy: Path) -> None:
    assert "valid" in python(copy, "-m", "halo_forge", "config", "check", "bash.yaml")
    sets = [f"--set=prompts.{name}={name}.jsonl" for name in ("train", "dev", "test")]
    plan = json.loads(python(copy, "-m", "halo_forge", "raft", "run", "bash.yaml", "--dry-run", "--json", *sets))
    rates = [cycle["learning_rate"] for cycle in plan["cycles"]]
    assert rates == pytest.approx([5e-5 / (1 + (cycle - 1) % 2) for cycle in range(1, 7)])


def test_a_run_with_both(copy: Path) -> None:
    changes = {
        "engine": "{kind: scripted, answers: answers.jsonl}",
        "raft": "{num_cycles: 2, samples_per_prompt: 12, min_selected: 1}",
        "training.gradient_accumulation_steps": "1",
        "prompts.response_prefix": "null",
        "verifier.workers": "1",
        **{f"prompts.{name}": f"{name}.jsonl" for name in ("train", "dev", "test")},
    }
    sets = [f"--set={key}={value}" for key, value in changes.items()]
    python(copy, "-m", "halo_forge", "raft", "run", "bash.yaml", "--output-dir", "run", *sets)
    folder = copy / "run/cycles"
    read = {name: (folder / "001" / f"{name}.jsonl").read_text().splitlines() for name in ("completions", "verdicts")}
    texts = [json.loads(line)["text"] for line in read["completions"]]
    verdicts = [json.loads(line) for line in read["verdicts"]]
    found: dict[tuple[str, int], set[tuple[str, str, int]]] = {}
    for text, verdict in zip(texts, verdicts, strict=True):
        task = verdict["prompt_id"].removesuffix("_train")
        which = [f"```bash\n{code}\n```" for code in ANSWERS[task]].index(text)
        found.setdefault((task, which), set()).add((verdict["stage"], verdict["status"], verdict["tests_passed"]))
    assert found == {
        ("double", 0): {("tests", "passed", 2)},
        ("double", 1): {("tests", "failed", 0)},
        ("double", 2): {("compile", "failed", 0)},
        ("count", 0): {("tests", "passed", 2)},
        ("count", 1): {("tests", "failed", 1)},
        ("count", 2): {("tests", "failed", 0)},
    }
    rates = [json.loads((folder / cycle / "settings.json").read_text())["learning_rate"] for cycle in ("001", "002")]
    assert rates == pytest.approx([5e-5, 2.5e-5])
    assert json.loads((copy / "run/run.json").read_text())["toolchain"]["version"].startswith("GNU bash")
