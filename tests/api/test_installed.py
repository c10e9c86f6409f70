"""halo-forge as it is installed: what its wheel holds, that it works outside of a checkout, and what its types say."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from docs_text import ROOT
from fresh_environment import FreshEnvironment, halo_forge_wheel
from scripted_runs import write_inputs

PROGRAM = """
import halo_forge


class Rates(halo_forge.SilentObserver):
    pass


config = halo_forge.load_config("run.yaml", {"seed": 1})
observer: halo_forge.Observer = Rates()
finished = halo_forge.run(config, observer=observer)
rows: list[dict[str, object]] = [*finished.samples(), *finished.cycles()]
reveal_type([cycle.learning_rate for cycle in halo_forge.preview(config).cycles])
passed: list[bool] = [verdict.passed for verdict in halo_forge.verify_programs(config, ["int a;"])]
halo_forge.no_such_name
finished.samples(3)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return halo_forge_wheel(tmp_path_factory.mktemp("halo-forge"))


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> FreshEnvironment:
    return FreshEnvironment(tmp_path_factory.mktemp("environment") / "venv", [wheel])


def test_the_wheel_holds_the_package_and_its_data(wheel: Path) -> None:
    held = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("halo_forge/")}
    files = [path for path in (ROOT / "halo_forge").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    linked = [path for folder in ("docs", "configs") for path in (ROOT / folder).rglob("*") if path.is_file()]
    package = {path.relative_to(ROOT).as_posix() for path in files}
    assert held == package | {f"halo_forge/manual/{path.relative_to(ROOT).as_posix()}" for path in linked}
    assert {"halo_forge/py.typed", "halo_forge/prompts/tasks/c.jsonl", "halo_forge/manual/docs/index.md"} <= held


def test_it_works_outside_of_a_checkout(environment: FreshEnvironment, tmp_path: Path) -> None:
    where = environment.output("python", "-c", "import halo_forge; print(halo_forge.__file__)", cwd=tmp_path)
    assert where.startswith(str(environment.folder))
    assert "raft" in environment.output("halo-forge", "--help", cwd=tmp_path)
    sets = {name: f"builtin:c/{name}" for name in ("train", "dev", "test")}
    config = write_inputs(tmp_path, prompts=sets)
    plan = json.loads(environment.output("halo-forge", "raft", "run", config, "--dry-run", "--json", cwd=tmp_path))
    assert [cycle["cycle"] for cycle in plan["cycles"]] == [1, 2]
    assert plan["cycles"][0]["num_prompts"] > 100


def test_messages_name_no_file_that_is_not_installed(environment: FreshEnvironment, tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").touch()
    (tmp_path / "wrong.yaml").write_text("model: {model_name_or_path: m}\nraft: {cycles: 3}\n", encoding="utf-8")
    for name in ("empty.yaml", "wrong.yaml"):
        done = environment.run("halo-forge", "config", "check", name, cwd=tmp_path)
        assert done.returncode == 2
        assert "halo-forge config schema" in done.stderr
        assert re.findall(r"\b(?:docs|configs|scripts)/[\w./-]+", done.stderr) == []


def test_a_typed_program_is_checked_against_its_types(tmp_path: Path) -> None:
    """From the checkout, whose cache `make lint` has filled: checking a fresh installation takes a minute."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", str(program)]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout
    found = [line.partition("program.py:")[2] for line in said.splitlines() if "program.py:" in line]
    assert found == [
        '13: note: Revealed type is "list[float | None]"',
        '15: error: Module has no attribute "no_such_name"  [attr-defined]',
        '16: error: Too many arguments for "samples" of "RunDirectory"  [call-arg]',
    ], said
