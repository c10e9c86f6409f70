"""What a model's files tell before anything is loaded: without torch, and without reading the weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from halo_forge.core.errors import ModelError

KEY = "model.model_name_or_path"
INDEX = "model.safetensors.index.json"
OTHER_HEADS = ("ForMaskedLM", "Classification", "ForQuestionAnswering", "RewardModel", "ForMultipleChoice")
"""Ends of the names of architectures that judge text or fill gaps in it; loaded as a language model they run, with a
head that was never trained."""
_INCOMPLETE = "download it again, or copy it whole"


def check_model_folder(folder: Path) -> None:
    """Detect what the loader would report after minutes, not at all, or in words that do not help.

    Raises:
        ModelError: The problem, and how to fix it.
    """
    if not (folder / "config.json").is_file():
        raise ModelError(f"{KEY}: {folder}: no config.json in this folder", _what_it_is(folder))
    for path in sorted([*folder.glob("*.json"), *folder.glob("*.jinja")]):
        if not path.is_file():
            what = "a link that leads nowhere" if path.is_symlink() else "a folder"
            raise ModelError(f"{KEY}: {path} is {what}, allowed: a file", _INCOMPLETE)
    config = read_object(folder / "config.json", KEY)
    _check_architecture(folder, config)
    index = folder / INDEX
    files = sorted(_indexed(index)) if index.is_file() else sorted(folder.glob("*.safetensors"))
    missing = [path.name for path in files if not path.is_file()]
    if missing:
        raise ModelError(
            f"{KEY}: {index} names {len(files)} weight files, and {len(missing)} of them are missing: {_some(missing)}",
            _INCOMPLETE,
        )
    for path in files:
        check_safetensors(path, KEY)


def _what_it_is(folder: Path) -> str:
    if (folder / "adapter_config.json").is_file():
        return "this is an adapter: name its base model here, and the adapter's folder as model.adapter"
    if next(folder.glob("*.gguf"), None) is not None:
        return "GGUF files cannot be trained: name the model that they were converted from (a folder with safetensors)"
    return "name a model folder"


def _check_architecture(folder: Path, config: dict[str, Any]) -> None:
    # Without it the loader guesses by the folder's name; code that the model brings needs none.
    if not isinstance(config.get("model_type"), str) and "auto_map" not in config:
        raise ModelError(
            f"{KEY}: {folder}/config.json: model_type is {config.get('model_type')!r}",
            "name a model folder in the format of transformers, whose config.json names its model_type",
        )
    architectures = config.get("architectures")
    for name in architectures if isinstance(architectures, list) else ():
        if str(name).endswith(OTHER_HEADS):
            raise ModelError(
                f"{KEY}: {folder} is a {name}, which writes no text", "name a causal language model (...ForCausalLM)"
            )
    if config.get("is_encoder_decoder") is True:
        raise ModelError(
            f"{KEY}: {folder} is an encoder-decoder model ({config.get('model_type')})",
            "name a causal language model (...ForCausalLM)",
        )


def _indexed(index: Path) -> set[Path]:
    weight_map = read_object(index, KEY).get("weight_map")
    names = set(weight_map.values()) if isinstance(weight_map, dict) else set()
    if not names or not all(isinstance(name, str) for name in names):
        raise ModelError(f"{KEY}: {index}: weight_map names no files", _INCOMPLETE)
    return {index.parent / name for name in names}


def check_safetensors(path: Path, key: str) -> None:
    """Whether a file is as long as its header says.

    The format: 8 bytes with the header's length (little endian), a JSON object, the tensors' bytes.

    Raises:
        ModelError: It is cut off, or another kind of file.
    """
    size = path.stat().st_size
    with path.open("rb") as handle:
        start = handle.read(8)
        if start.startswith(b"version "):
            raise ModelError(
                f"{key}: {path} is a Git LFS pointer, not the file itself", "run `git lfs pull` in the model's folder"
            )
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > size - 8:
            raise ModelError(f"{key}: {path} is no safetensors file, or cut off ({size} bytes)", _INCOMPLETE)
        try:
            header = json.loads(handle.read(length))
            ends = [each["data_offsets"][1] for name, each in header.items() if name != "__metadata__"]
            end = 8 + length + max(ends, default=0)
        except (ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
            raise ModelError(f"{key}: {path}: its header is broken ({error})", _INCOMPLETE) from error
    if end != size:
        raise ModelError(f"{key}: {path} has {size} bytes, {end} are expected", _INCOMPLETE)


def read_object(path: Path, key: str) -> dict[str, Any]:
    """A JSON object; anything else would raise an AttributeError in a loader.

    Raises:
        ModelError: It holds something else.
    """
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{key}: {path} is not JSON: {error}", "name an intact folder") from error
    if not isinstance(found, dict):
        raise ModelError(f"{key}: {path} holds no JSON object", "name an intact folder")
    return found


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
