"""Runs on a real vLLM server, killed and started again: make test-vllm.

    VLLM_PYTHON=ENV/bin/python python -m pytest -s tests/engines/test_real_vllm.py

It needs an environment with vLLM (scripts/setup_vllm_cpu.sh makes one for the CPU) and the model of `make model`.
What happens is printed with the seconds at which it did.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import eventually, is_alive
from scripted_runs import read, rows
from served_run import write_config

from halo_forge.engines._server_spec import MAX_POLICY_GAP
from halo_forge.sandbox import processes

PYTHON = os.environ.get("VLLM_PYTHON")
MODEL = Path("models/smollm2-135m-instruct")
RUN = Path(__file__).with_name("served_run.py")

pytestmark = [
    pytest.mark.skipif(PYTHON is None, reason="VLLM_PYTHON names no interpreter with vLLM (make test-vllm)"),
    pytest.mark.model,
    pytest.mark.timeout(1800),
]
NUM_CYCLES, NUM_SAMPLES = 2, 6
_started = time.monotonic()


def say(text: str) -> None:
    print(f"{time.monotonic() - _started:7.1f} s  {text}", flush=True)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    engine = {
        "kind": "vllm",
        "python": PYTHON,
        "gpu_memory_utilization": 0.12,
        "max_new_tokens": 40,
        "max_in_flight": 4,
        "retry_seconds": 300.0,
        "exchange_folder": str(tmp_path / "exchange"),
    }
    raft = {"num_cycles": NUM_CYCLES, "samples_per_prompt": NUM_SAMPLES, "min_selected": 1}
    model = {"model_name_or_path": str(MODEL), "dtype": "bfloat16"}
    training = {"learning_rate": 1e-3, "gradient_accumulation_steps": 1}
    lora = {"r": 16, "lora_alpha": 32}
    return write_config(tmp_path, MODEL, engine, raft=raft, model=model, training=training, lora=lora)


@pytest.fixture
def started() -> Iterator[Any]:
    """Starts runs, and ends those that a failed test leaves."""
    found: list[subprocess.Popen[bytes]] = []

    def start(config: Path, root: Path) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"tests:{os.environ.get('PYTHONPATH', '')}"}
        found.append(subprocess.Popen([sys.executable, str(RUN), str(config), str(root)], env=environment))
        say(f"started the run: process {found[-1].pid}")
        return found[-1]

    yield start
    for process in found:
        process.kill()
        process.wait()


def completions(root: Path) -> int:
    parts = [*root.glob("cycles/001/completions.jsonl.part"), *root.glob("cycles/001/completions.jsonl")]
    return sum(path.read_bytes().count(b"\n") for path in parts)


def server_processes(run: subprocess.Popen[bytes]) -> dict[int, str]:
    """Process id -> command line of all processes below the run that belong to the server."""
    found = {each.pid: Path(f"/proc/{each.pid}/cmdline").read_bytes().replace(b"\0", b" ") for each in below(run)}
    return {pid: words.decode()[:60] for pid, words in found.items() if b"vllm" in words.lower()}


def below(run: subprocess.Popen[bytes]) -> Iterator[processes.Process]:
    return (each for each in processes.below(run.pid) if is_alive(each.pid))


def wait_for_completions(run: subprocess.Popen[bytes], root: Path, num: int) -> None:
    assert eventually(lambda: completions(root) >= num or run.poll() is not None, 900)
    assert run.poll() is None, "the run ended early"
    say(f"{completions(root)} completions of v0 are written down")


def events(root: Path, name: str) -> list[dict[str, Any]]:
    return [row for row in rows(root / "events.jsonl") if row["event"] == name]


def check_finished(root: Path) -> None:
    """All versions were sampled, each after a proof, and every request has one completion."""
    assert read(root / "result.json")["last_version"] == NUM_CYCLES
    proofs = events(root, "served_policy")
    for proof in proofs:
        kept = {key: proof[key] for key in ("policy_version", "model", "method", "num_tokens", "gap", "other_gaps")}
        say(f"proof: {kept}, told apart {proof['told_apart']}, {proof['seconds']} s")
    assert {proof["policy_version"] for proof in proofs} == set(range(NUM_CYCLES + 1))
    assert all(proof["method"] == "log_probabilities" and 0 < proof["gap"] < MAX_POLICY_GAP for proof in proofs)
    for cycle in range(1, NUM_CYCLES + 1):
        found = rows(root / f"cycles/{cycle:03d}/completions.jsonl")
        assert len(found) == len({(row["prompt_id"], row["index"]) for row in found}) == 2 * NUM_SAMPLES
        assert all(row["policy_version"] == cycle - 1 and row["token_ids"] for row in found)
        digest = read(root / f"cycles/{cycle:03d}/trained.json")["adapter_digest"]
        assert digest in {proof["adapter_digest"] for proof in proofs if proof["policy_version"] == cycle}


def test_two_cycles_with_a_server_killed_in_the_middle(config: Path, tmp_path: Path, started: Any) -> None:
    root = tmp_path / "run"
    run = started(config, root)
    wait_for_completions(run, root, 3)
    before = server_processes(run)
    say(f"the server's processes: {before}")
    (server,) = (pid for pid, words in before.items() if " serve " in words and "-I -S" not in words)
    os.kill(server, signal.SIGKILL)
    say(f"killed the server, process {server}, with SIGKILL")
    assert eventually(lambda: not any(map(is_alive, before)), 60), {pid for pid in before if is_alive(pid)}
    say("none of its processes is left")
    wait_for_completions(run, root, 2 * NUM_SAMPLES)
    last = server_processes(run)
    assert run.wait(1200) == 0
    say("the run went on with a server of its own starting, and finished")
    check_finished(root)
    assert not any(map(is_alive, last)), "processes of the server are left"
    say("no process is left")


def test_a_run_killed_in_the_middle_leaves_no_server_and_resumes(config: Path, tmp_path: Path, started: Any) -> None:
    root = tmp_path / "run"
    run = started(config, root)
    wait_for_completions(run, root, 3)
    before = [each.pid for each in below(run)]
    say(f"the server's processes: {server_processes(run)}")
    run.kill()
    run.wait()
    killed = time.monotonic()
    say("killed the run with SIGKILL")
    assert eventually(lambda: not any(map(is_alive, before)), 60), {pid for pid in before if is_alive(pid)}
    say(f"none of the {len(before)} processes below it is left after {time.monotonic() - killed:.1f} s")
    kept = completions(root)
    again = started(config, root)
    assert again.wait(1800) == 0
    say(f"resumed with {kept} completions of v0, and finished")
    check_finished(root)
