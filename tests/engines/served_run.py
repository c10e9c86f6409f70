"""A run whose every answer passes, as a process of its own: python served_run.py CONFIG RUN."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from scripted_runs import STATUS, MemoryVerifier, execute, ids, write_rows

import halo_forge.verifiers.verifier
from halo_forge.core.records import Completion, Verdict


class Content(MemoryVerifier):
    """Every answer passes: neither random weights nor a model of this size write much that would."""

    def verdict(self, completion: Completion) -> Verdict:
        stage, status, reward = STATUS["pass"]
        digest = f"{completion.prompt_id} {completion.index}"
        where = {"prompt_id": completion.prompt_id, "index": completion.index}
        return Verdict(**where, stage=stage, status=status, reward=reward, source_digest=digest)  # type: ignore[arg-type]


def write_config(folder: Path, base: Path, engine: dict[str, Any], /, **sections: Any) -> Path:
    """A run of one cycle: 2 prompts x 12 samples, and 1 dev prompt x 2 in each cycle."""
    sets = {"train": ids("train", 2), "dev": ids("dev", 1), "test": ids("test", 1)}
    config = {
        "model": {"model_name_or_path": str(base), "dtype": "float32"},
        "prompts": {
            name: str(
                write_rows(folder / f"{name}.jsonl", [{"id": each, "prompt": f"Write {each}."} for each in names])
            )
            for name, names in sets.items()
        },
        "engine": engine,
        "selection": {"reward_threshold": 0.0},
        "training": {"learning_rate": 1e-2, "gradient_accumulation_steps": 1},
        "lora": {"r": 4, "lora_alpha": 8},
        "evaluation": {"samples_per_prompt": 2, "test_at_end": False},
        "raft": {"num_cycles": 1, "samples_per_prompt": 12, "min_selected": 1},
        **sections,
    }
    path = folder / "run.yaml"
    path.write_text(json.dumps(config), encoding="utf-8")
    return path


if __name__ == "__main__":
    halo_forge.verifiers.verifier.ThreadedVerifier = lambda spec: Content()  # type: ignore[assignment, misc]
    execute(Path(sys.argv[1]), sys.argv[2])
