from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_models import (
    ARCHITECTURES,
    adapter_weights,
    base_weights,
    disturb_adapter,
    load_policy,
    prompts,
    request,
    same_bits,
)

from halo_forge.core.errors import LogitsNotFinite
from halo_forge.core.records import Completion, SampleRequest
from halo_forge.engines.transformers import TransformersEngine, TransformersSpec, cut_after, row_bytes

torch = pytest.importorskip("torch")
decoder = pytest.importorskip("halo_forge.engines._decoder")
Decoder, cache_argument = decoder.Decoder, decoder.cache_argument

TEXTS = [
    "add two numbers",
    "Write a C function that adds two numbers and returns the sum of the values, for all i < n.",
    "x",
    "the user and the assistant",
    "int main(void) { return 0; } and more and more of the same, so that this prompt is the longest of all of them",
]
PROMPTS = prompts(TEXTS)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def policy(request: pytest.FixtureRequest, tiny_models: dict[str, Path]) -> Any:
    found = load_policy(tiny_models[request.param])
    disturb_adapter(found)
    return found


@pytest.fixture(scope="module")
def llama(tiny_models: dict[str, Path]) -> Any:
    found = load_policy(tiny_models["llama"])
    disturb_adapter(found)
    return found


def sample(policy: Any, requests: list[SampleRequest], *, batch_size: int = 8, stop: tuple[str, ...] = ()) -> Any:
    engine = TransformersEngine(policy, batch_size=batch_size, stop=stop)
    found = list(engine.sample(PROMPTS, requests, policy.version))
    assert len(found) == len(requests)
    return {(completion.prompt_id, completion.index): completion for completion in found}


def greedy(max_new_tokens: int = 24, prompt_ids: Any = PROMPTS) -> list[SampleRequest]:
    return [request(prompt_id, temperature=0.0, max_new_tokens=max_new_tokens) for prompt_id in prompt_ids]


def test_greedy_is_generate_token_for_token(policy: Any) -> None:
    found = sample(policy, greedy(40), batch_size=3)
    for prompt_id, asked in PROMPTS.items():
        ids = policy.prompt_ids(asked)
        with torch.inference_mode():
            output = policy.model.generate(
                input_ids=torch.tensor([ids]),
                attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                do_sample=False,
                max_new_tokens=40,
                eos_token_id=sorted(policy.stop_ids),
                pad_token_id=policy.tokenizer.pad_token_id,
            )
        expected = output[0, len(ids) :].tolist()
        ended = expected[-1] in policy.stop_ids
        assert found[prompt_id, 0].token_ids == tuple(expected[:-1] if ended else expected)
        assert found[prompt_id, 0].finish == ("stop" if ended else "length")


def test_rows_that_finish_do_not_change_the_others(policy: Any) -> None:
    """Lengths from 1 to 41 tokens, so rows leave and are filled again at different steps."""
    lengths = {"p0": 1, "p1": 40, "p2": 7, "p3": 20, "p4": 3}
    mixed = [request(p, i, max_new_tokens=n + i) for p, n in lengths.items() for i in range(2)]
    together = sample(policy, mixed, batch_size=4)
    for one in mixed:
        alone = sample(policy, [one], batch_size=1)
        assert together[one.prompt_id, one.index] == alone[one.prompt_id, one.index]


def test_batch_size_and_order_of_requests_change_nothing(policy: Any) -> None:
    requests = [request(prompt_id, index, max_new_tokens=20) for prompt_id in PROMPTS for index in range(3)]
    reference = sample(policy, requests, batch_size=64)
    assert len({completion.text for completion in reference.values()}) > 12
    for batch_size in (2, 7):
        assert sample(policy, requests, batch_size=batch_size) == reference
    assert sample(policy, requests[::-1], batch_size=5) == reference
    assert sample(policy, requests[3::2], batch_size=5).items() <= reference.items()


def test_room_is_made_many_times(llama: Any) -> None:
    """Many short and a few long answers through few rows: slots run out again and again."""
    requests = [request(p, i, max_new_tokens=25 if i % 5 == 0 else 3) for p in PROMPTS for i in range(8)]
    assert sample(llama, requests, batch_size=2) == sample(llama, requests, batch_size=60)


