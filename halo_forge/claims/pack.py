"""From a finished run directory to a claim."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import halo_forge
from halo_forge.claims.archive import SCHEMA, PromptSource, file_sha256, write_archive
from halo_forge.claims.privacy import (
    shareable_config,
    shareable_identity,
    shareable_model,
    shareable_verifier,
    short_names,
    without_home,
)
from halo_forge.config import RaftConfig, resolved
from halo_forge.config.yaml_io import load_document
from halo_forge.core.errors import ClaimError, ConfigError, RunDirError
from halo_forge.core.records import Prompt
from halo_forge.evaluations.execute import measurement_folder, read_evaluation
from halo_forge.evaluations.result import EvaluationResult
from halo_forge.policy import ADAPTER_FILES
from halo_forge.prompts import builtin
from halo_forge.runtime.assembly import run_config
from halo_forge.runtime.fork import FOLDER as FORK_FOLDER
from halo_forge.runtime.prompt_sets import SETS, load_prompt_set, prompt_digest
from halo_forge.store.files import as_written, line, read_json, read_jsonl
from halo_forge.store.folder import ORDER
from halo_forge.store.run import OWN_FOLDERS, cycle_folders, read_identity, version_folders

_KEPT = {*ORDER, "advice", "training_log"}
_IDENTIFYING = ("difficulty",)
"""Of a prompt's info, what decides which prompts a cycle asks (`raft.curriculum_by`)."""
_ASKED = (
    "kind", "samples_per_prompt", "temperature", "top_p", "top_k", "max_new_tokens", "stop", "response_prefix", "seed",
)  # fmt: skip
"""How an evaluation samples, without files and addresses of the engine."""
_LEFT_OUT = (
    "events.jsonl: times, durations and costs",
    "selection.jsonl: follows from selection.json, the completions and the prompts",
    "trackers, server logs, superseded cycles and config.yaml as it was typed",
    "the weights of the start model: their digest is in run.json",
)


@dataclasses.dataclass(frozen=True)
class Packed:
    """What was written.

    Attributes:
        sha256: Of the whole file.
        prompts: Set -> where its prompts come from, and whether they are in the claim.
        left_out, changed: See `archive.Manifest`.
    """

    path: Path
    num_bytes: int
    sha256: str
    num_members: int
    prompts: dict[str, PromptSource]
    left_out: tuple[str, ...]
    changed: tuple[str, ...]

    def to_row(self) -> dict[str, Any]:
        """As plain JSON data."""
        return {
            "file": str(self.path),
            "bytes": self.num_bytes,
            "sha256": self.sha256,
            "num_members": self.num_members,
            "prompts": {name: source.model_dump(mode="json") for name, source in self.prompts.items()},
            "left_out": list(self.left_out),
            "changed": list(self.changed),
        }


def pack(root: Path, output: Path | None, *, with_prompts: bool = False, with_adapter: bool = False) -> Packed:
    """Write the claim of a run or an evaluation, whichever the folder holds; see `pack_run` and `pack_evaluation`."""
    if not (root / "evaluation.json").is_file():
        return pack_run(root, output, with_prompts=with_prompts, with_adapter=with_adapter)
    if with_adapter:
        raise ClaimError("--with-adapter: an evaluation has no adapter", "pack the run that it is from")
    return pack_evaluation(root, output, with_prompts=with_prompts)


def pack_run(root: Path, output: Path | None, *, with_prompts: bool = False, with_adapter: bool = False) -> Packed:
    """Write the claim of a finished run.

    Args:
        output: None writes `<run directory>.claim.zip` beside the run directory.
        with_prompts: Pack prompts whose licence halo-forge does not know, too.
        with_adapter: Pack the weights of the chosen version.

    Raises:
        RunDirError: Not a run, not finished, one of another schema, or its files cannot be read.
        ClaimError: Its prompts are not there any more, or the claim cannot be written.
    """
    config, identity, result = _finished(root)
    members: dict[str, bytes | Path] = {name: _content(path) for name, path in _stage_files(root)}
    given, changed = shareable_config(resolved(config))
    members["config.json"] = _json(given)
    members["run.json"] = _json(shareable_identity(identity))
    members["history.json"] = _json(_history(root))
    for path in sorted((root / FORK_FOLDER).glob("[0-9]*.yaml")):
        earlier, also = shareable_config(load_document(path).data)
        members[f"{FORK_FOLDER}/{path.stem}.json"] = _json(earlier)
        changed += [key for key in also if key not in changed]
    sources = {}
    for name in SETS:
        sources[name], rows = _prompts(config, identity, name, given["prompts"][name], with_prompts)
        members[f"prompts/{name}.jsonl"] = b"".join(line(row).encode() for row in rows)
    left_out = list(_LEFT_OUT)
    if with_adapter and result["chosen_version"] > 0:
        folder = f"cycles/{result['chosen_version']:03d}/adapter"
        members |= {f"{folder}/{name}": root / folder / name for name in ADAPTER_FILES}
        left_out.append("all adapters but that of the chosen version: their digests are in trained.json")
    else:
        left_out.append("all adapters: their digests are in trained.json")
    return _written(root, output, "run", members, sources, left_out, changed)


