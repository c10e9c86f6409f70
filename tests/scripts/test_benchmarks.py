"""The benchmark scripts: both sides in turns, arguments that make sense, and a last line for machines."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import benchmarks
import pytest
from benchmarks import KEYS, ROOT, last_object, run
from fake_vllm import calls, interpreter
from processes import eventually, is_alive
from scripted_runs import write_rows
from tiny_models import load_policy, prompts, request, save_model

from halo_forge.prompts import load_prompts

TINY_MODEL: dict[str, Any] = {"hidden_size": 128}
"""Wide enough for its matrix products to be told from the adapter's."""


@pytest.fixture(scope="module")
def bench() -> Iterator[ModuleType]:
    with benchmarks.script("_bench") as module:
        yield module


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("bench") / "tiny", **TINY_MODEL)


# ---- what they share


def test_the_last_line_of_a_figure(bench: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    figure = bench.Figure("it", [30.0, 20.0, 60.0], [10.0, 10.0, 10.0], "things/s", target=3.5, ceiling=120.0)
    figure.show()
    lines = capsys.readouterr().out.splitlines()
    found = json.loads(lines[-1])
    assert set(found) == KEYS | {"ceiling_fraction"}
    assert (found["ratio"], found["ratio_low"], found["ratio_high"]) == (3.0, 2.0, 6.0)
    assert (found["ours"], found["baseline"], found["ceiling_fraction"]) == (30.0, 10.0, 0.25)
    assert (found["benchmark"], found["unit"]) == ("it", "things/s")
    assert "target ratio >= 3.5: MISSED" in lines


@pytest.mark.parametrize(("ours", "met"), [(2.0, True), (2.1, False), (0.0, True)])
def test_where_less_is_better(bench: ModuleType, capsys: pytest.CaptureFixture[str], ours: float, met: bool) -> None:
    bench.Figure("it", [ours], [1.0], "seconds", target=2.0, less_is_better=True).show()
    out = capsys.readouterr().out
    assert f"target ratio <= 2: {'met' if met else 'MISSED'}" in out
    assert "ceiling_fraction" not in out


def test_sides_take_turns_at_being_first(bench: ModuleType) -> None:
    order: list[str] = []
    numbers = iter(range(6))

    def side(name: str) -> float:
        order.append(name)
        return float(next(numbers))

    ours, baseline = bench.alternately(3, lambda: side("baseline"), lambda: side("ours"))
    assert order == ["baseline", "ours", "ours", "baseline", "baseline", "ours"]
    assert (ours, baseline) == ([1.0, 2.0, 5.0], [0.0, 3.0, 4.0])


def test_the_machine_in_words(bench: ModuleType) -> None:
    assert " cores, Linux " in bench.machine()


# ---- each of them


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("bench_startup", ["--repeats", "0"], "at least 1"),
        ("bench_generation", ["--samples", "0"], "at least 1"),
        ("bench_generation", ["--shape", "no-such-shape"], "invalid choice"),
        ("bench_generation", ["--busy", "-1"], "at least 0"),
        ("bench_generation", ["--against", "openvino", "--shape", "qwen2.5-1.5b"], "exported model"),
        ("bench_training", ["--batch", "0"], "at least 1"),
        ("bench_cycle", ["--prompts", "3"], "at least 4"),
    ],
)
def test_useless_arguments_are_refused(name: str, arguments: list[str], message: str) -> None:
    done = run(name, *arguments)
    assert done.returncode == 2 and message in done.stderr, done.stderr


def test_startup() -> None:
    done = run("bench_startup", "--repeats", 1)
    last = last_object(done)
    assert last["benchmark"] == "startup, dry run" and last["unit"] == "seconds"
    others = [json.loads(line) for line in done.stdout.splitlines()[:-1] if line.startswith("{")]
    assert [each["benchmark"] for each in others] == ["startup, help"]
    assert done.stdout.count("target: at most 0.5 s") == done.stdout.count("target: at most 1 s") == 1


def test_generation(model: Path) -> None:
    arguments = ["--model", model, "--new-tokens", 8, "--prompts", 2, "--samples", 2]
    done = run("bench_generation", *arguments)
    last = last_object(done)
    assert last["benchmark"] == "generation, tiny, 4 samples, 8 new tokens"
    assert last["unit"] == "tokens/s (generate at batch size 4)"
    assert last["ours"] > 0 and last["baseline"] > 0 and 0 <= last["ceiling_fraction"] < 1
    assert "matrix products: " in done.stdout


