"""The training of one cycle: the learning-rate mass that was really spent, the loss and the gradients."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from halo_forge.core.metrics._facts import MetricInfo, TrainingFacts
from halo_forge.core.records import MASS

SCOPE = "training"
TREND_STEPS = 5
"""With fewer losses than this, neither spike nor slope is computed."""
CATALOGUE = {
    "learning_rate": MetricInfo("1", "none", "The highest learning rate that an optimizer step of the cycle used."),
    MASS: MetricInfo("1", "none", "L_c: the sum of the learning rates that the steps really used."),
    "optimizer_steps": MetricInfo("count", "none", "Optimizer steps of the cycle."),
    "num_tokens": MetricInfo("tokens", "none", "Completion tokens in the loss, repeats counted."),
    "loss_first": MetricInfo("nats/token", "none", "Loss of the first step."),
    "loss_last": MetricInfo("nats/token", "none", "Loss of the last step."),
    "loss_mean": MetricInfo("nats/token", "none", "Mean of the losses of all steps, unweighted."),
    "loss_spike": MetricInfo("ratio", "none", "Largest / median loss of the steps; from 5 steps on."),
    "loss_slope": MetricInfo(
        "nats/token", "none", "Least-squares slope of the loss, per optimizer step; from 5 steps on."
    ),
    "loss_slope_error": MetricInfo(
        "nats/token", "none", "Standard error of loss_slope, from the differences between batches."
    ),
    "gradient_norm_median": MetricInfo("1", "none", "Median of the gradient norms before clipping."),
    "gradient_norm_p90": MetricInfo("1", "none", "90th percentile of the gradient norms, linear between neighbours."),
    "gradient_norm_max": MetricInfo("1", "none", "Largest finite gradient norm before clipping."),
    "clip_fraction": MetricInfo("rate", "none", "Steps whose norm is above max_grad_norm / steps with a norm."),
    "num_nonfinite_steps": MetricInfo("count", "down", "Steps whose loss or gradient norm is infinite or NaN."),
    "adapter_norm": MetricInfo("1", "none", "Frobenius norm of the adapter's weights after the cycle."),
}


def measure(facts: TrainingFacts) -> dict[str, float]:
    """The metrics of `CATALOGUE`; without steps only the counts and the mass, which are then 0."""
    rates = list(_values(facts.steps, "learning_rate"))
    tokens = list(_values(facts.steps, "num_tokens"))
    found: dict[str, float] = {
        "optimizer_steps": len(facts.steps),
        "num_nonfinite_steps": sum(_is_nonfinite(row) for row in facts.steps),
    }
    # If a step did not report its learning rate or its tokens, the sum would silently be too small.
    if len(rates) == len(facts.steps):
        found[MASS] = math.fsum(rates)
    if len(tokens) == len(facts.steps):
        found["num_tokens"] = sum(tokens)
    if rates:
        found["learning_rate"] = max(rates)
    found |= _losses(facts.steps) | _gradient_norms(facts)
    return found if facts.adapter_norm is None else found | {"adapter_norm": facts.adapter_norm}


def _values(steps: Iterable[Mapping[str, Any]], key: str) -> Iterable[float]:
    return (row[key] for row in steps if row.get(key) is not None)


def _is_nonfinite(row: Mapping[str, Any]) -> bool:
    return any(row.get(key) is not None and not math.isfinite(row[key]) for key in ("loss", "gradient_norm"))


def _losses(steps: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """`loss_first` and `loss_last` are absent if the loss of that step is not finite."""
    found: dict[str, float] = {}
    for name, row in (("loss_first", steps[0]), ("loss_last", steps[-1])) if steps else ():
        if row.get("loss") is not None and math.isfinite(row["loss"]):
            found[name] = row["loss"]
    finite = [row for row in steps if row.get("loss") is not None and math.isfinite(row["loss"])]
    losses = [row["loss"] for row in finite]
    weights = [float(row.get("num_tokens", 1)) for row in finite]
    return found | {"loss_mean": math.fsum(losses) / len(losses)} | _trend(losses, weights) if losses else found


def _trend(losses: Sequence[float], weights: Sequence[float]) -> dict[str, float]:
    """Spike and slope; steps are weighted by tokens, because the variance of a loss is proportional to 1 / tokens."""
    if len(losses) < TREND_STEPS:
        return {}
    middle = statistics.median(losses)
    found = {"loss_spike": max(losses) / middle} if middle > 0 else {}
    total = math.fsum(weights)
    centre = math.fsum(weight * step for step, weight in enumerate(weights)) / total
    mean = math.fsum(weight * loss for weight, loss in zip(weights, losses, strict=True)) / total
    terms = [
        (weight, step - centre, loss - mean) for step, (weight, loss) in enumerate(zip(weights, losses, strict=True))
    ]
    spread = math.fsum(weight * x**2 for weight, x, _ in terms)
    slope = math.fsum(weight * x * y for weight, x, y in terms) / spread
    variance = math.fsum(weight * (y - slope * x) ** 2 for weight, x, y in terms) / (len(losses) - 2)
    return found | {"loss_slope": slope, "loss_slope_error": math.sqrt(variance / spread)}


def _gradient_norms(facts: TrainingFacts) -> dict[str, float]:
    norms = [norm for norm in _values(facts.steps, "gradient_norm") if not math.isnan(norm)]
    if not norms:
        return {}
    found = {"clip_fraction": sum(norm > facts.max_grad_norm > 0 for norm in norms) / len(norms)}
    finite = [norm for norm in norms if math.isfinite(norm)]
    if not finite:
        return found
    # Before Python 3.13 the standard library refuses a single value, whose percentiles all equal it.
    p90 = statistics.quantiles(finite, n=10, method="inclusive")[8] if len(finite) > 1 else finite[0]
    return found | {
        "gradient_norm_median": statistics.median(finite),
        "gradient_norm_p90": p90,
        "gradient_norm_max": max(finite),
    }