def pack_evaluation(root: Path, output: Path | None, *, with_prompts: bool = False) -> Packed:
    """Write the claim of a finished evaluation.

    Args:
        output, with_prompts: As for a run.

    Raises:
        RunDirError: Not an evaluation, not finished, or its files cannot be read.
        ClaimError: The claim cannot be written.
    """
    stored = read_evaluation(root)
    if stored.result is None:
        raise RunDirError(
            f"{root}: the evaluation is not finished: there is no result.json",
            "finish it: the same `halo-forge eval run` command with --resume",
        )
    names = _Names(short_names(stored.identity["subjects"]), short_names(stored.identity["sets"]))
    members: dict[str, bytes | Path] = {
        "evaluation.json": _json(names.evaluation(stored.identity)),
        "result.json": _json(names.result(stored.result)),
    }
    sources = {}
    for number, (name, task_set) in enumerate(stored.identity["sets"].items(), start=1):
        packed = with_prompts or name.startswith(builtin.PREFIX)
        rows = [prompt.to_row() if packed else _named(prompt) for prompt in stored.prompts[name].values()]
        sources[f"set{number}"] = PromptSource(
            source=names.sets[name], sha256=task_set["prompts_sha256"], num_prompts=len(rows), packed=packed
        )
        members[f"sets/set{number}/prompts.jsonl"] = b"".join(line(row).encode() for row in rows)
    for key in stored.samples:
        folder, inside = measurement_folder(root, stored.identity, key), names.folder(key)
        for kind in ("completions", "verdicts"):
            members[f"{inside}/{kind}.jsonl"] = _content(folder / f"{kind}.jsonl")
        if toolchain := _toolchain(folder):
            members[f"{inside}/toolchain.json"] = _json(shareable_identity({"toolchain": toolchain})["toolchain"])
    left_out = ["events.jsonl: times, durations and costs", "samples.jsonl, references.json and server logs"]
    return _written(root, output, "evaluation", members, sources, left_out, names.changed())


@dataclasses.dataclass(frozen=True)
class _Names:
    """What subjects and task sets of an evaluation are called in its claim: their own names may be paths."""

    subjects: Mapping[str, str]
    sets: Mapping[str, str]

    def folder(self, key: tuple[str, str, str]) -> str:
        """Where one measurement lies in the claim: by numbers, as the folders of an evaluation spell out paths."""
        task_set, subject, decoding = key
        set_number, number = [*self.sets].index(task_set) + 1, [*self.subjects].index(subject) + 1
        return f"sets/set{set_number}/subject{number}/{decoding}"

    def changed(self) -> list[str]:
        """What was shortened, for the manifest."""
        named = [("subject", self.subjects), ("task set", self.sets)]
        return [f"{what} {short}" for what, own in named for name, short in own.items() if short != name]

    def evaluation(self, identity: Mapping[str, Any]) -> dict[str, Any]:
        """evaluation.json under these names."""
        subjects = {
            short: {"folder": f"subject{number}", **shareable_model(identity["subjects"][name])}
            for number, (name, short) in enumerate(self.subjects.items(), start=1)
        }
        sets: dict[str, Any] = {}
        for number, (name, short) in enumerate(self.sets.items(), start=1):
            sets[short] = {**copy.deepcopy(identity["sets"][name]), "folder": f"set{number}"}
            for asked in sets[short]["decodings"].values():
                asked["verifier"] = shareable_verifier(asked["verifier"])
                asked["sampling"] = {key: value for key, value in asked["sampling"].items() if key in _ASKED}
        return {**identity, "subjects": subjects, "sets": sets}

    def result(self, result: EvaluationResult) -> dict[str, Any]:
        """result.json under these names."""
        found = result.to_row()
        for row in (*found["columns"], *found["differences"]):
            row["task_set"] = self.sets[row["task_set"]]
            row |= {key: self.subjects[row[key]] for key in ("subject", "first", "second") if key in row}
        return {**found, "notes": []}  # sentences that name files and settings