def test_generation_against_generate_batch(model: Path) -> None:
    arguments = ["--model", model, "--new-tokens", 8, "--prompts", 2, "--samples", 1, "--against", "generate_batch"]
    last = last_object(run("bench_generation", *arguments))
    assert last["unit"] == "tokens/s (generate_batch)"
    assert last["ours"] > 0 and last["baseline"] > 0


OPENVINO = """#!{python}
import json, pathlib, sys
work = json.loads(sys.stdin.readline())
assert pathlib.Path(work["adapter"]).stat().st_size > 0
assert work["model"].endswith("environment/model") and (len(work["prompts"]), work["samples"]) == (2, 3)
print("{{}}", flush=True)
for line in sys.stdin:
    print(json.dumps({{"tokens": 50, "seconds": 2.0}}), flush=True)
"""


EXPORTER = """#!/bin/sh
echo "$@" >>"$(dirname "$0")/exports"
for folder; do :; done
mkdir "$folder" && touch "$folder/openvino_model.xml"
"""


def stand_in_for_openvino(folder: Path, program: str, model: Path) -> Path:
    """What the setup script makes, by the script itself: with a Python that does nothing for pip, and an exporter."""
    (folder / "bin").mkdir(parents=True)
    for name, text in {"python": "#!/bin/sh\n", "optimum-cli": EXPORTER}.items():
        (folder / "bin" / name).write_text(text, encoding="utf-8")
        (folder / "bin" / name).chmod(0o755)
    export(folder, model)
    (folder / "bin/python").write_text(program, encoding="utf-8")
    return folder


def export(folder: Path, model: Path) -> list[str]:
    """Runs the script; returns the arguments of all exports so far."""
    subprocess.run(["scripts/setup_openvino.sh", str(folder), str(model)], check=True, cwd=ROOT, capture_output=True)
    return (folder / "bin/exports").read_text(encoding="utf-8").splitlines()


def test_the_openvino_model_is_exported_again_for_another_model(model: Path, tmp_path: Path) -> None:
    environment = stand_in_for_openvino(tmp_path / "environment", "#!/bin/sh\n", model)
    assert len(export(environment, model)) == 1
    (environment / "model/old").touch()
    other = save_model(tmp_path / "other", seed=1, **TINY_MODEL)
    arguments = ["--model", other, "--against", "openvino", "--openvino", environment]
    done = run("bench_generation", *arguments)
    assert done.returncode == 1 and f"not exported from {other}" in done.stderr
    assert f"fix: scripts/setup_openvino.sh {environment} {other}" in done.stderr
    exports = export(environment, other)
    assert len(exports) == 2 and str(other) in exports[1] and not (environment / "model/old").exists()


def test_generation_against_openvino_beside_a_busy_process(model: Path, tmp_path: Path) -> None:
    environment = stand_in_for_openvino(tmp_path / "environment", OPENVINO.format(python=sys.executable), model)
    arguments = ["--model", model, "--new-tokens", 8, "--prompts", 2, "--samples", 3, "--busy", 1]
    done = run("bench_generation", *arguments, "--against", "openvino", "--openvino", environment)
    last = last_object(done)
    assert last["benchmark"] == "generation, tiny, 6 samples, 8 new tokens, beside 1 busy processes"
    assert last["unit"] == "tokens/s (OpenVINO GenAI, 128 sequences)" and last["baseline"] == 25.0
    assert "target ratio >= 1:" in done.stdout


def test_an_openvino_that_is_missing_or_dies_is_told(model: Path, tmp_path: Path) -> None:
    arguments = ["--model", model, "--new-tokens", 8, "--prompts", 1, "--samples", 1, "--against", "openvino"]
    done = run("bench_generation", *arguments, "--openvino", tmp_path)
    assert done.returncode == 1 and "fix: scripts/setup_openvino.sh FOLDER" in done.stderr
    environment = stand_in_for_openvino(tmp_path / "environment", "#!/bin/sh\nexit 3\n", model)
    done = run("bench_generation", *arguments, "--openvino", environment)
    assert done.returncode == 1 and "the OpenVINO process ended" in done.stderr and "Traceback" not in done.stderr


def test_a_vllm_that_is_missing_or_has_another_policy_is_told(model: Path, tmp_path: Path) -> None:
    arguments = ["--model", model, "--new-tokens", 8, "--prompts", 1, "--samples", 1, "--against", "vllm"]
    done = run("bench_generation", *arguments)
    assert done.returncode == 1 and "fix: --vllm PYTHON" in done.stderr
    done = run("bench_generation", *arguments, "--vllm", interpreter(tmp_path, version=None))
    assert done.returncode == 1 and "has no vllm" in done.stderr
    # It gives the same tokens to every prompt: nothing is measured against that.
    done = run("bench_generation", *arguments, "--vllm", interpreter(tmp_path))
    assert done.returncode == 1 and "error: " in done.stderr and "Traceback" not in done.stderr
    assert calls(tmp_path / "record.jsonl")[1]["path"] == "/v1/load_lora_adapter"
    assert "ratio" not in done.stdout