def test_cohorts_are_several_but_few_and_no_wider_than_their_rows(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[tuple[int, int]]] = []

    class Watched(Decoder):
        def step(self, tokens: Any) -> Any:
            logits = super().step(tokens)
            assert len(tokens) == sum(map(len, self._cohorts))
            seen.append([(cohort.num_seen, cohort.num_slots) for cohort in self._cohorts])
            return logits

    monkeypatch.setattr("halo_forge.engines._decoder.Decoder", Watched)
    requests = [request(p, i, max_new_tokens=5 + 9 * i) for p in PROMPTS for i in range(8)]
    sample(llama, requests, batch_size=12)
    assert {len(cohorts) for cohorts in seen} == {1, 2, 3, 4}
    assert all(num_seen <= num_slots < num_seen + 64 for cohorts in seen for num_seen, num_slots in cohorts)


def test_a_model_that_computes_on_with_cached_keys_gets_one_cohort(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = [request(p, i, max_new_tokens=3 + 7 * i) for p in PROMPTS for i in range(6)]
    reference = sample(llama, requests, batch_size=8)
    calls = []

    def losing(key: Any, value: Any, parts: Any) -> tuple[Any, Any]:
        calls.append(len(parts))
        return key, value

    monkeypatch.setattr("halo_forge.engines._decoder.with_parts", losing)
    assert sample(llama, requests, batch_size=8) == reference
    assert calls == [2], "found out at the first step, once"


def test_memory_grows_with_the_rows_in_flight_and_not_with_the_requests(
    llama: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_bytes: list[int] = []

    class Weighed(Decoder):
        def step(self, tokens: Any) -> Any:
            logits = super().step(tokens)
            layers = [states for cohort in self._cohorts for layer in cohort._layers for states in layer]
            num_bytes.append(sum(states.untyped_storage().nbytes() for states in layers))
            return logits

    monkeypatch.setattr("halo_forge.engines._decoder.Decoder", Weighed)
    peaks = []
    for num_samples in (2, 200):
        requests = [request(p, i, max_new_tokens=2 + i % 7) for p in PROMPTS for i in range(num_samples)]
        assert len(sample(llama, requests, batch_size=10)) == 5 * num_samples
        peaks.append(max(num_bytes))
        num_bytes.clear()
    assert 0 < peaks[1] < 2 * peaks[0]


def test_each_prompt_goes_through_the_model_once_for_all_of_its_samples(
    llama: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from halo_forge.engines._decoder import Decoder

    prefill, seen = Decoder._prefill, []

    def counting(decoder: Any, prompts: Any) -> Any:
        seen.extend(prompts)
        return prefill(decoder, prompts)

    monkeypatch.setattr(Decoder, "_prefill", counting)
    requests = [
        request(prompt_id, index, temperature=1.0, max_new_tokens=4 + index)
        for prompt_id in PROMPTS
        for index in range(8)
    ]
    assert len(sample(llama, requests, batch_size=5)) == len(requests)
    assert len(seen) == len(set(seen)) == len(PROMPTS)


@pytest.mark.parametrize("limit", [1, 80])
def test_prompts_go_through_the_model_in_passes(policy: Any, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    at_once = sample(policy, greedy(24))
    sizes: list[tuple[int, int]] = []
    whole = Decoder._prefill

    def prefill(self: Any, asked: Any) -> Any:
        sizes.append((len(asked), len(asked) * max(map(len, asked))))
        return whole(self, asked)

    monkeypatch.setattr(Decoder, "_prefill", prefill)
    monkeypatch.setattr("halo_forge.engines._decoder.PREFILL_TOKENS", {"cpu": limit})
    found = sample(policy, greedy(24))
    assert {key: each.token_ids for key, each in found.items()} == {
        key: each.token_ids for key, each in at_once.items()
    }
    assert sum(number for number, _ in sizes) == len(PROMPTS) and 1 < len(sizes) <= len(PROMPTS)
    assert all(number == 1 or tokens <= limit for number, tokens in sizes)
    assert limit == 1 or any(number > 1 for number, _ in sizes)


def test_the_seed_decides(llama: Any) -> None:
    one = sample(llama, [request("p0", seed=5), request("p1", seed=5)])
    again = sample(llama, [request("p0", seed=5), request("p1", seed=6)])
    assert one["p0", 0] == again["p0", 0]
    assert one["p1", 0].token_ids != again["p1", 0].token_ids
    largest = sample(llama, [request("p0", seed=2**63 - 1)])["p0", 0]
    assert largest.seed == 2**63 - 1 and largest.token_ids


def test_temperature_belongs_to_the_row(llama: Any) -> None:
    values = {"p0": 0.0, "p1": 0.3, "p2": 1.0, "p3": 3.0, "p4": 0.0}
    mixed = [request(prompt_id, temperature=value) for prompt_id, value in values.items()]
    together = sample(llama, mixed)
    for one in mixed:
        assert together[one.prompt_id, 0] == sample(llama, [one])[one.prompt_id, 0]
    assert together["p0", 0].token_ids == sample(llama, greedy())["p0", 0].token_ids


def test_one_completion_for_each_request(llama: Any) -> None:
    requests = [request(prompt_id, index, max_new_tokens=8) for prompt_id in PROMPTS for index in range(9)]
    found = list(TransformersEngine(llama, batch_size=4, stop=()).sample(PROMPTS, requests, 0))
    keys = [(completion.prompt_id, completion.index) for completion in found]
    assert sorted(keys) == sorted((one.prompt_id, one.index) for one in requests)
    seeds = {(one.prompt_id, one.index): one.seed for one in requests}
    assert all(each.seed == seeds[each.prompt_id, each.index] and each.policy_version == 0 for each in found)
    assert list(TransformersEngine(llama, batch_size=4, stop=()).sample(PROMPTS, [], 0)) == []


def test_completions_come_out_before_all_are_done(llama: Any) -> None:
    requests = [request("p0", max_new_tokens=1), request("p1", max_new_tokens=60)]
    found = TransformersEngine(llama, batch_size=2, stop=()).sample(PROMPTS, requests, 0)
    assert next(found).prompt_id == "p0"
    assert [each.prompt_id for each in found] == ["p1"]


def test_it_takes_the_processors_where_it_computes_on_them(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = TransformersEngine(llama, batch_size=1, stop=())
    assert engine.saturates_cpu
    monkeypatch.setattr(type(llama), "device", torch.device("cuda"))
    assert not engine.saturates_cpu


def test_another_version_than_the_one_in_memory_is_refused(llama: Any) -> None:
    with pytest.raises(RuntimeError, match=r"v3.*v0"):
        list(TransformersEngine(llama, batch_size=2, stop=()).sample(PROMPTS, greedy(), 3))


def test_the_length_limit_ends_an_answer(llama: Any) -> None:
    for limit in (1, 2, 13):
        found = sample(llama, greedy(limit))
        assert {each.finish for each in found.values()} == {"length"}
        assert {len(each.token_ids) for each in found.values()} == {limit}


def test_the_end_of_turn_ends_an_answer_and_is_not_in_it(tiny_models: dict[str, Path]) -> None:
    policy = load_policy(tiny_models["gemma2"])
    requests = [request(p, i, temperature=1.5, max_new_tokens=150) for p in PROMPTS for i in range(4)]
    found = sample(policy, requests, batch_size=16)
    ended = [each for each in found.values() if each.finish == "stop"]
    assert len(ended) > 10
    assert len({len(each.token_ids) for each in ended}) > 5
    for each in found.values():
        assert not policy.stop_ids & set(each.token_ids)
        assert not any(policy.tokenizer.decode([stop]) in each.text for stop in policy.stop_ids)
        assert each.finish == "stop" or len(each.token_ids) == 150


def decoded(policy: Any, token_ids: Any) -> str:
    return str(policy.tokenizer.decode(list(token_ids), skip_special_tokens=False))


def stops_of(policy: Any, token_ids: tuple[int, ...]) -> Iterator[tuple[str, str]]:
    """(how it lies in the tokens, a string of the greedy answer)."""
    pieces = [decoded(policy, [token]) for token in token_ids]
    for number in range(4, len(pieces) - 1, 3):
        if not all(pieces[number - 1 : number + 2]):
            continue  # a special token has no text
        yield "a whole token", pieces[number]
        yield "split over two tokens", pieces[number][-1] + pieces[number + 1][0]
        yield "split over three tokens", pieces[number - 1][-1] + pieces[number] + pieces[number + 1][0]
        if len(pieces[number]) > 2:
            yield "the token runs past it", pieces[number][:-1]
            yield "inside a token", pieces[number][1:-1]


def test_stop_strings_end_a_completion_and_stay_in_the_text(llama: Any) -> None:
    free = sample(llama, greedy(40))
    seen = set()
    for prompt_id in ("p1", "p3", "p4"):
        ids = free[prompt_id, 0].token_ids
        for how, stop in stops_of(llama, ids):
            # By hand: the first number of tokens whose text holds the string.
            num_tokens = next(n for n in range(len(ids) + 1) if stop in decoded(llama, ids[:n]))
            text = decoded(llama, ids[:num_tokens])
            found = sample(llama, greedy(40, [prompt_id]), stop=(stop,))[prompt_id, 0]
            assert found.token_ids == ids[:num_tokens], (how, stop)
            assert found.text == text[: text.index(stop) + len(stop)]
            assert found.text.endswith(stop)
            assert found.finish == "stop"
            seen.add((how, len(found.text) < len(text)))
    assert {"a whole token", "split over two tokens", "split over three tokens"} <= {how for how, _ in seen}
    assert ("the token runs past it", True) in seen


def test_of_several_stop_strings_the_first_to_appear_counts(llama: Any) -> None:
    free = sample(llama, greedy(30, ["p0"]))["p0", 0].text
    stops = (free[20:23], free[10:13], "never there at all")
    assert free.index(stops[1]) < free.index(stops[0])
    assert sample(llama, greedy(30, ["p0"]), stop=stops)["p0", 0].text == free[: free.index(stops[1]) + 3]


def test_a_stop_string_in_the_last_allowed_token_is_a_stop(llama: Any) -> None:
    ids = sample(llama, greedy(12, ["p0"]))["p0", 0].token_ids
    last = decoded(llama, ids[-1:])
    assert last not in decoded(llama, ids[:-1])
    found = sample(llama, greedy(12, ["p0"]), stop=(last,))["p0", 0]
    assert (found.finish, len(found.token_ids)) == ("stop", 12)


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("a```b", ["```"], "a```"),
        ("a````b", ["```"], "a```"),
        ("one two", ["two", "one"], "one"),
        ("abc", ["bc", "abc", "b"], "ab"),
        ("abc", ["x"], "abc"),
        ("abc", [], "abc"),
    ],
)
def test_cut_after(text: str, stop: list[str], expected: str) -> None:
    assert cut_after(text, stop) == expected


def test_the_response_prefix_opens_the_text_and_is_no_sampled_token(tiny_models: dict[str, Path]) -> None:
    plain = load_policy(tiny_models["llama"])
    prefixed = load_policy(tiny_models["llama"], response_prefix="```c\n")
    rendered = prefixed.render(PROMPTS["p0"])
    assert rendered == plain.render(PROMPTS["p0"]) + "```c\n"
    assert rendered.endswith("<|im_start|>assistant\n```c\n")
    found = sample(prefixed, greedy(), stop=("```",))
    for each in found.values():
        assert each.text == "```c\n" + decoded(prefixed, each.token_ids)  # the prefix's own fence is no stop
        assert 1 < len(each.token_ids) <= 24
    assert found["p0", 0].token_ids != sample(plain, greedy())["p0", 0].token_ids


def test_the_adapter_changes_the_samples(tiny_models: dict[str, Path]) -> None:
    policy = load_policy(tiny_models["llama"])
    before = sample(policy, greedy())
    disturb_adapter(policy)
    after = sample(policy, greedy())
    assert all(before[key].token_ids != after[key].token_ids for key in before)
    policy.load_adapter(None, 0)
    assert sample(policy, greedy()) == before


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_sampling_leaves_the_float32_master_weights_as_they_are_bit_by_bit(
    dtype: str, tiny_models: dict[str, Path]
) -> None:
    policy = load_policy(tiny_models["llama"], dtype=dtype)
    disturb_adapter(policy)
    masters, base = adapter_weights(policy), base_weights(policy)
    assert {value.dtype for value in masters.values()} == {torch.float32}
    assert {value.dtype for value in base.values()} == {getattr(torch, dtype)}
    requests = [request(prompt_id, index) for prompt_id in PROMPTS for index in range(2)]
    sample(policy, requests)
    assert same_bits(adapter_weights(policy), masters)
    early: Iterator[Completion] = TransformersEngine(policy, batch_size=4, stop=()).sample(PROMPTS, requests, 0)
    next(early)
    early.close()  # type: ignore[attr-defined]
    assert same_bits(adapter_weights(policy), masters)
    with pytest.raises(ZeroDivisionError), policy.sampling():
        raise ZeroDivisionError
    assert same_bits(adapter_weights(policy), masters)
    assert same_bits(base_weights(policy), base)


def test_auto_batch_size_and_stop_come_from_the_configuration(llama: Any) -> None:
    spec = TransformersSpec.model_validate({"kind": "transformers", "stop": ["```"], "batch_size": 3})
    engine = spec.open(llama)
    assert (engine.batch_size, engine.stop) == (3, ("```",))
    assert TransformersSpec.model_validate({"kind": "transformers"}).open(llama).batch_size >= 16


# ---- memory


class ShortOfMemory(Decoder):
    """Runs out of memory at a step, while more rows than `room` are in flight."""

    room, at_step = 3, 6
    num_failures = 0
    num_steps = 0

    def step(self, tokens: Any) -> Any:
        self.num_steps += 1
        if self.num_steps == self.at_step and len(tokens) > self.room:
            type(self).num_failures += 1
            raise torch.OutOfMemoryError("HIP out of memory")
        return super().step(tokens)


def test_when_memory_runs_out_the_rows_are_halved_and_nothing_is_lost_or_changed(
    llama: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    requests = [request(p, i, max_new_tokens=3 + 5 * i) for p in PROMPTS for i in range(4)]
    reference = sample(llama, requests, batch_size=12)
    monkeypatch.setattr("halo_forge.engines._decoder.Decoder", ShortOfMemory)
    monkeypatch.setattr(ShortOfMemory, "num_failures", 0)
    engine = TransformersEngine(llama, batch_size=12, stop=())
    found = list(engine.sample(PROMPTS, requests, 0))
    assert ShortOfMemory.num_failures == 2  # 12 rows, 6 rows, then 3
    assert sorted((each.prompt_id, each.index) for each in found) == sorted(reference)
    assert {(each.prompt_id, each.index): each for each in found} == reference
    assert "with 6 rows in flight" in caplog.text and "with 3 rows in flight" in caplog.text
    list(engine.sample(PROMPTS, requests, 0))
    assert ShortOfMemory.num_failures == 2, "the next call begins with what went well"


def test_one_row_that_does_not_fit_is_an_error(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("halo_forge.engines._decoder.Decoder", ShortOfMemory)
    monkeypatch.setattr(ShortOfMemory, "room", 0)
    with pytest.raises(torch.OutOfMemoryError):
        list(TransformersEngine(llama, batch_size=4, stop=()).sample(PROMPTS, greedy(), 0))


@pytest.mark.parametrize(("num_requests", "most"), [(6, 6), (8, 8), (9, 6)])
def test_a_few_requests_too_many_go_at_once_rather_than_in_a_round_of_their_own(
    llama: Any, monkeypatch: pytest.MonkeyPatch, num_requests: int, most: int
) -> None:
    asked: list[int] = []

    class Counting(Decoder):
        def step(self, tokens: Any) -> Any:
            asked.append(len(tokens))
            return super().step(tokens)

    monkeypatch.setattr("halo_forge.engines._decoder.Decoder", Counting)
    requests = [request("p0", number) for number in range(num_requests)]
    assert len(list(TransformersEngine(llama, batch_size=6, stop=(), fitted=True).sample(PROMPTS, requests, 0))) == len(
        requests
    )
    assert max(asked) == most
    asked.clear()
    list(TransformersEngine(llama, batch_size=6, stop=()).sample(PROMPTS, requests, 0))
    assert max(asked) == 6, "what the configuration says is what is done"


def test_rows_are_as_many_as_the_memory_holds(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    class Counting(Decoder):
        def step(self, tokens: Any) -> Any:
            asked.append(len(tokens))
            return super().step(tokens)

    monkeypatch.setattr("halo_forge.engines._decoder.Decoder", Counting)
    num_tokens = 24 + max(len(llama.prompt_ids(prompt)) for prompt in PROMPTS.values())
    # 2 layers x 2 (keys, values) x 2 heads x 8 numbers of 4 bytes for each token, and 4 x 4 bytes for each word.
    each = 2 * 2 * 2 * 8 * 4 * num_tokens + 16 * len(llama.tokenizer)
    assert row_bytes(llama.model, num_tokens) == each
    for budget, expected in ((3.5 * each, 3), (0, 1), (1e12, 5)):
        monkeypatch.setattr(type(llama.profile), "memory_budget_bytes", lambda self, budget=budget: int(budget))
        automatic = TransformersSpec.model_validate({"kind": "transformers"}).open(llama)
        list(automatic.sample(PROMPTS, [request(prompt_id) for prompt_id in PROMPTS], 0))
        assert max(asked) == expected
        asked.clear()
    given = TransformersSpec.model_validate({"kind": "transformers", "batch_size": 4}).open(llama)
    monkeypatch.setattr(type(llama.profile), "memory_budget_bytes", lambda self: 0)
    list(given.sample(PROMPTS, [request(prompt_id) for prompt_id in PROMPTS], 0))
    assert max(asked) == 4, "what the configuration says is what is done"


# ---- logits that are not finite


def spoil(policy: Any, tokens: Any) -> None:
    """Any of these tokens, once seen, makes all logits after it NaN."""
    with torch.no_grad():
        policy.model.get_input_embeddings().weight[tokens] = float("nan")


def test_a_row_whose_logits_are_not_finite_is_an_error_and_what_was_done_is_kept(tiny_models: dict[str, Path]) -> None:
    policy = load_policy(tiny_models["llama"])
    reference = sample(policy, greedy(10))
    # The third token of one answer, which no other has: its fourth cannot be drawn.
    third = reference["p3", 0].token_ids[2]
    others = {token for (prompt_id, _), each in reference.items() if prompt_id != "p3" for token in each.token_ids}
    assert third not in {*others, *(token for text in PROMPTS.values() for token in policy.prompt_ids(text))}
    assert third not in reference["p3", 0].token_ids[:2]
    spoil(policy, third)
    policy.version = 2
    limits = {"p0": 2, "p1": 10, "p2": 4, "p3": 10, "p4": 10}
    requests = [request(each, temperature=0.0, max_new_tokens=limit) for each, limit in limits.items()]
    done = []
    with pytest.raises(LogitsNotFinite) as caught:
        for completion in TransformersEngine(policy, batch_size=8, stop=()).sample(PROMPTS, requests, 2):
            done.append(completion)
    assert {each.prompt_id: each.token_ids for each in done} == {
        prompt_id: reference[prompt_id, 0].token_ids[: limits[prompt_id]] for prompt_id in ("p0", "p2")
    }
    assert "v2" in caught.value.message and "prompt 'p3', sample 0, token 4)" in caught.value.message
    assert "learning_rate" in caught.value.hint and caught.value.exit_code == 5


def test_logits_of_a_prompt_that_are_not_finite_are_an_error_too(tiny_models: dict[str, Path]) -> None:
    policy = load_policy(tiny_models["llama"])
    spoil(policy, policy.prompt_ids(PROMPTS["p1"])[-1])
    requests = [request(prompt_id, index) for prompt_id in PROMPTS for index in range(2)]
    with pytest.raises(LogitsNotFinite, match=r"v0 .*prompt 'p2', sample 0, token 1, and 9 more of 10 rows"):
        list(TransformersEngine(policy, batch_size=16, stop=()).sample(PROMPTS, requests, 0))


# ---- the library's names


@pytest.mark.filterwarnings("error::FutureWarning")
def test_the_installed_library_warns_of_no_name_that_is_to_go(policy: Any) -> None:
    found = sample(policy, greedy(3))
    assert all(len(each.token_ids) <= 3 for each in found.values())


def test_the_cache_has_the_name_that_the_model_knows() -> None:
    class Older:
        def forward(self, input_ids: Any, past_key_values: Any = None, **options: Any) -> None: ...

    class Newer:
        def forward(self, input_ids: Any, cache: Any = None, **options: Any) -> None: ...

    assert (cache_argument(Older()), cache_argument(Newer())) == ("past_key_values", "cache")
