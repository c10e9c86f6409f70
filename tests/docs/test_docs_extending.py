"""docs/extending.md: its package, built and installed into a fresh environment, is found and works."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from docs_text import ROOT, blocks
from fresh_environment import FreshEnvironment, build_wheel, halo_forge_wheel

PAGE = ROOT / "docs/extending.md"
FILES = ("forge-extras/pyproject.toml", "forge-extras/forge_extras/sawtooth.py", "forge-extras/forge_extras/bash.py")
ANSWERS = {
    "double": ['double() {\n    echo "$(($1 * 2))"\n}', 'double() {\n    echo "$1$1"\n}', "double() {\n    if\n}"],
    "count": ["wc -l", "echo 2", "cat <<END"],
}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project of the page, as it stands there."""
    folder = tmp_path_factory.mktemp("package")
    sources = {block.text.split()[1]: block.text for block in blocks(PAGE) if block.text.startswith("# forge-extras/")}
    assert tuple(sources) == FILES
    for name, source in sources.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")
    (folder / "forge-extras/forge_extras/__init__.py").touch()
    return folder / "forge-extras"


@pytest.fixture(scope="module")
def environment(package: Path, tmp_path_factory: pytest.TempPathFactory) -> FreshEnvironment:
    """Where halo-forge and the package of the page are installed."""
    folder = tmp_path_factory.mktemp("environment")
    wheels = [halo_forge_wheel(folder / "halo-forge"), build_wheel(package, folder / "extras")]
    return FreshEnvironment(folder / "venv", wheels)


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """The configuration of the page, its rows as train, dev and test, and one right, one wrong, one broken answer."""
    (config,) = (block.text for block in blocks(PAGE) if "a complete configuration" in block.text)
    (tmp_path / "bash.yaml").write_text(config, encoding="utf-8")
    (text,) = (block.text for block in blocks(PAGE) if block.language == "jsonl")
    rows = [json.loads(line) for line in text.splitlines()]
    assert [row["id"] for row in rows] == list(ANSWERS)
    answers = []
    for name in ("train", "dev", "test"):
        named = [{**row, "id": f"{row['id']}_{name}"} for row in rows]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in named), encoding="utf-8")
        for row in rows:
            texts = [f"```bash\n{code}\n```" for code in ANSWERS[row["id"]]]
            answers.append({"prompt_id": f"{row['id']}_{name}", "answers": texts})
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in answers), encoding="utf-8")
    return tmp_path


def test_the_examples_are_clean(package: Path) -> None:
    ruff = Path(sys.executable).parent / "ruff"
    options = ["--no-cache", "--config", str(ROOT / "pyproject.toml")]
    for check in (["check"], ["format", "--check"]):
        done = subprocess.run([ruff, *check, *options, "."], cwd=package, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_examples_use_public_modules_only(package: Path) -> None:
    for path in package.rglob("*.py"):
        assert re.findall(r"halo_forge[\w.]*\._\w+", path.read_text(encoding="utf-8")) == []


def test_the_schedule_keeps_the_contract(environment: FreshEnvironment, tmp_path: Path) -> None:
    contract = ROOT / "tests/core/schedules/test_schedule_contract.py"
    options = ["-q", "-p", "no:cacheprovider", f"--rootdir={tmp_path}", "-k", "sawtooth"]
    said = environment.output("python", "-m", "pytest", *options, contract, cwd=tmp_path)
    passed = re.search(r"(\d+) passed", said)
    assert passed is not None and int(passed[1]) >= 10, said


def test_the_configuration_of_the_page_is_valid_and_planned(environment: FreshEnvironment, inputs: Path) -> None:
    assert "kind: bash" in environment.output("halo-forge", "config", "show", "bash.yaml", cwd=inputs)
    sets = [f"--set=prompts.{name}={name}.jsonl" for name in ("train", "dev", "test")]
    assert "bash.yaml: valid" in environment.output("halo-forge", "config", "check", "bash.yaml", *sets, cwd=inputs)
    said = environment.output("halo-forge", "raft", "run", "bash.yaml", "--dry-run", "--json", *sets, cwd=inputs)
    rates = [cycle["learning_rate"] for cycle in json.loads(said)["cycles"]]
    assert rates == pytest.approx([5e-5 / (1 + (cycle - 1) % 2) for cycle in range(1, 7)])


def test_a_run_with_both(environment: FreshEnvironment, inputs: Path) -> None:
    changes = {
        "engine": "{kind: scripted, answers: answers.jsonl}",
        "raft": "{num_cycles: 2, samples_per_prompt: 12, min_selected: 1}",
        "training.gradient_accumulation_steps": "1",
        "prompts.response_prefix": "null",
        "verifier.workers": "1",
        **{f"prompts.{name}": f"{name}.jsonl" for name in ("train", "dev", "test")},
    }
    sets = [f"--set={key}={value}" for key, value in changes.items()]
    environment.output("halo-forge", "raft", "run", "bash.yaml", "--output-dir", "run", *sets, cwd=inputs)
    folder = inputs / "run/cycles"
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
    run = json.loads((inputs / "run/run.json").read_text())
    assert run["toolchain"]["version"].startswith("GNU bash")
    assert run["plugins"] == {"forge-extras": "0.3.0"}