def test_busy_processes_end_with_a_benchmark_that_is_killed() -> None:
    program = """
import sys
sys.path.insert(0, "scripts")
import subprocess
from bench_generation import busy_processes
real, started = subprocess.Popen, []
subprocess.Popen = lambda command: started.append(real(command)) or started[-1]
with busy_processes(2):
    print(*(each.pid for each in started), flush=True)
    sys.stdin.read()
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, env=environment) as child:
        assert child.stdout is not None
        pids = [int(word) for word in child.stdout.readline().split()]
        try:
            time.sleep(0.5)
            assert len(pids) == 2 and all(map(is_alive, pids))
            child.kill()
            assert eventually(lambda: not any(map(is_alive, pids)), seconds=10)
        finally:
            for pid in filter(is_alive, pids):
                os.kill(pid, signal.SIGKILL)


def test_vllm_is_proved_before_and_timed_from_the_first_request_to_the_last_answer(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from halo_forge.engines._server_engine import ServerEngine
    from halo_forge.engines.vllm import ManagedServer

    deliver, idle = ManagedServer.deliver, ManagedServer.idle
    proved: list[float] = []

    def slow_deliver(delivery: ManagedServer) -> str:
        time.sleep(1.0)
        return deliver(delivery)

    def slow_idle(delivery: ManagedServer) -> None:
        idle(delivery)
        time.sleep(1.0)

    def prove(engine: ServerEngine, name: str, max_gap: float) -> None:
        proved.append(max_gap)
        engine._scored_at(name, list(texts.values()), 0, 1.0, {})

    monkeypatch.setattr(ManagedServer, "deliver", slow_deliver)
    monkeypatch.setattr(ManagedServer, "idle", slow_idle)
    monkeypatch.setattr(ServerEngine, "_prove", prove)
    texts = prompts(["add two numbers", "x"])
    requests = [request(prompt_id, index) for prompt_id in texts for index in range(10)]
    with benchmarks.script("bench_generation") as module:
        policy = load_policy(model)
        with module.vllm(policy, texts, requests, str(interpreter(tmp_path))) as rate:
            assert len(proved) == 1
            started = time.perf_counter()
            tokens_a_second = rate()
            seconds = time.perf_counter() - started
    assert len(proved) == 1
    # The stand-in answers two tokens and the end of turn.
    assert 3 * len(requests) / tokens_a_second < seconds - 1.9
    (start,) = [row for row in calls(tmp_path / "record.jsonl") if "pids" in row]
    assert start["options"][start["options"].index("--max-num-seqs") + 1] == "512"


def test_training(model: Path) -> None:
    done = run("bench_training", "--model", model, "--rows", 4, "--batch", 2, "--repeats", 1)
    last = last_object(done)
    assert last["benchmark"] == "training, tiny, 4 rows in batches of 2"
    assert last["unit"] == "useful tokens/s" and last["ours"] > 0 and last["baseline"] > 0
    assert "target ratio >= 0.9" in done.stdout


def test_cycle(tmp_path: Path) -> None:
    references = [prompt for prompt in load_prompts("builtin:c/all", language="c") if "reference" in prompt.info]
    answers = [{"prompt_id": prompt.id, "answers": [f"```c\n{prompt.info['reference']}```\n"]} for prompt in references]
    path = write_rows(tmp_path / "answers.jsonl", answers)
    engine = f"engine={{kind: scripted, answers: {json.dumps(str(path))}}}"
    done = run("bench_cycle", "--prompts", 4, "--set", engine, "--set", "raft.samples_per_prompt=1")
    last = last_object(done)
    assert last["benchmark"] == "cycle, quickstart" and last["unit"] == "seconds"
    phases = next(json.loads(line) for line in done.stdout.splitlines() if "other_share" in line)
    assert set(phases) == {"other_share", "generate", "verify", "drift", "train", "other"}
    assert 0 <= phases["other_share"] <= 1
    assert last["ours"] == pytest.approx(sum(phases[name] for name in set(phases) - {"other_share"}), abs=0.03)


def test_a_cycle_that_fails_says_why(tmp_path: Path) -> None:
    done = run("bench_cycle", "--prompts", 4, "--set", "raft.num_cycles=-1")
    assert done.returncode == 1 and "the run failed" in done.stderr and "raft.num_cycles" in done.stderr
