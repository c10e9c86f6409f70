"""What the page of an evaluation says: the values of `evaluations.result`, drawn; nothing is computed here."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from halo_forge.core.records import Sample
from halo_forge.core.wording import counted
from halo_forge.evaluations.execute import StoredEvaluation
from halo_forge.evaluations.result import decodings_of, outcome_names, result_of
from halo_forge.pages.charts import REACHED_COLOURS, Chart, Point, Table, lines, stacked, text_of
from halo_forge.pages.run_page import Facts, Section
from halo_forge.pages.samples import Payload, payload_of
from halo_forge.store.compared import REACHED, ComparedPrompt, reached
from halo_forge.store.samples import StoredSample

_SUBJECT = "subject"
_BESIDE = ("truncated_fraction", "flagged_fraction", "verifier_error_fraction", "completion_tokens_mean")
"""Metrics without an interval."""
_MOST_CHARACTERS = 16
"""Characters of a subject's name that a chart has room for: its end, which tells subjects apart."""


def evaluation_sections(stored: StoredEvaluation) -> tuple[Facts, list[Section]]:
    """The page of an evaluation as far as it has come, without its samples."""
    result = result_of(stored.samples) if stored.result is None else stored.result
    sections = []
    for number, name in enumerate(stored.identity["sets"]):
        columns = [each for each in result.columns if each["task_set"] == name]
        pairs = [each for each in result.differences if each["task_set"] == name]
        if columns:
            sections.append(_set_section(f"set{number}", name, columns, pairs, stored.samples))
    sections.append(_setup(stored, result.notes))
    subjects = list(stored.identity["subjects"])
    asked = sum(len(each["decodings"]) for each in stored.identity["sets"].values()) * len(subjects)
    facts = [("subjects", str(len(subjects))), ("task sets", str(len(stored.identity["sets"])))]
    facts.append(("samples", f"{sum(each['num_samples'] for each in result.columns):,}"))
    state = "finished" if stored.result is not None else f"{len(stored.samples)} of {asked} measurements done"
    lead = (
        "" if stored.result is not None else "Not finished: run the same `halo-forge eval run` command with --resume."
    )
    legend = (
        "Greedy decoding has one completion of each prompt; sampled rates are means over prompts of a prompt's samples."
        " Every subject was asked with the same seeds, so differences are paired by prompt."
    )
    return Facts(stored.root.resolve().name, f"evaluation: {state}", lead, tuple(facts), legend), sections


def _set_section(
    section_id: str,
    name: str,
    columns: Sequence[Mapping[str, Any]],
    pairs: Sequence[Mapping[str, Any]],
    samples: Mapping[tuple[str, str, str], Sequence[Sample]],
) -> Section:
    charts: list[Chart] = []
    for decoding in dict.fromkeys(each["decoding"] for each in columns):
        charts += _charts(decoding, [each for each in columns if each["decoding"] == decoding], samples)
    tables = [_rates(columns), _outcomes(columns)]
    notes = [f"{counted(columns[0]['num_prompts'], 'prompt')}."]
    if pairs:
        tables.append(_differences(pairs))
        notes.append(
            f"{counted(len(pairs), 'difference')}, each with an interval of its own: of 20 between subjects that do not"
            " differ, one excludes 0 by chance."
        )
    return Section(section_id, name, tuple(notes), tuple(charts), tuple(tables))


def _charts(
    decoding: str, columns: Sequence[Mapping[str, Any]], samples: Mapping[tuple[str, str, str], Sequence[Sample]]
) -> Iterator[Chart]:
    for metric in ("pass@1", "compile_rate"):
        points = [
            Point(
                metric.replace("_", " "),
                _short(each["subject"]),
                each["metrics"][metric],
                each["metrics"][f"{metric}_low"],
                each["metrics"][f"{metric}_high"],
            )
            for each in columns
            if metric in each["metrics"]
        ]
        if points:
            title = f"{metric.replace('_', ' ')}, {decoding}"
            yield lines(title, "with 95 % intervals", points, axis=_SUBJECT, rate=True, joined=False)
    points = [
        Point(name, _short(each["subject"]), number)
        for each in columns
        if (found := samples.get((each["task_set"], each["subject"], decoding))) is not None
        for name, number in Counter(reached(sample.verdict) for sample in found).items()
    ]
    if points:
        says = "how far the programs came"
        yield stacked(f"Outcomes, {decoding}", says, points, axis=_SUBJECT, series=REACHED, colours=REACHED_COLOURS)


