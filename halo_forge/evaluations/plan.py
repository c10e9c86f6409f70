"""What an evaluation asks: subjects x task sets x decodings, under one set of settings for all subjects."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from halo_forge.config import LoadedConfig, differing_keys
from halo_forge.config.load import checked, overridden
from halo_forge.config.yaml_io import Document
from halo_forge.core.errors import ConfigError, raise_together
from halo_forge.core.records import Prompt
from halo_forge.evaluations.ask import Settings, settings_of
from halo_forge.evaluations.subject import Subject, subject_of
from halo_forge.prompts import load_prompts
from halo_forge.prompts.row_limits import limit_warnings
from halo_forge.prompts.summary import summarise, warnings_of
from halo_forge.runtime.assembly import run_config
from halo_forge.runtime.prompt_sets import prompt_digest, with_system

Decoding = Literal["greedy", "sampled"]
DECODINGS: tuple[Decoding, ...] = ("greedy", "sampled")
OWN_SECTIONS = ("model", "prompts", "engine", "verifier", "evaluation", "hardware", "seed")
"""Sections of a configuration that an evaluation depends on."""
_OWN_PROMPTS = ("response_prefix", "system_prompt", "date", "where")
_OF_LANGUAGE = (("prompts", "response_prefix"), ("engine", "stop"))
"""Keys of a run that fit completions in its own language only."""
_LONGEST_FOLDER = 60
_SHOWN = 5


@dataclass(frozen=True)
class TaskSet:
    """One task set, and how its completions are sampled and checked.

    Attributes:
        name: The text that named it.
        folder: Of its measurements.
        settings: Decoding -> how every subject is asked.
    """

    name: str
    folder: str
    prompts: tuple[Prompt, ...]
    settings: Mapping[Decoding, Settings]


@dataclass(frozen=True)
class Evaluation:
    """A planned evaluation: nothing is loaded.

    Attributes:
        root: The folder that all of it lies in.
        folders: Of each subject, within that of a set.
        notes: What a person should know of the settings.
        warnings: What a pass means less than it seems.
    """

    subjects: tuple[Subject, ...]
    folders: tuple[str, ...]
    sets: tuple[TaskSet, ...]
    root: Path
    notes: tuple[str, ...]
    warnings: tuple[str, ...]

    def folder(self, task_set: TaskSet, subject: int, decoding: Decoding) -> Path:
        """Where the measurement of one subject on one set lies."""
        return self.root / task_set.folder / self.folders[subject] / decoding

    def identity(self) -> dict[str, Any]:
        """Everything that its numbers depend on."""
        return {
            "subjects": {
                each.name: {"folder": folder, **each.identity()}
                for each, folder in zip(self.subjects, self.folders, strict=True)
            },
            "sets": {
                each.name: {
                    "folder": each.folder,
                    "num_prompts": len(each.prompts),
                    "prompts_sha256": prompt_digest(each.prompts),
                    "decodings": {decoding: settings.identity() for decoding, settings in each.settings.items()},
                }
                for each in self.sets
            },
        }


def plan(
    subjects: Sequence[str],
    tasks: Sequence[str],
    *,
    overrides: Sequence[str] = (),
    decodings: Sequence[Decoding] = DECODINGS,
    limit: int | None = None,
    output_dir: Path | None = None,
) -> Evaluation:
    """Check subjects, task sets and settings, all of them before anything is loaded.

    Settings are those of the first run among the subjects, else the defaults, with `overrides` on top; every subject is
    asked in the same way.  A set in another language than the run's has the defaults of that language's verifier, and
    neither the run's response prefix nor its stop strings.

    Args:
        overrides: `KEY=VALUE` of a configuration.
        limit: At most this many prompts of each set, chosen by a hash of their ids.
        output_dir: Default: runs/evaluations/ and a name from the subjects and a digest of everything.

    Raises:
        ConfigError: A subject, a set or a setting is wrong, or two runs among the subjects are asked differently.
        ModelError, RunDirError: As `subject_of`.
    """
    named = _unique("subject", subjects)
    names = _unique("task set", tasks)
    _refuse_without_influence(overrides)
    model = overridden(Document({"model": {}}, {}, Path("--set"), ""), _of_section(overrides, "model")).data["model"]
    found = tuple(subject_of(text, model) for text in named)
    base, run = _base(found, overrides)
    notes = list(_twins(found))
    sets, warnings, problems = [], [], []
    folders = _folders(names)
    for name in names:
        try:
            task_set, said, warned = _task_set(name, folders[name], base, run, overrides, decodings, limit)
        except ConfigError as error:
            problems.append(ConfigError(f"--tasks {name}: {error.message}", error.hint))
            continue
        sets.append(task_set)
        notes += said
        warnings += warned
    raise_together(problems)
    own = _folders(named)
    planned = Evaluation(
        found, tuple(own[name] for name in named), tuple(sets), Path(), tuple(dict.fromkeys(notes)), tuple(warnings)
    )
    return dataclasses.replace(planned, root=_default_root(planned) if output_dir is None else output_dir)


def _twins(subjects: Sequence[Subject]) -> Iterator[str]:
    """What to say of subjects that are one model: their difference shows nothing."""
    first: dict[str, str] = {}
    for each in subjects:
        other = first.setdefault(json.dumps(each.identity(), sort_keys=True), each.name)
        if other != each.name:
            yield f"{other} and {each.name} are the same model"


def _unique(what: str, texts: Sequence[str]) -> list[str]:
    if not texts:
        raise ConfigError(f"no {what} is given", "halo-forge eval run SUBJECT... --tasks SET")
    twice = next((each for number, each in enumerate(texts) if each in texts[:number]), None)
    if twice is not None:
        raise ConfigError(f"{what} {twice} is given twice", "name each once")
    return list(texts)


def _of_section(overrides: Sequence[str], section: str) -> list[str]:
    return [each for each in overrides if each.partition("=")[0].strip().partition(".")[0] == section]


def _refuse_without_influence(overrides: Sequence[str]) -> None:
    for each in overrides:
        section, _, key = each.partition("=")[0].strip().partition(".")
        if section not in OWN_SECTIONS:
            raise ConfigError(
                f"--set {each}: nothing of an evaluation depends on `{section}`",
                f"leave it out; an evaluation reads {', '.join(OWN_SECTIONS)}",
            )
        if section == "prompts" and key.partition(".")[0] not in _OWN_PROMPTS:
            raise ConfigError(
                f"--set {each}: an evaluation reads prompts.{', prompts.'.join(_OWN_PROMPTS)} alone",
                "name task sets with --tasks, and their number of prompts with --limit",
            )
        if section == "model" and key.partition(".")[0] == "adapter":
            raise ConfigError(f"--set {each}: an adapter is a subject of its own", "name its folder as a subject")


def _base(subjects: Sequence[Subject], overrides: Sequence[str]) -> tuple[Document, Path | None]:
    """The settings that every subject is asked with, before `--set`, and the run that they are from.

    Raises:
        ConfigError: Two runs would be asked in different ways.
    """
    runs = [each for each in subjects if each.run is not None]
    if not runs:
        return Document({"model": {"model_name_or_path": "none"}, "output_dir": "none"}, {}, Path("defaults"), ""), None
    first = runs[0]
    assert first.run is not None
    document = run_config(first.run).document
    own = _asked(checked(overridden(document, overrides)))
    for other in runs[1:]:
        assert other.run is not None
        theirs = _asked(checked(overridden(run_config(other.run).document, overrides)))
        if changes := differing_keys(own, theirs):
            rows = "\n".join(f"  {key}: {old!r} in {first.name}, {new!r} in {other.name}" for key, old, new in changes)
            raise ConfigError(
                f"the runs {first.name} and {other.name} would be asked in different ways:\n{rows}",
                "say how both are asked: --set KEY=VALUE for each of these keys",
            )
    return document, first.run


def _asked(loaded: LoadedConfig) -> dict[str, Any]:
    """What of a configuration decides how a subject is asked and checked."""
    settings = settings_of(loaded.config)
    return {**settings.identity(), "prompts": {"system_prompt": loaded.config.prompts.system_prompt}}


def _task_set(
    name: str,
    folder: str,
    base: Document,
    run: Path | None,
    overrides: Sequence[str],
    decodings: Sequence[Decoding],
    limit: int | None,
) -> tuple[TaskSet, list[str], list[str]]:
    """One set with its settings, what to note of them, and warnings about its prompts."""
    where = overridden(Document({"prompts": {}}, {}, Path("--set"), ""), _of_section(overrides, "prompts"))
    prompts = load_prompts(name, language=None, where=where.data["prompts"].get("where"), limit=limit)
    language = _language(prompts, base, run, overrides)
    document, notes = _in_language(base, run, language, overrides)
    loaded = checked(overridden(document, overrides))
    config, verifier = loaded.config, loaded.config.verifier
    if verifier.language != language:
        raise ConfigError(
            f"its prompts ask for {language}, but verifier.kind is {verifier.language}",
            "leave verifier.kind out, or evaluate sets of one language at a time",
        )
    if run is not None and base.data.get("prompts", {}).get("where") and "where" not in where.data["prompts"]:
        kept = json.dumps(base.data["prompts"]["where"])
        notes.append(
            f"prompts.where of {run} ({kept}) is not applied: task sets are used whole (--set prompts.where=...)"
        )
    problems, asked = [], []
    for prompt in prompts:
        spoken = dataclasses.replace(prompt, language=language)
        asked.append(with_system(spoken, config.prompts.system_prompt))
        try:
            verifier.refuse_unsupported(verifier.tests_of(spoken)[0])
        except ConfigError as error:
            problems.append(ConfigError(f"prompt {prompt.id!r}: {error.message}", error.hint))
    if len(problems) > _SHOWN:
        last = problems[_SHOWN - 1]
        more = f" (and {len(problems) - _SHOWN} more prompts of this set are refused)"
        problems = [*problems[: _SHOWN - 1], ConfigError(last.message + more, last.hint)]
    raise_together(problems)
    warnings = [
        *warnings_of({name: summarise(asked)}, verifier.runs_programs, verifier.stages),
        *limit_warnings({name: asked}, verifier.timeout_seconds, verifier.memory_limit_bytes),
    ]
    sampled = settings_of(config, run)
    settings = {
        decoding: dataclasses.replace(sampled, temperature=0.0) if decoding == "greedy" else sampled
        for decoding in decodings
        if decoding == "greedy" or sampled.temperature > 0.0
    }
    if sampled.temperature == 0.0 and settings and "sampled" in decodings:
        notes.append("evaluation.temperature is 0: greedy decoding only")
    if not settings:
        raise ConfigError(
            "evaluation.temperature is 0, so there is nothing to sample", "set it above 0, or ask for greedy decoding"
        )
    return TaskSet(name, folder, tuple(asked), settings), notes, warnings


def _language(prompts: Sequence[Prompt], base: Document, run: Path | None, overrides: Sequence[str]) -> str:
    """The one language of a set: that of its rows, else of the verifier that a run or `--set` names."""
    named = {prompt.language for prompt in prompts if prompt.language is not None}
    if len(named) > 1:
        raise ConfigError(
            f"its prompts are in {len(named)} languages ({', '.join(sorted(named))})",
            "use one file for each language, or choose one with --set prompts.where=...",
        )
    if named:
        return str(named.pop())
    is_given = any(each.partition("=")[0].strip() in ("verifier", "verifier.kind") for each in overrides)
    if run is None and not is_given:
        raise ConfigError(
            "its rows name no language, so it is unknown which verifier checks the programs",
            "--set verifier.kind=python (or c, cpp, rust, go)",
        )
    return checked(overridden(base, overrides)).config.verifier.language


def _in_language(
    base: Document, run: Path | None, language: str, overrides: Sequence[str]
) -> tuple[Document, list[str]]:
    """The base for sets in one language, and what of the run's settings it has not."""
    if run is not None and checked(base).config.verifier.language == language:
        return base, []
    data = {**base.data, "verifier": {"kind": language}}
    dropped = []
    for section, key in _OF_LANGUAGE:
        value = data.get(section, {}).get(key)
        if value:
            data[section] = {name: each for name, each in data[section].items() if name != key}
            dropped.append(f"{section}.{key}")
    notes = []
    if run is not None:
        given = [each.partition("=")[0].strip() for each in overrides]
        lost = [key for key in ["verifier", *dropped] if not any(each.startswith(key) for each in given)]
        notes.append(f"sets in {language} are asked without {', '.join(lost)} of {run}, which is in another language")
    return dataclasses.replace(base, data=data), notes


def _folders(names: Sequence[str]) -> dict[str, str]:
    """Each name as one of a folder, unique among them."""
    found: dict[str, str] = {}
    for name in names:
        safe = re.sub(r"[^A-Za-z0-9._=,+@-]+", "_", name).strip("._-")[-_LONGEST_FOLDER:].strip("._-") or "it"
        if safe.casefold() in {each.casefold() for each in found.values()}:
            safe = f"{safe}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
        found[name] = safe
    return found


def _default_root(evaluation: Evaluation) -> Path:
    digest = hashlib.sha256(json.dumps(evaluation.identity(), sort_keys=True).encode()).hexdigest()[:8]
    return Path("runs/evaluations") / f"{evaluation.folders[0]}-{digest}"
