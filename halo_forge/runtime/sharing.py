"""Stages that another run has already made: linked instead of made again, where everything that decides them is equal.

What decides a completion: its request (prompt, index, seed, sampling settings), the weights that answer it, and how the
prompt and the logits become tokens.  What decides a verdict: the completion, the verifier's settings and its tools.
Each is compared by what the two runs have sealed, not by their configurations alone, so v_3 is shared as v_0 is where
two runs trained the same adapter.  A file that differs is not shared, and is made as if there were no other run.

Sealed files are never edited, so two runs may have one file between them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from halo_forge.config.load import influential_data
from halo_forge.config.yaml_io import load_document
from halo_forge.core.errors import RunDirError
from halo_forge.core.records import Measurement, SampleRequest
from halo_forge.store.files import as_written, link_or_copy, read_json, read_jsonl, share_bytes
from halo_forge.store.folder import StageFolder
from halo_forge.store.run import FILE_PREFIX, Run, cycle_folder

SCHEDULED_SAMPLING = ("temperature", "top_p", "min_p")
"""Settings of the engine that each request carries with it."""
_HARDWARE = ("profile", "num_parameters", "model.dtype", "model.quantization", "model.attn_implementation")
"""Of what `auto` became, what the numbers of a model depend on."""
_SETTINGS_OF = {
    "train": ("sampling",),
    "rollback": ("rollback_sampling",),
    "further": ("rollback_sampling", "sampling"),
}
"""Set of samples -> the files that say how it was sampled, the first that is there; other sets are by `evaluation`."""


@dataclass(frozen=True)
class Source:
    """Another run, of which stages may be taken.

    Attributes:
        settings: Its configuration as plain data, without the keys that decide nothing.
        identity: Its run.json.
    """

    root: Path
    settings: Mapping[str, Any]
    identity: Mapping[str, Any]

    @staticmethod
    def read(root: Path) -> Source:
        """The run in `root`, running or finished.

        Raises:
            RunDirError: There is none, or it cannot be read.
        """
        for name in ("run.json", "config.resolved.yaml"):
            if not (root / name).is_file():
                raise RunDirError(f"{root}: not a run directory of halo-forge", "name the output_dir of a run")
        settings = influential_data(load_document(root / "config.resolved.yaml").data)
        return Source(root, settings, read_json(root / "run.json"))


class Sharing:
    """What one run takes from others.

    Args:
        run: The run, whose run.json is written.
        sources: The others, tried in this order.
    """

    def __init__(self, run: Run, sources: Sequence[Source]) -> None:
        self.run = run
        own = Source.read(run.root)
        self._own = own
        self.differences: dict[Path, str | None] = {}
        for source in sources:
            with as_written(source.root / "run.json"):
                self.differences[source.root] = _difference(own, source)
        self._sources = [source for source in sources if self.differences[source.root] is None]

    def completions(self, folder: StageFolder, requests: Mapping[str, Sequence[SampleRequest]], version: int) -> None:
        """Link the completions that another run sampled by the same requests from the same weights.

        Args:
            requests: Set of samples -> what is to be sampled.
        """
        for name, wanted in requests.items():
            file = f"{FILE_PREFIX[name]}completions.jsonl"
            for source in self._candidates(folder, file, version) if wanted else ():
                there = self._there(folder, source)
                rows = read_jsonl(there / file)
                with as_written(there / file):
                    asked = [(row["prompt_id"], row["index"], row["seed"], row["policy_version"]) for row in rows]
                    num_tokens = sum(len(row["token_ids"]) for row in rows)
                mine = [(each.prompt_id, each.index, each.seed, version) for each in wanted]
                if asked == mine and self._sampled_alike(name, there, source, wanted):
                    self._take(folder, source, file, "completions", num_samples=len(rows), num_tokens=num_tokens)
                    break

    def verdicts(self, folder: StageFolder, names: Sequence[str], version: int) -> None:
        """Link the verdicts of the same completions, by a verifier with the same settings and tools."""
        for name in names:
            file, completions = (f"{FILE_PREFIX[name]}{kind}.jsonl" for kind in ("verdicts", "completions"))
            for source in self._candidates(folder, file, version):
                verifies_alike = (
                    source.settings["verifier"] == self._own.settings["verifier"]
                    and source.identity["toolchain"] == self._own.identity["toolchain"]
                )
                if verifies_alike and self._are_same(folder, source, completions):
                    num = len(read_jsonl(self._there(folder, source) / file))
                    if num:
                        self._take(folder, source, file, "verdicts", num_verdicts=num)
                        break

    def drift(self, folder: StageFolder, version: int, parent: int) -> Measurement | None:
        """What another run measured of the same weights on the same completions; None where it has to be measured.

        Args:
            parent: The version that v_version was trained from.
        """
        for source in self._candidates(folder, "drift.json", version):
            there = self._there(folder, source)
            start = StageFolder(cycle_folder(self.run.root, 1), folder.note)
            if (
                source.settings["evaluation"] == self._own.settings["evaluation"]
                and self._weights(self.run.root, parent) == self._weights(source.root, parent)
                and all(self._are_same(folder, source, name) for name in ("completions.jsonl", "sampling.json"))
                and self._are_same(start, source, "dev_completions.jsonl")
            ):
                found = Measurement.from_row(read_json(there / "drift.json"))
                self._note(folder, source, "drift.json", "drift", "value")
                return found
        return None

    def _candidates(self, folder: StageFolder, file: str, version: int) -> Iterator[Source]:
        """The runs that have a file which this one has not begun, made from the weights of v_version."""
        target = folder.path / file
        if target.exists() or target.with_name(f"{file}.part").exists():
            return
        for source in self._sources:
            if (self._there(folder, source) / file).is_file():
                mine, theirs = self._weights(self.run.root, version), self._weights(source.root, version)
                adapts_alike = source.settings["lora"] == self._own.settings["lora"]
                starts_bare = version == 0 and self._own.settings["model"]["adapter"] is None
                if mine is not None and mine == theirs and (starts_bare or adapts_alike):
                    yield source

    def _there(self, folder: StageFolder, source: Source) -> Path:
        return source.root / folder.path.relative_to(self.run.root)

    @staticmethod
    def _weights(root: Path, version: int) -> str | None:
        """What identifies the weights of a version, given the same start model; None where it was not trained."""
        if version == 0:
            return "start"
        path = cycle_folder(root, version) / "trained.json"
        return str(read_json(path).get("adapter_digest")) if path.is_file() else None

    def _sampled_alike(self, name: str, there: Path, source: Source, wanted: Sequence[SampleRequest]) -> bool:
        files = [there / f"{each}.json" for each in _SETTINGS_OF.get(name, ())]
        if files:
            settings = next((read_json(path) for path in files if path.is_file()), None)
        else:
            settings = dict(source.settings["evaluation"])
        if settings is None:
            return False
        theirs = (settings.get("temperature"), settings.get("top_p"), settings.get("min_p", 0.0))
        return all((each.temperature, each.top_p, each.min_p) == theirs for each in wanted)

    def _are_same(self, folder: StageFolder, source: Source, file: str) -> bool:
        mine, theirs = folder.path / file, self._there(folder, source) / file
        return mine.is_file() and theirs.is_file() and share_bytes(mine, theirs)

    def _take(self, folder: StageFolder, source: Source, file: str, stage: str, **what: int) -> None:
        try:
            how = link_or_copy(self._there(folder, source) / file, folder.path / file)
        except FileNotFoundError:  # the other run moved it away meanwhile: --from-cycle
            return
        self._note(folder, source, file, stage, how, **what)

    def _note(self, folder: StageFolder, source: Source, file: str, stage: str, how: str, **what: int) -> None:
        there = self._there(folder, source)
        self.run.event(
            "shared",
            of=folder.path.name,
            file=file,
            source=str(source.root),
            how=how,
            sha256=hashlib.sha256((there / file).read_bytes()).hexdigest(),
            **what,
            seconds_saved=round(seconds_of(source.root, there, file, stage), 3),
        )


def _difference(own: Source, other: Source) -> str | None:
    """The first thing that is not equal, so that no completion of the one is one of the other; None if all is."""
    for key in ("schema_version", "prompts", "start_model", "rendering"):
        if own.identity.get(key) != other.identity.get(key):
            return key
    for key in ("halo_forge_version", "versions"):
        if own.identity.get(key) != other.identity.get(key):
            return key
    for key in _HARDWARE:
        if own.identity["hardware"].get(key) != other.identity["hardware"].get(key):
            return f"hardware: {key}"
    mine, theirs = own.identity.get("plugins", {}), other.identity.get("plugins", {})
    if any(mine[name] != theirs[name] for name in mine.keys() & theirs.keys()):
        return "plugins"
    sections: list[tuple[str, Mapping[str, Any], Mapping[str, Any]]] = [
        (name, own.settings[name], other.settings[name]) for name in ("model", "engine")
    ]
    for name, left, right in sections:
        for key in sorted(left.keys() | right.keys()):
            if key not in SCHEDULED_SAMPLING and left.get(key) != right.get(key):
                return f"{name}.{key}"
    if own.settings["prompts"]["response_prefix"] != other.settings["prompts"]["response_prefix"]:
        return "prompts.response_prefix"
    return None


def seconds_of(root: Path, folder: Path, file: str, stage: str) -> float:
    """What a file of a stage took when it was made: of the stage's seconds, its part of the records.

    Of a file that was itself shared: what that saved.
    """
    path = root / "events.jsonl"
    events = read_jsonl(path) if path.is_file() else []
    with as_written(root / "events.jsonl"):
        for event in events:
            if event["event"] == "shared" and (event["of"], event["file"]) == (folder.name, file):
                return float(event["seconds_saved"])
        total = sum(
            event["seconds"]
            for event in events
            if event.get("folder") == folder.name and event.get("stage") == stage and "seconds" in event
        )
    kind = file.rpartition("_")[2]
    sizes = {path.name: path.stat().st_size for path in folder.glob(f"*{kind}")}
    return float(total) * sizes[file] / (sum(sizes.values()) or 1)


def seconds_of_folder(root: Path, name: str) -> float:
    """What all stages of a folder took, and what was saved where they were shared."""
    path = root / "events.jsonl"
    with as_written(path):
        return sum(
            float(event.get("seconds", event.get("seconds_saved", 0.0)))
            for event in (read_jsonl(path) if path.is_file() else ())
            if name in (event.get("folder"), event.get("of"))
        )
