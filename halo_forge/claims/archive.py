"""The file of a claim: a zip archive of known names, with a manifest that has the SHA-256 of each.

Written so that the same content gives the same bytes: fixed order, times, attributes and level of compression.  Read as
hostile input: a member is extracted only if it has one of the names that halo-forge writes, and not beyond limits.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import stat
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from halo_forge.core.errors import ClaimError
from halo_forge.policy import ADAPTER_FILES
from halo_forge.store.folder import ORDER

SCHEMA = 1
MANIFEST = "manifest.json"
MAX_MEMBERS = 50_000
MAX_BYTES = 2 << 30
"""Of all members together, unpacked."""
_MAX_MANIFEST_BYTES = 32 << 20
_MAX_PROMPT_BYTES = 64 << 20
_BLOCK = 1 << 20
_TIME = (1980, 1, 1, 0, 0, 0)
_CYCLE_FILES = "|".join(sorted({*ORDER, "advice", "training_log"}))
_ADAPTER_FILES = "|".join(map(re.escape, ADAPTER_FILES))
FOLDER = r"[A-Za-z0-9][A-Za-z0-9._=,+@-]{0,79}"
_NAME = re.compile(
    r"(run|config|history|result)\.json"
    r"|prompts/(train|dev|test)\.jsonl"
    r"|forked_from/\d{3,4}\.json"
    rf"|cycles/\d{{3,4}}/({_CYCLE_FILES})\.jsonl?"
    rf"|cycles/\d{{3,4}}/adapter/({_ADAPTER_FILES})"
    r"|(test|confirmation)/v\d{3,4}/(completions|verdicts)\.jsonl"
    r"|test/v\d{3,4}/measurement\.json"
    r"|evaluation\.json"
    rf"|sets/{FOLDER}/prompts\.jsonl"
    rf"|sets/{FOLDER}/{FOLDER}/(greedy|sampled)/((completions|verdicts)\.jsonl|toolchain\.json)",
    re.ASCII,
)
_DAMAGED = "get the file again: it was cut, or is damaged"
_FOREIGN = "a claim is written by `halo-forge claim RUN`; do not recheck a file that something else has written"


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Member(_Model):
    """One file of the archive."""

    sha256: str
    bytes: int


class PromptSource(_Model):
    """A prompt set of the run.

    Attributes:
        source: What the configuration names, without the folder it lies in.
        sha256: The digest of the prompts, as in run.json.
        packed: Whether the prompts are in the claim; else only their ids are.
    """

    source: str
    sha256: str
    num_prompts: int
    packed: bool


class Manifest(_Model):
    """What a claim says about itself.

    Attributes:
        halo_forge_version: Of the halo-forge that wrote the claim; that of the run is in run.json.
        members: Name -> size and digest of every other file of the archive.
        prompts: "train", "dev", "test", or the folder of a task set -> where its prompts come from.
        left_out: What a run directory holds and the claim does not, one line each.
        changed: Dotted keys of the configuration whose value was removed or shortened to keep it private.
    """

    format: Literal["halo-forge claim"]
    claim_schema: int
    kind: Literal["run", "evaluation"]
    halo_forge_version: str
    prompts: Mapping[str, PromptSource]
    left_out: list[str]
    changed: list[str]
    members: Mapping[str, Member]


def write_archive(path: Path, members: Mapping[str, bytes | Path], head: Mapping[str, Any]) -> None:
    """Write a claim, complete or not at all.

    Args:
        members: Name -> content, or the file that holds it.
        head: The manifest without `members`.

    Raises:
        ClaimError: It cannot be written, or another file of that name is there.
    """
    if not path.name:
        raise ClaimError(f"{path}: is a folder", "name a file with -o")
    sizes = {name: _described(content) for name, content in sorted(members.items())}
    manifest = Manifest(**head, members=sizes)
    text = json.dumps(manifest.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"
    building = path.with_name(f".{path.name}.tmp")
    try:
        with zipfile.ZipFile(building, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            _add(archive, MANIFEST, text.encode())
            for name, content in sorted(members.items()):
                _add(archive, name, content)
        if path.exists():
            if file_sha256(path) == file_sha256(building):
                return
            raise ClaimError(f"{path}: is there, with other content", "name another file with -o, or move this one")
        os.replace(building, path)
    except OSError as error:
        raise ClaimError(
            f"{path}: cannot be written: {error.strerror or error}", "free some space, or name another file with -o"
        ) from error
    finally:
        building.unlink(missing_ok=True)


def _described(content: bytes | Path) -> Member:
    if isinstance(content, bytes):
        return Member(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))
    return Member(sha256=file_sha256(content), bytes=content.stat().st_size)


def _add(archive: zipfile.ZipFile, name: str, content: bytes | Path) -> None:
    info = zipfile.ZipInfo(name, _TIME)
    info.compress_type = zipfile.ZIP_DEFLATED
    info.create_system = 3  # Unix, whatever wrote it
    info.external_attr = (stat.S_IFREG | 0o644) << 16
    info.file_size = len(content) if isinstance(content, bytes) else content.stat().st_size
    with archive.open(info, "w") as target, contextlib.ExitStack() as stack:
        if isinstance(content, bytes):
            target.write(content)
        else:
            source = stack.enter_context(content.open("rb"))
            while block := source.read(_BLOCK):
                target.write(block)


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, read in blocks."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def extract(path: Path, folder: Path) -> tuple[Manifest, list[str]]:
    """Check the archive and put its members into a private folder.

    Returns:
        The manifest, and the names of members whose content is not what the manifest says.

    Raises:
        ClaimError: It is not a claim, is of another schema, is cut or damaged, or goes beyond a limit.
    """
    with _opened(path) as archive:
        infos = _checked_names(path, archive)
        manifest = _manifest(path, archive, infos)
        _compare_names(path, infos, manifest)
        left, changed = MAX_BYTES, []
        for name, said in manifest.members.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            digest, size = _extract_one(path, archive, infos[name], target, left)
            left -= size
            if (digest, size) != (said.sha256, said.bytes):
                changed.append(name)
    return manifest, changed


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except FileNotFoundError as error:
        raise ClaimError(f"{path}: no such file", "name the file that `halo-forge claim RUN` wrote") from error
    except IsADirectoryError as error:
        raise ClaimError(f"{path}: is a folder", "name a file; pack a run with `halo-forge claim RUN` first") from error
    except zipfile.BadZipFile as error:
        raise ClaimError(f"{path}: not a claim, or cut: {error}", _DAMAGED) from error
    except (zlib.error, EOFError, NotImplementedError, RuntimeError, UnicodeDecodeError) as error:
        # RuntimeError: a member that is encrypted; NotImplementedError: an unknown compression.
        raise ClaimError(f"{path}: damaged: {error}", _DAMAGED) from error
    except OSError as error:
        raise ClaimError(f"{path}: {error.strerror or error}", "check the file and the space on the disk") from error


def _checked_names(path: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    found: dict[str, zipfile.ZipInfo] = {}
    entries = archive.infolist()
    if len(entries) > MAX_MEMBERS:
        raise ClaimError(f"{path}: holds {len(entries)} files, allowed: at most {MAX_MEMBERS}", _FOREIGN)
    for info in entries:
        name = info.filename
        if name in found:
            raise ClaimError(f"{path}: holds {name[:200]!r} twice", _FOREIGN)
        if name != MANIFEST and _NAME.fullmatch(name) is None:
            raise ClaimError(f"{path}: holds {name[:200]!r}, which is no file of a claim", _FOREIGN)
        if info.compress_type not in (zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED):
            raise ClaimError(f"{path}: holds {name[:200]!r}, compressed as no claim is", _FOREIGN)
        found[name] = info
    total = sum(info.file_size for info in entries)
    if total > MAX_BYTES:
        raise ClaimError(f"{path}: unpacks to {total:,} bytes, allowed: at most {MAX_BYTES:,}", _FOREIGN)
    return found


def _manifest(path: Path, archive: zipfile.ZipFile, infos: Mapping[str, zipfile.ZipInfo]) -> Manifest:
    if MANIFEST not in infos:
        raise ClaimError(f"{path}: has no {MANIFEST}: not a claim", "name the file that `halo-forge claim RUN` wrote")
    with archive.open(infos[MANIFEST]) as source:
        text = source.read(_MAX_MANIFEST_BYTES + 1)
    if len(text) > _MAX_MANIFEST_BYTES:
        raise ClaimError(f"{path}: {MANIFEST} is longer than {_MAX_MANIFEST_BYTES:,} bytes", _FOREIGN)
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ClaimError(f"{path}: {MANIFEST}: not JSON: {error}", _DAMAGED) from error
    schema = data.get("claim_schema") if isinstance(data, dict) else None
    if schema != SCHEMA or isinstance(schema, bool):
        made_by = str(data.get("halo_forge_version"))[:40] if isinstance(data, dict) else "unknown"
        raise ClaimError(
            f"{path}: claim_schema is {str(schema)[:40]}, this halo-forge reads {SCHEMA}",
            f"recheck it with the halo-forge that wrote it (version {made_by})",
        )
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))[:200]
        found = str(first["input"])[:80]
        raise ClaimError(f"{path}: {MANIFEST}: {where}: {first['msg']}, found {found!r}", _DAMAGED) from error


def _compare_names(path: Path, infos: Mapping[str, zipfile.ZipInfo], manifest: Manifest) -> None:
    there, said = infos.keys() - {MANIFEST}, manifest.members.keys()
    for names, what in ((said - there, "lacks"), (there - said, "also holds")):
        if names:
            first = min(names)[:200]
            raise ClaimError(f"{path}: {what} {first!r}, unlike its manifest ({len(names)} such files)", _DAMAGED)
    needed = {"run.json", "config.json", "history.json"} if manifest.kind == "run" else {"evaluation.json"}
    needed |= {"result.json", *(prompts_file(manifest.kind, name) for name in manifest.prompts)}
    if missing := sorted(needed - there):
        raise ClaimError(f"{path}: lacks {missing[0][:200]!r}, which every claim of this kind has", _FOREIGN)
    if manifest.kind == "run" and set(manifest.prompts) != {"train", "dev", "test"}:
        raise ClaimError(f"{path}: {MANIFEST}: prompts are of {sorted(manifest.prompts)[:5]}", _FOREIGN)


def prompts_file(kind: str, name: str) -> str:
    """The member that holds the prompts of a set, or their ids."""
    return f"prompts/{name}.jsonl" if kind == "run" else f"sets/{name}/prompts.jsonl"


def _extract_one(
    path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path, left: int
) -> tuple[str, int]:
    """Unpack one member, and count: what an archive says about its sizes need not be so."""
    limit = min(left, _MAX_PROMPT_BYTES) if "prompts" in info.filename else left
    digest, size = hashlib.sha256(), 0
    with archive.open(info) as source, target.open("xb") as handle:
        for block in _blocks(source):
            size += len(block)
            if size > limit:
                raise ClaimError(f"{path}: {info.filename} unpacks to more than {limit:,} bytes", _FOREIGN)
            digest.update(block)
            handle.write(block)
    return digest.hexdigest(), size


def _blocks(source: IO[bytes]) -> Iterator[bytes]:
    while block := source.read(_BLOCK):
        yield block
