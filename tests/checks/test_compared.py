"""Runs side by side: arms, the versions they are compared at, what is refused, and what is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from compared_runs import run_arm
from scripted_runs import read, rows

import halo_forge
from halo_forge.checks.arms import arms_of, compare_arms, measured_run, version_at
from halo_forge.checks.compared import Difference, RunComparison
from halo_forge.core.errors import ConfigError, RunDirError

FALLS, KEEPS = [0.3, 0.7, 0.35], [0.3, 0.7, 0.72]
"""Shares that v_0, v_1 and v_2 pass."""
CONSTANT = {"training.learning_rate": 5e-5}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two arms with three seeds each: "constant" falls after its peak, "decay" does not."""
    folder, found = tmp_path_factory.mktemp("compared"), {}
    with pytest.MonkeyPatch.context() as patched:
        for seed in (0, 1, 2):
            for name, shares, overrides in (("constant", FALLS, CONSTANT), ("decay", KEEPS, {})):
                root = folder / name / f"seed-{seed}"
                found[f"{name} {seed}"] = run_arm(patched, folder / "inputs", root, shares, overrides, seed=seed)
    return found


def of(found: RunComparison, metric: str, at: str) -> Difference:
    (row,) = [each for each in found.differences if (each.metric, each.at) == (metric, at)]
    return row


def test_runs_that_differ_only_in_their_seed_are_one_arm(runs: dict[str, Path]) -> None:
    found = halo_forge.compare_runs(runs.values())
    assert [(arm.name, [run.seed for run in arm.runs]) for arm in found.arms] == [
        ("constant", [0, 1, 2]),
        ("decay", [0, 1, 2]),
    ]
    assert not found.only_seeds_differ
    assert all(setting.key.startswith("training.learning_rate") for setting in found.settings)
    assert len(of(found, "dev/pass_rate", "final").estimate.seeds) == 3


def test_a_difference_is_that_of_the_verdicts(runs: dict[str, Path]) -> None:
    found = of(halo_forge.compare_runs(runs.values()), "test/pass_rate", "final")

    def rate(root: Path) -> float:
        verdicts = rows(root / "test/v002/verdicts.jsonl")
        return sum(row["status"] == "passed" for row in verdicts) / len(verdicts)

    differences = [rate(runs[f"decay {seed}"]) - rate(runs[f"constant {seed}"]) for seed in (0, 1, 2)]
    assert found.estimate.difference == pytest.approx(sum(differences) / 3)
    assert found.treatment_versions == found.control_versions == (2, 2, 2)


def test_the_arm_that_keeps_its_peak_has_the_smaller_fall(runs: dict[str, Path]) -> None:
    found = of(halo_forge.compare_runs(runs.values()), "dev/pass_rate", "fall")
    assert found.estimate.high < 0.0
    for name in ("constant", "decay"):
        arm = next(arm for arm in halo_forge.compare_runs(runs.values()).arms if arm.name == name)
        for run in arm.runs:
            means = [point.metrics["dev/pass_rate"].mean for point in run.points]
            assert run.peak is not None and means[run.peak] == max(means)
            assert run.fall == pytest.approx(max(means) - means[-1])


def test_points_carry_what_was_measured_and_spent(runs: dict[str, Path]) -> None:
    arm = halo_forge.compare_runs(runs.values()).arms[0]
    run, root = arm.runs[0], runs["constant 0"]
    measured = read(root / "cycles/002/measurement.json")["metrics"]
    band = run.points[1].metrics["dev/pass_rate"]
    assert (band.mean, band.low, band.high) == pytest.approx(
        tuple(measured[f"dev/pass_rate{end}"] for end in ("", "_low", "_high"))
    )
    trained = read(root / "cycles/001/trained.json")["metrics"]
    assert run.points[1].learning_rate_mass == pytest.approx(trained["learning_rate_mass"])
    means = [each.points[1].metrics["dev/pass_rate"].mean for each in arm.runs]
    whole = arm.points[1].metrics["dev/pass_rate"]
    assert (whole.mean, whole.lowest, whole.highest, whole.num_seeds) == pytest.approx(
        (sum(means) / 3, min(means), max(means), 3)
    )
    assert whole.low < whole.mean < whole.high


