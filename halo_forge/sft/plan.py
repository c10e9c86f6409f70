"""What an SFT run does, as a function of its configuration and its rows: steps, segments, when it ends.

Optimizer steps are counted over the whole training.  A segment is what lies between two measurements of the held-out
loss; it trains with its part of the learning rates and with the optimizer's state of the segment before, so the whole
is one training however it is cut.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from halo_forge.core.advice import Advice
from halo_forge.core.lr_scheduler import clamp_warmup, learning_rate_factors
from halo_forge.core.records import Record, TrainingRow, TrainingSettings
from halo_forge.core.seeds import derive_seed
from halo_forge.core.wording import counted
from halo_forge.sft.config import SftConfig

USUAL_RATES = (1e-4, 3e-4)
"""Learning rates of LoRA fine-tuning on given completions, as docs/THEORY.md lists them."""
Ending = Literal["completed", "stopped_early"]


@dataclass(frozen=True, slots=True)
class Evaluation(Record):
    """What was measured of v_k, the version after segment k.

    Attributes:
        step: Optimizer steps that made it.
        held_out_loss: Nats per token of the held-out completions and their ends of turn; None where none are held out.
        standard_error: Of that loss, between rows; None for fewer than two.
        num_rows, num_tokens: What it was measured on.
    """

    version: int
    step: int
    held_out_loss: float | None = None
    standard_error: float | None = None
    num_rows: int = 0
    num_tokens: int = 0


@dataclass(frozen=True, slots=True)
class SftResult(Record):
    """How the training ended.

    Attributes:
        best_version: That of the lowest held-out loss; without held-out rows the last one.
        ending: Whether all epochs were done.
    """

    best_version: int
    last_version: int
    steps: int
    ending: Ending
    reason: str
    learning_rate: float
    held_out_loss: float | None
    start_loss: float | None
    num_train_rows: int
    num_trained_tokens: int


@dataclass(frozen=True)
class SftPlan:
    """The training of so many rows under a configuration.

    Raises:
        ValueError: There are no rows.
    """

    config: SftConfig
    num_rows: int

    def __post_init__(self) -> None:
        if self.num_rows < 1:
            raise ValueError("there is nothing to train on")

    @property
    def num_visits(self) -> int:
        """Rows that are trained on, repeats counted."""
        return max(1, round(self.config.training.num_train_epochs * self.num_rows))

    @property
    def num_steps(self) -> int:
        """Optimizer steps of all epochs; the last one may have fewer rows."""
        return math.ceil(self.num_visits / self.config.batch_size)

    @property
    def warmup_steps(self) -> int:
        """Warm-up steps that are used."""
        return clamp_warmup(self.config.training.warmup_steps, self.num_steps)

    @property
    def factors(self) -> list[float]:
        """The share of the peak learning rate at each step."""
        training = self.config.training
        return learning_rate_factors(
            training.lr_scheduler_type, self.num_steps, self.warmup_steps, **training.lr_scheduler_kwargs
        )

    @property
    def eval_steps(self) -> int:
        """Optimizer steps of a segment."""
        given = self.config.training.eval_steps
        return math.ceil(self.num_rows / self.config.batch_size) if given is None else given

    @property
    def num_segments(self) -> int:
        """Segments of all epochs."""
        return math.ceil(self.num_steps / self.eval_steps)

    def steps_of(self, segment: int) -> range:
        """The steps of a segment, counted from 0; segments from 1."""
        return range((segment - 1) * self.eval_steps, min(segment * self.eval_steps, self.num_steps))

    def last_step(self, version: int) -> int:
        """Optimizer steps that make v_k."""
        return min(version * self.eval_steps, self.num_steps)

    def rows_of(self, segment: int, rows: Sequence[TrainingRow]) -> list[TrainingRow]:
        """The rows of a segment: its part of all epochs in a row, each in an order of its own."""
        steps, size = self.steps_of(segment), self.config.batch_size
        first, end = steps.start * size, min(steps.stop * size, self.num_visits)
        order = self._orders(first // self.num_rows, (end - 1) // self.num_rows)
        skipped = first // self.num_rows * self.num_rows
        return [rows[place] for place in order[first - skipped : end - skipped]]

    def _orders(self, first_epoch: int, last_epoch: int) -> list[int]:
        found: list[int] = []
        for epoch in range(first_epoch, last_epoch + 1):
            places = list(range(self.num_rows))
            random.Random(derive_seed(self.config.seed, "sft_order", epoch)).shuffle(places)
            found += places
        return found

    def settings(self, segment: int) -> TrainingSettings:
        """What the trainer is told for a segment."""
        training = self.config.training
        return TrainingSettings(
            cycle=segment,
            parent_version=segment - 1,
            learning_rate=training.learning_rate,
            num_train_epochs=1.0,
            max_grad_norm=training.max_grad_norm,
            weight_decay=training.weight_decay,
            gradient_accumulation_steps=training.gradient_accumulation_steps,
            optimizer="reset" if segment == 1 else "carry",
        )

    def factors_of(self, segment: int) -> list[float]:
        """The share of the peak learning rate at each step of a segment."""
        steps = self.steps_of(segment)
        return self.factors[steps.start : steps.stop]

    def ends(self, evaluations: Sequence[Evaluation]) -> bool:
        """Whether nothing is trained after these measurements, v_0's first."""
        return len(evaluations) > self.num_segments or self.stops_early(evaluations)

    def stops_early(self, evaluations: Sequence[Evaluation]) -> bool:
        """Whether the loss has not improved for `patience` measurements."""
        patience = self.config.training.early_stopping.patience
        return patience is not None and since_improvement(evaluations, self._min_delta) >= patience

    @property
    def _min_delta(self) -> float:
        return self.config.training.early_stopping.min_delta

    def result(self, evaluations: Sequence[Evaluation], num_tokens: int) -> SftResult:
        """What comes of these measurements.

        Args:
            num_tokens: Tokens that the loss was computed on, repeats counted.
        """
        last, best = evaluations[-1], evaluations[best_version(evaluations)]
        early = self.stops_early(evaluations) and last.step < self.num_steps
        waited = counted(since_improvement(evaluations, self._min_delta), "measurement")
        reason = f"all {counted(self.num_steps, 'step')} are done"
        if early:
            reason = f"the held-out loss has not improved for {waited} (early_stopping)"
        if best.held_out_loss is None:
            reason += "; nothing is held out, so the last version is the best"
        elif best.version == 0:
            reason += "; no version has a lower held-out loss than the start model"
        return SftResult(
            best_version=best.version,
            last_version=last.version,
            steps=last.step,
            ending="stopped_early" if early else "completed",
            reason=reason,
            learning_rate=self.config.training.learning_rate,
            held_out_loss=best.held_out_loss,
            start_loss=evaluations[0].held_out_loss,
            num_train_rows=self.num_rows,
            num_trained_tokens=num_tokens,
        )


