"""The report of an experiment: verdicts by its finished runs, the arms in order, and what is still missing."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from cli_calls import command_line
from compared_runs import run_arm
from scripted_runs import rows
from terminal import assert_fits

from halo_forge.cli.experiment import _print
from halo_forge.cli.experiment_report import print_report
from halo_forge.core.comparison import Judgement
from halo_forge.core.errors import RunDirError
from halo_forge.experiments.execute import SCHEMA_VERSION, _opened, execute
from halo_forge.experiments.file import Experiment, load_experiment
from halo_forge.experiments.progress import ExperimentProgress, RunProgress, check_runs, read_progress
from halo_forge.experiments.report import _ranking, measured_arms, report
from halo_forge.store.shared import Saved

SHARES = {"constant": [0.3, 0.7, 0.3], "decay": [0.3, 0.7, 0.72]}
"""What v_0, v_1 and v_2 of an arm pass."""
FILE = """\
question: Does decay keep more of the peak?
base: inputs/run.yaml
arms:
  constant: {training.learning_rate: 5e-5}
  decay: {}
seeds: [0, 1, 2]
primary:
  - {treatment: decay, control: constant, metric: dev/pass_rate, at: fall, expect: lower}
  - {treatment: decay, control: constant, metric: test/pass_rate, at: chosen, expect: higher}
  - {treatment: constant, control: decay, metric: dev/pass_rate, at: final, expect: higher}
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    folder = tmp_path_factory.mktemp("experiment")
    (folder / "experiment.yaml").write_text(f"{FILE}output_dir: {folder / 'runs'}\n", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patched:
        for seed in (0, 1, 2):
            for name, shares in SHARES.items():
                overrides = {"training.learning_rate": 5e-5} if name == "constant" else {}
                run_arm(
                    patched, folder / "inputs", folder / "runs" / name / f"seed-{seed}", shares, overrides, seed=seed
                )
    return load_experiment(folder / "experiment.yaml")


@pytest.fixture
def partial(finished: Experiment, tmp_path: Path) -> Experiment:
    """A copy of it to take runs away from."""
    shutil.copytree(finished.root, tmp_path / "runs", symlinks=True)
    text = finished.path.read_text(encoding="utf-8").replace(str(finished.root), str(tmp_path / "runs"))
    shutil.copytree(finished.path.parent / "inputs", tmp_path / "inputs")
    (tmp_path / "experiment.yaml").write_text(text, encoding="utf-8")
    return load_experiment(tmp_path / "experiment.yaml")


def test_every_hypothesis_ends_in_a_verdict(finished: Experiment) -> None:
    found = report(finished)
    assert (found.num_finished, found.num_runs) == (6, 6)
    assert [each.verdict for each in found.hypotheses] == ["supported", "cannot_tell", "against"]
    fall, chosen, final = found.hypotheses
    assert fall.estimate is not None and fall.estimate.high < 0.0 and fall.is_complete
    assert "corrected for 3 comparisons" in fall.reason
    assert "no difference was seen" in chosen.reason  # equal seeds: v1 of both arms gives the same answers
    assert final.estimate is not None and final.estimate.difference < 0.0
    assert final.p_adjusted is not None and final.p_adjusted < 0.05


def test_the_fall_is_that_of_the_verdicts(finished: Experiment) -> None:
    found = report(finished).hypotheses[0].estimate
    assert found is not None

    def fall(name: str, seed: int) -> float:
        root = finished.run_root(finished.arm(name), seed)
        means = []
        for cycle in (1, 2, 3):
            verdicts = rows(root / f"cycles/{cycle:03d}/dev_verdicts.jsonl")
            means.append(sum(row["status"] == "passed" for row in verdicts) / len(verdicts))
        return max(means) - means[-1]

    differences = [fall("decay", seed) - fall("constant", seed) for seed in (0, 1, 2)]
    assert found.difference == pytest.approx(sum(differences) / 3)


def test_arms_are_ranked_by_dev_and_compared_with_the_best_one(finished: Experiment) -> None:
    first, second = report(finished).ranking
    assert (first.place, first.arm, first.estimate, first.is_clear) == (1, "decay", None, False)
    assert (second.place, second.arm, second.is_clear) == (2, "constant", True)
    assert second.estimate is not None
    assert second.estimate.difference == pytest.approx(second.mean - first.mean)


def test_equal_arms_share_a_place(finished: Experiment, partial: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    constant, inputs = partial.arm("constant"), finished.path.parent / "inputs"
    for seed in partial.seeds:
        shutil.rmtree(root := partial.run_root(constant, seed))
        run_arm(monkeypatch, inputs, root, SHARES["decay"], constant.overrides, seed=seed)
    found = report(partial).ranking
    assert [(each.place, each.is_clear) for each in found] == [(1, False), (1, False)]


def test_one_seed_makes_no_arm_clearly_worse(partial: Experiment) -> None:
    for seed, name in itertools.product((1, 2), SHARES):
        shutil.rmtree(partial.run_root(partial.arm(name), seed))
    _, second = report(partial).ranking
    assert second.p_adjusted is not None and second.p_adjusted < 0.05 and not second.is_clear


def test_arms_are_ranked_as_pairs_of_all_arms(monkeypatch: pytest.MonkeyPatch, finished: Experiment) -> None:
    """Of 4 equal arms the best and the worst differ by chance more often than two that were named before."""
    found: list[int] = []

    def judged(family: Sequence[object], *, num_unmeasured: int, one_seed_decides: bool) -> list[Judgement]:
        found.append(len(family) + num_unmeasured)
        return [Judgement("cannot_tell", 1.0, "")] * len(family)

    monkeypatch.setattr("halo_forge.experiments.report.judge", judged)
    arms = [
        dataclasses.replace(arm, name=f"arm {at}") for at, arm in enumerate([*measured_arms(finished).values()] * 2)
    ]
    list(_ranking(arms, "dev/pass_rate", one_seed_decides=False))
    assert found == [6]


def test_unfinished_runs_do_not_count_and_are_said(partial: Experiment) -> None:
    (partial.run_root(partial.arm("decay"), 2) / "result.json").unlink()
    shutil.rmtree(partial.run_root(partial.arm("constant"), 1))
    found = report(partial)
    assert (found.num_finished, found.num_runs) == (4, 6)
    fall = found.hypotheses[0]
    assert fall.estimate is not None and fall.estimate.seeds == ((0, 0),)
    assert not fall.is_complete and fall.verdict == "cannot_tell"
    assert "another seed may give another" in fall.reason and "so far 1 of 3 seeds" in fall.reason
    assert any(remark.startswith("4 of 6 runs finished") for remark in found.remarks)
    assert any("seed-2 is not finished" in remark for remark in found.remarks)
    assert [len(arm.runs) for arm in found.arms] == [2, 3]


def test_an_arm_without_a_run_leaves_its_hypotheses_open(partial: Experiment) -> None:
    shutil.rmtree(partial.root / "decay")
    found = report(partial)
    for each in found.hypotheses:
        assert (each.verdict, each.estimate, each.p_adjusted) == ("cannot_tell", None, None)
        assert "no seed is so far" in each.reason
    assert any("nothing is measured yet of decay" in remark for remark in found.remarks)
    assert [each.arm for each in found.ranking] == ["constant"]


def test_hypotheses_that_are_not_measured_yet_count_in_the_family(partial: Experiment) -> None:
    """Else a verdict could come and go with what happens to be finished."""
    text = partial.path.read_text(encoding="utf-8")
    text = text.replace("  decay: {}\n", "  decay: {}\n  third: {training.learning_rate: 1e-6}\n")
    text = text.replace("output_dir", "  - {treatment: third, control: decay, expect: higher}\noutput_dir")
    partial.path.write_text(text, encoding="utf-8")
    found = report(load_experiment(partial.path))
    assert "corrected for 4 comparisons" in found.hypotheses[0].reason
    assert found.hypotheses[3].estimate is None


def test_a_hypothesis_that_was_changed_after_the_start_is_refused(partial: Experiment) -> None:
    identity = {"schema_version": SCHEMA_VERSION, "digest": partial.digest, "identity": partial.identity()}
    (partial.root / "experiment.json").write_text(json.dumps(identity), encoding="utf-8")
    assert report(partial).hypotheses[2].verdict == "against"
    text = partial.path.read_text(encoding="utf-8")
    last = "{treatment: constant, control: decay, metric: dev/pass_rate, at: final, expect: "
    partial.path.write_text(text.replace(f"{last}higher", f"{last}lower"), encoding="utf-8")
    with pytest.raises(RunDirError, match="started with another experiment file:\n  primary: was"):
        report(load_experiment(partial.path))


def test_one_comparison_needs_no_correction(partial: Experiment) -> None:
    text = partial.path.read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if "at: chosen" not in line and "at: final" not in line]
    partial.path.write_text("\n".join(lines), encoding="utf-8")
    (fall,) = report(load_experiment(partial.path)).hypotheses
    assert fall.estimate is not None and fall.p_adjusted == fall.estimate.p_value


def test_an_experiment_that_was_not_started_is_told_how(partial: Experiment) -> None:
    shutil.rmtree(partial.root)
    with pytest.raises(RunDirError, match="no run of this experiment has measured anything") as raised:
        report(partial)
    assert "halo-forge experiment run" in raised.value.hint


def test_everything_is_shown_at_every_width(
    finished: Experiment, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found, shown = report(finished), {}
    for width in ("", "80", "200"):
        monkeypatch.setenv("COLUMNS", width)
        print_report(found)
        shown[width] = capsys.readouterr().out
    for said in ("Does decay keep more of the peak? (6 of 6 runs finished)", "supported", "cannot tell", "against"):
        assert said in shown[""]
    for width in (80, 200):
        left_out = assert_fits(shown[str(width)], shown[""], width)
        assert not {"verdict", "difference", "expected"} & set(left_out)
        assert width == 80 or left_out == []


def test_the_row_is_plain_json(finished: Experiment) -> None:
    found = report(finished)
    row = json.loads(json.dumps(found.to_row(), allow_nan=False))
    assert [each["verdict"] for each in row["hypotheses"]] == ["supported", "cannot_tell", "against"]
    assert row["hypotheses"][0]["comparison"]["treatment"] == "decay"
    assert row["arms"][0]["runs"][0]["points"][1]["metrics"]["dev/pass_rate"]["mean"] > 0.0


def test_the_command_reports_as_the_function(
    finished: Experiment, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with command_line(monkeypatch, capsys) as cli:
        assert cli("experiment", "report", finished.path, "--json").json == json.loads(
            json.dumps(report(finished).to_row())
        )
        assert "verdicts (95% intervals)" in cli("experiment", "report", finished.path).out
        nothing = cli("experiment", "report", finished.path, "--set", "output_dir=nowhere")
        assert nothing.code == 3 and "fix: start it" in nothing.err


def test_arms_of_one_run_are_judged_by_its_one_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The question of a fork is which training does better on one pool, not what another seed would give."""
    run = run_arm(monkeypatch, tmp_path / "in", tmp_path / "run", [0.3, 0.3, 0.3], seed=4)
    (tmp_path / "fork.yaml").write_text(
        f"""\
question: Which rate?
arms: {{low: {{training.learning_rate: 1e-5}}, high: {{training.learning_rate: 1e-4}}}}
primary: [{{treatment: high, control: low, metric: dev/pass_rate, at: final, expect: higher}}]
fork: {{run: {run}, from_cycle: 2}}
output_dir: {tmp_path / "fork"}
""",
        encoding="utf-8",
    )
    experiment = load_experiment(tmp_path / "fork.yaml")
    for arm, shares in zip(experiment.arms, ([0.3, 0.3, 0.3], [0.3, 0.3, 0.8]), strict=True):
        root = experiment.run_root(arm, 4)
        run_arm(monkeypatch, tmp_path / "in", root, shares, arm.overrides, seed=4)
    found = report(experiment)
    assert found.hypotheses[0].verdict == "supported" and [each.place for each in found.ranking] == [1, 2]
    assert [each.arm for each in found.ranking] == ["high", "low"] and found.ranking[1].is_clear


def test_a_fork_is_shown_and_judged_after_the_run_that_it_continues_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_arm(monkeypatch, tmp_path / "in", tmp_path / "run", [0.3, 0.3, 0.3], seed=4)
    (tmp_path / "fork.yaml").write_text(
        f"""\
question: Which rate?
arms: {{low: {{training.learning_rate: 1e-5}}, high: {{training.learning_rate: 1e-4}}}}
primary: [{{treatment: high, control: low, metric: dev/pass_rate, at: final, expect: higher}}]
fork: {{run: {run}, from_cycle: 2}}
output_dir: {tmp_path / "fork"}
""",
        encoding="utf-8",
    )
    experiment = load_experiment(tmp_path / "fork.yaml")
    with _opened(experiment, resume=False):
        pass
    for arm in experiment.arms:
        run_arm(monkeypatch, tmp_path / "in", experiment.run_root(arm, 4), [0.3, 0.3, 0.6], arm.overrides, seed=4)
    before = report(experiment), read_progress(experiment), experiment.digest
    shutil.rmtree(run)
    again = load_experiment(tmp_path / "fork.yaml")
    assert (report(again), read_progress(again), again.digest) == before
    with command_line(monkeypatch, capsys) as cli:
        assert cli("experiment", "status", tmp_path / "fork.yaml").code == 0
        assert cli("experiment", "run", tmp_path / "fork.yaml", "--resume").code == 0
    shutil.rmtree(again.run_root(again.arms[0], 4))
    said = list[str]()
    (failure,) = execute(
        again, resume=True, parallel=1, program=[sys.executable, "-m", "halo_forge"], say=said.append
    ).failures
    assert failure.arm == "low" and f"{run}: not a run directory" in failure.error


def test_a_run_of_another_arm_in_the_folder_of_an_arm_is_refused(
    partial: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("halo_forge.experiments.execute._opened", lambda *given, **more: contextlib.nullcontext())
    decay, constant = partial.run_root(partial.arm("decay"), 1), partial.run_root(partial.arm("constant"), 1)
    shutil.rmtree(decay)
    shutil.copytree(constant, decay, symlinks=True)
    wanted = r"seed-1: not the run of arm decay with seed 1:\n  training.learning_rate"
    with pytest.raises(RunDirError, match=wanted):
        report(partial)
    with pytest.raises(RunDirError, match=wanted):
        execute(partial, resume=True, parallel=1, program=["false"], say=print)
    with pytest.raises(RunDirError, match=wanted):
        check_runs(partial)


def test_a_status_shows_the_fix_of_a_failed_run_on_a_line_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error = "no room on the disk, nothing at all, not even for this file\n  fix: free some space"
    run = RunProgress("decay", 0, "runs/decay", "failed", None, 1, 2, 1.0, Saved(), error)
    monkeypatch.setenv("COLUMNS", "60")
    _print(ExperimentProgress("Does decay help?", "runs", (run,), None), as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert "  fix: free some space" in lines
    assert "decay, seed 0 failed: no room on the disk, nothing at all," in lines
