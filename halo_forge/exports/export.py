"""The verb: an adapter becomes something to serve, proves itself, is described, and gets its name by a rename.

Everything is made in `OUT.part`.  A killed command continues there with what is complete; only a finished export is
called OUT.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import halo_forge
from halo_forge.core.errors import ConfigError, RunDirError, StoppedByRule
from halo_forge.evaluations.subject import Subject
from halo_forge.exports.card import HOW_TO_PROVE, Made, base_licence, model_card
from halo_forge.exports.llama_cpp import LlamaCpp, find_llama_cpp
from halo_forge.exports.modelfile import modelfile
from halo_forge.exports.proof import Asked, Proof, merged_subject, prove, served_subject
from halo_forge.exports.samples import FILE, kept_samples, samples_card, write_samples
from halo_forge.exports.source import Source, refuse_another_base, source_of
from halo_forge.exports.weights import (
    BY_QUANTIZER,
    ROUNDING_FILE,
    Kind,
    Quantization,
    base_folder,
    gguf,
    lora_gguf,
    made,
    merged,
    rounding_of,
    tools_for,
    weight_bytes,
)
from halo_forge.policy import adapter_digest
from halo_forge.policy.rendering import Renderer, load_tokenizer
from halo_forge.runtime.effects import Observer
from halo_forge.runtime.library_warnings import LibraryWarnings
from halo_forge.store.files import read_json, sync_folder, write_json, write_text
from halo_forge.store.lock import RunLock

RECORD = "export.json"
_IDENTITY = "identity.json"
_SAME_ANSWERS = ("halo_forge_version", "base", "model", "version", "adapter_sha256", "proved_on", "asked_sha256")
"""Keys of the identity that the adapter's answers to the proof depend on."""
_CONTENT, _WORK, _PROOF = "content", "work", "proof"
_COPIES: Mapping[Kind, int] = {"merged": 1, "gguf": 5, "lora-gguf": 1}
"""Disk that is needed at the same time, in sizes of a base model in 2 bytes a weight, at most."""
_INSTEAD: Mapping[Kind, str] = {
    "merged": "serve the adapter itself (vLLM, PEFT)",
    "gguf": "choose a wider format (--quantize bf16 or f16)",
    "lora-gguf": "choose a wider format (--quantize bf16), or --to gguf",
}
_SCHEMA_VERSION = 1
_FELL_BACK = re.compile(r"(\d+) of (\d+) tensor\(s\) required fallback quantization")


@dataclass(frozen=True)
class Order:
    """What is wanted.

    Attributes:
        text: RUN, RUN@v2 or the folder of an adapter.
        out: The folder of the export; None is `exports/NAME` under the working directory.
        on: The prompts of the proof, "dev" or "test"; None asks nothing.
        force: Export what the proof says is worse.
        llama_cpp: Where llama.cpp is; see `find_llama_cpp`.
        config: For an adapter without a run: a configuration that says how it is asked.
        model: Keys of the `model` section that replace the subject's own.
        licence: Of the exported model, for its card.
    """

    text: str
    kind: Kind
    quantization: Quantization = "bf16"
    out: Path | None = None
    on: str | None = "dev"
    force: bool = False
    llama_cpp: str | None = None
    config: Path | None = None
    model: Mapping[str, Any] | None = None
    licence: str | None = None


@dataclass(frozen=True)
class Exported:
    """A finished export.

    Attributes:
        folder: Where it is.
        record: The content of export.json.
        is_new: False if it was complete already.
    """

    folder: Path
    record: Mapping[str, Any]
    is_new: bool


def export(order: Order, observer: Observer) -> Exported:
    """Make an export, or find it complete.

    Raises:
        ConfigError: The order is wrong, or no such combination exists.
        ModelError: The adapter or its base is missing, or they do not belong together.
        RunDirError: The run is not finished, OUT is something else, or the disk is full.
        StoppedByRule: The export is worse than the adapter.
        ToolMissing: A program of llama.cpp or a compiler is missing, or fails.
    """
    _check_combination(order)
    source = source_of(order.text, order.config, order.model)
    refuse_another_base(source)
    llama_cpp = find_llama_cpp(order.llama_cpp)
    for tool in tools_for(order.kind, order.quantization):
        llama_cpp.command(tool)
    suffix = order.kind if order.kind == "merged" else f"{order.kind}-{order.quantization}"
    out = Path("exports", f"{source.stem}-{suffix}") if order.out is None else order.out
    why_not = _why_not_proved(order, source, llama_cpp)
    identity = _identity(order, source)
    if out.exists() or out.is_symlink():
        there = _complete(out, identity, why_not)
        _refuse_worse(order, there.record["proof"], out / _PROOF)
        return there
    with _opened(out, identity) as part:
        _check_disk(order, source, part)
        if not (part / RECORD).is_file():
            measured_in = _take_measurements(out, identity, part / _PROOF) if why_not is None else None
            warned: list[str] = []
            with (libraries := LibraryWarnings()).collected():
                record = _Making(order, source, llama_cpp, part, observer).make(identity, why_not)
            libraries.send_to(lambda event, **fields: warned.append(f"{fields['module']}: {fields['message']}"))
            found = {"adapter_measured_in": measured_in, "library_warnings": warned}
            write_json(part / RECORD, {**record, **found})
        return _sealed(part, out)


