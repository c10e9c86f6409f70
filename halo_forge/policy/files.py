"""Model and adapter folders: checks and identity, without torch."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from halo_forge.core.errors import HaloForgeError, ModelError
from halo_forge.policy.folder_checks import check_model_folder, check_safetensors, read_object

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
OPTIMIZER_FILE = "optimizer.safetensors"
"""The optimizer's state after a cycle, beside the adapter's folder, where it is carried over."""


_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_WEIGHTS = (".safetensors", ".bin")
_TOKENIZERS = {"tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "vocab.txt", "spiece.model"}
_CHAT_TEMPLATES = {"chat_template.jinja", "chat_template.json", "additional_chat_templates"}


class ModelSettings(Protocol):
    """The `model` section of the configuration, as far as the policy reads it."""

    @property
    def model_name_or_path(self) -> str: ...
    @property
    def revision(self) -> str | None: ...
    @property
    def adapter(self) -> str | None: ...
    @property
    def dtype(self) -> str: ...
    @property
    def quantization(self) -> str: ...
    @property
    def attn_implementation(self) -> str: ...
    @property
    def trust_remote_code(self) -> bool: ...


def check_local(settings: ModelSettings) -> None:
    """Detect a missing or incomplete folder or a foreign adapter before torch is imported; the loader checks Hub ids.

    Raises:
        ModelError: The problem, and how to fix it.
    """
    try:
        _check_local(settings)
    except OSError as error:
        raise ModelError(f"model: {error.filename}: {error.strerror}", "make it readable for this user") from error


def _check_local(settings: ModelSettings) -> None:
    name, path = settings.model_name_or_path, Path(settings.model_name_or_path).expanduser()
    looks_local = name.startswith((".", "/", "~")) or name.count("/") != 1 or path.parts[0] == "models"
    if path.is_dir():
        check_model_folder(path)
    elif os.path.lexists(path):
        what = "no folder can be reached by this link" if path.is_symlink() else "is a file, allowed: a model folder"
        raise ModelError(f"model.model_name_or_path: {name}: {what}", "name a folder in the format of transformers")
    elif looks_local and name.count("/") > 0:
        hint = (
            "run `halo-forge init --demo`, in a checkout `make model`"
            if path.parts[0] == "models"
            else "name an existing folder or a Hub id (owner/name)"
        )
        raise ModelError(f"model.model_name_or_path: {name}: no such folder", hint)
    elif not _HUB_ID.fullmatch(name):
        raise ModelError(
            f"model.model_name_or_path: {name}: neither a folder nor a Hub id", "name a folder, or NAME or OWNER/NAME"
        )
    if settings.adapter is not None:
        _check_adapter(Path(settings.adapter).expanduser(), name)
    if path.is_dir():
        _check_parts(path, settings.trust_remote_code)


def _check_parts(folder: Path, has_code: bool) -> None:
    """Whether weights, a tokenizer and a chat template are there; code of the model may bring the last two."""
    names = {item.name for item in folder.iterdir()}
    if not any(name.endswith(_WEIGHTS) for name in names):
        raise ModelError(
            f"model.model_name_or_path: {folder}: no weights (*{' or *'.join(_WEIGHTS)}) in this folder",
            "name a folder in the format of transformers, or download the model again",
        )
    if has_code:
        return
    if not names & _TOKENIZERS:
        raise ModelError(
            f"model.model_name_or_path: {folder}: no tokenizer ({', '.join(sorted(_TOKENIZERS))}) in this folder",
            "copy the model's tokenizer files there",
        )
    settings = folder / "tokenizer_config.json"
    written = read_object(settings, "model.model_name_or_path") if settings.is_file() else {}
    if not names & _CHAT_TEMPLATES and written.get("chat_template") is None:
        raise no_chat_template(str(folder))


def no_chat_template(name: str) -> ModelError:
    """The error about a model that cannot be prompted."""
    return ModelError(
        f"model.model_name_or_path: {name}: its tokenizer has no chat template",
        "use an instruction-tuned model, or add a chat_template.jinja to a local copy of this one",
    )


def _check_adapter(folder: Path, base_name: str) -> None:
    missing = [name for name in ADAPTER_FILES if not (folder / name).is_file()]
    if missing:
        found = f"{' and '.join(missing)} missing" if folder.is_dir() else "there is no such folder"
        raise ModelError(
            f"model.adapter: {folder}: {found}",
            "name a PEFT adapter folder, such as RUN/best or RUN/cycles/NNN/adapter",
        )
    made_for = read_object(folder / ADAPTER_FILES[0], "model.adapter").get("base_model_name_or_path")
    check_safetensors(folder / ADAPTER_FILES[1], "model.adapter")
    # The same model may have a Hub id and a local folder, so only the last part of the name must match.
    if made_for is not None and Path(str(made_for)).name.lower() != Path(base_name).name.lower():
        raise ModelError(
            f"model.adapter: {folder} was trained on {made_for!r}, but model.model_name_or_path is {base_name!r}",
            "use the adapter's own base model; if both are the same model under two names,"
            " correct base_model_name_or_path in the adapter's adapter_config.json",
        )


def identity_of(settings: ModelSettings, base: Any) -> dict[str, str]:
    """`stored_identity`, and of a Hub model the commit that was loaded."""
    commit = getattr(base.config, "_commit_hash", None)
    return stored_identity(settings) | ({} if commit is None else {"commit": str(commit)})


def stored_identity(settings: ModelSettings) -> dict[str, str]:
    """Name and content: a local folder's settings, tokenizer, and the size and the first and last MiB of its weight
    files, and the digest of its adapter.

    Reading gigabytes at every start would cost more than it finds: trained weights differ at their ends too.
    """
    found = {"model_name_or_path": settings.model_name_or_path}
    if settings.revision is not None:
        found["revision"] = settings.revision
    folder = Path(settings.model_name_or_path).expanduser()
    if folder.is_dir():
        found["sha256"] = _folder_digest(folder)
    if settings.quantization != "none":
        found["quantization"] = settings.quantization
    if settings.adapter is not None:
        found["adapter_sha256"] = adapter_digest(Path(settings.adapter).expanduser())
    return found


def _folder_digest(folder: Path) -> str:
    digest, end_bytes = hashlib.sha256(), 1 << 20
    for path in sorted([*folder.glob("*.json"), *folder.glob("*.jinja")]):
        digest.update(path.name.encode() + path.read_bytes())
    for path in sorted(folder.glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with path.open("rb") as handle:
            digest.update(handle.read(end_bytes))
            handle.seek(max(0, size - end_bytes))
            digest.update(handle.read(end_bytes))
    return digest.hexdigest()


def adapter_digest(folder: Path) -> str:
    """SHA-256 over the adapter's two files."""
    digest = hashlib.sha256()
    for name in ADAPTER_FILES:
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of one file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


@contextlib.contextmanager
def disk_full_is_os_error() -> Iterator[None]:
    """Raise OSError for a full disk, which safetensors reports as its own error, with the number in the text."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        if f"os error {errno.ENOSPC}" not in str(error):
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error


@contextlib.contextmanager
def explained(name: str) -> Iterator[None]:
    """Turn errors of loaders about unusable files into a ModelError with the name and a fix."""
    try:
        yield
    except HaloForgeError:
        raise
    except ImportError as error:
        first_line = str(error).strip().splitlines()[0]
        raise ModelError(
            f"{name}: a package is missing: {first_line}", "install it, or change model.attn_implementation"
        ) from error
    except Exception as error:  # a loader that meets a value it does not expect may raise anything
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        hint = (
            "it brings code of its own: read that, and set model.trust_remote_code to true if you trust it"
            if "trust_remote_code" in str(error)
            else "name a readable local folder or a reachable Hub id (without network: HF_HUB_OFFLINE=1 and a cached"
            " model)"
        )
        raise ModelError(f"{name}: cannot be loaded: {first_line}", hint) from error
