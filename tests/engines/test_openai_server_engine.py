"""The engine against a server that answers as it is told: what it asks, what it takes of answers, when it gives up."""

from __future__ import annotations

import json
import re
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai_stand_in import StandIn, choice, stand_in
from tiny_models import THINKING, disturb_adapter, load_policy, prompts, request

from halo_forge.config import config_digest, load_config
from halo_forge.core.errors import ConfigError, ToolMissing
from halo_forge.core.records import Completion
from halo_forge.engines._server_engine import ServerEngine
from halo_forge.engines.openai_server import OpenaiServerSpec
from halo_forge.runtime.preview import preview

pytest.importorskip("torch")

PROMPTS = prompts(["add two numbers", "x"])
REQUESTS = [request(prompt_id, index) for prompt_id in PROMPTS for index in range(20)]


@pytest.fixture(scope="module")
def policy(tiny_models: dict[str, Path]) -> Any:
    return load_policy(tiny_models["llama"], response_prefix="```c\n")


@pytest.fixture
def server() -> Iterator[StandIn]:
    with stand_in() as found:
        yield found


def write_json(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def engine(policy: Any, server: StandIn, /, **settings: Any) -> ServerEngine:
    values = {"base_url": server.base_url, "served_model": "base", "adapter": "none", "retry_seconds": 10.0}
    values |= {"max_policy_gap": None}  # it answers whatever it is told to
    return OpenaiServerSpec(**{**values, **settings}).open(policy)


def sample(asking: ServerEngine, requests: Any = REQUESTS[:1]) -> list[Completion]:
    with asking:
        return list(asking.sample(PROMPTS, requests, asking.policy.version))


def test_every_request_is_answered_once_and_many_are_in_flight(policy: Any, server: StandIn) -> None:
    together = threading.Barrier(8)

    def answer(body: dict[str, Any]) -> Any:
        together.wait(30)  # goes on once 8 requests are here
        return 200, choice(f"seed {body['seed']}")

    server.completion = answer
    found = sample(engine(policy, server, max_in_flight=8), REQUESTS)
    assert sorted((each.prompt_id, each.index) for each in found) == [(r.prompt_id, r.index) for r in REQUESTS]
    texts = {(each.prompt_id, each.index): each.text for each in found}
    assert texts == {(r.prompt_id, r.index): f"```c\nseed {r.seed % 2**31}" for r in REQUESTS}


def test_completions_come_out_as_they_finish(policy: Any, server: StandIn) -> None:
    first_is_taken = threading.Event()

    def answer(body: dict[str, Any]) -> Any:
        assert body["seed"] != REQUESTS[0].seed % 2**31 or first_is_taken.wait(30)
        return 200, choice("text")

    server.completion = answer
    with engine(policy, server) as asking:
        found = asking.sample(PROMPTS, REQUESTS[:2], 0)
        assert next(found).index == 1
        first_is_taken.set()
        assert next(found).index == 0


FAILURES: list[Any] = [
    (503, {}),
    (500, {}),
    (429, {"error": "slow down"}),
    (200, choice("half an ans", "abort")),
]


@pytest.mark.parametrize("failure", FAILURES, ids=["503", "500", "429", "abort"])
def test_what_passes_is_asked_again(policy: Any, server: StandIn, failure: Any) -> None:
    failures = [failure, failure]
    server.completion = lambda body: failures.pop() if failures else (200, choice("text"))
    (found,) = sample(engine(policy, server))
    assert found.text == "```c\ntext"
    assert len(server.bodies()) == 3 and server.bodies()[0] == server.bodies()[2]


def test_an_answer_too_late_is_asked_for_again(policy: Any, server: StandIn) -> None:
    waits = [30.0]
    give_up = threading.Event()

    def answer(body: dict[str, Any]) -> Any:
        if waits:
            give_up.wait(waits.pop())
        return 200, choice("text")

    server.completion = answer
    assert sample(engine(policy, server, timeout_seconds=0.3))[0].text == "```c\ntext"
    give_up.set()


def test_no_server_is_told_after_a_while(policy: Any, server: StandIn) -> None:
    start = time.monotonic()
    with pytest.raises(ToolMissing, match=r"POST http://127.0.0.1:9/v1/completions: .*refused.*0.5 seconds") as caught:
        sample(engine(policy, server, base_url="http://127.0.0.1:9/v1", retry_seconds=0.5))
    assert time.monotonic() - start >= 0.5
    assert "start the server at http://127.0.0.1:9/v1" in caught.value.hint and caught.value.exit_code == 4


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((400, {"message": "no such field: top_k"}), "HTTP 400 .*no such field: top_k"),
        ((401, {}), "HTTP 401"),
        ((404, {"message": "model"}), "HTTP 404"),
        ((200, {"choices": []}), "not a completion"),
        ((200, ["text"]), "not a completion"),
    ],
)
def test_a_refusal_is_told_at_once(policy: Any, server: StandIn, answer: Any, message: str) -> None:
    server.completion = lambda body: answer
    with pytest.raises(ConfigError, match=message):
        sample(engine(policy, server, retry_seconds=100.0))
    assert len(server.bodies()) <= 2


