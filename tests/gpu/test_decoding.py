"""Decoding on a GPU: few launches, one wait for each step, and nothing that a graph could not capture."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tiny_models import LoraOptions, disturb_adapter, load_policy, prompts, request, same_bits, save_model

from halo_forge.core.errors import LogitsNotFinite
from halo_forge.engines.transformers import TransformersEngine, TransformersSpec, row_bytes
from halo_forge.hardware import Profile

torch = pytest.importorskip("torch")
Decoder = pytest.importorskip("halo_forge.engines._decoder").Decoder

PROMPTS = prompts(["add two numbers", "Write a C function that adds two numbers.", "x", "the user and the assistant"])


def load(folder: Path, **options: Any) -> Any:
    policy = load_policy(folder, **options)
    disturb_adapter(policy)
    return policy


@pytest.fixture(scope="module", params=["llama", "qwen2", "gemma2"])
def pair(request: pytest.FixtureRequest, tiny_models: dict[str, Path], on_cpu: Profile) -> Any:
    """The same policy on the CPU and on the GPU, in float32."""
    found = [load(tiny_models[request.param], profile=on_cpu), load(tiny_models[request.param])]
    assert [policy.device.type for policy in found] == ["cpu", "cuda"]
    return found


@pytest.fixture(scope="module")
def llama(tiny_models: dict[str, Path]) -> Any:
    return load(tiny_models["llama"])


def sample(policy: Any, requests: Any, **options: Any) -> Any:
    engine = TransformersEngine(policy, **{"batch_size": 5, "stop": (), **options})
    found = {(each.prompt_id, each.index): each for each in engine.sample(PROMPTS, requests, policy.version)}
    assert found.keys() == {(each.prompt_id, each.index) for each in requests}
    return found


def requests_of(num_samples: int, **values: Any) -> Any:
    """Answers of 3 to 27 tokens, so rows leave and are filled again at different steps."""
    return [
        request(prompt_id, index, **{"max_new_tokens": 3 + 8 * (index % 4), **values})
        for prompt_id in PROMPTS
        for index in range(num_samples)
    ]


@contextmanager
def steps_watched(action: Callable[[Any, Any], None]) -> Iterator[None]:
    """Calls `action(decoder, tokens)` before every step."""
    plain = Decoder.step

    def step(self: Any, tokens: Any) -> Any:
        action(self, tokens)
        return plain(self, tokens)

    Decoder.step = step
    try:
        yield
    finally:
        Decoder.step = plain


# ---- tokens that are read one step late


def test_a_row_that_ends_computes_one_token_too_many_at_most(llama: Any) -> None:
    """Length limits are known before they are read; only a stop is found out a step late."""
    steps: list[int] = []
    with steps_watched(lambda decoder, tokens: steps.append(len(tokens))):
        found = sample(llama, requests_of(1, max_new_tokens=9))
        assert {len(each.token_ids) for each in found.values()} == {9} and len(steps) == 8
        steps.clear()
        text = found["p0", 0].text
        ended = sample(llama, requests_of(1, max_new_tokens=9)[:1], stop=(text,))["p0", 0]
        assert ended.finish == "stop" and len(steps) == 8
        steps.clear()
        short = sample(llama, requests_of(1, max_new_tokens=9)[:1], stop=(text[:4],))["p0", 0]
        assert short.finish == "stop" and len(steps) == len(short.token_ids)


def test_logits_that_are_not_finite_are_an_error(tiny_models: dict[str, Path]) -> None:
    policy = load(tiny_models["llama"])
    with torch.no_grad():
        policy.model.get_input_embeddings().weight[policy.prompt_ids(PROMPTS["p3"])[-4]] = float("nan")
    with pytest.raises(LogitsNotFinite, match=r"v0 gave .* on cuda:0 \(prompt"):
        sample(policy, requests_of(2))


# ---- waits, launches, addresses


def counted_steps(policy: Any, num_rows: int, **values: Any) -> list[tuple[int, int]]:
    """(launches, waits) of each whole step, from one call of the model to the next."""
    from support.pretended_gpu import counted

    found: list[tuple[int, int]] = []
    running: list[Any] = []

    def begin(decoder: Any, tokens: Any) -> None:
        end()
        block = counted()
        running.append((block, block.__enter__()))

    def end() -> None:
        if running:
            block, count = running.pop()
            block.__exit__(None, None, None)
            found.append((count.launches, count.waits))

    requests = [request("p1", index, max_new_tokens=10, **values) for index in range(num_rows)]
    with steps_watched(begin):
        sample(policy, requests, batch_size=num_rows)
        end()
    return found[1:-1]


@pytest.mark.pretended_gpu
@pytest.mark.parametrize("options", [{}, {"temperature": 0.0}, {"top_p": 0.9, "min_p": 0.1, "top_k": 9}])
def test_the_host_waits_once_in_a_step(pair: Any, options: Any) -> None:
    waits = {waits for _, waits in counted_steps(pair[1], 4, **options)}
    assert waits == {1}


@pytest.mark.pretended_gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_a_layer_starts_at_most_25_kernels_in_a_step_and_none_for_each_row(
    architecture: str, dtype: str, tmp_path: Path
) -> None:
    launches = []
    for num_layers, num_rows in ((2, 4), (5, 4), (2, 12)):
        folder = save_model(tmp_path / f"{num_layers}-{num_rows}", architecture, layers=num_layers)
        steps = [each for each, _ in counted_steps(load(folder, dtype=dtype), num_rows)]
        launches.append(min(steps))
        assert steps.count(min(steps)) > len(steps) / 2, "all are the same, but for those that drop a row"
    assert (launches[1] - launches[0]) / 3 <= 25
    assert launches[2] == launches[0]


@pytest.mark.pretended_gpu
def test_dropping_rows_waits_for_nothing(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from support.pretended_gpu import counted

    waits = []
    plain = Decoder.keep

    def keep(self: Any, rows: Any) -> Any:
        with counted() as found:
            order = plain(self, rows)
        waits.append(found.waits)
        return order

    monkeypatch.setattr(Decoder, "keep", keep)
    sample(llama, requests_of(6))
    assert len(waits) > 2 and not any(waits)


class EagerGraphs:
    """Runs the step itself; a shape that comes again must find all tensors where they were."""

    def __init__(self, max_rows: int) -> None:
        self.addresses: dict[Any, Any] = {}
        made.append(self)

    def run(self, shape: Any, step: Any) -> Any:
        inputs = step.__closure__
        pointers = tuple(
            cell.cell_contents.data_ptr() for cell in inputs if isinstance(cell.cell_contents, torch.Tensor)
        )
        assert len(pointers) == 1 and self.addresses.setdefault(shape, pointers) == pointers
        step()  # once more changes nothing
        return step()


made: list[EagerGraphs] = []


@pytest.mark.pretended_gpu
def test_what_a_graph_would_capture_is_the_same_step_in_few_shapes(pair: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("halo_forge.engines._decoder.CudaGraphs", EagerGraphs)
    requests = requests_of(9)
    made.clear()
    assert sample(pair[1], requests, batch_size=16, graphs=True) == sample(pair[1], requests, batch_size=16)
    (graphs,) = made
    assert {rows for rows, _ in graphs.addresses} <= {2, 4, 6, 8, 10, 12, 14, 16}


@pytest.mark.skipif(os.environ.get("HALO_FORGE_TEST_GPU") != "real", reason="the pretended GPU has no graphs")
def test_a_graph_gives_the_same_tokens(pair: Any) -> None:
    requests = requests_of(9, temperature=0.0)
    assert sample(pair[1], requests, batch_size=16, graphs=True) == sample(pair[1], requests, batch_size=16)


def test_graphs_are_not_for_every_machine(
    pair: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spec = TransformersSpec.model_validate({"kind": "transformers", "cuda_graphs": True})
    assert not spec.open(pair[0]).graphs and "ignored on cpu" in caplog.text
    assert spec.open(pair[1]).graphs
    monkeypatch.setattr(torch.version, "hip", "7.2.0")
    assert not spec.open(pair[1]).graphs
    assert not TransformersSpec.model_validate({"kind": "transformers"}).open(pair[1]).graphs


# ---- weights


def weights_of(policy: Any) -> Any:
    return {name: value.detach().cpu().clone() for name, value in policy.model.named_parameters()}


def test_grouped_layers_keep_their_weights_and_take_no_second_copy(tmp_path: Path) -> None:
    policy = load(save_model(tmp_path / "model", "qwen2", hidden_size=256), lora=LoraOptions(r=4))
    before, num_bytes = weights_of(policy), torch.cuda.memory_allocated()
    with policy.sampling():
        pass
    taken = torch.cuda.memory_allocated() - num_bytes
    # Room for the adapters: of two layers, rows of 8 for each single layer, 16 and 8 for the groups.
    room = 2 * 4 * (16 * 256 + 8 * 256 + 8 * 256 + 8 * 48)
    assert 0 < taken <= room + 8192
    attention = policy.model.get_base_model().model.layers[0].self_attn
    pointers = {each.base_layer.weight.untyped_storage().data_ptr() for each in (attention.q_proj, attention.v_proj)}
    assert len(pointers) == 1
    with policy.sampling():
        pass
    assert torch.cuda.memory_allocated() - num_bytes == taken, "laid out once"
    assert same_bits(weights_of(policy), before)


def test_the_adapter_in_a_group_is_read_again_each_time_and_can_be_switched_off(
    pair: Any, tiny_models: dict[str, Path]
) -> None:
    requests = requests_of(1, temperature=0.0)
    on_cpu, on_gpu = pair
    with_adapter = sample(on_gpu, requests)
    for policy in pair:
        disturb_adapter(policy, seed=9)
    assert sample(on_gpu, requests) == sample(on_cpu, requests) != with_adapter
    ids = torch.tensor([on_cpu.prompt_ids(PROMPTS["p1"])])
    logits = []
    for policy in pair:
        with policy.sampling(), policy.model.disable_adapter(), torch.inference_mode():
            logits.append(policy.model(ids.to(policy.device)).logits.cpu())
    assert torch.allclose(*logits, rtol=1e-4, atol=1e-4)
    for policy in pair:
        disturb_adapter(policy)


def test_layers_that_are_more_than_a_product_keep_their_own_way(tiny_models: dict[str, Path]) -> None:
    """Weight-decomposed adapters on some layers, two tied layers, a trained layer."""
    from peft import LoraConfig, get_peft_model

    from halo_forge.policy.grouped import grouped_linears

    policy = load(tiny_models["llama"])
    base = policy.model.unload()
    layers = base.model.layers
    layers[1].self_attn.k_proj.weight = layers[0].self_attn.k_proj.weight
    model = get_peft_model(base, LoraConfig(r=4, use_dora=True, target_modules=["o_proj"]))
    layers[1].mlp.up_proj.requires_grad_(True)
    ids = torch.tensor([policy.prompt_ids(PROMPTS["p1"])], device="cuda")
    with torch.no_grad():
        expected = model(ids).logits
        with grouped_linears(model):
            own = {name for name, module in model.named_modules() if "forward" in module.__dict__}
            found = model(ids).logits
    assert own == {f"base_model.model.model.layers.0.mlp.{name}_proj" for name in ("gate", "up")}
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert not any("forward" in module.__dict__ for module in model.modules())


# ---- the models' own operations


def test_a_model_that_computes_something_else_keeps_its_own_operations(
    tiny_models: dict[str, Path], on_cpu: Profile, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from transformers.models.llama import modeling_llama as home

    from halo_forge.engines import _fused

    def centred(self: Any, x: Any) -> Any:
        return self.weight * torch.nn.functional.layer_norm(x, x.shape[-1:])

    def interleaved(q: Any, k: Any, cos: Any, sin: Any, unsqueeze_dim: int = 1) -> Any:
        def turned(x: Any) -> Any:
            pairs = torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2)
            return x * cos.unsqueeze(unsqueeze_dim) + pairs * sin.unsqueeze(unsqueeze_dim)

        return turned(q), turned(k)

    monkeypatch.setattr(home.LlamaRMSNorm, "forward", centred)
    monkeypatch.setattr(home, "apply_rotary_pos_emb", interleaved)
    monkeypatch.setattr(_fused, "_warned", set())
    cpu, gpu = (load(tiny_models["llama"], **options) for options in ({"profile": on_cpu}, {}))
    requests = requests_of(2, temperature=0.0)
    assert sample(gpu, requests) == sample(cpu, requests) == sample(gpu, requests)
    said = [record.getMessage() for record in caplog.records if "keep" in record.getMessage()]
    assert [each.split(" keep")[0] for each in said] == ["LlamaRMSNorm", "rotary positions of LlamaForCausalLM"]
    assert home.apply_rotary_pos_emb is interleaved


def test_fused_operations_are_undone_afterwards(pair: Any) -> None:
    import sys

    from halo_forge.engines._fused import fused_operations

    base = pair[1].model.get_base_model()
    home = sys.modules[type(base).__module__]
    own = home.apply_rotary_pos_emb
    with pytest.raises(ZeroDivisionError), fused_operations(base):
        assert home.apply_rotary_pos_emb is not own
        assert "forward" in base.model.norm.__dict__ and "forward" in base.model.layers[1].input_layernorm.__dict__
        raise ZeroDivisionError
    assert home.apply_rotary_pos_emb is own
    assert not any("forward" in module.__dict__ for module in base.modules())


@contextmanager
def own_operations(model: Any) -> Iterator[None]:
    """In place of `fused_operations`."""
    yield


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_whose_rotary_factors_stay_in_float32_samples_the_same(
    dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """OLMo turns queries and keys in float32, and rounds them afterwards; its norms round once, as the fused ones."""
    monkeypatch.setattr("halo_forge.engines._fused._warned", set())
    policy = load(save_model(tmp_path / "olmo2", "olmo2"), dtype=dtype)
    requests = requests_of(2, temperature=0.0)
    found = sample(policy, requests)
    assert ("factors in torch.float32 keep the model's own" in caplog.text) == (dtype == "bfloat16")
    monkeypatch.setattr("halo_forge.engines._fused.fused_operations", own_operations)
    assert found == sample(policy, requests)


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_nothing_is_said_of_a_model_whose_operations_are_all_fused(
    architecture: str,
    tiny_models: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("halo_forge.engines._fused._warned", set())
    sample(load(tiny_models[architecture], dtype="bfloat16"), requests_of(1))
    assert "own operations" not in caplog.text


def test_rotary_positions_with_more_arguments_are_the_models_own() -> None:
    from halo_forge.engines._fused import _Rotary

    rotary = _Rotary(lambda *arguments: len(arguments))
    states = torch.zeros(1, 1, 1, 8)
    assert rotary(states, states, states[0], states[0], None, 1) == 6


def test_a_rotary_function_that_fails_its_trial_is_kept_and_the_log_says_why(
    llama: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from transformers.models.llama import modeling_llama as home

    from halo_forge.engines._fused import fused_operations

    class RemoteError(Exception):
        pass

    def picky(q: Any, k: Any, cos: Any, sin: Any) -> Any:
        raise RemoteError("rows must be 7")

    monkeypatch.setattr(home, "apply_rotary_pos_emb", picky)
    with fused_operations(llama.model.get_base_model()):
        assert home.apply_rotary_pos_emb is picky
    assert "rotary positions cannot be tried on their own: RemoteError: rows must be 7" in caplog.text


class ItsOwnRMSNorm(torch.nn.Module):
    """As Llama's, but for where its epsilon is, and how it is added."""

    def __init__(self, epsilon: str, value: float, used: float) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.linspace(-2, 2, 32))
        self.used = used
        if epsilon:
            setattr(self, epsilon, value)

    def forward(self, states: Any) -> Any:
        exact = states.float()
        exact = exact * torch.rsqrt(exact.pow(2).mean(-1, keepdim=True) + self.used)
        return self.weight * exact.to(states.dtype)


