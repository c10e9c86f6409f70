"""Small SFT runs on a tiny model: their rows, their configuration, and what they leave behind.

As a program, `python sft_stages.py CONFIG KILL_AT`: runs one and kills itself at a write point.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from halo_forge.sft.config import LoadedSft, load_sft_config
from halo_forge.sft.data import Rows
from halo_forge.sft.open import execute_sft
from halo_forge.sft.plan import Evaluation, SftPlan, SftResult

VARYING = ("events.jsonl", "lock")


class Watcher:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.steps: list[Mapping[str, float]] = []
        self.losses: list[float | None] = []
        self.lines: list[str] = []

    def warned(self, text: str) -> None:
        self.warnings.append(text)

    def track(self, label: str, items: Any, total: int) -> Iterator[Any]:
        yield from items

    def step(self, row: Mapping[str, float], num_steps: int) -> None:
        self.steps.append(row)

    def planned(self, rows: Rows, plan: SftPlan) -> None:
        self.lines = rows.lines()

    def evaluated(self, evaluations: Sequence[Evaluation]) -> None:
        self.losses.append(evaluations[-1].held_out_loss)


def completions(number: int) -> list[dict[str, Any]]:
    """Prompt-completion rows of a task that is easy to learn."""
    return [
        {"prompt": f"add {place} and the sum", "completion": f"return {place % 3} + {place % 5};"}
        for place in range(number)
    ]


def write_jsonl(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_config(folder: Path, model: Path, rows: Sequence[Mapping[str, Any]], **sections: Any) -> Path:
    """A configuration of 8 steps in 4 segments for 16 rows; sections are merged key by key."""
    folder.mkdir(parents=True, exist_ok=True)
    data: dict[str, Any] = {
        "model": {"model_name_or_path": str(model), "dtype": "float32"},
        "data": {"train": str(write_jsonl(folder / "rows.jsonl", rows)), "held_out_fraction": 0.25},
        "training": {
            "learning_rate": 1e-2,
            "num_train_epochs": 2,
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 1,
            "warmup_steps": 1,
            "eval_steps": 2,
        },
        "lora": {"r": 4, "lora_alpha": 8},
        "hardware": {"profile": "cpu"},
        "output_dir": str(folder / "run"),
    }
    for name, values in sections.items():
        data[name] = {**data.get(name, {}), **values} if isinstance(values, Mapping) else values
    path = folder / "sft.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def execute(config: Path, *overrides: str, resume: bool = False) -> tuple[SftResult, Watcher, Path]:
    """Run it; its result, what was said, its run directory."""
    loaded: LoadedSft = load_sft_config(config, overrides)
    watcher = Watcher()
    result = execute_sft(loaded, watcher, resume=resume)
    return result, watcher, Path(loaded.config.output_dir)


def tree(root: Path) -> dict[str, bytes]:
    """Every file but those that hold times, and where the links lead."""
    found = {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and not path.is_symlink() and path.name not in VARYING
    }
    return found | {link: (root / link).readlink().as_posix().encode() for link in ("best", "latest")}


if __name__ == "__main__":
    from killing import WritePoints

    points = WritePoints(int(sys.argv[2]))
    points.install()
    execute(Path(sys.argv[1]), resume=True)
    print(points.count)