def test_who_stops_looking_ends_what_is_in_flight(policy: Any, server: StandIn) -> None:
    never = threading.Event()

    def answer(body: dict[str, Any]) -> Any:
        if body["seed"] != REQUESTS[0].seed % 2**31:
            never.wait(60)
        return 200, choice("text")

    server.completion = answer
    with engine(policy, server, max_in_flight=16) as asking:
        found = asking.sample(PROMPTS, REQUESTS, 0)
        next(found)
        start = time.monotonic()
        found.close()
        assert time.monotonic() - start < 30  # the answers take a minute
        num_asked = len(server.bodies())
        assert num_asked < len(REQUESTS)
        server.completion = lambda body: (200, choice("later"))
        never.set()
        assert [each.text for each in asking.sample(PROMPTS, REQUESTS[:1], 0)] == ["```c\nlater"]


def test_a_key_is_sent_from_the_environment(policy: Any, server: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVER_KEY", "of the house")
    with engine(policy, server, api_key_variable="SERVER_KEY") as asking:
        assert asking.client.headers()["Authorization"] == "Bearer of the house"
    with engine(policy, server) as asking:
        assert "Authorization" not in asking.client.headers()


# ---- what is asked, and what is made of the answer


@pytest.mark.parametrize("name", ["vllm", "sglang", "llama_cpp", "transformers", "openai"])
def test_all_tokens_may_be_drawn_and_nothing_is_penalised(policy: Any, server: StandIn, name: str) -> None:
    sample(engine(policy, server, server=name, stop=["}"]), [request("p0", temperature=0.7, top_p=0.9)])
    (body,) = server.bodies()
    assert (body["model"], body["temperature"], body["top_p"], body["max_tokens"]) == ("base", 0.7, 0.9, 24)
    takes_ids = name in ("vllm", "sglang", "llama_cpp")
    asked = policy.prompt_ids(PROMPTS["p0"]) if takes_ids else policy.render(PROMPTS["p0"])
    assert body["prompt"] == asked
    top_k = {"vllm": -1, "sglang": -1, "llama_cpp": 0}
    assert body.get("top_k") == top_k.get(name)
    assert body.get("repetition_penalty", body.get("repeat_penalty")) == (1.0 if takes_ids else None)
    assert ("stop" in body) == (name in ("vllm", "sglang", "transformers"))
    if name == "transformers":
        assert json.loads(body["generation_config"])["top_k"] == 0
    if name == "openai":
        assert body.keys() == {"model", "prompt", "max_tokens", "temperature", "top_p", "seed"}


def test_top_k_and_min_p_are_sent(policy: Any, server: StandIn) -> None:
    for name in ("vllm", "llama_cpp", "transformers"):
        sample(engine(policy, server, server=name), [request("p0", top_k=5, min_p=0.1)])
    *fields, body = server.bodies()
    fields.append(json.loads(body["generation_config"]))
    assert [(each["top_k"], each["min_p"]) for each in fields] == [(5, 0.1)] * 3


def test_token_ids_of_the_server_are_taken(policy: Any, server: StandIn) -> None:
    ids = [7, 8, 9]
    text = policy.tokenizer.decode(ids)
    server.completion = lambda body: (200, choice("as the server says", token_ids=[*ids, policy.end_of_turn_id]))
    (found,) = sample(engine(policy, server))
    assert (found.token_ids, found.text, found.finish) == (tuple(ids), f"```c\n{text}", "stop")


def test_a_text_without_ids_is_tokenised_here(policy: Any, server: StandIn) -> None:
    server.completion = lambda body: (200, choice("return a + b;<|im_end|>"))
    (found,) = sample(engine(policy, server, server="sglang"))
    assert found.text == "```c\nreturn a + b;"
    assert policy.tokenizer.decode(list(found.token_ids)) == "return a + b;"


@pytest.mark.parametrize(("text", "reason"), [("a } b } c", "length"), ("a } b", "stop"), ("a }", "stop")])
def test_a_stop_string_ends_the_answer_wherever_the_server_ended_it(
    policy: Any, server: StandIn, text: str, reason: str
) -> None:
    server.completion = lambda body: (200, choice(text, reason))
    (found,) = sample(engine(policy, server, server="openai", stop=["}"]))
    assert (found.text, found.finish) == ("```c\na }", "stop")
    assert policy.tokenizer.decode(list(found.token_ids)) == "a }"


def test_cut_off_is_cut_off(policy: Any, server: StandIn) -> None:
    server.completion = lambda body: (200, choice("int main(", "length"))
    assert sample(engine(policy, server, stop=["}"]))[0].finish == "length"


# ---- adapters


def test_none_serves_the_start_model_only(server: StandIn, tiny_models: dict[str, Path]) -> None:
    trained = load_policy(tiny_models["llama"])
    trained.version = 1
    with pytest.raises(ConfigError, match=r"engine.adapter: none, but v1 has an adapter"):
        sample(engine(trained, server))
    trained.version = 0
    assert len(sample(engine(trained, server))) == 1
    disturb_adapter(trained)  # as model.adapter does
    with pytest.raises(ConfigError, match=r"none, but v0 has an adapter"):
        sample(engine(trained, server))


def test_vllm_gets_each_adapter_once_and_again_after_a_restart(
    server: StandIn, tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    policy = load_policy(tiny_models["llama"])
    with engine(policy, server, adapter="vllm_runtime_lora", exchange_folder=str(tmp_path / "shared")) as asking:

        def ask() -> str:
            assert len(list(asking.sample(PROMPTS, REQUESTS[:5], policy.version))) == 5
            return str(server.bodies()[-1]["model"])

        assert ask() == "base" and server.adapters == {}
        disturb_adapter(policy)
        policy.version = 1
        first = ask()
        assert first.startswith("halo_forge_v001_") and list(server.adapters) == [first]
        assert ask() == first and len(server.bodies("/v1/load_lora_adapter")) == 1
        disturb_adapter(policy, seed=2)
        policy.version = 2
        second = ask()
        assert list(server.adapters) == [second] and second.startswith("halo_forge_v002_")
        assert {path.name for path in (tmp_path / "shared").iterdir()} == {first, second}
        policy.version = 3
        third = ask()
        assert {path.name for path in (tmp_path / "shared").iterdir()} == {second, third}
        policy.version = 2
        assert ask() == second

        killed = []

        def answer(body: dict[str, Any]) -> Any:
            if not killed:
                killed.append(body["seed"])
                server.restart()
                return 503, {}
            return 200, choice("text")

        server.completion = answer
        assert ask() == second and list(server.adapters) == [second]
        # The same adapter by another attempt of the run: the server has it already.
        num_loads = len(server.bodies("/v1/load_lora_adapter"))
        with engine(policy, server, adapter="vllm_runtime_lora", exchange_folder=str(tmp_path / "shared")) as again:
            list(again.sample(PROMPTS, REQUESTS[:1], 2))
        assert len(server.bodies("/v1/load_lora_adapter")) == num_loads


@pytest.mark.parametrize("what", ["revision", "quantization", None])
def test_a_restarted_server_gets_the_start_model_as_it_was_loaded_here(
    server: StandIn, tiny_models: dict[str, Path], tmp_path: Path, what: str | None
) -> None:
    """A name alone stands for the newest revision, and for the weights in full."""
    policy = load_policy(tiny_models["llama"])
    if what is not None:
        policy.identity[what] = "4bit"
    command = ["sh", "-c", f'printf %s "$0" > {tmp_path}/model; exit 3', "{model}"]
    asking = engine(
        policy, server, adapter="merged_restart", restart_command=command, health_url="http://127.0.0.1:9/health"
    )
    with pytest.raises(ToolMissing, match="ended with code 3"):
        sample(asking)
    named = (tmp_path / "model").read_text()
    assert named == (policy.identity["model_name_or_path"] if what is None else str(asking.folder / "merged_v000"))


def test_a_vllm_that_takes_no_adapters(server: StandIn, tiny_models: dict[str, Path]) -> None:
    policy = load_policy(tiny_models["llama"])
    disturb_adapter(policy)
    server.loads_adapters = False
    with pytest.raises(ConfigError, match="load_lora_adapter: HTTP 404") as caught:
        sample(engine(policy, server, adapter="vllm_runtime_lora"))
    assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING" in caught.value.hint


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"adapter": "merged_restart"}, "merged_restart without a restart_command"),
        ({"adapter": "none", "restart_command": ["serve"]}, "none with a restart_command"),
        ({"adapter": "vllm_runtime_lora", "server": "sglang"}, "vllm_runtime_lora, but server is sglang"),
        ({"server": "openai", "top_k": 5}, "top_k is 5"),
        ({"server": "openai", "min_p": 0.1}, "min_p is above 0"),
        ({"base_url": "localhost:8000"}, "base_url"),
        ({"base_url": "http://127.0.0.1:abc/v1"}, "a URL whose port is a number"),
        ({"health_url": "http://127.0.0.1:99999/"}, "a URL whose port is a number"),
        ({"exchange_folder": ""}, "at least 1 character"),
    ],
)
def test_settings_that_contradict_each_other(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OpenaiServerSpec(**{"adapter": "none", **settings})


def test_what_leads_nowhere_is_found_before_a_model_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def check(**settings: Any) -> None:
        OpenaiServerSpec(**{"adapter": "none", **settings}).check()

    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    (tmp_path / "file").write_text("", encoding="utf-8")
    check(exchange_folder=str(tmp_path / "new" / "folder"))
    assert not (tmp_path / "new").exists()  # it may lie in a run directory, which is not there yet
    with pytest.raises(ConfigError, match=r"engine.batch_size: found 4"):
        check(batch_size=4)
    with pytest.raises(ConfigError, match=r"engine.api_key_variable: NO_SUCH_KEY is not set"):
        check(api_key_variable="NO_SUCH_KEY")
    with pytest.raises(ConfigError, match=r"engine.exchange_folder: .*cannot be created"):
        check(exchange_folder=str(tmp_path / "file" / "folder"))
    with pytest.raises(ToolMissing, match=r"no program no-such-server"):
        check(adapter="merged_restart", restart_command=["no-such-server", "{model}"])


def test_a_run_is_continued_at_another_address_but_not_in_another_way(tmp_path: Path) -> None:
    def digest(**engine: Any) -> str:
        config = {"model": {"model_name_or_path": "a/b"}, "engine": {"kind": "openai_server", **engine}}
        return config_digest(load_config(write_json(tmp_path / "run.yaml", config)).config)

    first = digest()
    assert first == digest(base_url="http://other:9/v1", max_in_flight=3, retry_seconds=0.0, timeout_seconds=9.0)
    assert first == digest(exchange_folder="shared", api_key_variable="KEY")
    assert first != digest(adapter="none") and first != digest(served_model="other")


def test_the_dry_run_warns_of_a_policy_that_goes_stale(tmp_path: Path) -> None:
    def warnings(adapter: str) -> str:
        engine = {"kind": "openai_server", "adapter": adapter}
        path = write_json(tmp_path / "run.yaml", {"model": {"model_name_or_path": "a/b"}, "engine": engine})
        return " ".join(preview(load_config(path).config, 100, 10, True).warnings)

    assert "engine.adapter is none" in warnings("none")
    assert "engine.adapter" not in warnings("vllm_runtime_lora")


def test_completions_begin_with_the_reasoning_that_the_template_opens(
    tiny_models: dict[str, Path], tmp_path: Path, server: StandIn
) -> None:
    folder = Path(shutil.copytree(tiny_models["llama"], tmp_path / "model"))
    (folder / "chat_template.jinja").write_text(THINKING)
    server.completion = lambda body: (200, choice("Let me see."))
    (found,) = sample(engine(load_policy(folder), server))
    assert found.text == "<think>\nLet me see."


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ({"text": "a", "reasoning_content": "hm"}, "without a reasoning parser"),
        ({"text": None}, "`text` is None; text is needed"),
        ({"message": {"content": "a"}}, "`text` is None; text is needed"),
        ({"text": 3}, "`text` is 3; text is needed"),
    ],
)
def test_replies_that_are_no_plain_completion(policy: Any, server: StandIn, reply: dict[str, Any], said: str) -> None:
    server.completion = lambda body: (200, {"choices": [{"finish_reason": "stop", **reply}]})
    with pytest.raises(ConfigError, match=re.escape(said)):
        sample(engine(policy, server))
