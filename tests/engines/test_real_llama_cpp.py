"""A run on llama.cpp's own server, restarted with every version's merged weights: make test-llama-cpp.

    LLAMA_CPP_PYTHON=ENV/bin/python python -m pytest -s tests/engines/test_real_llama_cpp.py

It needs an environment as scripts/setup_llama_cpp.sh makes it, and the model of `make model`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from loopback_server import free_port
from scripted_runs import execute, rows
from served_run import Content, write_config
from tiny_models import LoraOptions, load_policy, prompts, request

from halo_forge.core.errors import ConfigError
from halo_forge.engines._server_spec import MAX_POLICY_GAP
from halo_forge.engines.openai_server import OpenaiServerSpec

PYTHON = os.environ.get("LLAMA_CPP_PYTHON")
MODEL = Path("models/smollm2-135m-instruct")
SERVER = Path(__file__).with_name("llama_cpp_server.py")
LORA = LoraOptions(r=16, lora_alpha=32)
PROMPTS = prompts(
    [
        "Write a C function that adds two numbers and returns the sum.",
        "Write a C program that reads integers until the end of input and prints their sum.",
        "Explain in two sentences what a linked list is, and when an array is better.",
        "Write a C function that reverses a string in place and returns it.",
    ]
)

pytestmark = [
    pytest.mark.skipif(PYTHON is None, reason="LLAMA_CPP_PYTHON names no environment (make test-llama-cpp)"),
    pytest.mark.model,
    pytest.mark.timeout(1800),
]


def settings(folder: Path, model: str = "{model}") -> dict[str, Any]:
    """Of an engine whose servers serve `model`: what they are given, or something else."""
    port = free_port()
    return {
        "server": "llama_cpp",
        "base_url": f"http://127.0.0.1:{port}/v1",
        "health_url": f"http://127.0.0.1:{port}/health",
        "adapter": "merged_restart",
        "restart_command": [str(PYTHON), str(SERVER), model, str(port)],
        "exchange_folder": str(folder),
        "max_in_flight": 4,
    }


def test_token_ids_come_from_the_server_and_stop_strings_are_cut(tmp_path: Path) -> None:
    policy = load_policy(MODEL.absolute(), lora=LORA, dtype="bfloat16", response_prefix="```c\n")
    # The server's model is written beside the folder that is given to it, which must not be that of the user.
    policy.identity["revision"] = "a copy"
    engine = OpenaiServerSpec(**settings(tmp_path), stop=[";"]).open(policy)
    proofs: list[dict[str, Any]] = []
    engine.note = lambda event, **fields: proofs.append(fields)
    requests = [request(prompt_id, index, max_new_tokens=60) for prompt_id in PROMPTS for index in range(2)]
    with engine:
        found = list(engine.sample(PROMPTS, requests, 0))
    (proof,) = proofs
    print(f"v0: {proof}")
    assert proof["method"] == "log_probabilities" and proof["num_tokens"] > 100 and 0 < proof["gap"] < MAX_POLICY_GAP
    assert {(each.prompt_id, each.index) for each in found} == {(each.prompt_id, each.index) for each in requests}
    ended = [each for each in found if ";" in each.text]
    assert ended and all(each.finish == "stop" and each.text.index(";") == len(each.text) - 1 for each in ended)
    for each in found:
        text = policy.tokenizer.decode(list(each.token_ids), skip_special_tokens=False)
        assert ("```c\n" + text).startswith(each.text)
        assert ";" not in policy.tokenizer.decode(list(each.token_ids[:-1]))
        assert not set(each.token_ids) & policy.stop_ids


def test_a_cycle_and_a_server_that_stays_with_the_start_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("halo_forge.verifiers.verifier.ThreadedVerifier", lambda spec: Content())
    run = write_config(
        tmp_path,
        MODEL,
        {"kind": "openai_server", "max_new_tokens": 40, **settings(tmp_path / "exchange")},
        model={"model_name_or_path": str(MODEL.absolute()), "revision": "main", "dtype": "bfloat16"},
        training={"learning_rate": 1e-3, "gradient_accumulation_steps": 1},
        lora={"r": 16, "lora_alpha": 32},
    )
    execute(run, tmp_path / "run")
    proofs = [row for row in rows(tmp_path / "run/events.jsonl") if row["event"] == "served_policy"]
    for proof in proofs:
        print(f"v{proof['policy_version']}: {proof}")
    assert [proof["policy_version"] for proof in proofs] == [0, 1]
    assert all(proof["gap"] < MAX_POLICY_GAP for proof in proofs)
    assert proofs[1]["told_apart"]

    stale = OpenaiServerSpec(**settings(tmp_path / "stale", str(tmp_path / "exchange/merged_v000.gguf")))
    policy = load_policy(MODEL.absolute(), lora=LORA, dtype="bfloat16")
    policy.load_adapter(tmp_path / "run/cycles/001/adapter", 1)
    with stale.open(policy) as engine, pytest.raises(ConfigError, match="does not sample from v1") as caught:
        next(engine.sample(PROMPTS, [request("p0")], 1))
    print(f"stale: {caught.value.message}")
