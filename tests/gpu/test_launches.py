"""Ceilings of what a step starts and waits for on a GPU: small steps take as long as the host needs to ask for them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import benchmarks
import pytest
from tiny_models import disturb_adapter

pytest.importorskip("torch")

pytestmark = [pytest.mark.pretended_gpu, pytest.mark.usefixtures("pretended")]

OUTSIDE_THE_LAYERS = 36
"""Embedding, rotary angles, masks, the head, and drawing: whatever the number of layers and rows."""
MOST_OF_AN_OPTIMIZER_STEP = 4
"""Waits: the batch, the one of its pass, and the loss and the gradient's norm for the log."""


@pytest.fixture(scope="module")
def bench() -> Iterator[ModuleType]:
    with benchmarks.script("bench_launches") as module:
        yield module


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "greedy": {"temperature": 0.0},
    "top_p": {"top_p": 0.8},
    "top_k": {"top_k": 5},
    "min_p": {"min_p": 0.05},
}


@pytest.mark.parametrize("options", OPTIONS)
def test_a_decode_step_waits_once(options: str, bench: ModuleType, tiny_models: dict[str, Path]) -> None:
    policy = bench.load(str(tiny_models["llama"]), "bfloat16")
    step = bench.decode_step(policy, 4, **OPTIONS[options])
    assert step.waits <= bench.MOST_WAITS, step.places


@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_launches_of_a_decode_step(name: str, bench: ModuleType, tiny_models: dict[str, Path]) -> None:
    policy = bench.load(str(tiny_models[name]), "bfloat16")
    disturb_adapter(policy)
    few, many = (bench.decode_step(policy, num_rows) for num_rows in (4, 16))
    num_layers = policy.model.config.num_hidden_layers
    assert 5 < few.in_last < few.in_first <= bench.MOST_LAUNCHES, "the first also makes the rotary factors"
    in_layers = few.in_first + (num_layers - 1) * few.in_last
    assert in_layers < few.launches <= in_layers + OUTSIDE_THE_LAYERS
    assert many.launches == few.launches, "nothing is started for each row"
    assert many.waits == few.waits


@pytest.mark.parametrize("checkpointing", [False, True])
def test_waits_of_an_optimizer_step(checkpointing: bool, bench: ModuleType, tiny_models: dict[str, Path]) -> None:
    """transformers looks at the positions of each pass, to find out whether its rows are packed."""
    policy = bench.load(str(tiny_models["llama"]), "bfloat16")
    one, four = (
        bench.optimizer_step(policy, bench.trainer_rate, gradient_checkpointing=checkpointing, max_tokens_per_pass=most)
        for most in (4096, 64)
    )
    assert one[0] < four[0], "launches: 64 tokens are one row, so each of 4 rows is a pass of its own"
    assert one[1] <= MOST_OF_AN_OPTIMIZER_STEP
    assert four[1] <= one[1] + 3


def test_the_script_on_its_tiny_model(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench_launches.py", "--tiny", "--rows", "2", "3"])
    bench.main()
    lines = capsys.readouterr().out.splitlines()
    found = json.loads(lines[-1])
    assert set(found) == benchmarks.KEYS
    assert "decode step" in found["benchmark"] and 0 < found["ours"] < found["baseline"]
    assert "ceilings: 1 wait, 25 launches per layer, 0 per row: met" in lines


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rows", "1"], "--rows must be at least 2"),
        (["--model", "nowhere/at/all"], "nowhere/at/all is missing\n  fix: make model, or --tiny"),
    ],
)
def test_what_the_script_refuses(
    arguments: list[str],
    words: str,
    bench: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench_launches.py", *arguments])
    with pytest.raises(SystemExit) as left:
        bench.main()
    assert left.value.code != 0 and words in f"{left.value.code}{capsys.readouterr().err}"
