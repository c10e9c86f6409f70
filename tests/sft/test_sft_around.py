"""What goes on around an SFT run: Ctrl-C, trackers, and the command at the end."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from cli_calls import Cli, command_line
from sft_stages import Watcher, completions, execute, tree, write_config
from tracker_records import near, tensorboard

from halo_forge.core.errors import ModelError
from halo_forge.sft.config import load_sft_config
from halo_forge.sft.open import execute_sft

pytest.importorskip("torch")


class Interrupting(Watcher):
    """Ctrl-C at one optimizer step."""

    def step(self, row: Mapping[str, float], num_steps: int) -> None:
        super().step(row, num_steps)
        if row["step"] == 3:
            raise KeyboardInterrupt


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Cli]:
    with command_line(monkeypatch, capsys) as run:
        yield run


def test_a_tracker_gets_every_point_once_though_the_run_was_interrupted(
    tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard")
    told = tmp_path / "told.jsonl"
    notes = f"import sys; open({str(told)!r}, 'a').write(sys.stdin.read() + '\\n')"
    config = write_config(
        tmp_path, tiny_models["llama"], completions(16), report_to=["tensorboard"],
        notify_command=[sys.executable, "-c", notes],
    )  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        execute_sft(load_sft_config(config), Interrupting(), resume=False)
    result, watcher, root = execute(config, resume=True)
    assert [row["step"] for row in watcher.steps] == [3, 4, 5, 6], "the first segment was sealed"
    found = tensorboard(tmp_path)
    losses = [json.loads((root / f"segments/{at:03d}/evaluation.json").read_text())["held_out_loss"] for at in range(4)]
    assert found.points["held_out_loss"] == [(at, near(loss)) for at, loss in enumerate(losses)]
    assert [step for step, _ in found.points["step/loss"]] == [1, 2, 3, 4, 5, 6]
    assert found.config["training.learning_rate"] == 1e-2
    rows = [json.loads(line) for line in told.read_text().splitlines()]
    assert [row["state"] for row in rows] == ["interrupted", "finished"]
    assert rows[-1]["result"]["best_version"] == result.best_version


def test_ctrl_c_says_how_to_go_on_and_leaves_130(
    cli: Cli, tiny_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from halo_forge.cli.observer import PlainObserver

    config = write_config(tmp_path, tiny_models["llama"], completions(16))

    def interrupt(observer: PlainObserver, row: Mapping[str, float], num_steps: int) -> None:
        if row["step"] == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(PlainObserver, "step", interrupt)
    done = cli("sft", "run", config)
    assert done.code == 130 and done.err.endswith("Interrupted. Completed work is saved; rerun with --resume.\n")
    monkeypatch.undo()
    execute(config, resume=True)
    undisturbed = write_config(tmp_path / "other", tiny_models["llama"], completions(16))
    _, _, other = execute(undisturbed)
    assert tree(tmp_path / "run")["best"] == tree(other)["best"]
    assert (tmp_path / "run/best/adapter_model.safetensors").read_bytes() == (
        other / "best/adapter_model.safetensors"
    ).read_bytes()


def test_a_missing_model_is_refused_before_anything_is_made(cli: Cli, tmp_path: Path) -> None:
    config = write_config(tmp_path, tmp_path / "nothing", completions(4))
    with pytest.raises(ModelError, match="no such folder"):
        execute(config)
    assert not (tmp_path / "run").exists()
    done = cli("sft", "run", config, "--dry-run")
    assert done.code == 2 and "fix:" in done.err


def test_a_wrong_key_is_named_with_its_line_and_what_is_allowed(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "sft.yaml"
    path.write_text(
        "model: {model_name_or_path: owner/name}\n"
        "data:\n  train: rows.jsonl\n  held_out: rows.jsonl\n  filter: passed\n"
        "training:\n  learning_rate: 0\n  lr_scheduler_kwargs: {powr: 2}\n  epochs: 3\n"
    )
    done = cli("sft", "run", path)
    assert done.code == 2
    for said in (
        f'{path}:5: data.filter: found "passed", allowed: none, compiles, passes',
        f"{path}:7: training.learning_rate: found 0, allowed: above 0",
        f"{path}:9: training.epochs: unknown key;",
    ):
        assert said in done.err, done.err
    path.write_text(
        "model: {model_name_or_path: owner/name}\ndata: {train: rows.jsonl, held_out_fraction: 0}\n"
        "training: {lr_scheduler_kwargs: {powr: 2}}\n"
    )
    done = cli("sft", "run", path)
    assert "training.early_stopping.patience is 3, but data.held_out_fraction is 0" in done.err
    assert "has no setting powr" in done.err
