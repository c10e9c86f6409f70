"""The experiment files that come with the package: each loads, plans, and changes only what its question is about."""

from __future__ import annotations

from pathlib import Path

import pytest

from halo_forge.config import differing_keys
from halo_forge.config.load import influential
from halo_forge.experiments.file import Arm, Experiment, load_experiment
from halo_forge.experiments.plan import plan
from halo_forge.runtime.preview import preview

ROOT = Path(__file__).parents[2]
SHIPPED = sorted((ROOT / "configs/experiments").glob("*.yaml"))

CONSTANT, MODERATE = [5.0] * 5, [5.0, 4.25, 3.6125, 3.0706, 2.61]
RATES = {
    "baseline": {"constant": CONSTANT},
    "decay_factor": {
        "constant": CONSTANT,
        "aggressive": [5.0, 3.5, 2.45, 1.715, 1.2005],
        "moderate": MODERATE,
        "conservative": [5.0, 4.75, 4.5125, 4.2869, 4.0725],
    },
    "budget_matched": {"decay": MODERATE, "matched": [3.7086] * 5},
    "base_learning_rate": {
        "base=3e-5": [3.0, 2.55, 2.1675, 1.8424, 1.566],
        "base=5e-5": MODERATE,
        "base=8e-5": [8.0, 6.8, 5.78, 4.913, 4.176],
    },
    "sft_first": {"raft_alone": [100.0, 60.0, 36.0], "sft_then_raft": [100.0]},
    "temperature": {
        f"temperature={heat},learning_rate={rate}e-5": [float(rate)] * 5
        for heat in (0.5, 0.7, 0.9)
        for rate in (3, 5, 7)
    },
}
"""Experiment -> arm -> its learning rates in units of 1e-5."""


def load(name: str) -> Experiment:
    return load_experiment(ROOT / f"configs/experiments/{name}.yaml")


def rates(experiment: Experiment, arm: Arm) -> list[float]:
    shown = preview(experiment.config(arm, experiment.seeds[0]).config, 203, 40, has_tests=True).cycles
    return [round(cycle.learning_rate * 1e5, 4) for cycle in shown]


def test_these_are_shipped() -> None:
    assert [path.stem for path in SHIPPED] == sorted(RATES)


@pytest.mark.parametrize("name", RATES)
def test_the_arms_have_the_learning_rates_of_the_question_and_differ_in_nothing_else(name: str) -> None:
    experiment = load(name)
    assert {arm.name: rates(experiment, arm) for arm in experiment.arms} == RATES[name]
    further = {"temperature": ["engine.temperature"], "sft_first": ["model.adapter", "raft.num_cycles"]}
    allowed = ("training.learning_rate", *further.get(name, []))
    configs = [influential(experiment.config(arm, 0).config) for arm in experiment.arms]
    for config in configs[1:]:
        keys = {key for key, _, _ in differing_keys(configs[0], config)}
        assert keys and all(key.startswith(allowed) for key in keys), keys
    assert len(experiment.seeds) >= 2, "one seed cannot tell an effect from luck"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_each_plans_and_is_described(path: Path) -> None:
    experiment = load_experiment(path)
    found = plan(experiment)
    assert [arm.name for arm in found.arms] == [arm.name for arm in experiment.arms]
    text, readme = path.read_text(), (ROOT / "configs/README.md").read_text()
    assert f"halo-forge experiment run {path.relative_to(ROOT).as_posix()}" in text
    assert f"(experiments/{path.name})" in readme
    assert "Not run on gfx1151" in text
