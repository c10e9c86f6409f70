"""scripts/simulate_experiments.py: intervals cover, and plans keep what they promise (few repetitions)."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest
from benchmarks import script

from halo_forge.core.power import Design


@pytest.fixture(scope="module", name="script")
def _script() -> Iterator[ModuleType]:
    with script("simulate_experiments") as module:
        yield module


@pytest.mark.parametrize("num_seeds", [2, 3, 5])
def test_the_intervals_of_experiments_cover_and_those_of_a_bootstrap_do_not_with_two_seeds(
    script: ModuleType, num_seeds: int
) -> None:
    """Seeds that differ by 5 points, with hardly any other noise: the hardest case for few seeds."""
    shares = script.coverage(script.World(0.5, 0.05, 0.0), Design(num_seeds, 100), 8, 100, seed=1)
    found = {share.what.removeprefix("coverage, "): share for share in shares}
    assert found["as used"].measured >= 0.95 - 3 * found["as used"].error
    if num_seeds == 2:
        assert found["bootstrap"].measured < 0.95 - 3 * found["bootstrap"].error


@pytest.mark.parametrize("num_seeds", [3, 5])
def test_a_plan_keeps_what_it_promises(script: ModuleType, num_seeds: int) -> None:
    error, power = script.power_and_error(0.5, 0.02, Design(num_seeds, 64), 8, 200, seed=1)
    assert (error.what, power.what) == ("error", "power")
    assert abs(power.measured - 0.8) <= 3 * power.error
    assert error.measured <= 0.05 + 3 * error.error


def test_the_simulated_difference_is_exact_in_spite_of_the_clipping(script: ModuleType) -> None:
    world = script.World(0.1, 0.0, 0.1)
    generator = script.np.random.default_rng(5)
    tables = script.experiments(world, Design(2, 500), 8, 40, generator)
    means = [float((treatment - control).mean()) for treatment, control in tables]
    assert sum(means) / len(means) == pytest.approx(0.1, abs=0.005)


def test_the_script_prints_every_size_and_ends_in_json(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script, "SEEDS", (3,))
    monkeypatch.setattr(script, "SIZES", ((32, 4),))
    monkeypatch.setattr(script, "WORLDS", ((0.5, 0.02), (0.1, 0.02)))
    monkeypatch.setattr(sys, "argv", ["simulate_experiments.py", "--experiments", "20", "--seed", "2"])
    script.main()
    *table, last = capsys.readouterr().out.splitlines()
    row = json.loads(last)
    assert (row["experiments"], row["seed"]) == (20, 2)
    assert len(table) == 1 + len(row["shares"])
    assert row["coverage, as used"]["sizes"] == 2