@pytest.mark.parametrize(
    ("epsilon", "value", "used", "is_fused"),
    [
        ("eps", 1e-6, 1e-6, True),
        ("variance_epsilon", 1e-5, 1e-5, True),
        ("", 0.0, 1e-6, False),
        ("eps", 1e-6, 2e-6, False),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_norm_is_fused_where_its_epsilon_is_known(
    epsilon: str, value: float, used: float, is_fused: bool, dtype: Any
) -> None:
    from halo_forge.engines._fused import _fused_norms

    norm = ItsOwnRMSNorm(epsilon, value, used).to("cuda", dtype)
    assert bool(_fused_norms(torch.nn.ModuleList([norm, torch.nn.RMSNorm(8)]))) == is_fused


# ---- memory


@pytest.mark.parametrize("options", [{}, {"temperature": 0.7, "min_p": 0.1}, {"top_p": 0.9, "min_p": 0.1}])
def test_the_memory_of_a_row_holds_what_drawing_takes(llama: Any, options: Any) -> None:
    from halo_forge.engines._sampling import Sampler

    num_rows, num_words = 64, llama.model.config.vocab_size
    requests = [request("p1", number, max_new_tokens=1, **options) for number in range(num_rows)]
    sampler = Sampler(llama.device, frozenset(), max_rows=num_rows, max_new_tokens=1)
    sampler.add(requests, [[0.5]] * num_rows)
    before = torch.cuda.memory_allocated()
    logits = torch.randn(num_rows, num_words, device=llama.device)
    torch.cuda.reset_peak_memory_stats()
    sampler.draw(logits)
    taken = torch.cuda.max_memory_allocated() - before
    beside = 100  # numbers of a row that are not for each word
    assert taken <= num_rows * (row_bytes(llama.model, 0, sorts="top_p" in options) + beside)


def test_fewer_rows_fit_where_the_vocabulary_is_sorted(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    budget = 5 * row_bytes(llama.model, 64) + 1
    monkeypatch.setattr(type(llama.profile), "memory_budget_bytes", lambda self: budget)
    asked: list[int] = []
    for options in ({}, {"top_p": 0.9}):
        requests = [request("p2", number, max_new_tokens=8, **options) for number in range(7)]
        requests[0] = request("p2", 0, max_new_tokens=8)  # one request with a nucleus is enough
        asked.clear()
        with steps_watched(lambda decoder, tokens: asked.append(len(tokens))):
            sample(llama, requests, batch_size=7, fitted=True)
        assert max(asked) == (3 if options else 5)
