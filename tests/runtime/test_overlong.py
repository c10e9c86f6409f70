"""Prompts that are too long for the model: named all at once before its weights are loaded, or left out and listed."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from scripted_runs import SilentObserver

from halo_forge.config import RaftConfig, load_config
from halo_forge.config.yaml_io import dump
from halo_forge.core.errors import ConfigError
from halo_forge.runtime.assembly import open_run
from halo_forge.runtime.prompt_sets import fitting_prompts, load_prompt_sets
from halo_forge.store.status import read_status

DATE = datetime(2026, 11, 30)


def config(folder: Path, model: Path, **prompts: Any) -> RaftConfig:
    """Two of three train prompts are too long, and none of the others."""
    for name, lengths in {"train": (3, 600, 700), "dev": (4,), "test": (5,)}.items():
        rows = [{"id": f"{name}-{length}", "prompt": "x " * length} for length in lengths]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = {name: str(folder / f"{name}.jsonl") for name in ("train", "dev", "test")}
    return RaftConfig.model_validate(
        {
            "model": {"model_name_or_path": str(model)},
            "prompts": {**files, **prompts},
            "engine": {"max_new_tokens": 16},
            "output_dir": str(folder / "run"),
        }
    )


def test_all_of_them_are_named_before_the_weights_are_read(tmp_path: Path, tiny_models: dict[str, Path]) -> None:
    settings = config(tmp_path, tiny_models["llama"])
    with pytest.raises(
        ConfigError, match=r"2 of 5 prompts are too long.*'train-600' \(\d+ tokens\), 'train-700'"
    ) as caught:
        fitting_prompts(settings, load_prompt_sets(settings), DATE)
    assert "prompts.overlong: drop" in caught.value.hint


def test_they_can_be_left_out_and_are_listed(tmp_path: Path, tiny_models: dict[str, Path]) -> None:
    settings = config(tmp_path, tiny_models["llama"], overlong="drop")
    left, dropped = fitting_prompts(settings, load_prompt_sets(settings), DATE)
    assert [prompt.id for prompt in left.train] == ["train-3"]
    assert [prompt.id for prompt in (*left.dev, *left.test)] == ["dev-4", "test-5"]
    assert dropped is not None and list(dropped.num_tokens) == ["train-600", "train-700"]


def test_a_set_of_which_nothing_is_left_is_an_error(tmp_path: Path, tiny_models: dict[str, Path]) -> None:
    settings = config(tmp_path, tiny_models["llama"], overlong="drop")
    (tmp_path / "dev.jsonl").write_text(json.dumps({"id": "long", "prompt": "x " * 800}) + "\n")
    with pytest.raises(ConfigError, match=r"no prompt of prompts\.dev is left"):
        fitting_prompts(settings, load_prompt_sets(settings), DATE)


def test_a_run_counts_them_in_its_status(tmp_path: Path, tiny_models: dict[str, Path]) -> None:
    settings = config(tmp_path, tiny_models["llama"], overlong="drop")
    (tmp_path / "run.yaml").write_text(dump(settings.model_dump(mode="json", exclude_unset=True)))
    with open_run(load_config(tmp_path / "run.yaml"), SilentObserver(), resume=False):
        pass
    assert read_status(tmp_path / "run", settings.raft.num_cycles).num_overlong == 2
