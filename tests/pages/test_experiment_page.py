"""The page of an experiment: its verdicts and arms as `experiments.report` has them, and arms with hostile names."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from cli_calls import command_line
from compared_runs import run_arm
from page_runs import ATTACKS

from halo_forge.experiments.file import Experiment, load_experiment
from halo_forge.experiments.progress import Failure, write_failures
from halo_forge.experiments.report import report
from halo_forge.pages.experiment_page import experiment_sections
from halo_forge.pages.make import experiment_html, experiment_state

HOSTILE = f"{ATTACKS[1]}{ATTACKS[3]}"


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """Two arms, one of a hostile name and clearly better, with two seeds each; the second seed of one is missing."""
    folder = tmp_path_factory.mktemp("experiment")
    with pytest.MonkeyPatch.context() as monkeypatch:
        shares = {"plain": [0.3, 0.3, 0.3], HOSTILE: [0.3, 0.9, 0.9]}
        document = {
            "question": f"Is it better? {ATTACKS[0]}",
            "base": "run.yaml",
            "arms": {name: {"engine.temperature": 0.7 + at / 10} for at, name in enumerate(shares)},
            "seeds": [0, 1],
            "primary": [{"treatment": HOSTILE, "control": "plain", "expect": "higher"}],
            "output_dir": str(folder / "out"),
        }
        path = folder / "experiment.yaml"
        path.write_text(yaml.safe_dump(document), encoding="utf-8")
        run_arm(monkeypatch, folder, folder / "first", [0.5])  # writes run.yaml
        found = load_experiment(path)
        for arm, seed in found.runs():
            if (arm.name, seed) != ("plain", 1):
                run_arm(monkeypatch, folder, found.run_root(arm, seed), shares[arm.name], arm.overrides, seed=seed)
    return found


def test_verdicts_and_arms_are_those_of_the_report(experiment: Experiment) -> None:
    found = report(experiment)
    facts, sections = experiment_sections(experiment)
    tables = {table.caption: table for section in sections for table in section.tables}
    (row,) = tables["Primary comparisons, judged together"].rows
    (hypothesis,) = found.hypotheses
    assert row[-1] == hypothesis.verdict.replace("_", " ")
    assert hypothesis.estimate is not None
    assert row[4].startswith(f"{hypothesis.estimate.difference:+.3f} [{hypothesis.estimate.low:+.3f}, ")
    assert ("runs", "3 of 4 finished") in facts.facts
    assert "not finished" in facts.state
    charts = {chart.title: chart for section in sections for chart in section.charts}
    by_version = charts["dev/pass rate, by version"].table
    assert by_version.headers == ("version", *(arm.name for arm in found.arms))
    for at, arm in enumerate(found.arms, start=1):
        means = [point.metrics["dev/pass_rate"].mean for point in arm.points]
        assert [float(cells[at].split()[0]) for cells in by_version.rows] == pytest.approx(means, abs=0.0006)
    assert {"dev/pass rate, by learning-rate mass", "dev/pass rate, by sampled tokens"} <= set(charts)


def test_a_run_that_failed_is_said_and_runs_are_named_by_their_place_in_the_experiment(
    experiment: Experiment, tmp_path: Path
) -> None:
    copy = dataclasses.replace(experiment, root=tmp_path / "out")
    shutil.copytree(experiment.root, copy.root, symlinks=True)
    write_failures(copy, [Failure("plain", 0, 1, "no memory", ""), Failure("plain", 1, 2, "no model", "")])
    remarks = report(copy).remarks
    assert "2 runs failed: plain, seed 0; plain, seed 1 (halo-forge experiment status says why)" in remarks
    _, sections = experiment_sections(copy)
    (table,) = next(section.tables for section in sections if section.id == "runs")
    states = {row[-1]: row[2] for row in table.rows}
    assert states["plain/seed-0"] == "failed"
    assert len(states) == 3 and not any(name.startswith(("/", "..")) for name in states)


def test_its_state_changes_with_any_of_its_runs(experiment: Experiment) -> None:
    before = experiment_state(experiment)
    path = experiment.run_root(experiment.arm("plain"), 0) / "result.json"
    text = path.read_text()
    path.unlink()
    assert experiment_state(experiment) != before
    path.write_text(text)
    assert experiment_state(experiment) == before


def test_names_of_arms_are_only_text_in_a_browser(experiment: Experiment, watch: Any, tmp_path: Path) -> None:
    file = tmp_path / "experiment.html"
    file.write_text(experiment_html(experiment), encoding="utf-8")
    for width in (400, 1600):
        watched = watch(width=width)
        watched.page.goto(file.as_uri())
        watched.page.locator("[data-tip]").last.hover(force=True)
        watched.page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        watched.page.wait_for_timeout(200)
        assert watched.page.locator("#tip").is_visible()
        assert watched.page.evaluate("window.pwned") is None
        assert watched.page.evaluate("document.documentElement.scrollWidth") <= width
        assert HOSTILE in watched.page.locator("#setup").inner_text()
        assert ATTACKS[0] in watched.page.locator("h1").inner_text()
        assert watched.problems == []
        assert watched.requests == [file.as_uri()]


def test_the_command_takes_the_file_and_names_it_for_the_folder(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with command_line(monkeypatch, capsys) as cli:
        done = cli("report", experiment.path)
        assert done.code == 0 and done.out.startswith(str(experiment.root / "report.html"))
        (experiment.root / "experiment.json").write_text("{}")
        wrong = cli("report", experiment.root)
        assert wrong.code == 2 and "name its file" in wrong.err
        assert "drop --set" in cli("report", experiment.run_root(experiment.arms[0], 0), "--set", "share=false").err
