"""Sampling on a GPU: the CPU's tokens, whatever the rows do, and no memory left over."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_models import ARCHITECTURES, disturb_adapter, load_policy, prompts, request

from halo_forge.core.records import SampleRequest
from halo_forge.engines.transformers import TransformersEngine, TransformersSpec
from halo_forge.hardware import Profile

torch = pytest.importorskip("torch")

PROMPTS = prompts(
    [
        "add two numbers",
        "Write a C function that adds two numbers and returns the sum of the values, for all i < n.",
        "x",
        "the user and the assistant",
        "int main(void) { return 0; } and more of the same, so that this prompt is the longest of all of them",
    ]
)
Pair = tuple[Any, Any]
"""The same policy on the CPU and on the GPU."""


@pytest.fixture(scope="module")
def pair_of(tiny_models: dict[str, Path], on_cpu: Profile) -> Callable[[str], Pair]:
    made: dict[str, Pair] = {}

    def pair(name: str) -> Pair:
        if name not in made:
            made[name] = load_policy(tiny_models[name], profile=on_cpu), load_policy(tiny_models[name])
            for policy in made[name]:
                disturb_adapter(policy)
        assert [policy.device.type for policy in made[name]] == ["cpu", "cuda"]
        return made[name]

    return pair


@pytest.fixture(scope="module")
def llama(pair_of: Callable[[str], Pair]) -> Pair:
    return pair_of("llama")


def sample(policy: Any, requests: list[SampleRequest], *, batch_size: int = 8, stop: tuple[str, ...] = ()) -> Any:
    engine = TransformersEngine(policy, batch_size=batch_size, stop=stop)
    found = list(engine.sample(PROMPTS, requests, policy.version))
    assert len(found) == len(requests)
    return {(each.prompt_id, each.index): each for each in found}


def asked(num_samples: int = 2, **values: Any) -> list[SampleRequest]:
    return [request(prompt_id, index, **values) for prompt_id in PROMPTS for index in range(num_samples)]


def mixed() -> list[SampleRequest]:
    """Lengths from 2 to 41 tokens, so that rows leave and are filled again at different steps."""
    lengths = {"p0": 2, "p1": 40, "p2": 7, "p3": 20, "p4": 3}
    return [request(name, index, max_new_tokens=num + index) for name, num in lengths.items() for index in range(4)]


@pytest.mark.parametrize("name", [*ARCHITECTURES, "llama_pad_is_eos"])
def test_greedy_is_the_cpus_token_for_token(name: str, pair_of: Callable[[str], Pair]) -> None:
    cpu, gpu = pair_of(name)
    requests = asked(1, temperature=0.0, max_new_tokens=40)
    found = sample(gpu, requests, batch_size=3)
    assert found == sample(cpu, requests, batch_size=3)
    assert len({each.token_ids for each in found.values()}) == len(PROMPTS)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_rows_that_finish_and_are_filled_again(name: str, pair_of: Callable[[str], Pair]) -> None:
    cpu, gpu = pair_of(name)
    expected = sample(cpu, mixed(), batch_size=4)
    assert sample(gpu, mixed(), batch_size=4) == expected
    assert sample(gpu, mixed(), batch_size=20) == expected


OPTIONS: dict[str, dict[str, Any]] = {
    "hot": {"temperature": 1.7},
    "cold": {"temperature": 0.3},
    "top_p": {"top_p": 0.7},
    "top_k": {"top_k": 5},
    "min_p": {"min_p": 0.1},
    "all": {"temperature": 1.3, "top_p": 0.9, "top_k": 20, "min_p": 0.02},
}


@pytest.mark.parametrize("options", OPTIONS)
def test_sampling_options(options: str, llama: Pair) -> None:
    cpu, gpu = llama
    requests = asked(2, **OPTIONS[options])
    found = sample(gpu, requests)
    assert found == sample(cpu, requests)
    assert found != sample(cpu, asked(2)), "the option changes something"


def test_options_belong_to_the_row(llama: Pair) -> None:
    cpu, gpu = llama
    values: list[dict[str, Any]] = [{"temperature": 0.0}, {"top_p": 0.5}, {"min_p": 0.2}, {}, {"temperature": 2.0}]
    requests = [request(name, **each) for name, each in zip(PROMPTS, values, strict=True)]
    assert sample(gpu, requests) == sample(cpu, requests)


def test_stop_strings(llama: Pair) -> None:
    cpu, gpu = llama
    requests = asked(4, max_new_tokens=40)
    found = sample(gpu, requests, batch_size=6, stop=("e", "int "))
    assert found == sample(cpu, requests, batch_size=6, stop=("e", "int "))
    ended = [each for each in found.values() if each.finish == "stop" and each.text.endswith(("e", "int "))]
    assert len(ended) > 5


def test_bfloat16(tiny_models: dict[str, Path]) -> None:
    """Its own automatic settings; tokens differ from the CPU's, whose kernels round elsewhere."""
    policy = load_policy(tiny_models["qwen2"], dtype="auto")
    assert policy.model.dtype == torch.bfloat16
    engine = TransformersSpec(max_new_tokens=24).open(policy)
    found = list(engine.sample(PROMPTS, asked(3), 0))
    assert len(found) == 15 and all(each.token_ids for each in found)


def allocated() -> int:
    gc.collect()
    return int(torch.cuda.memory_allocated())


def test_sampling_leaves_no_memory_behind(llama: Pair) -> None:
    _, gpu = llama
    sample(gpu, mixed())
    before = allocated()
    sample(gpu, mixed(), batch_size=16)
    assert allocated() == before


@pytest.mark.pretended_gpu
def test_out_of_memory_halves_the_rows_and_changes_no_answer(
    llama: Pair, pretended: None, caplog: pytest.LogCaptureFixture
) -> None:
    from support.pretended_gpu import install

    _, gpu = llama
    requests = asked(8, max_new_tokens=60)
    few = sample(gpu, requests, batch_size=10)
    before = allocated()
    torch.cuda.reset_peak_memory_stats()
    sample(gpu, requests, batch_size=10)
    fits = int(torch.cuda.max_memory_allocated())
    torch.cuda.reset_peak_memory_stats()
    sample(gpu, requests, batch_size=40)
    needs = int(torch.cuda.max_memory_allocated())
    assert fits < needs - 100_000
    install(memory_bytes=(fits + 50_000))
    engine = TransformersEngine(gpu, batch_size=40, stop=())
    found = {(each.prompt_id, each.index): each for each in engine.sample(PROMPTS, requests, 0)}
    assert found == few
    assert engine.batch_size == 10
    assert [record.args for record in caplog.records if "memory ran out" in record.message] == [(20,), (10,)]
    assert allocated() == before


@pytest.mark.pretended_gpu
def test_one_row_that_does_not_fit_is_an_error(llama: Pair, pretended: None) -> None:
    from support.pretended_gpu import install

    _, gpu = llama
    sample(gpu, asked(1))
    before = allocated()
    install(memory_bytes=before + 1000)
    with pytest.raises(torch.OutOfMemoryError):
        sample(gpu, asked(1))
    install()
    assert allocated() == before
    assert len(sample(gpu, asked(1))) == 5
