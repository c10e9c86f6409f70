"""An SFT run, from rows to an adapter: what it learns, what it leaves, and that a kill changes nothing."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from sft_cases import answer_loss
from sft_stages import completions, execute, tree, write_config
from tiny_models import load_policy

from halo_forge.core.errors import LogitsNotFinite, RunDirError
from halo_forge.core.lr_scheduler import learning_rate_factors
from halo_forge.sft.config import load_sft_config
from halo_forge.sft.data import read_sources, tokenized
from halo_forge.sft.status import read_sft_status

torch = pytest.importorskip("torch")
SUPPORT = Path(__file__).parents[1] / "support"


@pytest.fixture(scope="module")
def finished(tiny_models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one undisturbed stage: its configuration and its run directory."""
    folder = tmp_path_factory.mktemp("finished")
    execute(write_config(folder, tiny_models["llama"], completions(16)))
    return folder


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_the_loss_falls_and_best_is_a_plain_adapter_of_the_lowest_one(
    finished: Path, tiny_models: dict[str, Path]
) -> None:
    root = finished / "run"
    result, found = read(root / "result.json"), read_sft_status(root)
    losses = [each.evaluation.held_out_loss for each in found.segments]
    assert [each.evaluation.step for each in found.segments] == [0, 2, 4, 6]
    assert losses[0] == result["start_loss"] and min(losses) == result["held_out_loss"] < losses[0]
    assert result["best_version"] == losses.index(min(losses))
    assert (root / "best").resolve() == root / f"segments/{result['best_version']:03d}/adapter"
    assert (root / "latest").resolve() == root / "segments/003/adapter"
    policy = load_policy(tiny_models["llama"], adapter=str(root / "best"))
    assert policy.adapter_norm() > 0


def test_the_learning_rate_is_one_schedule_over_all_segments(finished: Path) -> None:
    folders = sorted((finished / "run/segments").glob("00[1-9]"))
    rows = [json.loads(line) for each in folders for line in (each / "training_log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    expected = [1e-2 * factor for factor in learning_rate_factors("cosine", 6, 1)]
    assert [row["learning_rate"] for row in rows] == pytest.approx(expected)
    assert sum(row["num_rows"] for row in rows) == 24  # 12 rows, twice


def test_segments_are_one_training_however_it_is_cut(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    """Batches of the whole set, so that the order inside a segment, which is drawn for each, changes nothing."""
    batch = {"per_device_train_batch_size": 12, "num_train_epochs": 4, "max_tokens_per_pass": 4096}
    adapters = []
    for name, steps in (("whole", 4), ("cut", 1)):
        config = write_config(
            tmp_path / name, tiny_models["llama"], completions(16), training={**batch, "eval_steps": steps}
        )
        _, _, root = execute(config)
        policy = load_policy(tiny_models["llama"], adapter=str(root / "latest"))
        adapters.append({key: value for key, value in policy.model.named_parameters() if "lora_" in key})
    for key, value in adapters[0].items():
        assert torch.allclose(value, adapters[1][key], rtol=0, atol=1e-5), key


@pytest.mark.parametrize("share", [0.35, 0.8])
def test_a_killed_stage_goes_on_to_the_same_bytes(finished: Path, tmp_path: Path, share: float) -> None:
    """SIGKILL at a write point; half of a line, a file without content or half of an adapter may be left."""
    config = tmp_path / "sft.yaml"
    config.write_text((finished / "sft.yaml").read_text().replace(str(finished / "run"), str(tmp_path / "run")))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SUPPORT), *sys.path]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SUPPORT / "sft_stages.py"), str(config), str(round(share * 130))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr[-2000:]
    before = [path.name for path in (tmp_path / "run/segments").glob("*/trained.json")]
    execute(config, resume=True)
    expected, found = tree(finished / "run"), tree(tmp_path / "run")
    differing = {name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)}
    assert differing <= {"config.yaml", "config.resolved.yaml", "run.json"}, before  # they name the folder
    assert read(finished / "run/run.json")["rows_sha256"] == read(tmp_path / "run/run.json")["rows_sha256"]


