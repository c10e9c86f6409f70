"""Samples, trainings and policy versions by hand, with plain values wherever a test says nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from halo_forge.core.records import (
    Completion,
    Decision,
    Measurement,
    PolicyVersion,
    Sample,
    SamplingSettings,
    Trained,
    Training,
    TrainingSettings,
    Verdict,
    pass_counts,
)


def samples_of(verdicts: Iterable[Verdict], text: str = "code") -> tuple[Sample, ...]:
    """Each verdict with a completion of two tokens."""
    return tuple(
        Sample(Completion(each.prompt_id, each.index, text, (1, 2), "stop", each.index, 0), each) for each in verdicts
    )


def training(
    cycle: int,
    samples: Iterable[Sample] = (),
    *,
    parent: int | None = None,
    rate: float = 1e-4,
    metrics: Mapping[str, float] | None = None,
) -> Training:
    """The training that made v_cycle; of `samples`, those that pass were kept."""
    found = tuple(samples)
    settings = TrainingSettings(cycle, cycle - 1 if parent is None else parent, rate, 1.0, 1.0, 0.0, 1)
    trained = Trained(cycle, cycle, 1, {} if metrics is None else metrics, "digest")
    return Training(cycle, pass_counts(found), tuple(each for each in found if each.verdict.passed), settings, trained)


def version(
    number: int,
    *,
    metrics: Mapping[str, float] | None = None,
    train: Sequence[Sample] = (),
    dev: Sequence[Sample] = (),
    trained: Training | None = None,
    decision: Decision | None = None,
    sampling: SamplingSettings | None = None,
) -> PolicyVersion:
    """v_number; an outcome that says nothing, unless a decision is given."""
    return PolicyVersion(
        training=training(number) if trained is None and number > 0 else trained,
        sampling=SamplingSettings(number + 1, 1.0, 1.0, 4) if sampling is None else sampling,
        train=tuple(train),
        dev=tuple(dev),
        measurement=Measurement(number + 1, number, {} if metrics is None else metrics),
        decision=decided(number) if decision is None else decision,
    )


def decided(number: int, best: int = 0) -> Decision:
    """To go on, as if v_number could not be judged."""
    return Decision(number + 1, "underpowered", "continue", best, "", train_from=number, sample_from=number)