def _toolchain(folder: Path) -> dict[str, Any]:
    """That of the last attempt, by its events; empty where they do not say."""
    path = folder / "events.jsonl"
    events = read_jsonl(path) if path.is_file() else []
    found = [event["toolchain"] for event in events if event.get("event") == "verifier_opened"]
    return dict(found[-1]) if found else {}


def _written(
    root: Path,
    output: Path | None,
    kind: str,
    members: dict[str, bytes | Path],
    sources: dict[str, PromptSource],
    left_out: Sequence[str],
    changed: Sequence[str],
) -> Packed:
    path = _default_output(root) if output is None else output
    head = {
        "format": "halo-forge claim",
        "claim_schema": SCHEMA,
        "kind": kind,
        "halo_forge_version": halo_forge.__version__,
        "prompts": sources,
        "left_out": list(left_out),
        "changed": list(changed),
    }
    write_archive(path, members, head)
    sha256, size = file_sha256(path), path.stat().st_size
    return Packed(path, size, sha256, len(members), sources, tuple(left_out), tuple(changed))


def _finished(root: Path) -> tuple[RaftConfig, dict[str, Any], dict[str, Any]]:
    config = run_config(root).config
    identity = read_identity(root)
    if not (root / "result.json").is_file():
        raise RunDirError(
            f"{root}: the run is not finished: there is no result.json",
            f"finish it with `halo-forge raft resume {root}`, then pack it",
        )
    result = read_json(root / "result.json")
    with as_written(root / "result.json"):
        if type(result["chosen_version"]) is not int:
            raise TypeError(f"chosen_version is {str(result['chosen_version'])[:40]!r}")
    return config, identity, result


def _default_output(root: Path) -> Path:
    named = root.resolve() if root.name in ("", "..") else root
    return named.with_name(f"{named.name}.claim.zip")


def _stage_files(root: Path) -> Iterator[tuple[str, Path]]:
    folders = [*cycle_folders(root), *(each for name in OWN_FOLDERS for each in version_folders(root, name))]
    for folder in folders:
        for path in sorted(folder.iterdir()):
            is_stage = path.suffix in (".json", ".jsonl") and path.stem in _KEPT and path.name not in _COPIES
            if is_stage and path.is_file():
                yield path.relative_to(root).as_posix(), path
    yield "result.json", root / "result.json"


_COPIES = ("selection.jsonl",)
"""Files that follow from others."""


def _content(path: Path) -> bytes | Path:
    """The file itself; verdicts with the home folder in what a compiler said as bytes without it."""
    if not path.name.endswith("verdicts.jsonl"):
        return path
    rows, touched = read_jsonl(path), False
    for row in rows:
        said = row.get("diagnostics")
        if isinstance(said, str) and (short := without_home(said)) != said:
            row["diagnostics"], touched = short, True
    return "".join(map(line, rows)).encode() if touched else path


def _history(root: Path) -> dict[str, Any]:
    """How often the run was started, from which cycles it was redone, and which prompts it dropped as too long."""
    path = root / "events.jsonl"
    events = read_jsonl(path) if path.is_file() else []
    with as_written(path):
        attempts = [event for event in events if event["event"] == "attempt_started"]
        redone = [event["from_cycle"] for event in events if event["event"] == "superseded"]
        dropped = attempts[-1].get("overlong_dropped", {}) if attempts else {}
    return {"num_attempts": len(attempts), "redone_from_cycles": redone, "overlong_dropped": dropped}


def _prompts(
    config: RaftConfig, identity: dict[str, Any], name: str, source: str, with_prompts: bool
) -> tuple[PromptSource, Sequence[dict[str, Any]]]:
    try:
        prompts = load_prompt_set(config, name)
    except ConfigError as error:
        raise ClaimError(
            f"the prompts of the run cannot be read: {error.message}", "put them back to where they were"
        ) from error
    digest = prompt_digest(prompts)
    if identity["prompts"].get(name) != digest:
        raise ClaimError(f"prompts.{name}: {source} has changed since the run was started", "put back what it was then")
    # The packaged sets are halo-forge's own, under its licence; of others only their owner knows it.
    packed = with_prompts or getattr(config.prompts, name).startswith(builtin.PREFIX)
    rows = [prompt.to_row() if packed else _named(prompt) for prompt in prompts]
    return PromptSource(source=source, sha256=digest, num_prompts=len(prompts), packed=packed), rows


def _named(prompt: Prompt) -> dict[str, Any]:
    return {"id": prompt.id, "info": {key: prompt.info[key] for key in _IDENTIFYING if key in prompt.info}}


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
