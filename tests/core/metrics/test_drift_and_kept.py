"""Drift and kept samples against numbers computed by hand, and the reference numbers of the estimators."""

from __future__ import annotations

import dataclasses
import math
import random
import statistics

import pytest

from halo_forge.core.metrics import DriftFacts, KeptFacts, measure_drift, measure_kept
from halo_forge.core.metrics.drift import RATIO_LIMIT, k1, k3

FACTS = DriftFacts(
    version=2,
    fixed_entropy=[[1.0, 3.0], [2.0]],
    kl_to_start=[[0.1, 0.2], [0.6]],
    kl_to_previous=[[0.0, 0.0], [0.3]],
    own_entropy=[[0.5], [1.5, 1.0]],
    own_log_probabilities=[[-1.0], [-1.0, -2.0]],
    start_log_probabilities=[[-1.5], [-1.0, -1.0]],
)


def test_by_hand() -> None:
    def estimate(ratio: float) -> float:
        return math.exp(ratio) - 1 - ratio

    assert measure_drift(FACTS) == pytest.approx(
        {
            "probe/entropy": 2.0,
            "kl_to_start": 0.3,
            "kl_to_start_sequence": 0.45,  # 0.3 and 0.6
            "kl_to_previous": 0.1,
            "entropy": 1.0,
            "reverse_kl_k1": (0.5 + 0.0 - 1.0) / 3,
            "reverse_kl_k3": (estimate(-0.5) + 0.0 + estimate(1.0)) / 3,
            "reverse_kl_sequence": (0.5 - 1.0) / 2,
        }
    )


def test_the_start_model_has_no_previous_version_and_truncated_samples_no_reverse_divergence() -> None:
    assert "kl_to_previous" not in measure_drift(dataclasses.replace(FACTS, version=0))
    found = measure_drift(dataclasses.replace(FACTS, own_is_untruncated=False))
    assert "entropy" in found and not any(name.startswith("reverse") for name in found)
    without = dataclasses.replace(FACTS, own_entropy=[], own_log_probabilities=[], start_log_probabilities=[])
    assert measure_drift(without).keys() == {"probe/entropy", "kl_to_start", "kl_to_start_sequence", "kl_to_previous"}


def test_one_token_is_not_the_whole_mean() -> None:
    assert k3(1000.0) == k3(RATIO_LIMIT) == math.expm1(RATIO_LIMIT) - RATIO_LIMIT
    assert k3(0.0) == k1(0.0) == 0.0


def test_the_estimators_reference_numbers() -> None:
    """N(0,1) against N(.1,1): KL .005; spread / KL is 20 of k1 and 1.42 of k3, and both are unbiased."""
    draw = random.Random(0)
    # Samples of the first, whose log-ratio to the second is (.01 - .2 x) / 2 for p / q, the negative for q / p.
    ratios = [0.1 * draw.gauss(0, 1) - 0.005 for _ in range(200_000)]
    for estimator, spread in ((k1, 20.0), (k3, 1.42)):
        values = [estimator(ratio) for ratio in ratios]
        error = statistics.stdev(values) / math.sqrt(len(values))
        assert statistics.fmean(values) == pytest.approx(0.005, abs=4 * error)
        assert statistics.stdev(values) / 0.005 == pytest.approx(spread, rel=0.02)


def test_kept_samples() -> None:
    found = measure_kept(KeptFacts(["a", "b", "a", "c"], {"c", "x", "a"}, [[0.5], [1.0, 0.0]]))
    assert found == {
        "kept/nll_before": 0.5,
        "kept/num_unique": 3,
        "kept/duplicate_fraction": 0.25,
        "kept/stale_fraction": 0.75,
    }
    assert measure_kept(KeptFacts()) == {}