def best_version(evaluations: Sequence[Evaluation]) -> int:
    """The version with the lowest held-out loss, the earliest of equal ones; the last one where none is measured."""
    losses = [each.held_out_loss for each in evaluations]
    known = [loss for loss in losses if loss is not None]
    return losses.index(min(known)) if known else len(evaluations) - 1


def since_improvement(evaluations: Sequence[Evaluation], min_delta: float) -> int:
    """Measurements since the last one that was lower than all that count before it by more than `min_delta`."""
    lowest, waited = math.inf, 0
    for each in evaluations:
        if each.held_out_loss is None:
            return 0
        improves = each.held_out_loss < lowest - min_delta
        lowest, waited = (each.held_out_loss, 0) if improves else (lowest, waited + 1)
    return waited


def advice_of(plan: SftPlan | None, config: SftConfig) -> Iterator[Advice]:
    """What is unusual about a plan, with its numbers.

    Args:
        plan: None where the number of rows is not known.
    """
    low, high = USUAL_RATES
    rate = config.training.learning_rate
    if not low <= rate <= high:
        side = "below" if rate < low else "above"
        yield Advice(
            kind="sft_rate",
            symptom=f"the learning rate is {side} the usual range of LoRA fine-tuning on given completions",
            evidence=f"{rate:.2g}; usual are {low:g} to {high:g}",
            cause="a value for RAFT, or for full fine-tuning" if rate < low else "a value for a smaller model",
            action=f"compare with training.learning_rate: {low if rate < low else high:g} by the held-out loss",
            power="a range from the literature for models of 1B to 8B; models below 1B often take higher ones",
        )
    if plan is not None and plan.num_steps < 5 * max(1, plan.warmup_steps) and plan.num_steps < 20:
        yield Advice(
            kind="sft_steps",
            symptom="the training has very few optimizer steps",
            evidence=f"{counted(plan.num_steps, 'step')} of {config.batch_size} rows",
            cause="few rows for this batch size",
            action="lower gradient_accumulation_steps, or raise num_train_epochs and watch the held-out loss",
            power="a rule of thumb",
        )


def segments_of(plan: SftPlan) -> list[dict[str, Any]]:
    """One row for each segment, for the preview."""
    factors, rate = plan.factors, plan.config.training.learning_rate
    rows = []
    for number in range(1, plan.num_segments + 1):
        steps = plan.steps_of(number)
        rows.append(
            {
                "segment": number,
                "steps": len(steps),
                "last_step": steps.stop,
                "epochs": min(steps.stop * plan.config.batch_size, plan.num_visits) / plan.num_rows,
                "learning_rate_first": rate * factors[steps.start],
                "learning_rate_last": rate * factors[steps.stop - 1],
            }
        )
    return rows