def export_samples(text: str, out: Path | None, licence: str | None) -> Exported:
    """Write the samples that a version was trained on as a data set.

    Raises:
        ModelError: No run is known, or the version was not trained.
        RunDirError: A file of the run cannot be read, OUT is something else, or the disk is full.
    """
    source = source_of(text)
    kept = kept_samples(source)
    folder = Path("exports", f"{source.stem}-samples") if out is None else out
    identity = {"kind": "samples", "adapter_sha256": adapter_digest(source.adapter), "licence": licence}
    if folder.exists() or folder.is_symlink():
        return _complete(folder, identity, None)
    with _opened(folder, identity) as part:
        content = part / _CONTENT
        write_samples(kept, content)
        write_text(content / "README.md", samples_card(source, kept, licence))
        record = {
            **identity,
            "num_rows": len(kept.rows),
            "num_trained": kept.num_trained,
            "files": {FILE: _described(content / FILE)},
        }
        write_json(part / RECORD, record)
        return _sealed(part, folder)


@dataclass(frozen=True)
class _Making:
    """One export on its way.

    Attributes:
        part: `OUT.part`: what is made, what it is made from, and the measurements.
    """

    order: Order
    source: Source
    llama_cpp: LlamaCpp
    part: Path
    observer: Observer

    @property
    def content(self) -> Path:
        """What becomes OUT."""
        return self.part / _CONTENT

    @property
    def work(self) -> Path:
        """What is removed at the end."""
        return self.part / _WORK

    def make(self, identity: Mapping[str, Any], why_not: str | None) -> dict[str, Any]:
        """Make, prove and describe it; returns its record."""
        self.work.mkdir(exist_ok=True)
        files, asked, asked_by = self._weights()
        proof = Proof("not_proved", why_not) if why_not is not None else self._proved(asked, asked_by)
        _refuse_worse(self.order, proof.to_row(), self.part / _PROOF)
        folder = next((each for each in (self.content, self.work / "merged") if (each / ROUNDING_FILE).is_file()), None)
        described = Made(
            kind=self.order.kind,
            quantization=self.order.quantization,
            files={path.name: path.stat().st_size for path in files},
            rounding=None if folder is None else rounding_of(folder),
            notes=_notes(self.work),
            modelfile=self._modelfile(files),
        )
        licence = base_licence(Path(self.source.base).expanduser())
        write_text(self.content / "README.md", model_card(self.source, described, proof, self.order.licence, licence))
        return {
            **identity,
            "files": {path.name: _described(path) for path in files},
            "rounding": described.rounding,
            "proof": proof.to_row(),
        }

    def _weights(self) -> tuple[list[Path], Asked, str]:
        """The files, what is asked for the proof, and by what."""
        source, kind, quantization, subject = self.source, self.order.kind, self.order.quantization, self.source.subject
        if kind == "merged":
            folder = merged(source, self.content)
            return sorted(folder.glob("*.safetensors")), merged_subject(folder, subject), "transformers"
        self.content.mkdir(exist_ok=True)
        if kind == "gguf":
            file = self.content / f"{source.stem}-{quantization}.gguf"
            if not file.exists():
                gguf(self.llama_cpp, merged(source, self.work / "merged", quantization), file, quantization, self.work)
            return [file], served_subject(self.llama_cpp, file, None, subject, self._num_tokens), "llama.cpp's server"
        base = base_folder(source)
        file = self.content / f"{source.stem}-lora-{quantization}.gguf"
        lora_gguf(self.llama_cpp, source, base, file, quantization, self.work)
        model = self.work / "base.gguf"

        @contextlib.contextmanager
        def asked(folder: Path) -> Iterator[Subject]:
            gguf(self.llama_cpp, base, model, "bf16", self.work)
            with served_subject(self.llama_cpp, model, file, subject, self._num_tokens)(folder) as found:
                yield found

        return [file], asked, "llama.cpp's server (the base model in bf16, with this adapter)"

    def _proved(self, asked: Asked, asked_by: str) -> Proof:
        config, settings = self.source.config, self.source.settings
        assert config is not None and settings is not None and self.order.on is not None  # `_why_not_proved`
        return prove(
            self.source.subject,
            asked,
            asked_by,
            self.order.on,
            self.source.prompts(self.order.on),
            settings,
            config.decisions,
            self.part / _PROOF,
            self.observer,
        )

    def _num_tokens(self) -> int:
        """Of the longest prompt of the proof and its completion."""
        settings, renderer = self.source.settings, self._renderer()
        assert settings is not None and renderer is not None and self.order.on is not None
        longest = max(len(renderer.ids(prompt)) for prompt in self.source.prompts(self.order.on))
        return longest + settings.engine.max_new_tokens

    def _renderer(self) -> Renderer | None:
        settings = self.source.settings
        if settings is None:
            return None
        return Renderer(
            load_tokenizer(self.source.subject.model),
            "" if settings.response_prefix is None else settings.response_prefix,
            date=settings.date,
            reasoning_marks=settings.verifier.own_marks,
        )

    def _modelfile(self, files: Sequence[Path]) -> bool:
        """Write it; False where nothing says how the model is asked."""
        settings, renderer, config = self.source.settings, self._renderer(), self.source.config
        if settings is None or renderer is None or config is None:
            return False
        name = files[0].name
        model, adapter = ("base.gguf", name) if self.order.kind == "lora-gguf" else (name, None)
        text = modelfile(
            renderer,
            settings,
            model="" if self.order.kind == "merged" else model,
            adapter=adapter,
            system_prompt=config.prompts.system_prompt,
        )
        write_text(self.content / "Modelfile", text)
        return True


