"""Runs on a real server, `transformers serve`: same answers as in process, killed and started again, merged models."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from loopback_server import LoopbackServer, command, free_port
from processes import is_alive
from scripted_runs import execute, ids, read, rows
from served_run import Content, write_config
from tiny_models import disturb_adapter, load_policy, prompts, request, save_model

from halo_forge.core.errors import ConfigError, ToolMissing
from halo_forge.engines import _adapter_delivery
from halo_forge.engines.openai_server import OpenaiServerSpec
from halo_forge.engines.transformers import TransformersEngine
from halo_forge.policy import save_merged

torch = pytest.importorskip("torch")
for name in ("fastapi", "uvicorn", "openai"):
    pytest.importorskip(name, reason=f"transformers serve needs {name} (pip install 'transformers[serving]')")

PROMPTS = prompts(["add two numbers", "the user and the assistant", "x"])
NUM_SAMPLES = 12


@pytest.fixture(scope="module")
def server(tiny_models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackServer]:
    found = LoopbackServer(tiny_models["llama"], tmp_path_factory.mktemp("server") / "log")
    found.start()
    yield found
    found.kill()


def asking(server: LoopbackServer, **settings: Any) -> OpenaiServerSpec:
    values = {"base_url": server.base_url, "server": "transformers", "adapter": "none", "retry_seconds": 60.0}
    return OpenaiServerSpec(**{**values, **settings})


def run_config(folder: Path, model: Path, engine: dict[str, Any]) -> Path:
    settings = {"kind": "openai_server", "server": "transformers", "max_new_tokens": 40, "stop": ["e", "}"]}
    return write_config(folder, model, {**settings, **engine})


def when(reached: Any, act: Any) -> threading.Thread:
    """Do something in the middle of a run."""

    def watch() -> None:
        deadline = time.monotonic() + 120
        while not reached() and time.monotonic() < deadline:
            time.sleep(0.002)
        act()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def num_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def keys(path: Path) -> list[tuple[str, int]]:
    return [(row["prompt_id"], row["index"]) for row in rows(path)]


def test_greedy_answers_are_those_of_the_engine_in_process(
    server: LoopbackServer, tiny_models: dict[str, Path]
) -> None:
    policy = load_policy(tiny_models["llama"], response_prefix="```c\n")
    requests = [request(prompt_id, temperature=0.0, max_new_tokens=30) for prompt_id in PROMPTS]
    stop = ("&", "}")  # not in a special token, which this server hides from its answers
    with asking(server, stop=list(stop)).open(policy) as engine:
        served = {each.prompt_id: each for each in engine.sample(PROMPTS, requests, 0)}
    ours = TransformersEngine(policy, batch_size=4, stop=stop).sample(PROMPTS, requests, 0)
    assert {each.prompt_id: (each.text, each.finish) for each in ours} == {
        prompt_id: (each.text, each.finish) for prompt_id, each in served.items()
    }


def test_samples_follow_their_seeds(server: LoopbackServer, tiny_models: dict[str, Path]) -> None:
    """One at a time: this server's generator is one for all requests."""
    policy = load_policy(tiny_models["llama"])
    requests = [request("p0", index) for index in range(4)]

    def texts() -> list[str]:
        with asking(server, max_in_flight=1).open(policy) as engine:
            return [each.text for each in engine.sample(PROMPTS, requests, 0)]

    first = texts()
    assert first == texts() and len(set(first)) == 4


def test_a_name_that_the_server_does_not_know(server: LoopbackServer, tiny_models: dict[str, Path]) -> None:
    policy = load_policy(tiny_models["llama"])
    with (
        asking(server, served_model="another").open(policy) as engine,
        pytest.raises(ConfigError, match=r"HTTP 400 .*pinned"),
    ):
        next(engine.sample(PROMPTS, [request("p0")], 0))


