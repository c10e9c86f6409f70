"""The page of a run, an evaluation or an experiment, from its files to HTML."""

from __future__ import annotations

import hashlib
from pathlib import Path

from halo_forge.api import RunDirectory
from halo_forge.evaluations.execute import read_evaluation
from halo_forge.experiments.file import Experiment
from halo_forge.pages.document import html
from halo_forge.pages.evaluation_page import evaluation_samples, evaluation_sections
from halo_forge.pages.experiment_page import experiment_sections
from halo_forge.pages.run_page import run_sections
from halo_forge.pages.samples import payload
from halo_forge.pages.sft_page import sft_sections
from halo_forge.runtime.prompt_sets import prompts_as_started
from halo_forge.store.attempts import Attempts
from halo_forge.store.compared import compared_version

MOST_BYTES = 4_900_000
"""Of a page: samples fill what its charts and tables leave."""


def run_html(root: Path, *, state: str | None = None) -> str:
    """The page of the run in `root`.

    Args:
        state: Digest of what a served page shows; None for a file.

    Raises:
        RunDirError: It holds no run, or a file of it cannot be read.
    """
    directory = RunDirectory(root)
    facts, sections = run_sections(root)
    measured = compared_version(directory.status())
    if measured is None:
        return html(facts, sections, None, state=state)
    other, why = measured
    config = directory.config.config
    prompts, missing = prompts_as_started(config, directory.identity)
    room = MOST_BYTES - len(html(facts, sections, None, state=state).encode())
    samples = payload(root, other, prompts, config.verifier.language, most_bytes=max(0, room))
    notes = [
        f"v0 and v{other} ({why}), prompt by prompt. A prompt is gained or lost where a larger or smaller share of its"
        f" samples passes than with v0. Other versions: halo-forge raft samples --version N."
    ]
    if samples.notes:
        notes.append(
            f"Left out to keep this file small: {'; '.join(samples.notes)}. `halo-forge raft samples` has all."
        )
    notes += [f"Texts, families and difficulties of some prompts are not shown: {each}." for each in missing]
    return html(facts, sections, samples, notes=notes, state=state)


def sft_html(root: Path, *, state: str | None = None) -> str:
    """The page of the SFT run in `root`, as far as it has come.

    Raises:
        RunDirError: It holds none, or a file of it cannot be read.
    """
    facts, sections = sft_sections(root)
    return html(facts, sections, None, state=state)


def experiment_html(experiment: Experiment, *, state: str | None = None) -> str:
    """The page of an experiment as far as it has come.

    Raises:
        RunDirError: No run has measured anything yet, or a file cannot be read.
    """
    facts, sections = experiment_sections(experiment)
    return html(facts, sections, None, state=state)


def experiment_state(experiment: Experiment) -> str:
    """Changes whenever one of the runs has sealed something."""
    states = [run_state(experiment.run_root(arm, seed)) for arm, seed in experiment.runs()]
    return hashlib.sha256(repr(states).encode()).hexdigest()[:16]


def evaluation_html(root: Path, *, state: str | None = None) -> str:
    """The page of the evaluation in `root`, as far as it has come.

    Raises:
        RunDirError: It holds none, or a file of it cannot be read.
    """
    stored = read_evaluation(root)
    facts, sections = evaluation_sections(stored)
    if not stored.samples:
        return html(facts, sections, None, state=state)
    room = MOST_BYTES - len(html(facts, sections, None, state=state).encode())
    samples, notes = evaluation_samples(stored, most_bytes=max(0, room))
    return html(facts, sections, samples, notes=notes, state=state)


def evaluation_state(root: Path) -> str:
    """Changes whenever the evaluation has sealed a measurement or its result, and with nothing else."""
    sealed = sorted(
        (path.relative_to(root).as_posix(), path.stat().st_size)
        for name in ("verdicts.jsonl", "result.json")
        for path in root.rglob(name)
    )
    return hashlib.sha256(repr(sealed).encode()).hexdigest()[:16]


def run_state(root: Path) -> str:
    """Changes whenever the run has sealed something, and with nothing else."""
    sealed = sorted(file for file in Attempts(root).finished_work() if not file[0].endswith(".part"))
    return hashlib.sha256(repr(sealed).encode()).hexdigest()[:16]