def test_at_equal_mass_no_version_has_spent_more_than_every_run_has(runs: dict[str, Path]) -> None:
    found = halo_forge.compare_runs(runs.values())
    row = of(found, "dev/pass_rate", "equal_mass")
    lasts = [run.points[-1].learning_rate_mass for arm in found.arms for run in arm.runs]
    assert row.budget == pytest.approx(min(lasts))
    for arm, versions in zip(found.arms, (row.control_versions, row.treatment_versions), strict=True):
        for run, version in zip(arm.runs, versions, strict=True):
            assert run.points[version].learning_rate_mass <= row.budget * 1.000001
            assert version == run.final or run.points[version + 1].learning_rate_mass > row.budget


def test_the_same_run_twice_differs_by_nothing_and_is_said(runs: dict[str, Path]) -> None:
    found = halo_forge.compare_runs([runs["decay 0"], runs["decay 0"]])
    assert [arm.name for arm in found.arms] == ["decay", "decay (2)"]
    for each in found.differences:
        estimate = each.estimate
        assert (estimate.difference, estimate.p_value) == (0.0, 1.0) and estimate.low == -estimate.high < 0.0
    assert any("is given 2 times" in remark for remark in found.remarks)


def test_runs_of_different_seeds_show_what_another_seed_gives(runs: dict[str, Path]) -> None:
    found = halo_forge.compare_runs([runs["decay 0"], runs["decay 1"]])
    assert found.only_seeds_differ and found.settings == ()
    assert [arm.name for arm in found.arms] == ["seed 0", "seed 1"]
    row = of(found, "dev/pass_rate", "final")
    assert row.estimate.seeds == ((1, 0),) and not row.estimate.is_about_seeds
    assert any("no seed is in both" in remark for remark in found.remarks)


def test_one_seed_of_each_arm_is_said_to_tell_nothing_about_others(runs: dict[str, Path]) -> None:
    def is_said(*names: str) -> bool:
        found = halo_forge.compare_runs([runs[name] for name in names])
        return any("not about runs with other seeds" in remark for remark in found.remarks)

    assert is_said("constant 0", "decay 0")
    assert not is_said("constant 0", "decay 0", "constant 1", "decay 1")
    assert not is_said("decay 0", "decay 1")  # nothing but seeds differs, and that is said


