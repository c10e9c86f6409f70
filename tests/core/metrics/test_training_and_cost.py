"""Training and cost metrics against hand-computed numbers."""

from __future__ import annotations

import math
from typing import Any

import pytest

from halo_forge.core.metrics import CostFacts, TrainingFacts, measure_cost, measure_training


def steps(*norms: float | None, losses: list[float] | None = None) -> list[dict[str, Any]]:
    return [
        {
            "step": number + 1,
            "learning_rate": 1e-4 * (number + 1),
            "loss": float(number) if losses is None else losses[number],
            "gradient_norm": norm,
            "num_tokens": 100 + number,
            "num_rows": 8,
        }
        for number, norm in enumerate(norms)
    ]


def test_by_hand() -> None:
    found = measure_training(TrainingFacts(steps(0.5, 1.0, 2.0, 4.0, 3.0), max_grad_norm=1.0, adapter_norm=0.0))
    assert found == {
        "optimizer_steps": 5,
        "num_nonfinite_steps": 0,
        "learning_rate": pytest.approx(5e-4),
        "learning_rate_mass": pytest.approx(15e-4),
        "num_tokens": 510,
        "loss_first": 0.0,
        "loss_last": 4.0,
        "loss_mean": 2.0,
        "loss_spike": 2.0,
        "loss_slope": pytest.approx(1.0),
        "loss_slope_error": pytest.approx(0.0, abs=1e-9),
        "gradient_norm_median": 2.0,
        # Ranks 0 .. 4, so the 90th percentile is at rank 3.6, between 3 and 4.
        "gradient_norm_p90": pytest.approx(3.6),
        "gradient_norm_max": 4.0,
        # A norm of exactly 1.0 is not clipped.
        "clip_fraction": 0.6,
        "adapter_norm": 0.0,
    }


def test_one_step() -> None:
    found = measure_training(TrainingFacts(steps(2.0), 1.0))
    assert found["gradient_norm_median"] == found["gradient_norm_p90"] == found["gradient_norm_max"] == 2.0
    assert found["loss_first"] == found["loss_last"] == 0.0
    assert "adapter_norm" not in found


def test_the_trend_of_the_loss_and_its_error() -> None:
    # Steps 0 .. 4: sum (x - 2)(y - 2.2) / 10 = 0.1 by hand; residuals -.2 .7 -.4 -.5 .4 square to 1.1; 1.1 / 3 / 10.
    rows = steps(1, 1, 1, 1, 1, losses=[1.8, 2.8, 1.8, 1.8, 2.8])
    found = measure_training(TrainingFacts([{**row, "num_tokens": 100} for row in rows], 1.0))
    assert found["loss_slope"] == pytest.approx(0.1)
    assert found["loss_slope_error"] == pytest.approx((1.1 / 3 / 10) ** 0.5)
    assert found["loss_spike"] == pytest.approx(2.8 / 1.8)
    assert "loss_slope" not in measure_training(TrainingFacts(steps(1, 1, 1, 1), 1.0))


def test_a_last_step_of_few_tokens_makes_no_trend() -> None:
    rows = steps(1, 1, 1, 1, 1, 1, losses=[2.0, 2.2, 2.0, 2.2, 2.0, 9.0])
    for row, num_tokens in zip(rows, [800, 800, 800, 800, 800, 1], strict=True):
        row["num_tokens"] = num_tokens
    found = measure_training(TrainingFacts(rows, 1.0))
    assert abs(found["loss_slope"]) < 2 * found["loss_slope_error"] < 0.2


def test_no_steps() -> None:
    expected = {"optimizer_steps": 0, "num_nonfinite_steps": 0, "learning_rate_mass": 0.0, "num_tokens": 0}
    assert measure_training(TrainingFacts([], 1.0)) == expected


def test_norm_zero_means_no_clipping() -> None:
    assert measure_training(TrainingFacts(steps(0.5, 5.0), 0.0))["clip_fraction"] == 0.0


def test_nonfinite_steps_are_counted_and_hide_nothing_else() -> None:
    rows = steps(1.0, math.inf, math.nan, 3.0, losses=[1.0, 2.0, math.nan, math.inf])
    found = measure_training(TrainingFacts(rows, 1.0))
    assert found["num_nonfinite_steps"] == 3
    assert (found["loss_first"], found["loss_mean"]) == (1.0, 1.5)
    assert "loss_last" not in found
    assert (found["gradient_norm_median"], found["gradient_norm_max"]) == (2.0, 3.0)
    # 1.0 is not above the limit, infinity and 3.0 are; no number is left out.
    assert found["clip_fraction"] == pytest.approx(2 / 3)
    assert all(math.isfinite(value) for value in found.values())


def test_what_was_not_logged_is_absent() -> None:
    rows = [{"step": 1, "learning_rate": 1e-4, "loss": 1.0}, {"step": 2, "loss": 2.0}]
    found = measure_training(TrainingFacts(rows, 1.0))
    # One step's rate is unknown, so the sum is; the highest known one is still a fact.
    assert found.keys() == {
        "optimizer_steps",
        "num_nonfinite_steps",
        "learning_rate",
        "loss_first",
        "loss_last",
        "loss_mean",
    }


def test_a_learning_rate_of_zero_is_a_value() -> None:
    rows = [{**row, "learning_rate": 0.0} for row in steps(1.0)]
    found = measure_training(TrainingFacts(rows, 1.0))
    assert (found["learning_rate"], found["learning_rate_mass"]) == (0.0, 0.0)


def test_cost() -> None:
    seconds = {"generate": 10.0, "verify": 0.0, "drift": 0.5, "train": 0.0}
    found = measure_cost(CostFacts(seconds, {"generate": 500, "train": 9}, 0))
    assert found == {
        "seconds/generate": 10.0,
        "seconds/verify": 0.0,
        "seconds/drift": 0.5,
        "seconds/train": 0.0,
        "tokens_per_second/generate": 50.0,
        "peak_memory_bytes": 0,
    }
    assert measure_cost(CostFacts()) == {}
    assert measure_cost(CostFacts(tokens={"train": 9})) == {}


def test_an_unknown_stage_is_an_error() -> None:
    with pytest.raises(ValueError, match="unknown stages"):
        measure_cost(CostFacts({"cook": 1.0}))