def test_a_server_killed_in_mid_cycle(
    server: LoopbackServer, tiny_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run ends, the server is started again, the run is resumed: nothing is lost, nothing comes twice."""
    monkeypatch.setattr("halo_forge.verifiers.verifier.ThreadedVerifier", lambda spec: Content())
    engine = {"base_url": server.base_url, "adapter": "none", "retry_seconds": 0.5}
    config, cycle = run_config(tmp_path, tiny_models["llama"], engine), tmp_path / "run/cycles/001"
    part = cycle / "completions.jsonl.part"
    killing = when(lambda: num_lines(part) >= 5, server.kill)
    with pytest.raises(ToolMissing, match=r"retried for 0.5 seconds"):
        execute(config, tmp_path / "run")
    killing.join()
    before = rows(part)
    assert 5 <= len(before) < 2 * NUM_SAMPLES
    server.start()
    # This way serves the start model only, so the cycle of v1 is where it ends.
    with pytest.raises(ConfigError, match=r"engine.adapter: none, but v1 has an adapter"):
        execute(config, tmp_path / "run")
    assert keys(cycle / "completions.jsonl") == [
        (each, index) for each in ids("train", 2) for index in range(NUM_SAMPLES)
    ]
    after = rows(cycle / "completions.jsonl")
    assert [row for row in after if row in before] == sorted(before, key=after.index) and len(before) >= 5
    assert read(cycle / "report.json")["num_kept"] > 0


def test_merged_models_in_restarted_servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in mid-cycle it is started again by the run; every version has its own server; none stays behind."""
    # The proof that the server samples from v1 needs tokens to compare; what v1 has learned varies with the timing of
    # the requests, and may be to end at once.
    model = save_model(tmp_path / "model", endless=True, by_character=True)
    monkeypatch.setattr("halo_forge.verifiers.verifier.ThreadedVerifier", lambda spec: Content())
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    port, started = free_port(), tmp_path / "started"
    serve = 'echo "$$ $1" >> "$0"; shift; exec "$@"'
    engine = {
        "base_url": f"http://127.0.0.1:{port}/v1",
        "health_url": f"http://127.0.0.1:{port}/health",
        "adapter": "merged_restart",
        "restart_command": ["sh", "-c", serve, str(started), "{model}", *command("{model}", port)],
        "exchange_folder": str(tmp_path / "shared"),
        "retry_seconds": 60.0,
    }

    def servers() -> list[tuple[int, str]]:
        words = [line.split() for line in started.read_text().splitlines()]
        return [(int(pid), model) for pid, model in words]

    part = tmp_path / "run/cycles/001/completions.jsonl.part"
    killing = when(lambda: num_lines(part) >= 5, lambda: os.kill(servers()[-1][0], signal.SIGKILL))
    result = execute(run_config(tmp_path, model, engine), tmp_path / "run")
    killing.join()
    base, merged = str(model), str(tmp_path / "shared/merged_v001")
    assert [model for _, model in servers()] == [base, base, merged]
    assert not any(is_alive(pid) for pid, _ in servers())
    logs = sorted(path.name for path in (tmp_path / "run/server_logs").iterdir())
    assert logs == ["server.1.log", "server.2.log", "server.3.log"]
    assert len(keys(tmp_path / "run/cycles/001/completions.jsonl")) == 2 * NUM_SAMPLES
    assert {row["policy_version"] for row in rows(tmp_path / "run/cycles/002/dev_completions.jsonl")} == {1}
    proofs = [row for row in rows(tmp_path / "run/events.jsonl") if row["event"] == "served_policy"]
    assert [row["policy_version"] for row in proofs] == [0, 0, 1]
    assert all(row["num_tokens"] == 4 * 64 for row in proofs)
    assert proofs[2]["gap"] < min(proofs[2]["other_gaps"].values())
    assert result.chosen_version in (0, 1)


def test_a_command_that_ends_is_told_with_its_last_words(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    spec = OpenaiServerSpec(
        base_url=f"http://127.0.0.1:{free_port()}/v1",
        adapter="merged_restart",
        restart_command=["sh", "-c", "echo no memory left; exit 3"],
        exchange_folder=str(tmp_path),
    )
    with (
        spec.open(load_policy(tiny_models["llama"])) as engine,
        pytest.raises(
            ToolMissing, match=rf"ended with code 3; the end of its log {tmp_path}/logs/server.1.log:\nno memory left"
        ),
    ):
        engine.keep_logs(tmp_path / "logs")
        next(engine.sample(PROMPTS, [request("p0")], 0))


def test_a_server_of_somebody_else_is_not_taken_for_ours(
    server: LoopbackServer, tiny_models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_adapter_delivery, "LEFTOVER_SECONDS", 0.2)
    if server.process is None:
        server.start()
    health = server.base_url.replace("/v1", "/health")
    spec = asking(server, adapter="merged_restart", restart_command=["true"], health_url=health)
    with (
        spec.open(load_policy(tiny_models["llama"])) as engine,
        pytest.raises(ConfigError, match="a server that this run did not start answers"),
    ):
        next(engine.sample(PROMPTS, [request("p0")], 0))


@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
def test_a_merged_model_is_the_sum_of_weights_and_adapter(
    architecture: str, tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    policy = load_policy(tiny_models[architecture])
    disturb_adapter(policy)
    before = {name: value.clone() for name, value in policy.model.state_dict().items()}
    save_merged(policy, tmp_path / "merged")
    assert all(torch.equal(value, before[name]) for name, value in policy.model.state_dict().items())
    plain = AutoModelForCausalLM.from_pretrained(tiny_models[architecture], dtype=torch.float32)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype="auto")
    assert merged.dtype == torch.bfloat16
    weights = {name.removeprefix("base_model.model."): value for name, value in before.items()}
    num_changed = 0
    for name, weight in plain.state_dict().items():
        a = weights.get(name.replace(".weight", ".lora_A.default.weight"))
        if a is not None:
            weight = weight + 2.0 * weights[name.replace(".weight", ".lora_B.default.weight")] @ a
            num_changed += 1
        torch.testing.assert_close(merged.state_dict()[name], weight.bfloat16(), rtol=2**-7, atol=1e-6)
    assert num_changed == 14
    assert (tmp_path / "merged/chat_template.jinja").is_file()