def _short(subject: str) -> str:
    return subject if len(subject) <= _MOST_CHARACTERS else f"…{subject[-_MOST_CHARACTERS + 1 :]}"


def _rates(columns: Sequence[Mapping[str, Any]]) -> Table:
    names = sorted(
        {name for each in columns for name in each["metrics"] if name.startswith("pass@") and "_" not in name},
        key=lambda name: int(name[5:]),
    )
    rows = tuple(
        (
            each["subject"], each["decoding"], str(each["num_samples"]),
            *(_rate(each["metrics"], name) for name in (*names, "compile_rate")),
            *(text_of(each["metrics"][name]) if name in each["metrics"] else "" for name in _BESIDE),
        )
        for each in columns
    )  # fmt: skip
    headers = (
        _SUBJECT, "decoding", "samples", *names, "compile rate", "cut off", "hack flags", "verifier errors",
        "tokens, mean",
    )  # fmt: skip
    return Table("Rates [95 % interval, clustered by prompt]", headers, rows)


def _rate(metrics: Mapping[str, float], name: str) -> str:
    if name not in metrics:
        return ""
    return f"{text_of(metrics[name])} [{text_of(metrics[f'{name}_low'])}, {text_of(metrics[f'{name}_high'])}]"


def _outcomes(columns: Sequence[Mapping[str, Any]]) -> Table:
    names = outcome_names(columns)
    rows = tuple(
        (each["subject"], each["decoding"], *(str(each["outcomes"].get(name, 0)) for name in names)) for each in columns
    )
    return Table("Furthest stage and how it ended, in samples", (_SUBJECT, "decoding", *names), rows)


def _differences(pairs: Sequence[Mapping[str, Any]]) -> Table:
    rows = tuple(
        (
            each["first"], each["second"], decodings_of(each), each["metric"].replace("_", " "),
            text_of(each["values"]["first"]), text_of(each["values"]["second"]),
            f"{each['values']['difference']:+.3f} [{each['values']['low']:+.3f}, {each['values']['high']:+.3f}]",
            text_of(each["values"]["minimum_detectable_effect"]), str(each["values"]["num_prompts"]),
        )
        for each in pairs
    )  # fmt: skip
    headers = (
        "first", "second", "decoding", "metric", "of first", "of second", "second - first [95 % interval]",
        "detectable", "prompts",
    )  # fmt: skip
    return Table("Differences, paired by prompt", headers, rows)


def _setup(stored: StoredEvaluation, notes: Sequence[str]) -> Section:
    asked = json.dumps(stored.identity, indent=2, ensure_ascii=False)
    return Section("setup", "Setup", tuple(notes), (), (), (("What was asked of whom (evaluation.json)", asked),))


def evaluation_samples(stored: StoredEvaluation, *, most_bytes: int) -> tuple[Payload, list[str]]:
    """The samples of the first and the last subject side by side, and notes about them."""
    subjects = list(stored.identity["subjects"])
    first, last = ("", subjects[0]) if len(subjects) == 1 else (subjects[0], subjects[-1])
    sets = []
    for name, each in stored.identity["sets"].items():
        for decoding in each["decodings"]:
            sides = [stored.samples.get((name, subject, decoding), ()) for subject in (first, last)]
            title = f"{name}, {decoding}"
            sets.append((title, _compared(title, sides), stored.prompts[name]))
    languages = {
        prompt.language for prompts in stored.prompts.values() for prompt in prompts.values() if prompt.language
    }
    samples = payload_of(sets, (first, last), min(languages, default="c"), most_bytes=most_bytes)
    notes = []
    if first:
        notes.append(f"{first} and {last}, prompt by prompt; gained or lost is by the share of samples that pass.")
    if len(subjects) > 2:
        notes.append(
            f"The samples of the other {counted(len(subjects) - 2, 'subject')} are in the evaluation's folder."
        )
    if samples.notes:
        notes.append(f"Left out to keep this file small: {'; '.join(samples.notes)}.")
    return samples, notes


def _compared(set_name: str, sides: Sequence[Sequence[Sample]]) -> list[ComparedPrompt]:
    found: dict[str, tuple[list[StoredSample], list[StoredSample]]] = {}
    for at, side in enumerate(sides):
        for sample in side:
            stored = StoredSample(None, set_name, sample.completion, sample.verdict)
            found.setdefault(sample.prompt_id, ([], []))[at].append(stored)
    return [ComparedPrompt(prompt_id, tuple(start), tuple(other)) for prompt_id, (start, other) in found.items()]
