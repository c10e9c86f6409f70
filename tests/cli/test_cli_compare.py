"""`halo-forge compare`: what a person and a program see."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_calls import Cli, command_line
from compared_runs import run_arm
from terminal import assert_fits


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Cli]:
    with command_line(monkeypatch, capsys) as run:
        yield run


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    found = []
    for seed in (0, 1):
        for name, rate, shares in (("constant", 5e-5, [0.3, 0.7, 0.4]), ("low", 1e-5, [0.3, 0.5, 0.7])):
            root = tmp_path / name / f"seed-{seed}"
            overrides = {"training.learning_rate": rate}
            found.append(run_arm(monkeypatch, tmp_path / "inputs", root, shares, overrides, seed=seed))
    return found


def test_everything_is_shown_at_every_width(cli: Cli, runs: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    piped = cli("compare", *runs)
    assert piped.code == 0
    for said in ("fall after the peak", "equal learning-rate mass", "equal sampled tokens", "differences to constant"):
        assert said in piped.out
    for width in (80, 200):
        monkeypatch.setenv("COLUMNS", str(width))
        left_out = assert_fits(cli("compare", *runs).out, piped.out, width)
        assert not {"difference", "95% interval", "arm"} & set(left_out)
        assert width == 80 or left_out == []


def test_json_has_every_printed_difference(cli: Cli, runs: list[Path]) -> None:
    printed = cli("compare", *runs).out
    row = cli("compare", *runs, "--json").json
    assert [arm["name"] for arm in row["arms"]] == ["constant", "low"]
    assert row["differences"] and row["settings"] == [{"key": "training.learning_rate", "values": [5e-5, 1e-5]}]
    for each in row["differences"]:
        assert f"{each['estimate']['difference']:+.3f}" in printed


def test_only_seeds_that_differ_are_said(cli: Cli, runs: list[Path]) -> None:
    done = cli("compare", runs[0], runs[2])
    assert done.code == 0
    assert "only the seeds differ: the differences are what another seed gives" in done.out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--metric", "speed"], 2, "metric is 'speed'"),
        (["nowhere"], 3, "nowhere: not a run directory of halo-forge"),
    ],
)
def test_what_is_wrong_is_said_with_its_fix(
    cli: Cli, runs: list[Path], arguments: list[str], code: int, message: str
) -> None:
    done = cli("compare", *runs, *arguments)
    assert done.code == code
    assert message in done.err and "fix:" in done.err
