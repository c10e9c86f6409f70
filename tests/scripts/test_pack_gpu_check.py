"""scripts/pack_gpu_check.py: what is carried, never torch, and nothing damaged is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import benchmarks
import pytest
from benchmarks import SCRIPTS

ROOTS = ["trl>=1.16", "transformers>=5.23", "torch>=2.13", "numpy>=2.4"]


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    with benchmarks.script("pack_gpu_check") as module:
        yield module


def test_what_is_needed_is_what_is_installed_here_and_never_torch(script: ModuleType) -> None:
    found = script.needed([*script.runtime_requirements(), *script.MORE], "3.12", {})
    assert {"trl", "datasets", "pyarrow", "transformers", "pydantic-core", "gguf", "pytest"} <= found.keys()
    assert all(found[name] == version(name) for name in found)
    assert not [name for name in found if name.startswith(("torch", "nvidia", "triton", "cuda")) or name == "hf-xet"]
    assert "sympy" not in found  # only torch needs it


def test_what_the_other_machine_has_is_left_out_if_it_fits(script: ModuleType) -> None:
    everything = script.needed(ROOTS, "3.12", {})
    there = {"numpy": version("numpy"), "transformers": "5.17.0", "pyarrow": version("pyarrow")}
    found = script.needed(ROOTS, "3.12", there)
    assert "numpy" not in found and "pyarrow" not in found
    assert found["transformers"] == version("transformers")  # 5.17.0 is too old
    assert everything.keys() - found.keys() == {"numpy", "pyarrow"}
    # What only a package needs that is not carried is not carried either.
    less = script.needed(ROOTS, "3.12", {**there, "pandas": version("pandas")})
    assert "tzdata" in found or "python-dateutil" in found
    assert not {"tzdata", "python-dateutil"} & less.keys()


def test_a_freeze_is_read(script: ModuleType) -> None:
    text = "Jinja2==3.1.6\n# a note\nhuggingface_hub==1.33.0\n-e /somewhere\ntorch @ file:///a.whl\nodd.name==1 ; x\n"
    assert script.frozen(text) == {"jinja2": "3.1.6", "huggingface-hub": "1.33.0", "odd-name": "1"}


def test_pieces_are_small_and_make_the_whole(script: ModuleType, tmp_path: Path) -> None:
    whole, again = tmp_path / "whole", tmp_path / "again"
    whole.write_bytes(bytes(range(256)) * 100)
    (tmp_path / "out").mkdir()
    pieces = script.cut(whole, tmp_path / "out", 10_000)
    assert [piece.stat().st_size for piece in pieces] == [10_000, 10_000, 5_600]
    script.join(tmp_path / "out", again)
    assert again.read_bytes() == whole.read_bytes()


def packed(script: ModuleType, folder: Path) -> Path:
    """A packed folder with one small wheel and a count of launches, in two pieces."""
    folder.mkdir()
    wheel, whole = folder / "small_thing-1.0-py3-none-any.whl", folder / "whole.tar"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("small_thing.py", "answer = 42\n")
        info = "small_thing-1.0.dist-info"
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: small-thing\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    launches = folder / script.LAUNCHES.name
    launches.write_text("counted here\n")
    with tarfile.open(whole, "w") as tar:
        for path in (wheel, launches):
            tar.add(path, path.name)
            path.unlink()
    pieces = folder / "pieces"
    pieces.mkdir()
    script.cut(whole, pieces, whole.stat().st_size // 2 + 1)
    return pieces


def unpack(tree: Path, pieces: Path) -> subprocess.CompletedProcess[str]:
    """`unpack` in a tree of its own, which has the model already."""
    (tree / "scripts").mkdir(parents=True)
    for name in ("pack_gpu_check.py", "get_smollm2.py"):
        shutil.copy(SCRIPTS / name, tree / "scripts")
    model = tree / "models/smollm2-135m-instruct"
    model.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (model / name).touch()
    command = [sys.executable, "scripts/pack_gpu_check.py", "unpack", str(pieces)]
    return subprocess.run(command, cwd=tree, capture_output=True, text=True)


def test_unpacking_installs_into_a_folder_of_its_own(script: ModuleType, tmp_path: Path) -> None:
    done = unpack(tmp_path / "tree", packed(script, tmp_path / "packed"))
    assert done.returncode == 0, done.stderr
    assert "1 packages are in build/gpu-check/site-packages" in done.stdout and "as it was, in " in done.stdout
    site = tmp_path / "tree" / script.SITE
    assert (site / "small_thing.py").read_text() == "answer = 42\n"
    assert (tmp_path / "tree" / script.LAUNCHES).read_text() == "counted here\n"
    assert {path.name for path in site.parent.iterdir()} == {site.name, script.LAUNCHES.name}
    # datasets hashes with dill, which takes what is not in a folder of the right name for a user's own code.
    pickled = "import dill, small_thing; print(b'answer' in dill.dumps(small_thing))"
    environment = {**os.environ, "PYTHONPATH": str(site)}
    seen = subprocess.run([sys.executable, "-c", pickled], env=environment, capture_output=True, text=True)
    assert seen.stdout == "False\n", seen.stderr


def damage(pieces: Path) -> None:
    data = bytearray((pieces / "piece-02").read_bytes())
    data[0] ^= 1
    (pieces / "piece-02").write_bytes(data)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (damage, "not the piece that was packed"),
        (lambda pieces: (pieces / "piece-02").unlink(), "missing piece-02 of 2 pieces"),
        (lambda pieces: (pieces / "SHA256SUMS").unlink(), "there is no SHA256SUMS in it"),
    ],
    ids=["damaged", "missing", "no digests"],
)
def test_pieces_that_are_not_whole_are_refused(script: ModuleType, spoil: object, message: str, tmp_path: Path) -> None:
    pieces = packed(script, tmp_path / "packed")
    spoil(pieces)  # type: ignore[operator]
    done = unpack(tmp_path / "tree", pieces)
    assert done.returncode == 1 and message in done.stderr and "fix:" in done.stderr
    assert not (tmp_path / "tree" / script.SITE).exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--python", "12"], "a version such as 3.12"), (["--piece-mib", "0"], "more than 0")],
)
def test_useless_arguments_are_refused(options: list[str], message: str, tmp_path: Path) -> None:
    done = benchmarks.run("pack_gpu_check", "pack", tmp_path, *options)
    assert done.returncode == 2 and message in done.stderr


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "note").touch()
    done = benchmarks.run("pack_gpu_check", "pack", tmp_path)
    assert done.returncode == 1 and "not an empty folder" in done.stderr