def _check_combination(order: Order) -> None:
    if order.kind == "merged" and order.quantization != "bf16":
        raise ConfigError(
            f"--quantize {order.quantization} with --to merged: merged weights are in bf16", "use --to gguf"
        )
    if order.kind == "lora-gguf" and order.quantization in BY_QUANTIZER:
        raise ConfigError(
            f"--quantize {order.quantization} with --to lora-gguf: llama.cpp writes adapters as bf16, f16 or q8_0",
            "choose one of these; the base model's GGUF may be quantized as you like",
        )


def _refuse_worse(order: Order, proof: Mapping[str, Any], where: Path) -> None:
    if proof["state"] == "fell" and not order.force:
        raise StoppedByRule(
            f"{order.text} as {order.kind} is worse than the adapter: {proof['reason']}; what both wrote is in {where}",
            f"{_INSTEAD[order.kind]}, or run the same command with --force to export it as it is",
        )


def _why_not_proved(order: Order, source: Source, llama_cpp: LlamaCpp) -> str | None:
    """Why nothing can be asked; None where the proof can be made."""
    if order.on is None:
        how = HOW_TO_PROVE if order.kind != "merged" else "remove this folder, and run the same command again"
        return f"it was exported with --no-proof. To prove it, {how}, without --no-proof."
    if source.config is None:
        return (
            "an adapter without its run does not say how it is asked. To prove it, remove this folder and run the same"
            " command with --config CONFIG, a configuration with its prompts, verifier and sampling settings."
        )
    if order.kind != "merged" and llama_cpp.server is None:
        looked = ", ".join(llama_cpp.places)
        return f"there is no llama.cpp to ask it with (looked in {looked}). To prove it, {HOW_TO_PROVE}."
    return None


def _identity(order: Order, source: Source) -> dict[str, Any]:
    """What an export depends on: a folder with the same identity holds the same export."""
    settings = source.settings
    asked = None if settings is None else json.dumps([settings.identity(), str(settings.date)], sort_keys=True)
    return {
        "schema_version": _SCHEMA_VERSION,
        "halo_forge_version": halo_forge.__version__,
        "kind": order.kind,
        "quantization": order.quantization,
        "base": source.base,
        "model": source.subject.model.model_dump(mode="json", exclude={"adapter"}),
        "version": source.subject.version,
        "adapter_sha256": adapter_digest(source.adapter),
        "proved_on": order.on,
        "asked_sha256": None if asked is None else hashlib.sha256(asked.encode()).hexdigest(),
        "licence": order.licence,
    }


def _take_measurements(out: Path, identity: Mapping[str, Any], proof: Path) -> str | None:
    """Copy what the adapter answered for another export of it beside this one: the same seeds, so the same answers.

    Returns:
        The name of that export; None if there is none.
    """
    same = {key: identity[key] for key in _SAME_ANSWERS}
    for record in sorted(out.parent.glob(f"*/{RECORD}")):
        given = record.parent / _PROOF
        if not (given / "adapter").is_dir() or {key: read_json(record).get(key) for key in same} != same:
            continue
        proof.mkdir(exist_ok=True)
        for name in ("adapter", "adapter_again"):
            if (given / name).is_dir():
                made(proof / name, partial(shutil.copytree, given / name))
        return record.parent.name
    return None


