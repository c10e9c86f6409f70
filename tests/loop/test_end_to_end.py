"""The main job through the real command line: a model, gcc, LoRA training; killed, resumed, redone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from halo_forge.policy import ADAPTER_FILES, adapter_digest

REAL_MODEL = Path(__file__).parents[2] / "models" / "smollm2-135m-instruct"
NUM_TRAIN, NUM_DEV, NUM_CYCLES = 10, 3, 2
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}


def harness(name: str, signature: str, call: str, expected: str) -> dict[str, Any]:
    source = f'#include <stdio.h>\n{signature};\nint main(void) {{ printf("%d\\n", {call}); return 0; }}\n'
    return {"kind": "harness", "entry_point": name, "source": source, "expected": [expected]}


def task(number: int, name: str, signature: str, what: str, call: str, expected: str) -> dict[str, Any]:
    prompt = f"Write a C function `{signature}` that returns {what}."
    return {"id": f"t{number}", "prompt": prompt, "language": "c", "tests": harness(name, signature, call, expected)}


def write_rows(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def write_config(path: Path, config: dict[str, Any]) -> Path:
    path.write_text(json.dumps(config, indent=1), encoding="utf-8")  # JSON is YAML
    return path


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "halo_forge", *map(str, arguments)]


def halo_forge(*arguments: object) -> str:
    done = subprocess.run(command(*arguments), capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def kill_when(reached: Callable[[], bool], *arguments: object, log: Path) -> None:
    """Start the command and send SIGKILL at the moment `reached` is true."""
    with log.open("w") as output:
        process = subprocess.Popen(command(*arguments), stdout=output, stderr=output, env=ENVIRONMENT)
        try:
            deadline = time.monotonic() + 120
            while not reached():
                assert process.poll() is None, log.read_text()[-3000:]
                assert time.monotonic() < deadline, "the moment never came"
                time.sleep(0.002)
        finally:
            process.kill()
            process.wait()
    assert process.returncode == -signal.SIGKILL


def num_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def keys_of(path: Path) -> list[tuple[str, int]]:
    return [(row["prompt_id"], row["index"]) for row in rows_of(path)]


@pytest.fixture
def tiny_config(tmp_path: Path, tiny_models: dict[str, Path]) -> Path:
    """Random weights write no C, so everything that ends counts: what is tested is the loop, not the learning."""
    tasks = [
        task(n, f"add{n}", f"int add{n}(int a, int b)", f"a + b + {n}", f"add{n}(1, 2)", str(3 + n)) for n in range(22)
    ]
    config = {
        "model": {"model_name_or_path": str(tiny_models["llama"]), "dtype": "float32"},
        "prompts": {
            "train": write_rows(tmp_path / "train.jsonl", tasks[:NUM_TRAIN]),
            "dev": write_rows(tmp_path / "dev.jsonl", tasks[NUM_TRAIN : NUM_TRAIN + NUM_DEV]),
            "test": write_rows(tmp_path / "test.jsonl", tasks[NUM_TRAIN + NUM_DEV :]),
            "response_prefix": "```c\n",
        },
        "engine": {"kind": "transformers", "max_new_tokens": 60, "stop": ["}", "e"], "batch_size": 2},
        "verifier": {"kind": "c"},
        "selection": {"kind": "best_per_prompt", "reward_threshold": 0.0},
        "training": {
            "learning_rate": 1e-3,
            "num_train_epochs": 4,
            "per_device_train_batch_size": 1,
            "gradient_accumulation_steps": 1,
        },
        "lora": {"r": 4, "lora_alpha": 8},
        "evaluation": {"samples_per_prompt": 2},
        "raft": {"num_cycles": NUM_CYCLES, "samples_per_prompt": 2, "min_selected": 1},
        "output_dir": str(tmp_path / "run"),
    }
    return write_config(tmp_path / "config.yaml", config)


def check_finished(run: Path) -> None:
    """Every file of a finished run is there, and nothing of an unfinished one."""
    for cycle in range(1, NUM_CYCLES + 1):
        folder = run / "cycles" / f"{cycle:03d}"
        names = {path.name for path in folder.iterdir()}
        stages = ("sampling", "measurement", "decision", "settings", "selection", "trained", "report")
        assert names >= {f"{name}.json" for name in stages} | {"selection.jsonl", "training_log.jsonl", "adapter"}
        assert sorted(path.name for path in (folder / "adapter").iterdir()) == sorted(ADAPTER_FILES)
        expected = [(f"t{number}", index) for number in range(NUM_TRAIN) for index in range(2)]
        assert keys_of(folder / "completions.jsonl") == keys_of(folder / "verdicts.jsonl") == expected
        asked = [(f"t{number}", index) for number in range(NUM_TRAIN, NUM_TRAIN + NUM_DEV) for index in range(2)]
        assert keys_of(folder / "dev_completions.jsonl") == keys_of(folder / "dev_verdicts.jsonl") == asked
        report = json.loads((folder / "report.json").read_text())
        trained = json.loads((folder / "trained.json").read_text())
        assert report["adapter_digest"] == trained["adapter_digest"] == adapter_digest(folder / "adapter")
        assert num_lines(folder / "training_log.jsonl") == trained["metrics"]["optimizer_steps"]
        assert num_lines(folder / "selection.jsonl") == trained["num_rows"] == report["num_kept"] > 0
        versions = {row["policy_version"] for row in rows_of(folder / "completions.jsonl")}
        assert versions == {cycle - 1}
    last = run / "cycles" / f"{NUM_CYCLES + 1:03d}"
    assert (last / "decision.json").exists() and not (last / "trained.json").exists()
    assert keys_of(last / "completions.jsonl") == []
    left = [path for path in run.rglob("*") if path.name.endswith((".part", ".tmp"))]
    assert not left and (run / "result.json").exists()
    assert (run / "latest").resolve() == (run / "cycles" / f"{NUM_CYCLES:03d}" / "adapter").resolve()


def sealed(run: Path) -> dict[str, bytes]:
    """Everything that must not depend on when the run was interrupted."""
    found = [*(run / "cycles").rglob("*"), *(run / "test").rglob("*"), run / "result.json"]
    return {str(path.relative_to(run)): path.read_bytes() for path in found if path.is_file()}


@pytest.mark.timeout(900)  # several real runs, one after the other
def test_killed_resumed_and_redone(tiny_config: Path, tmp_path: Path) -> None:
    run, cycle = tmp_path / "run", tmp_path / "run" / "cycles" / "001"
    part, log = cycle / "completions.jsonl.part", tmp_path / "log"

    kill_when(lambda: num_lines(part) >= 5, "raft", "run", tiny_config, log=log)
    assert not (cycle / "completions.jsonl").exists()
    before = part.read_bytes().rpartition(b"\n")[0].decode().split("\n")
    assert 5 <= len(before) < NUM_TRAIN * 2

    training_log = cycle / "training.part" / "training_log.jsonl"
    kill_when(lambda: num_lines(training_log) >= 3, "raft", "run", tiny_config, "--resume", log=log)
    sealed_lines = (cycle / "completions.jsonl").read_text(encoding="utf-8").splitlines()
    assert set(before) <= set(sealed_lines)  # not sampled a second time
    assert (cycle / "selection.json").exists() and not (cycle / "trained.json").exists()

    status = json.loads(halo_forge("raft", "resume", run, "--json"))
    assert status["state"] == "finished"
    check_finished(run)
    assert (cycle / "completions.jsonl").read_text(encoding="utf-8").splitlines() == sealed_lines
    steps = [row["step"] for row in rows_of(cycle / "training_log.jsonl")]
    assert steps == list(range(1, len(steps) + 1))  # of one attempt, not of two

    events = [row["event"] for row in rows_of(run / "events.jsonl")]
    assert events.count("attempt_started") == 3

    halo_forge("raft", "run", tiny_config, "--output-dir", tmp_path / "uninterrupted")
    assert sealed(tmp_path / "uninterrupted") == sealed(run)

    finished = sealed(run)
    halo_forge("raft", "resume", run, "--from-cycle", "2")
    check_finished(run)
    assert sealed(run) == finished  # the same seeds, the same start: the same cycle again
    (moved,) = (run / "superseded").iterdir()
    assert (moved / "cycles" / "002" / "report.json").exists() and (moved / "cycles" / "003").exists()
    assert not (moved / "cycles" / "001").exists()


EASY = [
    ("add", "int add(int a, int b)", "a + b", "add(2, 3)", "5"),
    ("sub", "int sub(int a, int b)", "a - b", "sub(2, 3)", "-1"),
    ("square", "int square(int n)", "the square of n", "square(7)", "49"),
    ("twice", "int twice(int n)", "two times n", "twice(7)", "14"),
    ("maximum", "int maximum(int a, int b)", "the larger of a and b", "maximum(2, 9)", "9"),
    ("is_even", "int is_even(int n)", "1 if n is even and 0 otherwise", "is_even(4)", "1"),
    ("negate", "int negate(int n)", "the negative of n", "negate(4)", "-4"),
    ("next", "int next(int n)", "n plus one", "next(4)", "5"),
]


@pytest.mark.model
@pytest.mark.timeout(900)
@pytest.mark.skipif(not REAL_MODEL.is_dir(), reason="models/smollm2-135m-instruct is absent; `make model` makes it")
def test_the_real_model_learns_from_what_it_wrote(tmp_path: Path) -> None:
    """SmolLM2-135M-Instruct on eight easy tasks; an answer ends with the function's closing brace."""
    assert shutil.which("gcc") is not None, "install gcc"
    tasks = [task(number, *easy) for number, easy in enumerate(EASY)]
    config = {
        "model": {"model_name_or_path": str(REAL_MODEL)},
        "prompts": {
            "train": write_rows(tmp_path / "train.jsonl", tasks[:6]),
            "dev": write_rows(tmp_path / "dev.jsonl", tasks[6:]),
            "test": write_rows(tmp_path / "test.jsonl", [{**tasks[0], "id": "held-out"}]),
            "response_prefix": "```c\n",
        },
        "engine": {"kind": "transformers", "max_new_tokens": 48, "temperature": 0.7, "stop": ["```", "\n}"]},
        "selection": {"kind": "best_per_prompt", "reward_threshold": 0.0},
        "training": {"learning_rate": 1e-3, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1},
        "evaluation": {"samples_per_prompt": 2, "test_at_end": False},
        "raft": {"num_cycles": 1, "samples_per_prompt": 2, "min_selected": 1},
        "output_dir": str(tmp_path / "run"),
    }
    halo_forge("raft", "run", write_config(tmp_path / "config.yaml", config))

    run = tmp_path / "run"
    completions = rows_of(run / "cycles" / "001" / "completions.jsonl")
    assert len(completions) == 12 and all(row["text"].startswith("```c\n") for row in completions)
    ended = [row for row in completions if row["finish"] == "stop"]
    assert all(row["text"].endswith(("```", "\n}")) for row in ended if row["token_ids"])
    verdicts = rows_of(run / "cycles" / "001" / "verdicts.jsonl")
    assert {row["status"] for row in verdicts} <= {"passed", "failed", "timeout"}
    assert any(row["stage"] != "extract" for row in verdicts)
    steps = rows_of(run / "cycles" / "001" / "training_log.jsonl")
    assert steps and all(row["loss"] > 0 and row["gradient_norm"] > 0 for row in steps)
    for folder in ("001", "002"):
        measured = json.loads((run / "cycles" / folder / "measurement.json").read_text())["metrics"]
        assert 0.0 <= measured["dev/compile_rate"] <= 1.0

    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = AutoModelForCausalLM.from_pretrained(REAL_MODEL, dtype=torch.float32)
    ids = AutoTokenizer.from_pretrained(REAL_MODEL)("int add(int a, int b) {", return_tensors="pt")
    with torch.inference_mode():
        before = base(**ids).logits
        after = PeftModel.from_pretrained(base, run / "latest")(**ids).logits
    assert torch.isfinite(after).all() and float((after - before).abs().max()) > 1e-3
