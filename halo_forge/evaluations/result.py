"""What an evaluation found: a column for each subject, set and decoding, and the differences of any two of them."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from halo_forge.core.evaluation import differences, set_facts
from halo_forge.core.metrics import measure_set
from halo_forge.core.records import STAGES, Record, Sample

_PREFIX: Final = "test"


@dataclass(frozen=True, slots=True)
class Column(Record):
    """One subject on one task set under one decoding.

    Attributes:
        metrics: Those of docs/metrics.md without the prefix of a set: compile_rate, pass_rate, pass@k ... with
            `_low` and `_high`.
        outcomes: "stage status", such as "tests failed" -> number of samples.
    """

    task_set: str
    subject: str
    decoding: str
    num_prompts: int
    num_samples: int
    metrics: Mapping[str, float]
    outcomes: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Difference(Record):
    """The second of two columns of a set minus the first, paired by prompt.

    Attributes:
        metric: compile_rate, pass_rate or reward_mean.
        first, second: Their subjects.
        first_decoding, second_decoding: Two subjects are compared under the same decoding, one subject under both.
        values: "first" and "second" (their means over the shared prompts), "difference", "low" and "high" (95 %
            interval), "standard_error", "num_prompts", "minimum_detectable_effect".
    """

    task_set: str
    metric: str
    first: str
    first_decoding: str
    second: str
    second_decoding: str
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class EvaluationResult(Record):
    """Everything that was found.

    Attributes:
        columns: `Column` rows.
        differences: `Difference` rows: every pair of subjects under one decoding, and every subject under both.
        notes: What a person should know: settings, references that fail, warnings about the sets.
    """

    columns: tuple[Any, ...]
    differences: tuple[Any, ...]
    notes: tuple[str, ...] = field(default=())


_SHOWN = ("first", "second", "difference", "low", "high", "minimum_detectable_effect", "num_prompts")
"""Values of every difference."""


def check_rows(result: EvaluationResult) -> None:
    """Look at all that is shown of a result that was read from a file.

    Raises:
        RunDirError, LookupError, ValueError: A row is not one of an evaluation.
    """
    for row in result.columns:
        metrics = Column.from_row(row).metrics
        for name in metrics:
            is_pass_at_k = name.startswith("pass@") and "_" not in name
            if is_pass_at_k:
                int(name.removeprefix("pass@"))
            if is_pass_at_k or name == "compile_rate":
                _ = metrics[f"{name}_low"], metrics[f"{name}_high"]
    for row in result.differences:
        values = Difference.from_row(row).values
        _ = [values[key] for key in _SHOWN]


Key = tuple[str, str, str]
"""(task set, subject, decoding)"""


def result_of(samples: Mapping[Key, Sequence[Sample]], notes: Sequence[str] = ()) -> EvaluationResult:
    """The columns of these samples in their order, and their differences."""
    columns = tuple(_column(key, each).to_row() for key, each in samples.items())
    return EvaluationResult(columns, tuple(each.to_row() for each in _differences(samples)), tuple(notes))


def _column(key: Key, samples: Sequence[Sample]) -> Column:
    metrics = measure_set(set_facts(samples), _PREFIX)
    outcomes = Counter(f"{sample.verdict.stage} {sample.verdict.status}" for sample in samples)
    return Column(
        *key,
        num_prompts=len({sample.prompt_id for sample in samples}),
        num_samples=len(samples),
        metrics={name.removeprefix(f"{_PREFIX}/"): value for name, value in sorted(metrics.items())},
        outcomes={each: outcomes[each] for each in sorted(outcomes, key=_by_stage)},
    )


def _differences(samples: Mapping[Key, Sequence[Sample]]) -> Iterator[Difference]:
    for (one, before), (other, after) in itertools.combinations(samples.items(), 2):
        alike = [left == right for left, right in zip(one, other, strict=True)]
        if alike[0] and any(alike[1:]):
            task_set, first, first_decoding = one
            _, second, second_decoding = other
            for metric, found in differences(before, after, "second").items():
                values = {"first": found["start"], **{key: each for key, each in found.items() if key != "start"}}
                yield Difference(task_set, metric, first, first_decoding, second, second_decoding, values)


def outcome_names(columns: Sequence[Mapping[str, Any]]) -> list[str]:
    """Every outcome of these `Column` rows, by stage."""
    return sorted({name for each in columns for name in each["outcomes"]}, key=_by_stage)


def _by_stage(outcome: str) -> tuple[int, str]:
    stage = outcome.partition(" ")[0]
    return next((number for number, each in enumerate(STAGES) if each == stage), len(STAGES)), outcome


def decodings_of(difference: Mapping[str, Any]) -> str:
    """The decoding of both sides of a `Difference` row, or first and second where they differ."""
    return ", ".join(dict.fromkeys((difference["first_decoding"], difference["second_decoding"])))
