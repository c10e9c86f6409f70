"""Merged weights, GGUF files and adapters as GGUF: made once, and found by a command that continues."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from halo_forge.core.errors import ModelError
from halo_forge.evaluations.models import Models
from halo_forge.exports.llama_cpp import LlamaCpp, Tool, run_tool
from halo_forge.exports.source import Source
from halo_forge.policy.merged import Rounding, save_merged
from halo_forge.store.files import read_json, sync_folder, write_json

Kind = Literal["merged", "gguf", "lora-gguf"]
Quantization = Literal["bf16", "f16", "q8_0", "q4_k_m"]
KINDS: tuple[Kind, ...] = get_args(Kind)
QUANTIZATIONS: tuple[Quantization, ...] = get_args(Quantization)
BY_QUANTIZER: frozenset[str] = frozenset({"q4_k_m"})
"""Made by llama.cpp's quantizer; its converter writes the others itself."""
ROUNDING_FILE = "rounding.json"
_MODEL_FILES = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt")
_FLOATS: Mapping[str, str] = {"bf16": "bfloat16", "f16": "float16"}


def tools_for(kind: Kind, quantization: Quantization) -> list[Tool]:
    """The programs of llama.cpp that an export needs, without those of its proof."""
    if kind == "merged":
        return []
    needed: list[Tool] = ["converter"] if kind == "gguf" else ["lora_converter"]
    return [*needed, "quantizer"] if quantization in BY_QUANTIZER else needed


def merged(source: Source, folder: Path, gguf: Quantization | None = None) -> Path:
    """The merged model as a folder of transformers, with `rounding.json` beside its weights.

    The base is loaded as in the run, in the same dtype or 4 bits.

    Args:
        gguf: The type of the GGUF file that is made of it.  Then it is in float32, so that it is rounded only once.

    Raises:
        ModelError: Model and adapter cannot be loaded, or not be added.
    """

    def make(part: Path) -> None:
        rounding = _merge(source, part, gguf)
        write_json(
            part / ROUNDING_FILE,
            {
                "dtype": rounding.dtype,
                "lost": rounding.lost,
                "vanished": rounding.vanished,
                "num_entries": rounding.num_entries,
                "update_norm": rounding.update_square**0.5,
            },
        )

    return made(folder, make)


def rounding_of(folder: Path) -> dict[str, Any]:
    """What rounding does to the update in a merged model; see `Rounding`."""
    return read_json(folder / ROUNDING_FILE)


def _merge(source: Source, folder: Path, gguf: Quantization | None) -> Rounding:
    from datetime import datetime

    from halo_forge.config.sections import HardwareSection

    policy = Models().policy(
        source.subject,
        (),
        hardware=HardwareSection() if source.config is None else source.config.hardware,
        response_prefix=None,
        date=datetime.now(),  # nothing is rendered
        reasoning_marks=None,
    )
    if gguf is None:
        return save_merged(policy, folder)
    # What a quantized type does to an update cannot be separated from what it does to the weights: no figure for it.
    return save_merged(policy, folder, dtype="float32", rounds_to=_FLOATS.get(gguf, "float32"))


def gguf(llama_cpp: LlamaCpp, model: Path, file: Path, quantization: Quantization, logs: Path) -> Path:
    """A GGUF file of a model folder.

    Raises:
        ToolMissing: A program of llama.cpp is missing, or fails.
    """
    direct = "f32" if quantization in BY_QUANTIZER else quantization

    def convert(part: Path) -> None:
        command = [*llama_cpp.command("converter"), str(model), "--outtype", direct, "--outfile", str(part)]
        run_tool(command, "GGUF", part, logs / f"convert-{direct}.log")

    def quantize(part: Path) -> None:
        wide = made(logs / "wide.gguf", convert)
        command = [*llama_cpp.command("quantizer"), str(wide), str(part), quantization.upper()]
        run_tool(command, f"quantizing to {quantization}", part, logs / f"quantize-{quantization}.log")
        wide.unlink()

    return made(file, quantize if quantization in BY_QUANTIZER else convert)


def lora_gguf(
    llama_cpp: LlamaCpp, source: Source, base: Path, file: Path, quantization: Quantization, logs: Path
) -> Path:
    """The adapter alone as a GGUF file, which llama.cpp applies to a GGUF file of the base model.

    Raises:
        ToolMissing: The converter is missing, or fails.
    """

    def convert(part: Path) -> None:
        command = [*llama_cpp.command("lora_converter"), str(source.adapter), "--base", str(base)]
        command += ["--outtype", quantization, "--outfile", str(part)]
        run_tool(command, "LoRA as GGUF", part, logs / "convert-lora.log")

    return made(file, convert)


def base_folder(source: Source) -> Path:
    """The folder of the base model; that of a hub id is in the hub's cache, or is downloaded.

    Raises:
        ModelError: It is neither on this machine nor can it be downloaded.
    """
    folder = Path(source.base).expanduser()
    if folder.is_dir():
        return folder.absolute()
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        revision = source.subject.model.revision
        return Path(snapshot_download(source.base, revision=revision, allow_patterns=list(_MODEL_FILES)))
    except (OSError, ValueError, HfHubHTTPError, LocalEntryNotFoundError) as error:
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"the base model {source.base} cannot be had: {first_line}",
            "check the network, or name its folder: --set model.model_name_or_path=DIR",
        ) from error


def weight_bytes(folder: Path) -> int:
    """Size of the weight files of a model folder, in bytes."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def made(path: Path, make: Callable[[Path], None]) -> Path:
    """The file or folder `path`, made by `make(part)` unless it is there: it gets its name once it is complete."""
    if path.exists():
        return path
    part = path.with_name(f".making-{path.name}")
    if part.is_dir():
        shutil.rmtree(part)
    part.unlink(missing_ok=True)
    make(part)
    for item in [part, *part.rglob("*")] if part.is_dir() else [part]:
        descriptor = os.open(item, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    os.replace(part, path)
    sync_folder(path.parent)
    return path
