"""The scripts behind `make`: nothing half-made is ever taken for a model, and nothing unchecked is unpacked."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import stat
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import halo_forge

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "scripts"
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
LOCKED = re.findall(r"^([a-z0-9.-]+)==([^ ]+)", LOCK, re.MULTILINE)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
BENCHMARKS = ("startup", "verification", "training", "generation", "cycle")


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", sorted(SCRIPTS.glob("*.sh")), ids=lambda path: path.name)
def test_shell_scripts_parse_and_stop_at_errors(path: Path) -> None:
    subprocess.run(["bash", "-n", str(path)], check=True)
    text = path.read_text(encoding="utf-8")
    assert text.startswith("#!/usr/bin/env bash\n") and "\nset -euo pipefail\n" in text


def fake_python(folder: Path, *, new_enough: bool) -> Path:
    """A `python` that answers the version check and refuses everything else."""
    path = folder / "fake-python"
    answer = "exit 0" if new_enough else 'case "$1" in --version) echo "Python 3.10.1"; exit 0;; -c) exit 1;; esac'
    path.write_text(f'#!/bin/sh\n[ "$2" = venv ] && {{ mkdir -p "$3/bin"; exit 1; }}\n{answer}\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.mark.parametrize(
    ("new_enough", "message"), [(False, "Python 3.10.1 found, halo-forge needs Python 3.11"), (True, "python3-venv")]
)
def test_setup_says_what_is_missing_and_leaves_no_half_environment(
    new_enough: bool, message: str, tmp_path: Path
) -> None:
    (tmp_path / "scripts").mkdir()
    shutil.copy(SCRIPTS / "setup_venv.sh", tmp_path / "scripts")
    python = fake_python(tmp_path, new_enough=new_enough)
    done = subprocess.run(
        ["bash", "scripts/setup_venv.sh"],
        cwd=tmp_path,
        env={**os.environ, "PYTHON": str(python)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert message in done.stderr and "fix:" in done.stderr
    assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize("name", ["setup_llama_cpp.sh", "setup_vllm_cpu.sh"])
def test_a_separate_environment_needs_a_folder(name: str) -> None:
    done = subprocess.run(["bash", SCRIPTS / name], capture_output=True, text=True)
    assert done.returncode == 2 and name in done.stderr and "ENV_DIR" in done.stderr


def test_a_separate_environment_is_made_by_the_chosen_python(tmp_path: Path) -> None:
    """As far as it goes without a network: the environment is the first step, and its failure ends the script."""
    done = subprocess.run(
        ["bash", SCRIPTS / "setup_llama_cpp.sh", tmp_path / "env"],
        env={**os.environ, "PYTHON": str(fake_python(tmp_path, new_enough=True))},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and (tmp_path / "env/bin").is_dir() and not (tmp_path / "env/bin/python").exists()


def test_make_help_lists_every_target() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", text, re.MULTILINE))
    assert targets == set(re.findall(r"^\.PHONY: (.*)$", text, re.MULTILINE)[0].split())
    done = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {line.split()[0] for line in done.stdout.splitlines()} == targets


@pytest.mark.parametrize(
    ("target", "steps"),
    [
        ("demo", ["setup_venv.sh", "get_smollm2.py", "halo-forge raft run configs/quickstart.yaml --resume"]),
        ("test", ["install_system_packages.sh", "setup_venv.sh", "get_smollm2.py", "ruff check", "mypy", "pytest"]),
        (
            "bench",
            ["get_smollm2.py", *(f"bench_{name}.py" for name in BENCHMARKS)],
        ),
    ],
)
def test_one_command_does_all_steps_in_order(target: str, steps: list[str]) -> None:
    done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=True)
    positions = [done.stdout.index(step) for step in steps]
    assert positions == sorted(positions)


def test_ci_runs_the_test_command_of_the_readme_and_nothing_before_it() -> None:
    assert re.search(r"^make test +#", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    ours = ("#", "set ", "cd ", "[ ! -d ../shared/data ] || export HALO_FORGE_TEST_DATA=")
    commands = [line for line in lines if not line.startswith(ours)]
    assert commands[0] == "make test" and all(line.startswith("make ") for line in commands)


def test_the_hosted_workflow_runs_the_command_of_the_readme_on_every_python_that_is_supported() -> None:
    text = (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")
    (job,) = yaml.safe_load(text)["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step][-1] == "make test"
    offered = [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if re.search(r"Python :: 3\.\d+$", line)]
    assert job["strategy"]["matrix"]["python"] == offered
    assert PROJECT["requires-python"] == f">={offered[0]}"
    assert "://" not in text


def test_the_hooks_run_what_is_installed_and_fetch_nothing() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert [repo["repo"] for repo in config["repos"]] == ["local"]
    hooks = config["repos"][0]["hooks"]
    assert {hook["language"] for hook in hooks} == {"system"}
    lint = (ROOT / "Makefile").read_text(encoding="utf-8").partition("\nlint:")[2].partition("\n\n")[0]
    commands = [hook["entry"].removeprefix(".venv/bin/").replace(" --force-exclude", "") for hook in hooks]
    assert commands == [line.removesuffix(" .") for line in re.findall(r"^\t\$\(BIN\)/(.*)$", lint, re.MULTILINE)]


def test_the_citation_names_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (str(citation["version"]), citation["license"]) == (halo_forge.__version__, PROJECT["license"])


def test_the_lock_holds_files_by_their_sums_and_names_no_host() -> None:
    assert len(LOCKED) > 60
    assert "://" not in LOCK and "--index" not in LOCK and "--find-links" not in LOCK
    blocks = re.split(r"\n(?=[a-z])", LOCK)[1:]
    assert len(blocks) == len(LOCKED)
    assert [block.splitlines()[0] for block in blocks if "--hash=sha256:" not in block] == []


def test_the_lock_leaves_torch_and_its_gpu_libraries_to_the_machine() -> None:
    assert [name for name, _ in LOCKED if re.match("torch$|triton|nvidia-|cuda-|pytorch-", name)] == []


def test_the_lock_and_the_bounds_agree() -> None:
    """Otherwise the lock is older than pyproject.toml: `make lock`."""
    setup = (SCRIPTS / "setup_venv.sh").read_text(encoding="utf-8")
    locked = [*LOCKED, ("torch", *re.findall("^torch_version=(.*)$", setup, re.MULTILINE))]
    wrong = []
    for text in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]:
        needed = Requirement(text)
        pinned = [version for name, version in locked if name == canonicalize_name(needed.name)]
        if not pinned or any(version not in needed.specifier for version in pinned):
            wrong.append(f"{text}: {pinned} is locked")
    assert wrong == []


@pytest.mark.parametrize(
    ("bounds", "found", "allowed"),
    [
        (">=2.11", "2.11.0", True),
        (">=2.11", "2.11.0+rocm7.13", True),
        (">=2.11", "2.15.0.dev20261101+rocm10.1", True),
        (">=2.11", "2.10.0+cpu", False),
        (">=2.11,<3", "3.0.0", False),
    ],
)
def test_setup_keeps_a_torch_within_the_bounds_and_refuses_another(
    bounds: str, found: str, allowed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = load("check_torch")
    (tmp_path / "pyproject.toml").write_text(f"[project]\ndependencies = ['numpy>=2', 'torch{bounds}']\n")
    monkeypatch.setattr(module, "PYPROJECT", tmp_path / "pyproject.toml")
    monkeypatch.setattr(module, "version", {"torch": found}.__getitem__)
    monkeypatch.setattr(sys, "argv", ["check_torch.py"])
    if allowed:
        module.main()
    else:
        with pytest.raises(SystemExit, match=re.escape(f"has torch {found}, halo-forge needs torch") + "(?s:.*)fix:"):
            module.main()


def test_a_torch_that_cannot_be_imported_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('libmissing.so.9: cannot open')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["check_torch.py", "--import"])
    with pytest.raises(SystemExit, match=r"cannot be imported: ImportError: libmissing\.so\.9(?s:.*)fix:"):
        load("check_torch").main()


def test_upper_bounds_are_taken_off_for_the_newest_versions() -> None:
    without = load("without_upper_bounds").without_upper_bound
    assert [without(text) for text in ("trl>=1.6,<1.17", "numpy>=2.2", "transformers[serving]<6,>=5.13")] == [
        "trl>=1.6",
        "numpy>=2.2",
        "transformers[serving]>=5.13",
    ]


@pytest.mark.parametrize(
    ("present", "missing"), [((), "golang-go"), (("go", "clang++"), "g++"), (("rustc",), "golang-go")]
)
def test_an_ordinary_user_is_told_which_packages_are_missing(
    present: tuple[str, ...], missing: str, tmp_path: Path
) -> None:
    """What is in PATH decides; nothing is installed, and nothing fails."""
    for name in ("bash", *present):
        (tmp_path / name).symlink_to(shutil.which("bash") or "")
    (tmp_path / "id").write_text("#!/bin/sh\necho 1000\n")
    (tmp_path / "id").chmod(0o755)
    done = subprocess.run(
        ["bash", str(SCRIPTS / "install_system_packages.sh")],
        env={"PATH": str(tmp_path), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    packages = done.stdout.splitlines()[0].removeprefix("note: not installed here: ").split()
    assert missing in packages and not {"golang-go" if name == "go" else name for name in present} & set(packages)
    assert f"sudo apt-get install -y --no-install-recommends {' '.join(packages)}" in done.stdout


def test_root_gets_every_package_that_the_release_has(tmp_path: Path) -> None:
    (tmp_path / "bash").symlink_to(shutil.which("bash") or "")
    programs = {
        "id": "echo 0",
        "apt-get": f'echo "$@" >>{tmp_path}/asked; case "$*" in *chromium*) exit 100 ;; esac',
    }
    for name, body in programs.items():
        (tmp_path / name).write_text(f"#!{tmp_path}/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        ["bash", str(SCRIPTS / "install_system_packages.sh")],
        env={"PATH": str(tmp_path), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "note: not installed here: chromium\n" in done.stdout
    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked[0] == "update -qq" and "chromium" in asked[1]
    assert "install -y --no-install-recommends -qq clang" in asked
