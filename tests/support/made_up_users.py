"""Three made-up people with a model and some tasks, for the tests of `halo-forge init`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from tiny_models import CHATML, build_tokenizer

from halo_forge.core.errors import ConfigError
from halo_forge.prompts import hub

QWEN_05B = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "vocab_size": 151_936,
    "max_position_embeddings": 32_768,
    "tie_word_embeddings": True,
}
QWEN_7B = QWEN_05B | {
    "hidden_size": 3584,
    "intermediate_size": 18_944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152_064,
    "tie_word_embeddings": False,
}


def model_folder(folder: Path, config: dict[str, Any], *, chat_template: str | None = CHATML) -> Path:
    """A folder with all that can be looked at without loading: settings, a tokenizer, and weights of no tensor."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    build_tokenizer(chat_template=chat_template).save_pretrained(folder)
    return folder


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def python_rows(number: int) -> list[dict[str, Any]]:
    """Functions of Python with asserts."""
    return [
        {
            "id": f"add-{offset}",
            "prompt": f"Write a Python function `add_{offset}(numbers)` that returns the sum of a list of integers plus"
            f" {offset}. An empty list gives {offset}.",
            "tests": {
                "kind": "asserts",
                "entry_point": f"add_{offset}",
                "tests": [f"assert add_{offset}([]) == {offset}", f"assert add_{offset}([1, 2]) == {3 + offset}"],
            },
            "info": {"reference": f"def add_{offset}(numbers):\n    return sum(numbers) + {offset}\n"},
        }
        for offset in range(number)
    ]


def cpp_rows(number: int) -> list[dict[str, Any]]:
    """Programs of C++ that read standard input, with the time limit of a judge."""
    return [
        {
            "id": f"scale-{factor}",
            "prompt": "Read an integer n and then n integers from standard input. Print each of them times"
            f" {factor}, separated by spaces. Write a complete C++ program.",
            "language": "c++",
            "tests": {
                "kind": "stdio",
                "cases": [
                    {"stdin": "3\n1 2 3\n", "stdout": f"{factor} {2 * factor} {3 * factor}\n"},
                    {"stdin": "1\n-4\n", "stdout": f"{-4 * factor}\n"},
                ],
            },
            "time_limit": 2.0,
        }
        for factor in range(2, 2 + number)
    ]


def without_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Hub is not there, for models and for data sets, whatever this machine can reach."""

    def unreachable(spec: str, dataset_id: str) -> None:
        raise ConfigError("no network, or the Hub does not answer: ConnectError", "check the network, or give a file")

    monkeypatch.setattr(hub, "_check_reachable", unreachable)

    def no_download(*arguments: object, **options: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", no_download)


USERS: dict[str, list[str]] = {
    "one": ["models/qwen2.5-coder-0.5b-instruct", "tasks.jsonl", "--machine", "cuda", "--time", "2h"],
    "two": ["models/qwen2.5-coder-7b-instruct", "judge.jsonl", "--machine", "gfx1151", "--time", "12h"],
    "three": [
        "Qwen/Qwen2.5-Coder-1.5B-Instruct",
        "somebody/tasks",
        "--language",
        "rust",
        "--machine",
        "cuda",
        "--time",
        "4h",
    ],
}
"""Name of the configuration -> model, prompts, and further options of `init`: those of docs/starting.md."""


def make_inputs(folder: Path) -> None:
    """The models and prompts of `USERS`, as far as they are files."""
    model_folder(folder / "models/qwen2.5-coder-0.5b-instruct", QWEN_05B)
    model_folder(folder / "models/qwen2.5-coder-7b-instruct", QWEN_7B)
    write_rows(folder / "tasks.jsonl", python_rows(240))
    write_rows(folder / "judge.jsonl", cpp_rows(600))
