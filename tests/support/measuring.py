"""Small measurements with scripted completions: prompts, settings and answers in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scripted_runs import write_rows

from halo_forge.config import load_config
from halo_forge.core.records import Prompt
from halo_forge.evaluations.ask import Settings, settings_of


def prompts(*ids: str) -> list[Prompt]:
    """One prompt for each id."""
    return [Prompt(each, ({"role": "user", "content": f"Write {each}."},), "c") for each in ids]


def settings(**keys: Any) -> Settings:
    """The settings of a configuration; dotted keys with `__` for the dot."""
    changes = {key.replace("__", "."): value for key, value in keys.items()}
    config = load_config({"model": {"model_name_or_path": "nobody/nothing"}, "output_dir": "none"}, changes)
    return settings_of(config.config)


def scripted(folder: Path, answers: dict[str, list[str]], **keys: Any) -> Settings:
    """Settings whose engine takes its completions from these answers."""
    rows = [{"prompt_id": prompt_id, "answers": texts} for prompt_id, texts in answers.items()]
    path = write_rows(folder / "answers.jsonl", rows)
    return settings(engine={"kind": "scripted", "answers": str(path)}, **keys)