def test_it_stops_early_when_the_held_out_loss_rises(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    """A rate at which so small a model forgets; min_delta makes the first improvement too small to count."""
    stopping = {"early_stopping": {"patience": 1, "min_delta": 100.0}}
    config = write_config(tmp_path, tiny_models["llama"], completions(16), training=stopping)
    result, _, root = execute(config)
    assert (result.ending, result.last_version) == ("stopped_early", 1)
    assert "has not improved for 1 measurement" in result.reason
    assert result.best_version == 1 and (root / "best").exists()  # lower all the same


def test_without_held_out_rows_the_last_version_is_the_best(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    config = write_config(
        tmp_path, tiny_models["llama"], completions(8), data={"held_out_fraction": 0.0},
        training={"early_stopping": {"patience": None}},
    )  # fmt: skip
    result, watcher, _ = execute(config)
    assert (result.best_version, result.held_out_loss, result.ending) == (2, None, "completed")
    assert "nothing is held out" in result.reason and watcher.losses == [None, None, None]


def test_a_training_that_diverges_stops_and_says_so(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    config = write_config(
        tmp_path, tiny_models["llama"], completions(16), training={"learning_rate": 1.0, "max_grad_norm": 0.0},
        lora={"r": 4, "lora_alpha": 10**18},
    )  # fmt: skip
    with pytest.raises(LogitsNotFinite, match="has diverged"):
        execute(config)


def test_a_finished_or_another_stage_is_not_overwritten(finished: Path, tmp_path: Path) -> None:
    config, root = finished / "sft.yaml", finished / "run"
    before = tree(root)
    with pytest.raises(RunDirError, match="a training was already started here"):
        execute(config)
    with pytest.raises(RunDirError, match=r"training\.learning_rate: was 0\.01, is 0\.001"):
        execute(config, "training.learning_rate=1e-3", resume=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/letter.txt").write_text("mine")
    with pytest.raises(RunDirError, match=r"not empty, and not a run directory of halo-forge \(holds letter.txt"):
        execute(config, f"output_dir={tmp_path / 'other'}")
    assert tree(root) == before and (tmp_path / "other/letter.txt").read_text() == "mine"


def test_changed_rows_are_refused_on_resume(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder, symlinks=True)
    (folder / "run/result.json").unlink()
    text = (folder / "sft.yaml").read_text().replace(str(finished), str(folder))
    (folder / "sft.yaml").write_text(text)
    stored = folder / "run/run.json"
    identity = read(stored)
    identity["rows_sha256"] = "0" * 64
    stored.write_text(json.dumps(identity))
    # Where the rows lie is a part of the configuration, so the same place is named.
    with pytest.raises(RunDirError, match="the rows, or their token ids, are not those"):
        execute(finished / "sft.yaml", f"output_dir={folder / 'run'}", resume=True)


def test_a_full_disk_loses_nothing_and_damaged_files_say_what_to_delete(
    finished: Path, tiny_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write_config(tmp_path, tiny_models["llama"], completions(16))
    real = os.replace

    def full(source: Any, target: Any, **options: Any) -> None:
        if str(target).endswith("segments/002/trained.json"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(source, target, **options)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(RunDirError, match="No space left on device") as caught:
        execute(config)
    assert "free some space, then rerun with --resume" in caught.value.hint
    monkeypatch.undo()
    execute(config, resume=True)
    adapter = "run/segments/003/adapter/adapter_model.safetensors"
    assert (tmp_path / adapter).read_bytes() == (finished / adapter).read_bytes()
    (tmp_path / "run/segments/002/evaluation.json").write_text("{}")
    with pytest.raises(RunDirError, match=r"evaluation\.json") as caught:
        read_sft_status(tmp_path / "run")
    assert "delete result.json and the folder segments/NNN that is damaged with all later ones" in caught.value.hint
    (tmp_path / "run/result.json").unlink()
    for segment in ("002", "003"):
        shutil.rmtree(tmp_path / "run/segments" / segment)
    execute(config, resume=True)
    assert (tmp_path / adapter).read_bytes() == (finished / adapter).read_bytes()


def test_the_held_out_loss_is_that_of_training_with_the_end_of_turn(
    finished: Path, tiny_models: dict[str, Path]
) -> None:
    config = load_sft_config(finished / "sft.yaml").config
    rows = tokenized(config, read_sources(config), datetime(2026, 11, 30)).held_out
    total, num_tokens = answer_loss(load_policy(tiny_models["llama"]), rows)
    found = read(finished / "run/segments/000/evaluation.json")
    assert found["num_tokens"] == num_tokens == sum(len(row.completion.token_ids) + 1 for row in rows)
    assert found["held_out_loss"] == pytest.approx(float(total.detach()) / num_tokens, abs=1e-4)
