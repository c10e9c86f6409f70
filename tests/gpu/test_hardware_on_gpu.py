"""What the doctor tries, and what a run is put on, on cuda:0."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from made_up_machines import GIB, LAPTOP, NVIDIA, machine, strix_halo
from sft_cases import train
from tiny_models import TrainingOptions, load_policy, prompts, request

from halo_forge.checks.doctor import _probes
from halo_forge.checks.doctor._probe_checks import MOST_ERROR, outcome_of
from halo_forge.config.sections import HardwareSection
from halo_forge.core.errors import ModelError
from halo_forge.engines.transformers import TransformersEngine
from halo_forge.hardware import Gpu, choose, detect
from halo_forge.policy.device import limit_memory, on_this_torch

torch = pytest.importorskip("torch")

CARVE_OUT = strix_halo() | {
    "sys/class/drm/card1/device/mem_info_vram_total": 96 * GIB,
    "sys/class/drm/card1/device/mem_info_gtt_total": 16 * GIB,
}


def test_attention_and_products_are_right() -> None:
    chosen = _probes.attention()["chosen"]
    assert len(chosen) == 6 and all(error <= MOST_ERROR for error in chosen.values()), chosen
    assert _probes.kernel()["relative_error"] <= MOST_ERROR


@pytest.mark.pretended_gpu
def test_a_kernel_that_is_broken_on_the_gpu_alone_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the one that is known: NaN where products of queries and keys leave the range of float16."""
    functional: Any = torch.nn.functional
    original = functional.scaled_dot_product_attention

    def attend(query: Any, key: Any, value: Any, **options: Any) -> Any:
        mixed = original(query, key, value, **options)
        if query.device.type == "cpu":
            return mixed
        products = query.float() @ key.repeat_interleave(query.shape[1] // key.shape[1], 1).float().transpose(-1, -2)
        return mixed.masked_fill(products.abs().amax(-1, keepdim=True) > 65_504, float("nan"))

    monkeypatch.setattr(functional, "scaled_dot_product_attention", attend)
    found = _probes.attention()["chosen"]
    assert {case for case, error in found.items() if not error <= MOST_ERROR} == {c for c in found if "large" in c}


def layout_of(query: Any, key: Any, value: Any, *, attn_mask: Any = None, **options: Any) -> tuple[Any, ...]:
    """What decides about the kernel of a call of attention, without its sizes."""
    order = [tuple(torch.tensor(each.stride()).argsort(descending=True).tolist()) for each in (query, key, value)]
    mask = (
        None if attn_mask is None else (attn_mask.dtype, attn_mask.is_contiguous(), *(n == 1 for n in attn_mask.shape))
    )
    kind = query.dtype, query.requires_grad, query.shape[1] == key.shape[1], query.shape[2] == key.shape[2]
    return (*kind, *order, mask, options.get("enable_gqa", False), options.get("is_causal", False))


@pytest.mark.pretended_gpu
def test_the_probe_calls_what_sampling_and_training_call(
    tiny_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    functional: Any = torch.nn.functional
    original, called = functional.scaled_dot_product_attention, set[Any]()

    def attend(query: Any, *others: Any, **options: Any) -> Any:
        if query.is_cuda and query.shape[0] > 1:  # the order of one row's strides says nothing
            called.add(layout_of(query, *others, **options))
        return original(query, *others, **options)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", attend)
    policy = load_policy(tiny_models["llama"], dtype="bfloat16")
    asked = prompts(["add two numbers", "Write a C function that adds two numbers."])
    requests = [request(prompt_id, index, max_new_tokens=4) for prompt_id in asked for index in range(2)]
    assert len(list(TransformersEngine(policy, batch_size=4, stop=()).sample(asked, requests, policy.version))) == 4
    sampled = set(called)
    train(policy, tmp_path / "trained", options=TrainingOptions(per_device_train_batch_size=4))
    trained, _ = called - sampled, called.clear()
    assert (len(sampled), len(trained)) == (2, 1), "prompts, a step, and a pass of training"
    _probes.attention()
    assert called == sampled | trained


@pytest.mark.pretended_gpu
def test_a_probe_in_a_child_process_sees_the_gpu() -> None:
    from support.pretended_gpu import environment

    command = [sys.executable, "-m", "halo_forge.checks.doctor._probes", "seen"]
    outcome = outcome_of(command, {**os.environ, **environment()}, 300)
    assert outcome.found is not None, outcome.failure
    (gpu,) = (Gpu(**row) for row in outcome.found["gpus"])
    assert (gpu.name, gpu.architecture) == ("Pretended GPU", None)


@pytest.mark.pretended_gpu
@pytest.mark.parametrize(
    ("files", "gfx", "name"),
    [
        (NVIDIA, None, "cuda"),
        (LAPTOP, None, "cuda"),
        (LAPTOP, "gfx1151", "gfx1151"),
        (LAPTOP, "gfx1100", "rocm"),
        (strix_halo(), "gfx1151", "gfx1151"),
        (strix_halo(), None, "cuda"),
        (strix_halo(), "gfx1100", "rocm"),
    ],
)
def test_the_profile_is_that_of_the_gpu_that_torch_has(
    tmp_path: Path, pretended: None, files: dict[str, object], gfx: str | None, name: str
) -> None:
    from support.pretended_gpu import install

    install(name="a card", gfx=gfx, memory_bytes=12 * GIB)
    found = on_this_torch(detect(machine(tmp_path, files)))
    assert found.name == name and found.gpu is not None and found.gpu.name == "a card"
    if name != "gfx1151":
        assert found.memory_budget_bytes() == int(12 * GIB * 0.9)


@pytest.mark.pretended_gpu
def test_a_gpu_that_is_full_ends_a_run_before_anything_is_loaded(
    tmp_path: Path, pretended: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(index: int) -> None:
        raise torch.AcceleratorError("CUDA error: out of memory\nCompile with ...")

    monkeypatch.setattr(torch.cuda, "mem_get_info", full)
    with pytest.raises(ModelError, match=r"Pretended GPU cannot be used: CUDA error: out of memory\n"):
        on_this_torch(detect(machine(tmp_path, NVIDIA)))


@pytest.mark.pretended_gpu
def test_the_budget_of_a_strix_halo_is_its_vram_and_shrinks_by_what_torch_holds(
    tmp_path: Path, pretended: None
) -> None:
    from support.pretended_gpu import install

    install(gfx="gfx1151", memory_bytes=96 * GIB)
    found = on_this_torch(detect(machine(tmp_path, CARVE_OUT)))
    assert found.memory_budget_bytes() == int(96 * GIB * 0.8)
    assert found.gpu is not None and found.gpu.free_bytes == 96 * GIB
    held = torch.empty(GIB, dtype=torch.int8, device="cuda")  # the made-up driver counts nothing
    assert found.memory_budget_bytes() == int(95 * GIB * 0.8)
    del held


@pytest.mark.pretended_gpu
def test_torch_is_limited_where_the_host_shares_the_memory_or_a_fraction_is_given(
    tmp_path: Path, pretended: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from support.pretended_gpu import install

    asked: list[float] = []
    install(gfx="gfx1151", memory_bytes=120 * GIB)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", asked.append)
    limit_memory(on_this_torch(detect(machine(tmp_path / "chip", strix_halo()))))
    install(memory_bytes=10 * GIB)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", asked.append)
    here = machine(tmp_path / "card", NVIDIA)
    limit_memory(on_this_torch(detect(here)))
    limit_memory(on_this_torch(choose(HardwareSection(memory_fraction=0.5), here)))
    limit_memory(on_this_torch(choose(HardwareSection(profile="cpu", memory_fraction=0.5), here)))
    assert asked == pytest.approx([84 * 0.8 / 120, 0.5])
