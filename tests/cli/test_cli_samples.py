"""`raft samples`: two versions side by side; filters; and nothing that a model wrote acts on the terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_calls import Cli, command_line
from scripted_runs import execute, steady_answers, verify_in_memory, write_inputs

from halo_forge.core.wording import visible

HOSTILE = "pass \x1b[2J\x1b]0;owned\x07 \u202egnorts\u202c \x00 \r overwritten \u200b \x9b31m end"


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Cli]:
    with command_line(monkeypatch, capsys) as run:
        yield run


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """v1 passes dev where v0 fails, so every dev prompt is gained."""
    verify_in_memory(monkeypatch, bad_versions=[0], flaky=[f"pass two train{number}" for number in (1, 2, 3)])
    execute(write_inputs(tmp_path, answers=steady_answers), tmp_path / "run")
    return tmp_path / "run"


def test_both_versions_with_verdicts(root: Path, cli: Cli) -> None:
    done = cli("raft", "samples", root)
    assert done.code == 0
    assert "v0 and v1 (chosen on dev) on dev: 2 prompts of 2" in done.out
    assert "dev1: v0 passes 0 of 2, v1 passes 2 of 2 (gained)" in done.out
    assert "v0 sample 0: runs, reward 0.700, 1 of 1 test failed" in done.out
    assert "v1 sample 1: passes, reward 1.000, 0 of 1 test failed" in done.out


def test_wide_terminals_show_them_side_by_side(root: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    lines = cli("raft", "samples", root).out.splitlines()
    assert any("v0 sample 0" in line and "v1 sample 0" in line for line in lines)
    assert max(map(len, lines)) <= 120
    monkeypatch.setenv("COLUMNS", "60")
    narrow = cli("raft", "samples", root).out.splitlines()
    assert not any("v0 sample 0" in line and "v1 sample 0" in line for line in narrow)


def test_filters_name_what_they_leave(root: Path, cli: Cli) -> None:
    assert "2 prompts of 2" in cli("raft", "samples", root, "--gained").out
    assert "0 prompts of 2" in cli("raft", "samples", root, "--lost").out
    assert "2 prompts of 2" in cli("raft", "samples", root, "--gained", "--lost").out
    one = cli("raft", "samples", root, "--prompt", "dev2").out
    assert "dev2:" in one and "dev1:" not in one
    cut = cli("raft", "samples", root, "--most", "1")
    assert "left out: 1 prompt;" in cut.err


def test_a_reason_shows_only_the_samples_that_were_dropped_for_it(root: Path, cli: Cli) -> None:
    rows = cli("raft", "samples", root, "--reason", "flaky", "--json").json
    samples = [sample for row in rows for sample in row["samples"]]
    assert samples
    assert {sample["dropped_for"] for sample in samples} == {"flaky"}
    assert "dropped: flaky" in cli("raft", "samples", root, "--reason", "flaky").out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--reason", "ugly"), "below_threshold"),
        (("--reason", "flaky", "--set", "dev"), "drop --set"),
        (("--set", "training"), "train, dev, test"),
        (("--prompt", "nobody"), "'nobody'"),
        (("--version", "9"), "measured: 0, 1, 2"),
    ],
)
def test_what_is_not_there_is_an_error_that_says_what_is(
    root: Path, cli: Cli, words: tuple[str, ...], said: str
) -> None:
    done = cli("raft", "samples", root, *words)
    assert done.code == 2 and said in done.err and "fix:" in done.err


def test_nothing_a_model_wrote_acts_on_the_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli) -> None:
    verify_in_memory(monkeypatch)
    config = write_inputs(tmp_path, answers=lambda prompt_id: [HOSTILE, f"{HOSTILE} {prompt_id}"])
    execute(config, tmp_path / "run")
    for path in (tmp_path / "run").rglob("*verdicts.jsonl"):
        path.write_text(path.read_text().replace('"diagnostics": ""', f'"diagnostics": {json.dumps(HOSTILE)}'))
    for columns in (None, "120", "50"):
        if columns is not None:
            monkeypatch.setenv("COLUMNS", columns)
        done = cli("raft", "samples", tmp_path / "run")
        assert done.code == 0
        assert "\\x1b[2J" in done.out and "\\u202e" in done.out
        assert not [each for each in done.out if each != "\n" and visible(each) != each]


def test_text_that_is_only_text_stays_as_it_is() -> None:
    for text in ("int main(void) {\n\treturn 0;\n}", "naïve Größe 東京 🙂", ""):
        assert visible(text) == text
    assert visible("\ud800\x7f\u2028\U000e0041") == "\\ud800\\x7f\\u2028\\U000e0041"


def test_a_long_completion_says_how_much_is_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli
) -> None:
    verify_in_memory(monkeypatch)
    config = write_inputs(tmp_path, answers=lambda prompt_id: [f"pass {'x' * 9000} {prompt_id}"])
    execute(config, tmp_path / "run")
    out = cli("raft", "samples", tmp_path / "run", "--prompt", "dev1").out
    assert "more characters (--json shows all)" in out
    assert len(out) < 20_000