def test_arms_are_named_by_what_their_paths_do_not_share(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = runs["decay 0"].parent.parent / "inputs"
    roots = [tmp_path / "one" / "run", tmp_path / "other" / "run"]
    for root, rate in zip(roots, (1e-5, 2e-5), strict=True):
        run_arm(monkeypatch, inputs, root, KEEPS, {"training.learning_rate": rate})
    found = halo_forge.compare_runs([*roots, runs["decay 0"]])
    assert [arm.name for arm in found.arms] == ["one/run", "other/run", f"{runs['decay 0'].parent.parent.name}/decay"]


def test_a_run_without_a_partner_is_said(runs: dict[str, Path]) -> None:
    found = halo_forge.compare_runs([runs["constant 0"], runs["decay 0"], runs["decay 2"]])
    assert len(of(found, "dev/pass_rate", "final").estimate.seeds) == 1
    assert any("1 run without a partner of the same seed left out" in remark for remark in found.remarks)


def test_three_arms_are_corrected_for_being_two_comparisons(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = runs["decay 0"].parent.parent / "inputs"
    third = run_arm(monkeypatch, inputs, tmp_path / "third", KEEPS, {"training.learning_rate": 1e-5})
    found = halo_forge.compare_runs([runs["constant 0"], runs["decay 0"], third])
    pair = [each for each in found.differences if (each.metric, each.at) == ("dev/pass_rate", "final")]
    smaller, larger = sorted(pair, key=lambda each: each.estimate.p_value)
    assert smaller.p_adjusted == pytest.approx(min(1.0, 2 * smaller.estimate.p_value))
    assert larger.p_adjusted >= smaller.p_adjusted


def test_an_unfinished_run_is_said_and_has_no_test(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = runs["decay 0"].parent.parent / "inputs"
    stopped = run_arm(monkeypatch, inputs, tmp_path / "stopped", KEEPS, CONSTANT)
    (stopped / "result.json").unlink()
    for path in (stopped / "test").rglob("*"):
        if path.is_file():
            path.unlink()
    (stopped / "cycles/003/measurement.json").unlink()
    (stopped / "cycles/003/decision.json").unlink()
    found = halo_forge.compare_runs([runs["decay 0"], stopped])
    assert {each.metric for each in found.differences} == {"dev/pass_rate"}
    assert of(found, "dev/pass_rate", "final").treatment_versions == (1,)
    assert any("stopped is not finished" in each and "measured so far: v1" in each for each in found.remarks)
    assert any("the test prompts are measured at the end of a run" in each for each in found.remarks)


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        ({"evaluation.temperature": 0.1}, "evaluation.temperature differs"),
        ({"verifier.timeout_seconds": 2.0}, "verifier.timeout_seconds differs"),
    ],
)
def test_runs_that_are_measured_in_another_way_are_refused(
    runs: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    overrides: dict[str, float],
    reason: str,
) -> None:
    inputs = runs["decay 0"].parent.parent / "inputs"
    other = run_arm(monkeypatch, inputs, tmp_path / "other", KEEPS, overrides)
    with pytest.raises(ConfigError, match=reason):
        halo_forge.compare_runs([runs["decay 0"], other])


def test_other_rewards_are_no_obstacle_to_comparing_passes(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = runs["decay 0"].parent.parent / "inputs"
    other = run_arm(monkeypatch, inputs, tmp_path / "other", KEEPS, {"verifier.rewards.compiles": 0.4})
    both = [runs["decay 0"], other]
    assert halo_forge.compare_runs(both).differences
    with pytest.raises(ConfigError, match=r"verifier.rewards.compiles differs"):
        halo_forge.compare_runs(both, metric="reward_mean")


def test_other_test_prompts_leave_dev_to_compare(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = run_arm(monkeypatch, tmp_path / "in", tmp_path / "other", KEEPS, CONSTANT, num_prompts=(3, 30, 22))
    found = halo_forge.compare_runs([runs["decay 0"], other])
    assert {each.metric for each in found.differences} == {"dev/pass_rate"}
    assert any("their test prompts differ" in remark for remark in found.remarks)


def test_what_cannot_be_compared_at_all_is_an_error(runs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="1 run given, allowed: 2 or more"):
        halo_forge.compare_runs([runs["decay 0"]])
    with pytest.raises(ConfigError, match="allowed: a list of run directories"):
        halo_forge.compare_runs(str(runs["decay 0"]))
    with pytest.raises(ConfigError, match="metric is 'speed', allowed: compile_rate, pass_rate, reward_mean"):
        halo_forge.compare_runs(runs.values(), metric="speed")
    with pytest.raises(RunDirError, match="not a run directory"):
        halo_forge.compare_runs([runs["decay 0"], tmp_path])


def test_the_row_is_plain_json(runs: dict[str, Path]) -> None:
    found = halo_forge.compare_runs(runs.values())
    row = json.loads(json.dumps(found.to_row(), allow_nan=False))
    assert row["differences"][0]["estimate"]["difference"] == found.differences[0].estimate.difference


def test_equal_values_share_the_earliest_peak(runs: dict[str, Path]) -> None:
    run = halo_forge.RunDirectory(runs["decay 0"])
    measured = measured_run(run.path, run.config.config)
    (arm,) = arms_of([measured])
    assert version_at(measured, "dev/compile_rate", "peak").version == 0  # everything compiles in every version
    assert compare_arms(arm, arm, "dev/compile_rate", "fall").difference == 0.0
