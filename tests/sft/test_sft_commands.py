"""`halo-forge sft`, and the page: what a person sees of an SFT run, running, stopped or finished."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_calls import Cli, command_line
from sft_stages import completions, execute, write_config

from halo_forge.pages.make import sft_html
from halo_forge.store.sft import sft_source

pytest.importorskip("torch")


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Cli]:
    with command_line(monkeypatch, capsys) as run:
        yield run


def configuration(folder: Path, model: Path) -> Path:
    """Of a stage with a row that is dropped."""
    rows = [*completions(16), {"prompt": "say nothing", "completion": ""}]
    return write_config(folder, model, rows, data={"unusable": "drop"})


@pytest.fixture(scope="module")
def stage(tiny_models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration of a finished stage."""
    config = configuration(tmp_path_factory.mktemp("stage"), tiny_models["llama"])
    execute(config)
    return config


def test_run_prints_the_losses_the_best_version_and_how_to_go_on(
    cli: Cli, tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    config = configuration(tmp_path, tiny_models["llama"])
    done = cli("sft", "run", config)
    assert done.code == 0 and "held-out loss" in done.out and "6 of 6 optimizer steps" in done.out
    assert f"start RAFT from it with model.adapter: {tmp_path / 'run'}/best" in done.out
    assert "1 row dropped: it has no completion" in done.err and "rows.jsonl:17" in done.err
    again = cli("sft", "run", config)
    assert again.code == 3 and "continue it with --resume" in again.err
    resumed = cli("sft", "run", config, "--resume")
    assert (resumed.code, resumed.out) == (0, done.out)


def test_status_as_json_has_every_version_and_the_rows(cli: Cli, stage: Path) -> None:
    done = cli("sft", "status", stage.parent / "run", "--json")
    found = json.loads(done.out)
    assert found["state"] == "finished" and found["rows"]["dropped"] == 1
    assert [each["version"] for each in found["segments"]] == [0, 1, 2, 3]
    assert found["result"]["best_version"] == found["best_version"]
    assert found["segments"][1]["trained"]["optimizer_steps"] == 2


def test_status_offers_the_best_version_to_raft_once_the_stage_is_finished(
    cli: Cli, stage: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(stage.parent / "run", tmp_path / "run", symlinks=True))
    assert "start RAFT from it" in cli("sft", "status", root).out
    (root / "result.json").unlink()
    done = cli("sft", "status", root)
    assert "not finished" in done.out and "start RAFT from it" not in done.out


def test_the_page_has_the_losses_and_names_dropped_rows(cli: Cli, stage: Path) -> None:
    root = stage.parent / "run"
    page = sft_html(root)
    losses = json.loads(cli("sft", "status", root, "--json").out)["segments"]
    assert all(f"{each['held_out_loss']:.3f}" in page for each in losses)
    assert "rows.jsonl:17" in page and "it has no completion" in page and "learning rate" in page.lower()
    done = cli("report", root)
    assert done.code == 0 and (root / "report.html").is_file()


def test_commands_of_raft_say_that_it_is_a_supervised_stage(cli: Cli, stage: Path) -> None:
    root = stage.parent / "run"
    for words in (("raft", "status", root), ("raft", "resume", root)):
        done = cli(*words)
        assert done.code == 3 and "an SFT run, not a RAFT run" in done.err, done.err
    done = cli("sft", "status", stage.parent)
    assert done.code == 3 and "not a run directory" in done.err


def test_the_dry_run_loads_nothing_and_shows_each_segment(cli: Cli, stage: Path, tmp_path: Path) -> None:
    config = stage
    done = cli("sft", "run", config, "--dry-run", "--output-dir", tmp_path / "new")
    assert done.code == 0 and "optimizer steps of 4 rows" in done.out and not (tmp_path / "new").exists()
    assert "usual are 0.0001 to 0.0003" in done.out  # the rate of this configuration is far above
    found = json.loads(cli("sft", "run", config, "--dry-run", "--json").out)
    assert found["num_steps"] == sum(row["steps"] for row in found["segments"])
    quiet = cli("sft", "run", config, "--dry-run", "--set", "training.learning_rate=2e-4")
    assert "usual are" not in quiet.out


def test_config_check_and_show_know_such_a_file(cli: Cli, stage: Path) -> None:
    config = stage
    assert "checked: rows: " in cli("config", "check", config).out
    assert "held_out_fraction: 0.25" in cli("config", "show", config).out
    assert "held_out_fraction" in cli("config", "schema", "--sft").out


def test_a_stage_is_found_from_its_best_adapter(stage: Path, tmp_path: Path) -> None:
    root = stage.parent / "run"
    for path in (root, root / "best", root / "segments/001/adapter"):
        source = sft_source(path)
        assert source is not None and source.learning_rate == 1e-2
    assert sft_source(tmp_path) is None


def test_rows_on_the_hub_are_only_read_by_a_run(cli: Cli, stage: Path) -> None:
    done = cli("sft", "run", stage, "--dry-run", "--set", "data.train=owner/rows:train")
    assert done.code == 0 and "warning: rows on the Hub are only read by a run" in done.out
