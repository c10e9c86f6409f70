"""Runs a planned evaluation in its folder, and reads what is there.

EVAL_DIR/evaluation.json                      what is asked of whom, sealed first
EVAL_DIR/SET/prompts.jsonl                    the prompts as they are asked
EVAL_DIR/SET/references.json                  reference solutions that do not pass
EVAL_DIR/SET/SUBJECT/DECODING/                one measurement (ask.py): asked.json, completions, verdicts, events
EVAL_DIR/SET/SUBJECT/DECODING/samples.jsonl   the same for outside scorers, of HumanEval and MBPP rows (outside.py)
EVAL_DIR/result.json                          columns and differences, sealed last
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from halo_forge.config import differing_keys
from halo_forge.core.errors import RunDirError
from halo_forge.core.records import Completion, Prompt, Record, Sample, Verdict
from halo_forge.evaluations.ask import Verifiers, holds_own, is_sampled, measure, own_hints
from halo_forge.evaluations.models import Models
from halo_forge.evaluations.outside import has_format, sample_rows
from halo_forge.evaluations.plan import Evaluation, TaskSet
from halo_forge.evaluations.result import EvaluationResult, Key, check_rows, result_of
from halo_forge.runtime.effects import Observer
from halo_forge.store.files import as_written, explained, read_json, read_jsonl, write_json
from halo_forge.store.folder import StageFolder
from halo_forge.store.lock import RunLock
from halo_forge.verifiers.limits import reference_warnings

IDENTITY_FILE = "evaluation.json"
RESULT_FILE = "result.json"
_OF_A_SET = ("prompts.jsonl", "references.json")
"""Files in the folder of a task set, beside the folders of its subjects."""
SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class References(Record):
    """What was found of the reference solutions of a set, in sentences; none where all pass."""

    warnings: tuple[str, ...]


def execute(
    evaluation: Evaluation,
    observer: Observer,
    *,
    resume: bool = False,
    say: Callable[[str], object] = lambda line: None,
) -> EvaluationResult:
    """Measure every subject on every set; a killed evaluation continues with `resume`.

    Args:
        say: Is told what is done, one line at a time.

    Raises:
        RunDirError: The folder is in use, holds something else or another evaluation, or one and `resume` is not given.
        ConfigError, ModelError, ToolMissing, VerifierBroken: As `measure`.
    """
    root = evaluation.root
    with own_hints(root), ExitStack() as stack:
        stack.callback(_opened(evaluation, resume).release)
        samples: dict[Key, Sequence[Sample]] = {}
        warnings = list(evaluation.warnings)
        models = Models(evaluation.subjects)
        verifiers = stack.enter_context(Verifiers())
        for task_set in evaluation.sets:
            folder = StageFolder(root / task_set.folder, lambda event, **fields: None)
            folder.write_rows("prompts.jsonl", [prompt.to_row() for prompt in task_set.prompts])
            checked = folder.stage("references", References, partial(_references, task_set, verifiers))
            warnings += checked.warnings
            for warning in checked.warnings:
                say(f"warning: {task_set.name}: {warning}")
        # Subjects outside, so that a base that several of them share is loaded once for all sets.
        for number, subject in _by_base(evaluation):
            for task_set in evaluation.sets:
                for decoding, settings in task_set.settings.items():
                    say(f"{subject.name} on {task_set.name}, {decoding}")
                    path = evaluation.folder(task_set, number, decoding)
                    found = measure(subject, task_set.prompts, settings, path, observer, models, verifiers)
                    samples[task_set.name, subject.name, decoding] = found
                    _write_for_others(path, task_set.prompts, found)
        ordered = {key: samples[key] for key in _keys(evaluation)}
        made = StageFolder(root, lambda event, **fields: None)
        notes = (*evaluation.notes, *warnings)
        result = made.stage("result", EvaluationResult, lambda: result_of(ordered, notes))
        with as_written(root / RESULT_FILE):
            check_rows(result)
        return result


def _references(task_set: TaskSet, verifiers: Verifiers) -> References:
    settings = next(iter(task_set.settings.values()))
    verifier = verifiers.verifier(settings.verifier, task_set.prompts)
    return References(tuple(reference_warnings(verifier.check_references(task_set.prompts))))


def _by_base(evaluation: Evaluation) -> Iterator[tuple[int, Any]]:
    """The subjects with their numbers; those on one base come one after the other."""
    order: dict[str, list[int]] = {}
    for number, subject in enumerate(evaluation.subjects):
        order.setdefault(f"{subject.model!r} {subject.server!r}", []).append(number)
    return ((number, evaluation.subjects[number]) for numbers in order.values() for number in numbers)


def _keys(evaluation: Evaluation) -> Iterator[Key]:
    for task_set in evaluation.sets:
        for decoding in task_set.settings:
            for subject in evaluation.subjects:
                yield task_set.name, subject.name, decoding


def _write_for_others(path: Path, prompts: Sequence[Prompt], samples: Sequence[Sample]) -> None:
    if has_format(prompts):
        by_id = {prompt.id: prompt for prompt in prompts}
        StageFolder(path, lambda event, **fields: None).write_rows("samples.jsonl", list(sample_rows(by_id, samples)))


def _opened(evaluation: Evaluation, resume: bool) -> RunLock:
    """The lock on the folder of this evaluation.

    Raises:
        RunDirError: See `execute`.
    """
    root = evaluation.root
    is_there = holds_own(root, IDENTITY_FILE, "an evaluation", "choose another folder with -o, or empty this one")
    path = root / IDENTITY_FILE
    if is_there and not resume and is_sampled(root):
        raise RunDirError(
            f"{root}: an evaluation was already started here",
            f"continue it with --resume, look at it with `halo-forge eval report {root}`, or choose another folder"
            " with -o",
        )
    lock = RunLock(root, "evaluation")
    try:
        wanted = {"schema_version": SCHEMA_VERSION, **evaluation.identity()}
        if path.is_file() and not is_sampled(root):
            _clear(root, read_json(path))
        if path.is_file():
            if changes := differing_keys(read_json(path), wanted):
                rows = "\n".join(f"  {key}: was {old!r}, is {new!r}" for key, old, new in changes[:10])
                raise RunDirError(
                    f"{root}: holds another evaluation:\n{rows}",
                    "ask as before, or choose another folder with -o",
                )
        else:
            write_json(path, wanted)
    except BaseException:
        lock.release()
        raise
    return lock


def _clear(root: Path, identity: Mapping[str, Any]) -> None:
    """Remove what a command wrote that failed before the first completion, so that it may be asked differently.

    Raises:
        RunDirError: The file, or a folder that it names, is not what such a command writes; nothing is removed.
    """
    path = root / IDENTITY_FILE
    with as_written(path), explained(root):
        if not isinstance(identity["schema_version"], int):
            raise ValueError(f"schema_version is {identity['schema_version']!r}")
        folders = [root / _plain_name(each["folder"]) for each in identity["sets"].values()]
        for folder in folders:
            if foreign := [file.name for file in folder.glob("[!.]*") if file.is_file() and file.name not in _OF_A_SET]:
                raise ValueError(f"{folder} holds {foreign[0]}")
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
        path.unlink()


def _plain_name(name: str) -> str:
    """The name of a folder in another one.

    Raises:
        ValueError: It leads elsewhere.
    """
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise ValueError(f"{name!r} is not the name of a folder in it")
    return name


@dataclass(frozen=True)
class StoredEvaluation:
    """An evaluation as it lies in its folder.

    Attributes:
        identity: What is asked of whom.
        result: None while it is not finished.
        prompts: Task set -> its prompts by id.
        samples: Of every measurement that is sealed.
    """

    root: Path
    identity: Mapping[str, Any]
    result: EvaluationResult | None
    prompts: Mapping[str, Mapping[str, Prompt]]
    samples: Mapping[Key, Sequence[Sample]]


def read_evaluation(root: Path) -> StoredEvaluation:
    """What an evaluation has come to so far.

    Raises:
        RunDirError: The folder holds none, or a file of it cannot be read.
    """
    with own_hints(root):
        return _read(root)


def _read(root: Path) -> StoredEvaluation:
    path = root / IDENTITY_FILE
    if not path.is_file():
        raise RunDirError(
            f"{root}: not the folder of an evaluation", "name the folder that `halo-forge eval run` wrote"
        )
    identity = read_json(path)
    prompts: dict[str, dict[str, Prompt]] = {}
    samples: dict[Key, Sequence[Sample]] = {}
    with as_written(path):
        folders = [each["folder"] for section in ("sets", "subjects") for each in identity[section].values()]
        for name in (*folders, *(name for each in identity["sets"].values() for name in each["decodings"])):
            _plain_name(name)
        for name, each in identity["sets"].items():
            folder = root / each["folder"]
            rows = read_jsonl(folder / "prompts.jsonl") if (folder / "prompts.jsonl").is_file() else []
            prompts[name] = {prompt.id: prompt for prompt in map(Prompt.from_row, rows)}
            for decoding in each["decodings"]:
                for subject in identity["subjects"]:
                    measured = measurement_folder(root, identity, (name, subject, decoding))
                    if (measured / "verdicts.jsonl").is_file():
                        samples[name, subject, decoding] = _stored(measured)
    result = None
    if (root / RESULT_FILE).is_file():
        with as_written(root / RESULT_FILE):
            result = EvaluationResult.from_row(read_json(root / RESULT_FILE))
            check_rows(result)
    return StoredEvaluation(root, identity, result, prompts, samples)


def measurement_folder(root: Path, identity: Mapping[str, Any], key: Key) -> Path:
    """Where one measurement of an evaluation lies, by its `evaluation.json`."""
    task_set, subject, decoding = key
    return root.joinpath(identity["sets"][task_set]["folder"], identity["subjects"][subject]["folder"], decoding)


def _stored(folder: Path) -> tuple[Sample, ...]:
    completions = read_jsonl(folder / "completions.jsonl")
    verdicts = read_jsonl(folder / "verdicts.jsonl")
    with as_written(folder):
        return tuple(
            Sample(Completion.from_row(one), Verdict.from_row(other))
            for one, other in zip(completions, verdicts, strict=True)
        )