def _complete(out: Path, identity: Mapping[str, Any], why_not: str | None) -> Exported:
    """The export that is there already.

    Raises:
        RunDirError: It is another one, something else, or it could be proved now.
    """
    remove = f"choose another folder with -o, or remove {out}"
    if not (out / RECORD).is_file():
        raise RunDirError(f"{out}: there already, and not an export of halo-forge", remove)
    record = read_json(out / RECORD)
    different = [key for key, value in identity.items() if record.get(key) != value]
    if different:
        raise RunDirError(f"{out}: there already, and another export ({', '.join(different)} differ)", remove)
    if why_not is None and record.get("proof", {}).get("state") == "not_proved":
        raise RunDirError(f"{out}: there already, and not proved, which it could be now", remove)
    leftover = out.with_name(f"{out.name}.part")
    if (leftover / RECORD).is_file() and not (leftover / _CONTENT).exists():  # killed right after the rename
        shutil.rmtree(leftover)
    return Exported(out, record, is_new=False)


@contextlib.contextmanager
def _opened(out: Path, identity: Mapping[str, Any]) -> Iterator[Path]:
    """`OUT.part`, locked: that of a killed command with the same identity, or an empty one.

    Raises:
        RunDirError: It is in use or something else, or the disk is full.
    """
    part = out.with_name(f"{out.name}.part")
    with _explained(part):
        part.parent.mkdir(parents=True, exist_ok=True)
        names = {each.name for each in part.iterdir()} if part.exists() else set()
        if part.is_symlink() or (_IDENTITY not in names and names - {f".{_IDENTITY}.tmp", "lock"}):
            raise RunDirError(
                f"{part}: not empty, and not begun by halo-forge",
                f"remove it, or choose another folder than {out} with -o",
            )
        part.mkdir(exist_ok=True)
        lock = RunLock(part, "export")
        try:
            if not (part / _IDENTITY).is_file() or read_json(part / _IDENTITY) != identity:
                for item in part.iterdir():
                    if item.name not in ("lock", _IDENTITY):  # by which a command that is killed here knows its folder
                        shutil.rmtree(item) if item.is_dir() else item.unlink()
                write_json(part / _IDENTITY, identity)
            yield part
        finally:
            lock.release()


def _sealed(part: Path, out: Path) -> Exported:
    """Give the export whose record is written its name; what it was made from is removed."""
    content, record = part / _CONTENT, read_json(part / RECORD)
    # Only now: the model's digest, by which a continued proof knows it, is over every JSON file beside it.
    write_json(content / RECORD, record)
    for leftover in (*part.glob(f"{_PROOF}/*/lock"), *part.glob(f"{_PROOF}/*.port")):
        leftover.unlink()
    if (part / _PROOF).is_dir():
        os.replace(part / _PROOF, content / _PROOF)
    sync_folder(content)
    os.replace(content, out)
    sync_folder(out.parent)
    shutil.rmtree(part)
    return Exported(out, record, is_new=True)


def _check_disk(order: Order, source: Source, part: Path) -> None:
    """Find a disk that is too small before hours of work; a base that is not on this machine yet has no known size.

    Raises:
        RunDirError: It is.
    """
    needed = weight_bytes(Path(source.base).expanduser()) * _COPIES[order.kind]
    free = shutil.disk_usage(part).free
    if free < needed:
        raise RunDirError(
            f"{part}: the export needs about {needed / 1e9:.1f} GB of disk, {free / 1e9:.1f} GB are free",
            "free some space, or choose a folder on another file system with -o",
        )


@contextlib.contextmanager
def _explained(part: Path) -> Iterator[None]:
    """Turn a full disk, or one that cannot be written, into an error that says what to do."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise RunDirError(
            f"{error.filename or part}: {error.strerror or error}",
            "free some space, then run the same command again: what is complete is kept"
            if full
            else "make the folder writable, or choose another one with -o",
        ) from error


def _notes(work: Path) -> list[str]:
    """What llama.cpp's quantizer said that a reader of the card should know."""
    found = []
    for log in sorted(work.glob("quantize-*.log")):
        if match := _FELL_BACK.search(log.read_text(encoding="utf-8", errors="replace")):
            found.append(
                f"{match[1]} of {match[2]} tensors have rows that this type cannot divide into its blocks; llama.cpp"
                " wrote them in a wider type, so the file is larger than usual for it."
            )
    return found


def _described(path: Path) -> dict[str, Any]:
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(1 << 22):
            digest.update(block)
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}
