"""The engine that starts a vLLM server, with a stand-in for its interpreter; the real one is in test_real_vllm."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_vllm import calls, interpreter
from openai_stand_in import stand_in
from processes import is_alive
from tiny_models import LoraOptions, disturb_adapter, load_policy, prompts, request

from halo_forge.config import config_digest, load_config
from halo_forge.core.errors import ConfigError, ToolMissing
from halo_forge.engines import vllm
from halo_forge.engines._policy_proof import Proof
from halo_forge.engines.vllm import VllmSpec
from halo_forge.hardware import Machine, profile_class

pytest.importorskip("torch")

PROMPTS = prompts(["add two numbers", "x"])
REQUESTS = [request(prompt_id, index) for prompt_id in PROMPTS for index in range(3)]


@pytest.fixture
def policy(tiny_models: dict[str, Path]) -> Any:
    return load_policy(tiny_models["llama"])


def spec(folder: Path, **settings: Any) -> VllmSpec:
    python = settings.pop("python", None)
    values = {"python": str(interpreter(folder) if python is None else python), "max_policy_gap": None}
    return VllmSpec(**{**values, "retry_seconds": 20.0, **settings})


def sample_all(engine: Any, version: int = 0) -> int:
    engine.policy.version = version
    return len(list(engine.sample(PROMPTS, REQUESTS, version)))


def starts(folder: Path) -> list[dict[str, Any]]:
    return [row for row in calls(folder / "record.jsonl") if "pids" in row]


def paths(folder: Path) -> list[str]:
    return [
        row["path"]
        for row in calls(folder / "record.jsonl")
        if row.get("path", "/v1/completions")[3:] != "/completions"
    ]


def option(row: dict[str, Any], name: str) -> str:
    return str(row["options"][row["options"].index(name) + 1])


def gone(folder: Path) -> bool:
    return not any(is_alive(pid) for row in starts(folder) for pid in row["pids"])


def on(policy: Any, name: str) -> Any:
    policy.profile = profile_class(name)(Machine(), "a test")
    return policy


def test_one_server_serves_all_versions_and_nothing_is_left_of_it(policy: Any, tmp_path: Path) -> None:
    with spec(tmp_path).open(policy) as engine:
        folder = engine.folder
        assert sample_all(engine) == len(REQUESTS)
        disturb_adapter(policy)
        assert sample_all(engine, 1) == len(REQUESTS)
        disturb_adapter(policy, seed=2)
        assert sample_all(engine, 2) == len(REQUESTS)
        (start,) = starts(tmp_path)
        assert all(is_alive(pid) for pid in start["pids"])
    assert gone(tmp_path) and not folder.exists()
    assert paths(tmp_path) == ["/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/v1/load_lora_adapter"]
    names = [row["model"] for row in calls(tmp_path / "record.jsonl") if row.get("path") == "/v1/completions"]
    assert [name[:16] for name in dict.fromkeys(names)] == [start["model"][:16], "halo_forge_v001_", "halo_forge_v002_"]


def test_what_the_server_is_started_with(policy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/ours")
    policy.identity["commit"], policy.trust_remote_code = "abc", True
    with spec(tmp_path, max_in_flight=7, options=["--swap-space", "0"]).open(policy) as engine:
        sample_all(engine)
    (start,) = starts(tmp_path)
    longest = max(len(policy.prompt_ids(prompt)) for prompt in PROMPTS.values())
    assert start["model"] == option(start, "--served-model-name") == policy.identity["model_name_or_path"]
    assert option(start, "--host") == "127.0.0.1" and option(start, "--dtype") == "float32"
    assert option(start, "--max-model-len") == str(longest + 64)  # the proof's tokens are more than the requests'
    assert option(start, "--max-lora-rank") == "8" and "--enable-lora" in start["options"]
    assert option(start, "--revision") == option(start, "--tokenizer-revision") == "abc"
    assert option(start, "--max-num-seqs") == "7" and option(start, "--gpu-memory-utilization") == "0.45"
    assert "--trust-remote-code" in start["options"] and start["options"][-2:] == ["--swap-space", "0"]
    assert start["environment"]["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "True"
    assert start["environment"]["PYTHONPATH"] is None and start["environment"]["PYTHONSAFEPATH"] == "1"


@pytest.mark.parametrize(
    ("name", "eager", "sleeps"), [("cuda", False, True), ("rocm", False, False), ("gfx1151", True, False)]
)
def test_it_sleeps_while_the_policy_is_trained_where_the_platform_can(
    policy: Any, tmp_path: Path, name: str, eager: bool, sleeps: bool
) -> None:
    with spec(tmp_path).open(on(policy, name)) as engine:
        sample_all(engine)
        disturb_adapter(policy)
        sample_all(engine, 1)
    (start,) = starts(tmp_path)
    assert ("--enforce-eager" in start["options"]) == eager
    assert ("--enable-sleep-mode" in start["options"]) == sleeps
    assert (start["environment"]["VLLM_SERVER_DEV_MODE"] is not None) == sleeps
    sleeping = ["/sleep?level=1", "/wake_up", "/v1/load_lora_adapter", "/sleep?level=1"]
    assert paths(tmp_path) == (sleeping if sleeps else ["/v1/load_lora_adapter"])


def test_a_server_that_dies_is_started_again_and_gets_the_adapter_again(policy: Any, tmp_path: Path) -> None:
    disturb_adapter(policy)
    # It holds the other requests until it is killed: none of them finishes before.
    python = interpreter(tmp_path, first_completions=1)
    with spec(tmp_path, python=python, max_in_flight=1).open(policy) as engine:
        policy.version = 1
        found = engine.sample(PROMPTS, REQUESTS, 1)
        next(found)
        os.kill(starts(tmp_path)[0]["pids"][0], signal.SIGKILL)
        assert len(list(found)) == len(REQUESTS) - 1
    assert len(starts(tmp_path)) == 2 and gone(tmp_path)
    assert paths(tmp_path) == ["/v1/load_lora_adapter"] * 2


def test_a_longer_prompt_starts_a_server_that_takes_it(policy: Any, tmp_path: Path) -> None:
    with spec(tmp_path).open(policy) as engine:
        sample_all(engine)
        longer = [request("p0", max_new_tokens=200)]
        assert len(list(engine.sample(PROMPTS, longer, 0))) == 1
        sample_all(engine)
    assert len(starts(tmp_path)) == 2 and gone(tmp_path)


REASONS = [
    (
        "ValueError: Free memory on device cuda:0 (1/24 GiB) is less than desired GPU memory utilization",
        "lower engine.gpu",
    ),
    ("ValueError: No available memory for the cache blocks.", "raise engine.gpu_memory_utilization"),
    ("torch.OutOfMemoryError: CUDA out of memory.", "engine.kind transformers"),
    ("RuntimeError: Failed to infer device type", "built for this machine"),
    ("ValueError: Model architectures ['X'] are not supported for now.", "another model"),
    (
        "pydantic_core.ValidationError: 1 validation error for ModelConfig\n  Value error, User-specified max_model_len"
        " (600) is greater than the derived max_model_len (max_position_embeddings=512).",
        "shorten or remove such prompts",
    ),
    ("OSError: [Errno 98] Address already in use", "run again with --resume"),
    (
        "(EngineCore pid=7) ERROR 11-30 [core.py:7] torch.OutOfMemoryError: HIP out of memory.\n"
        "RuntimeError: Engine core initialization failed. See root cause above.",
        "engine.kind transformers",
    ),
    (
        "ValueError: 1. out of memory\n" + "KeyError: something else\n" * 3 + "KeyError: the last",
        "try the command by hand: ",
    ),
    ("KeyError: something else", "try the command by hand: "),
]


@pytest.mark.parametrize(("words", "hint"), REASONS, ids=range(len(REASONS)))
def test_a_server_that_does_not_start_is_explained_with_its_log(
    policy: Any, tmp_path: Path, words: str, hint: str
) -> None:
    with (
        pytest.raises(ToolMissing, match="the server ended with code 1 while starting") as caught,
        spec(tmp_path, python=interpreter(tmp_path, words=words)).open(policy) as engine,
    ):
        engine.keep_logs(tmp_path / "logs")
        sample_all(engine)
    log = tmp_path / "logs" / "vllm.1.log"
    assert not engine.folder.exists()
    assert f"the end of its log {log}:\nINFO without" in caught.value.message
    assert caught.value.message.endswith(f"INFO starting\n{words}")
    assert hint in caught.value.hint and "--resume" in caught.value.hint
    assert words in log.read_text() and gone(tmp_path) and len(starts(tmp_path)) == 1


def test_the_log_of_a_server_that_died_stays_beside_that_of_the_next_and_after_the_run(
    policy: Any, tmp_path: Path
) -> None:
    with spec(tmp_path, max_in_flight=1).open(policy) as engine:
        found = engine.sample(PROMPTS, REQUESTS, 0)
        next(found)
        first = engine.delivery.away_hint.removeprefix("see its log ")
        os.kill(starts(tmp_path)[0]["pids"][0], signal.SIGKILL)
        list(found)
        second = engine.delivery.away_hint.removeprefix("see its log ")
    assert not engine.folder.exists()
    assert [Path(each).name for each in (first, second)] == ["vllm.1.log", "vllm.2.log"]
    for each in (first, second):
        assert Path(each).is_file()


OTHERS = ("engine.adapter", "engine.exchange_folder", "engine.base_url", "VLLM_ALLOW", "merged_restart", "serve that")
"""What nobody can set who chose this kind."""


def test_an_adapter_that_is_not_loaded_is_explained_by_settings_of_this_kind(policy: Any, tmp_path: Path) -> None:
    disturb_adapter(policy)
    with (
        pytest.raises(ConfigError, match=r"^engine\.kind: vllm: POST .*load_lora_adapter: HTTP 404") as caught,
        spec(tmp_path, options=["--no-enable-lora"]).open(policy) as engine,
    ):
        engine.keep_logs(tmp_path / "logs")
        sample_all(engine, 1)
    hint = caught.value.hint
    assert f"see its log {tmp_path}/logs/vllm.1.log, and engine.options" in hint
    assert not any(each in str(caught.value) for each in OTHERS)


@pytest.mark.parametrize(
    ("gap", "closer", "num_tokens"), [(1.0, None, 64), (0.1, "v1", 64), (0.0, None, 2)], ids=["gap", "closer", "few"]
)
def test_another_policy_is_explained_by_settings_of_this_kind(
    policy: Any, tmp_path: Path, gap: float, closer: str | None, num_tokens: int
) -> None:
    proof = Proof("log_probabilities", 4, num_tokens, gap, {"v1": 0.05}, (), closer)
    with spec(tmp_path).open(policy) as engine, pytest.raises(ConfigError, match=r"^engine\.kind: vllm: ") as caught:
        proof.check(2, 0.15, engine.delivery)
    assert "its log" in caught.value.hint and "engine.options" in caught.value.hint
    assert not any(each in str(caught.value) for each in OTHERS)


def test_a_server_that_takes_too_long_is_ended(policy: Any, tmp_path: Path) -> None:
    python = interpreter(tmp_path, seconds=100.0)
    with (
        pytest.raises(ToolMissing, match="did not answer in 1 s while starting") as caught,
        spec(tmp_path, python=python, start_timeout_seconds=1.0).open(policy) as engine,
    ):
        sample_all(engine)
    assert "start_timeout_seconds" in caught.value.hint and gone(tmp_path)


def test_what_is_missing_is_said_before_a_model_is_loaded(tmp_path: Path) -> None:
    spec(tmp_path).check()
    (tmp_path / "no program").write_text("text", encoding="utf-8")
    (tmp_path / "no program").chmod(0o755)
    for python, message in [
        (tmp_path / "nowhere" / "python", "there is no program"),
        (tmp_path / "no program", "does not run"),
        (tmp_path, "is not executable"),
        (shutil.which("true"), "has no vllm"),
        (interpreter(tmp_path, version=None), "has no vllm"),
    ]:
        with pytest.raises(ToolMissing, match=message):
            spec(tmp_path, python=python).check()
    with pytest.raises(ConfigError, match=r"engine\.batch_size"):
        spec(tmp_path, batch_size=4).check()


@pytest.mark.parametrize("options", [["--port", "99"], ["--enforce-eager", "--api-key=x"]])
def test_options_that_the_run_sets_itself_are_refused(options: list[str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="which the run sets itself"):
        spec(tmp_path, options=options)


def test_what_lies_in_the_working_directory_is_not_taken_for_vllm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = tmp_path / "vllm-9.9.dist-info"
    found.mkdir()
    (found / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 9.9\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ToolMissing, match="has no vllm"):
        spec(tmp_path, python=sys.executable).check()


def test_another_program_on_the_port_is_neither_taken_for_the_server_nor_told_the_key(
    policy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stand_in() as other, spec(tmp_path).open(policy) as engine:
        told: list[str | None] = []
        monkeypatch.setattr(other, "is_refused", lambda path, authorization: bool(told.append(authorization)))
        other.base = policy.identity["model_name_or_path"]
        monkeypatch.setattr(vllm, "free_port", lambda: int(other.base_url.split(":")[2].split("/")[0]))
        with pytest.raises(ToolMissing, match="another program took the port"):
            sample_all(engine)
        assert set(told) == {None} and other.asked == []


def test_a_model_with_few_positions_is_not_asked_for_more_by_the_proof(policy: Any, tmp_path: Path) -> None:
    longest = max(len(policy.prompt_ids(prompt)) for prompt in PROMPTS.values())
    policy.model.config.max_position_embeddings = longest + 30
    with spec(tmp_path).open(policy) as engine:
        sample_all(engine)
        assert engine._num_proof_tokens == 30
    assert option(starts(tmp_path)[0], "--max-model-len") == str(longest + 30)


def test_a_rank_that_vllm_does_not_take(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    policy = load_policy(tiny_models["llama"], lora=LoraOptions(r=513))
    with pytest.raises(ConfigError, match=r"lora.r: found 513, .* up to 512"):
        spec(tmp_path).open(policy)


@pytest.fixture
def configuration(tmp_path: Path) -> Iterator[Any]:
    def load(engine: dict[str, Any], **sections: Any) -> Any:
        values = {"kind": "vllm", "python": "python", **engine}
        path = tmp_path / "run.yaml"
        config = {"model": {"model_name_or_path": "a/b"}, "engine": values, **sections}
        path.write_text(json.dumps(config), encoding="utf-8")
        return load_config(path).config

    yield load


def test_temperatures_that_vllm_refuses_are_refused_at_once(configuration: Any) -> None:
    configuration({"temperature": 1.8})
    for engine, sections, message in [
        ({"temperature": 2.5}, {}, "engine.temperature: found 2.5, allowed with engine.kind vllm: up to 2"),
        ({"temperature": {"kind": "linear", "base": 1.0, "final": 3.0}}, {}, "engine.temperature: found 3"),
        ({"temperature": 1.9}, {}, "2.1 after all rollbacks"),
        ({}, {"evaluation": {"temperature": 2.2}}, "evaluation.temperature: found 2.2"),
        ({"kind": "openai_server", "temperature": 2.5}, {}, "engine.kind openai_server: up to 2"),
    ]:
        values = {"python": None} if engine.get("kind") else {}
        with pytest.raises(ConfigError) as caught:
            configuration({key: value for key, value in {**engine, **values}.items() if value is not None}, **sections)
        assert message in str(caught.value)


def test_a_run_is_continued_with_another_interpreter_but_not_with_other_options(configuration: Any) -> None:
    first = config_digest(configuration({}))
    assert first == config_digest(
        configuration({"python": "other", "gpu_memory_utilization": 0.3, "max_policy_gap": 1.0})
    )
    assert first != config_digest(configuration({"options": ["--quantization", "fp8"]}))
