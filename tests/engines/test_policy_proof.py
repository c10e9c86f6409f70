"""A server has to show that it samples from the policy in memory before a cycle samples from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from openai_stand_in import StandIn, choice, stand_in
from tiny_models import disturb_adapter, load_policy, prompts, request, save_model

from halo_forge.core.errors import ConfigError, LogitsNotFinite
from halo_forge.engines._policy_proof import _brought, prove
from halo_forge.engines._server_dialects import ScoredTokens
from halo_forge.engines._server_engine import ServerEngine
from halo_forge.engines.openai_server import OpenaiServerSpec
from halo_forge.policy import adapter_digest
from halo_forge.policy.drift_probe import DriftProbe

torch = pytest.importorskip("torch")

PROMPTS = prompts(["add two numbers", "x", "the user and the assistant", "return a + b", "int main"])
REQUESTS = [request("p0", index) for index in range(3)]
SCALE = 0.3


@pytest.fixture
def server() -> Iterator[StandIn]:
    with stand_in() as found:
        yield found


def answering(policy: Any, *, ids: bool = True, logs: bool = True, noise: float = 0.0) -> Callable[[Any], Any]:
    """Answers as a server does that serves `policy`: samples at temperature 1, the likeliest tokens at 0.

    Args:
        ids, logs: It says token ids, and log-probabilities where it is asked for them.
        noise: Standard deviation of what is added to every score, as another number format does.
    """
    generator = torch.Generator().manual_seed(0)

    def answer(body: dict[str, Any]) -> Any:
        given = body["prompt"]
        given = policy.tokenizer(given)["input_ids"] if isinstance(given, str) else list(given)
        tokens: list[int] = []
        values: list[float] = []
        with torch.inference_mode():
            while len(tokens) < body["max_tokens"] and tokens[-1:] != [policy.end_of_turn_id]:
                scores = policy.model(torch.tensor([given + tokens])).logits[0, -1].float()
                scores = scores + noise * torch.randn(scores.shape, generator=generator)
                likely = scores.softmax(0)
                best = body["temperature"] == 0
                tokens.append(int(likely.argmax() if best else likely.multinomial(1, generator=generator)))
                values.append(float(scores.log_softmax(0)[tokens[-1]]))
        ended = tokens[-1] == policy.end_of_turn_id
        text = policy.tokenizer.decode(tokens[:-1] if ended else tokens)
        while not ids and logs and policy.tokenizer(text)["input_ids"] != (tokens[:-1] if ended else tokens):
            # Ends early, so that its text is tokenised as it was written.
            tokens, values, ended = tokens[:-1], values[: len(tokens) - 1], False
            text = policy.tokenizer.decode(tokens)
        said: dict[str, Any] = {"token_ids": tokens} if ids else {}
        if logs and "logprobs" in body:
            said["logprobs"] = {"token_logprobs": values}
        return 200, choice(text, "stop" if ended else "length", **said)

    return answer


def policy_of(model: Path, *, disturbed: int | None = None, scale: float = SCALE, version: int = 0) -> Any:
    policy = load_policy(model)
    if disturbed is not None:
        disturb_adapter(policy, seed=disturbed, scale=scale)
    policy.version = version
    return policy


class Events(list[dict[str, Any]]):
    def note(self, event: str, **fields: Any) -> None:
        self.append({"event": event, **fields})


def asking(policy: Any, server: StandIn, events: Events | None = None, /, **settings: Any) -> ServerEngine:
    values = {"base_url": server.base_url, "served_model": "base", "adapter": "vllm_runtime_lora"}
    engine = OpenaiServerSpec(**{**values, "retry_seconds": 5.0, **settings}).open(policy)
    if events is not None:
        engine.note = events.note
    return engine


def sample_all(engine: ServerEngine) -> int:
    return len(list(engine.sample(PROMPTS, REQUESTS, engine.policy.version)))


@pytest.mark.parametrize("says", ["ids and logs", "logs", "nothing"])
def test_the_right_policy_is_accepted_and_recorded(
    server: StandIn, tiny_models: dict[str, Path], tmp_path: Path, says: str
) -> None:
    policy, events = policy_of(tiny_models["llama"], disturbed=1, version=1), Events()
    server.completion = answering(policy, ids=says == "ids and logs", logs="logs" in says)
    with asking(policy, server, events, exchange_folder=str(tmp_path / "shared")) as engine:
        assert sample_all(engine) == 3
        (folder,) = (tmp_path / "shared").iterdir()
        digest = adapter_digest(folder)
    (event,) = events
    assert event["event"] == "served_policy" and event["policy_version"] == 1
    assert event["adapter_digest"] == digest and event["model"] == folder.name
    assert event["method"] == ("likeliest" if says == "nothing" else "log_probabilities")
    assert event["gap"] < 1e-4 and event["num_tokens"] > 20
    assert event["other_gaps"]["the model without its adapter"] > 0.1
    assert event["told_apart"] == ["the model without its adapter"]


def test_another_model_is_refused_with_the_gap(server: StandIn, tiny_models: dict[str, Path], tmp_path: Path) -> None:
    other = policy_of(save_model(tmp_path / "other", seed=5))
    events = Events()
    for says_logs in (True, False):
        server.completion = answering(other, logs=says_logs)
        with (
            asking(policy_of(tiny_models["llama"]), server, events) as engine,
            pytest.raises(ConfigError, match=r"does not sample from v0: .* by \d\.\d+ nats per token \(\d+ tokens\)"),
        ):
            sample_all(engine)
    assert all(event["gap"] > 0.5 for event in events)
    assert {event["method"] for event in events} == {"log_probabilities", "likeliest"}
    assert [len(server.bodies()), server.bodies()[-1]["max_tokens"]] == [4 + 8, 64]  # no sample was asked for


def test_another_tokenizer_is_refused(server: StandIn, tiny_models: dict[str, Path]) -> None:
    policy = policy_of(tiny_models["llama"])
    right = answering(policy)
    # The same model behind a tokenizer that numbers its tokens in another way.
    shifted = {token: (token * 7 + 3) % 100 for token in range(200)}
    server.completion = lambda body: right({**body, "prompt": [shifted[token] for token in body["prompt"]]})
    with asking(policy, server) as engine, pytest.raises(ConfigError, match="serves another model, revision or token"):
        sample_all(engine)


@pytest.mark.parametrize("noise", [0.0, 0.05])
@pytest.mark.parametrize("stale", ["start", "previous"])
@pytest.mark.parametrize("logs", [True, False])
def test_a_stale_adapter_is_refused_though_it_is_closer_than_the_limit(
    server: StandIn, tiny_models: dict[str, Path], stale: str, logs: bool, noise: float
) -> None:
    """The limit is far above the difference: what tells them apart is the comparison."""
    policy, before = policy_of(tiny_models["llama"]), policy_of(tiny_models["llama"])
    server.completion = answering(before, logs=logs, noise=noise)
    scale = 0.1 if logs else 0.2
    with asking(policy, server, max_policy_gap=20.0) as engine:
        assert sample_all(engine) == 3
        disturb_adapter(policy, seed=1, scale=scale)
        policy.version = 1
        if stale == "previous":
            disturb_adapter(before, seed=1, scale=scale)
            assert sample_all(engine) == 3
            for name, value in policy.model.named_parameters():
                if "lora_B" in name:
                    value.data *= -1
            policy.version = 2
        name = "the model without its adapter|v0" if stale == "start" else "v1"
        kept = {name: value.clone() for name, value in policy.trainable_weights().items()}
        with pytest.raises(ConfigError, match=rf"does not sample from v\d: it is closer to ({name})") as caught:
            sample_all(engine)
        assert "it does not apply the adapter" in caught.value.hint
        now = policy.trainable_weights()
        assert all(torch.equal(now[each], kept[each]) for each in kept) and policy.version == (stale != "start") + 1


def test_noise_of_another_number_format_is_no_other_policy(server: StandIn, tiny_models: dict[str, Path]) -> None:
    policy, events = policy_of(tiny_models["llama"], disturbed=1, scale=1e-4), Events()
    server.completion = answering(policy, noise=0.03)
    with asking(policy, server, events) as engine:
        for version in range(1, 6):
            policy.version = version
            disturb_adapter(policy, seed=version, scale=1e-4)
            assert sample_all(engine) == 3
    assert all(0 < event["gap"] < 0.1 and event["told_apart"] == [] for event in events)


def test_a_merge_that_loses_most_of_the_adapter_is_refused(server: StandIn, tiny_models: dict[str, Path]) -> None:
    policy = policy_of(tiny_models["llama"], disturbed=1, version=1)
    lossy = policy_of(tiny_models["llama"], disturbed=1)
    for name, value in lossy.model.named_parameters():
        if "lora_B" in name:
            value.data *= 0.3
    server.completion = answering(lossy, noise=0.01)
    with asking(policy, server, max_policy_gap=20.0) as engine, pytest.raises(ConfigError, match="without its adapter"):
        sample_all(engine)


def test_a_server_that_was_away_has_to_prove_itself_again(server: StandIn, tiny_models: dict[str, Path]) -> None:
    policy, events = policy_of(tiny_models["llama"]), Events()
    right, hangs_up, others = answering(policy), [True], [True]

    def answer(body: dict[str, Any]) -> Any:
        if "logprobs" not in body and hangs_up:
            hangs_up.clear()
            raise OSError  # the stand-in closes the connection
        if "logprobs" not in body and others:
            others.clear()
            return 503, {}  # the same server, with too much to do
        return right(body)

    server.completion = answer
    with asking(policy, server, events, max_in_flight=1) as engine:
        assert sample_all(engine) == 3
        assert len(events) == 2
        assert sample_all(engine) == 3
        assert len(events) == 3  # once for each cycle


def test_a_server_that_refuses_log_probabilities_is_asked_for_its_likeliest_tokens(
    server: StandIn, tiny_models: dict[str, Path]
) -> None:
    policy, events = policy_of(tiny_models["llama"]), Events()
    right = answering(policy, ids=False)
    server.completion = lambda body: (400, {"message": "unknown: logprobs"}) if "logprobs" in body else right(body)
    with asking(policy, server, events, server="openai", adapter="none") as engine:
        assert sample_all(engine) == 3
    assert [event["method"] for event in events] == ["likeliest"]


def test_no_proof_is_asked_for_where_that_is_set(server: StandIn, tiny_models: dict[str, Path]) -> None:
    server.completion = lambda body: (200, choice("text"))
    with asking(policy_of(tiny_models["llama"]), server, max_policy_gap=None) as engine:
        assert sample_all(engine) == 3
    assert len(server.bodies()) == 3


def test_a_server_of_whose_completions_nothing_can_be_compared_is_refused(
    server: StandIn, tiny_models: dict[str, Path]
) -> None:
    """Without ids and log-probabilities another tokenizer shows in its counts alone, and such answers are left out."""
    right, events = answering(policy_of(tiny_models["llama"]), ids=False, logs=False), Events()

    def answer(body: dict[str, Any]) -> Any:
        status, value = right(body)
        return status, {**value, "usage": {"completion_tokens": len(value["choices"][0]["text"])}}  # one a character

    server.completion = answer
    policy = policy_of(tiny_models["llama"])
    with (
        asking(policy, server, events, server="openai", adapter="none") as engine,
        pytest.raises(ConfigError, match=r"cannot verify .* only 3 tokens of its completions of 4 prompts") as caught,
    ):
        sample_all(engine)
    assert "another model, revision or tokenizer" in caught.value.hint
    assert events[-1]["num_tokens"] == 3 and events[-1]["gap"] < 1e-6  # one short answer has as many characters
    assert len(events) == 2


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_log_probabilities_of_the_server_that_are_not_finite_are_refused(
    server: StandIn, tiny_models: dict[str, Path], value: float
) -> None:
    policy, events = policy_of(tiny_models["llama"], disturbed=1, version=1), Events()
    right = answering(policy)

    def answer(body: dict[str, Any]) -> Any:
        status, found = right(body)
        found["choices"][0]["logprobs"]["token_logprobs"][0] = value
        return status, found

    server.completion = answer
    with (
        asking(policy, server, events) as engine,
        pytest.raises(ConfigError, match=rf"the server returns log-probabilities that are not finite \({value}\)"),
    ):
        sample_all(engine)
    assert events == []


@pytest.mark.parametrize("logs", [True, False])
@pytest.mark.parametrize("side", ["v1 in memory", "the model without its adapter"])
def test_log_probabilities_of_the_policy_that_are_not_finite_are_not_put_on_the_server(
    server: StandIn, tiny_models: dict[str, Path], monkeypatch: pytest.MonkeyPatch, side: str, logs: bool
) -> None:
    policy = policy_of(tiny_models["llama"], disturbed=1, version=1)
    server.completion = answering(policy_of(tiny_models["llama"], disturbed=1), logs=logs)
    base = policy.model.get_base_model()
    layer = base.model.layers[1].mlp.down_proj

    def overflow(module: Any, inputs: Any, output: Any) -> Any:
        return output * float("nan") if layer.disable_adapters == (side != "v1 in memory") else output

    layer.register_forward_hook(overflow)
    with asking(policy, server) as engine, pytest.raises(LogitsNotFinite, match=f"{side} gives to the server's tokens"):
        sample_all(engine)


def test_a_server_that_is_closer_to_another_policy_once_is_asked_again_with_other_seeds(
    server: StandIn, tiny_models: dict[str, Path]
) -> None:
    policy, events = policy_of(tiny_models["llama"], disturbed=1, version=1), Events()
    wrong, right = answering(policy_of(tiny_models["llama"])), answering(policy)
    seeds: list[int] = []

    def answer(body: dict[str, Any]) -> Any:
        if "logprobs" in body:
            seeds.append(body["seed"])
        return (wrong if len(seeds) <= 4 else right)(body)

    server.completion = answer
    with asking(policy, server, events, max_policy_gap=20.0) as engine:
        assert sample_all(engine) == 3
    assert [event["draw"] for event in events] == [0, 1]
    assert events[0]["told_apart"] == [] and events[1]["told_apart"] == ["the model without its adapter"]
    assert len(set(seeds)) == 8


@pytest.mark.parametrize(("scale", "refused"), [(1e-4, False), (0.1, True)])
def test_a_policy_that_is_hardly_another_is_no_reason_to_refuse(
    tiny_models: dict[str, Path], scale: float, refused: bool
) -> None:
    """However significant: noise of two implementations that leans to one side is that without any stale adapter."""
    policy = policy_of(tiny_models["llama"], disturbed=1, scale=scale, version=1)
    rows = [policy.prompt_ids(prompt) for prompt in PROMPTS.values()]
    answers = [[5, 6, 7, 8] * 16 for _ in rows]
    joined = [[*row, *answer] for row, answer in zip(rows, answers, strict=True)]
    with policy.model.disable_adapter():
        said, _, _ = DriftProbe(policy, {}).log_probabilities(joined, [len(row) for row in rows])
    scored = [ScoredTokens(tuple(answer), tuple(values)) for answer, values in zip(answers, said, strict=True)]
    proof = prove(policy, rows, scored, None)
    assert proof.gap > 0 and (proof.closer is not None) == refused


def test_the_policy_in_memory_stays_though_the_version_before_cannot_be_loaded(
    tiny_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = policy_of(tiny_models["llama"], disturbed=1, version=2)
    kept = {name: value.clone() for name, value in policy.trainable_weights().items()}

    def fail_halfway(folder: Path | None, version: int) -> None:
        disturb_adapter(policy, seed=9)
        policy.version = version
        raise OSError("the disk is gone")

    monkeypatch.setattr(policy, "load_adapter", fail_halfway)
    with pytest.raises(OSError, match="the disk is gone"), _brought(policy, 1, tmp_path):
        pass
    now = policy.trainable_weights()
    assert policy.version == 2 and all(torch.equal(now[each], kept[each]) for each in kept)
