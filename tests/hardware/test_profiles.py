"""Which profile a machine gets, and what the profiles choose; the machines are made of files."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from made_up_machines import CARD, GIB, KFD, LAPTOP, NVIDIA, machine, meminfo, strix_halo

from halo_forge.config.sections import HardwareSection
from halo_forge.hardware import (
    PROFILES,
    Gpu,
    Machine,
    ModelShape,
    ModelSize,
    as_torch_sees_it,
    choose,
    detect,
    profile_class,
)
from halo_forge.hardware._profile import LEAST_TOKENS
from halo_forge.hardware.cpu import Cpu
from halo_forge.hardware.cuda import Cuda
from halo_forge.hardware.gfx1151 import Gfx1151

DISCRETE = {f"{KFD}/1/properties": "gfx_target_version 110000"}
INTEGRATED = {f"{KFD}/1/properties": "gfx_target_version 100306"}
WITHOUT_KFD = {name: content for name, content in strix_halo().items() if not name.startswith(KFD)}

NVIDIA_GPU = Gpu("NVIDIA RTX 4090", None, "0000:01:00.0", 20 * GIB, 24 * GIB)
STRIX_HALO_GPU = Gpu("AMD Radeon Graphics", "gfx1151", "0000:c5:00.0", 120 * GIB, 62 * GIB)

# (files, torch, environment, profile, part of why)
MACHINES: list[tuple[dict[str, Any], str | None, dict[str, str], str, str]] = [
    ({}, None, {}, "cpu", "no GPU found"),
    (LAPTOP, "2.13.0+cpu", {}, "cpu", "no GPU found"),
    (strix_halo(), "2.14.0+rocm10.1", {}, "gfx1151", "gfx_target_version 110501"),
    (strix_halo(), None, {}, "gfx1151", "gfx_target_version 110501"),
    (WITHOUT_KFD, None, {}, "gfx1151", "PCI device 1002:1586"),
    (DISCRETE, None, {}, "rocm", "gfx_target_version 110000"),
    (NVIDIA, "2.13.0", {}, "cuda", "/dev/nvidiactl is there"),
    ({"proc/driver/nvidia/version": "NVRM"}, "2.13.0+cu130", {}, "cuda", "/proc/driver/nvidia/version"),
    (NVIDIA | INTEGRATED, "2.13.0+cu130", {}, "cuda", "/dev/nvidiactl"),
    (NVIDIA, "2.13.0+cpu", {}, "cpu", "torch 2.13.0+cpu is not built for the GPU"),
    (strix_halo(), "2.13.0+cu130", {}, "cpu", "torch 2.13.0+cu130 is not built for the GPU"),
    (NVIDIA, "2.13.0+rocm7.2", {}, "cpu", "not built for the GPU"),
    (strix_halo() | NVIDIA, "2.13.0+cu130", {}, "cuda", "/dev/nvidiactl is there"),
    (strix_halo() | NVIDIA, "2.14.0+rocm10.1", {}, "gfx1151", "gfx_target_version 110501"),
    (strix_halo() | NVIDIA, None, {"HIP_VISIBLE_DEVICES": ""}, "cuda", "/dev/nvidiactl is there"),
    (NVIDIA, None, {"CUDA_VISIBLE_DEVICES": ""}, "cpu", "CUDA_VISIBLE_DEVICES hides the GPU"),
    (NVIDIA, None, {"CUDA_VISIBLE_DEVICES": "0"}, "cuda", "/dev/nvidiactl"),
    (strix_halo(), None, {"ROCR_VISIBLE_DEVICES": "-1"}, "cpu", "ROCR_VISIBLE_DEVICES hides the GPU"),
    (NVIDIA, None, {"ROCR_VISIBLE_DEVICES": "-1"}, "cuda", "/dev/nvidiactl"),
    # A card of AMD that computes nothing: no compute driver, and another chip.
    ({**WITHOUT_KFD, "sys/bus/pci/devices/0000:c5:00.0/device": "0x164e"}, None, {}, "cpu", "no GPU found"),
    # The number of Strix Halo's graphics on something that is no display.
    ({**WITHOUT_KFD, "sys/bus/pci/devices/0000:c5:00.0/class": "0x0c0330"}, None, {}, "cpu", "no GPU found"),
]


@pytest.mark.parametrize(("files", "torch", "environment", "name", "why"), MACHINES)
def test_detection(
    tmp_path: Path, files: dict[str, Any], torch: str | None, environment: dict[str, str], name: str, why: str
) -> None:
    found = detect(machine(tmp_path, files, torch=torch, **environment))
    assert (found.name, found.given) == (name, False)
    assert why in found.why


def test_detection_imports_no_torch_and_a_run_sets_the_environment_first() -> None:
    program = """
import os, sys
from halo_forge import hardware
profile = hardware.prepare()
assert profile.name in {each.name for each in hardware.PROFILES}
gfx1151 = hardware.profile_class("gfx1151")(hardware.Machine(), "a test")
gfx1151.set_environment()
print("torch" in sys.modules, os.environ["TORCH_ROCM_AOTRITON_ENABLE_EXPERIMENTAL"])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False 1\n"


def test_what_the_user_set_stays() -> None:
    environment = {"TORCH_ROCM_AOTRITON_ENABLE_EXPERIMENTAL": "0"}
    Gfx1151(Machine(), "a test").set_environment(environment)
    assert environment == {"TORCH_ROCM_AOTRITON_ENABLE_EXPERIMENTAL": "0"}
    for profile in PROFILES:
        untouched: dict[str, str] = {}
        profile(Machine(), "a test").set_environment(untouched)
        assert untouched == dict(profile.environment)


def test_the_configuration_wins(tmp_path: Path) -> None:
    laptop = machine(tmp_path, LAPTOP)
    found = choose(HardwareSection(profile="gfx1151"), laptop)
    assert (found.name, found.given, found.memory_fraction) == ("gfx1151", True, 0.8)
    found = choose(HardwareSection(memory_fraction=0.25, optimizer="adamw_torch_fused", pin_memory=True), laptop)
    assert (found.name, found.given) == ("cpu", False)
    assert (found.memory_fraction, found.optimizer, found.pin_memory) == (0.25, "adamw_torch_fused", True)
    assert choose(HardwareSection(profile="cuda", pin_memory=False), laptop).pin_memory is False
    with pytest.raises(KeyError):
        profile_class("tpu")


def test_torch_has_the_last_word(tmp_path: Path) -> None:
    laptop = machine(tmp_path, LAPTOP)
    # A value that is the default of one profile is not that of another.
    settings = HardwareSection(memory_fraction=0.6, optimizer=Cpu.optimizer, pin_memory=False)
    cuda, cpu = Cuda(laptop, "files"), choose(HardwareSection(memory_fraction=settings.memory_fraction), laptop)
    assert as_torch_sees_it(cuda, NVIDIA_GPU) == dataclasses.replace(cuda, gpu=NVIDIA_GPU)
    assert as_torch_sees_it(cuda, None) is None
    assert as_torch_sees_it(cpu, None) is cpu
    for architecture, name in ((None, "cuda"), ("gfx1151", "gfx1151"), ("gfx942", "rocm")):
        gpu = Gpu("a GPU", architecture)
        found = as_torch_sees_it(cpu, gpu)
        assert found is not None and (found.name, found.gpu) == (name, gpu)
        assert "torch uses a GPU" in found.why and "which /sys and /dev do not show" in found.why
        assert found.memory_fraction == 0.6, "the configuration's own values go along"
        assert found.optimizer == profile_class(name)(laptop, "").optimizer
        every = as_torch_sees_it(choose(settings, laptop), gpu)
        assert every is not None and (every.optimizer, every.pin_memory) == (settings.optimizer, False)
    asked_for = Cpu(laptop, "hardware.profile", given=True)
    assert as_torch_sees_it(asked_for, NVIDIA_GPU) is asked_for


@pytest.mark.parametrize(
    ("gpu", "name"),
    [(NVIDIA_GPU, "cuda"), (Gpu("AMD Radeon RX 7900 XTX", "gfx1100"), "rocm"), (STRIX_HALO_GPU, "gfx1151")],
)
def test_a_strix_halo_beside_another_card_gets_the_profile_of_the_gpu_that_torch_uses(
    tmp_path: Path, gpu: Gpu, name: str
) -> None:
    """Files show a Strix Halo, whatever torch runs on: its budget is that of another memory, its variables no help."""
    files = choose(HardwareSection(memory_fraction=0.5), machine(tmp_path, strix_halo() | NVIDIA))
    assert files.name == "gfx1151"
    found = as_torch_sees_it(files, gpu)
    assert found is not None and (found.name, found.gpu, found.memory_fraction) == (name, gpu, 0.5)
    assert (gpu.name in found.why) == (name != "gfx1151")
    named = choose(HardwareSection(profile="gfx1151"), files.machine)
    kept = as_torch_sees_it(named, gpu)
    assert kept is not None and kept.name == "gfx1151", "what the configuration names stays"


# ---- memory


def test_the_memory_of_gfx1151_is_the_least_of_three_figures(tmp_path: Path) -> None:
    def budget(number: int, **files: object) -> int | None:
        return Gfx1151(machine(tmp_path / str(number), files), "").memory_budget_bytes()  # type: ignore[arg-type]

    every = strix_halo()
    assert budget(0, **every) == int(84 * GIB * 0.8)  # 100 available - 16
    assert budget(1, **{**every, "proc/meminfo": meminfo(256, 200)}) == int(118 * GIB * 0.8)  # GTT 120 - 2 used
    lower = {**every, "proc/meminfo": meminfo(256, 200), "sys/module/ttm/parameters/pages_limit": 62 * GIB // 4096}
    assert budget(2, **lower) == int(60 * GIB * 0.8)
    assert budget(3, **{**every, "proc/meminfo": meminfo(32, 10)}) == 0
    assert budget(4, **{"proc/meminfo": meminfo(128, 100)}) == int(84 * GIB * 0.8)
    assert budget(5) is None
    renamed = {"sys/module/amdttm/parameters/pages_limit": 10 * GIB // 4096}
    assert budget(6, **renamed) == int(10 * GIB * 0.8)


def test_the_gpu_has_the_larger_of_vram_and_gtt_as_the_kernel_gives_it(tmp_path: Path) -> None:
    """BIOS settings of 96 GB for the GPU and 32 GB for the host are in use; GTT is half of the host's there."""

    def budget(number: int, vram: float, gtt: float, **more: object) -> int | None:
        files = strix_halo() | {
            f"{CARD}/mem_info_vram_total": int(vram * GIB),
            f"{CARD}/mem_info_gtt_total": int(gtt * GIB),
            "sys/module/ttm/parameters/pages_limit": int(gtt * GIB) // 4096,
            "proc/meminfo": meminfo(31, 26),
            **more,
        }
        return Gfx1151(machine(tmp_path / str(number), files), "").memory_budget_bytes()

    assert budget(0, 96, 15.5) == int(96 * GIB * 0.8)
    limit = Gfx1151(Machine(tmp_path / "0", {}, None), "").process_fraction(96 * GIB)
    assert limit == pytest.approx(0.8), "torch may take it too"
    assert budget(1, 96, 15.5, **{f"{CARD}/mem_info_vram_used": 6 * GIB}) == int(90 * GIB * 0.8)
    assert budget(2, 16, 16) == int(16 * GIB * 0.8), "equal: the kernel asks whether VRAM is less"
    assert budget(3, 15, 15.5) == int(10 * GIB * 0.8), "host memory: 26 available - 16"
    assert budget(4, 96, 15.5, **{f"{CARD}/mem_info_vram_used": 97 * GIB}) == 0


@pytest.mark.parametrize(
    ("release", "vram"), [("6.14.0-1018-oem", False), ("6.15.0", True), ("7.0.1", True), ("unheard of", False)]
)
def test_only_kernels_that_know_it_take_vram(tmp_path: Path, release: str, vram: bool) -> None:
    files = strix_halo() | {
        "proc/sys/kernel/osrelease": release,
        f"{CARD}/mem_info_vram_total": 96 * GIB,
        f"{CARD}/mem_info_gtt_total": 15 * GIB,
        "proc/meminfo": meminfo(31, 26),
    }
    profile = Gfx1151(machine(tmp_path, files), "")
    assert profile.memory_budget_bytes() == int((96 if vram else 10) * GIB * 0.8)
    assert profile.pool_bytes() == (96 if vram else 15) * GIB


def test_another_card_does_not_lend_its_memory(tmp_path: Path) -> None:
    """An AMD card beside the chip has VRAM of its own, more than the chip's GTT here."""
    other = "sys/class/drm/card0/device"
    files = strix_halo() | {
        f"{CARD}/device": "0x1586",
        f"{CARD}/mem_info_gtt_total": 30 * GIB,
        f"{other}/vendor": "0x1002",
        f"{other}/device": "0x744c",
        f"{other}/mem_info_vram_total": 48 * GIB,
        f"{other}/mem_info_gtt_total": 64 * GIB,
    }
    assert Gfx1151(machine(tmp_path, files), "").memory_budget_bytes() == int(28 * GIB * 0.8)


def test_memory_that_the_driver_does_not_count_as_used_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 50 * GIB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 50 * GIB)
    roomy = strix_halo() | {"proc/meminfo": meminfo(256, 200)}
    assert Gfx1151(machine(tmp_path / "0", roomy), "").memory_budget_bytes() == int(70 * GIB * 0.8)
    carved = strix_halo() | {f"{CARD}/mem_info_vram_total": 130 * GIB}
    assert Gfx1151(machine(tmp_path / "1", carved), "").memory_budget_bytes() == int(80 * GIB * 0.8)


def test_what_torch_can_use_again_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    profile = Gfx1151(machine(tmp_path / "0", strix_halo()), "")
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 9 * GIB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 3 * GIB)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert profile.memory_budget_bytes() == int(84 * GIB * 0.8)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (10 * GIB, 20 * GIB))
    assert profile.memory_budget_bytes() == int(90 * GIB * 0.8)
    assert Cuda(Machine(), "").memory_budget_bytes() == int(16 * GIB * 0.9)


def test_the_share_that_torch_may_take(tmp_path: Path) -> None:
    profile = Gfx1151(machine(tmp_path, strix_halo()), "")
    assert profile.process_fraction(120 * GIB) == pytest.approx(84 * 0.8 / 120)
    # torch's total can be far too small, and more than all of it cannot be asked for.
    assert profile.process_fraction(15 * GIB) == 1.0
    assert profile.process_fraction(0) == 0.8
    assert Gfx1151(machine(tmp_path / "bare", {}), "").process_fraction(GIB) == 0.8


def test_a_memory_fraction_that_is_given_limits_torch_on_every_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (20 * GIB, 24 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 0)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 0)
    for name in ("cuda", "rocm"):
        given = choose(HardwareSection(profile=name, memory_fraction=0.5), machine(tmp_path, {}))
        assert given.process_fraction(24 * GIB) == pytest.approx(10 / 24)
        automatic = choose(HardwareSection(profile=name), machine(tmp_path, {}))
        assert automatic.process_fraction(24 * GIB) is None


def test_the_memory_of_a_cpu_is_what_the_container_leaves(tmp_path: Path) -> None:
    assert Cpu(machine(tmp_path / "0", LAPTOP), "").memory_budget_bytes() == int(10 * GIB * 0.6)
    limits = {"sys/fs/cgroup/memory.max": 8 * GIB, "sys/fs/cgroup/memory.current": 6 * GIB}
    assert Cpu(machine(tmp_path / "1", LAPTOP | limits), "").memory_budget_bytes() == int(2 * GIB * 0.6)
    cached = {"sys/fs/cgroup/memory.stat": f"anon 5\nactive_file {GIB}\ninactive_file {3 * GIB}"}
    assert Cpu(machine(tmp_path / "2", LAPTOP | limits | cached), "").memory_budget_bytes() == int(6 * GIB * 0.6)
    unlimited = {**limits, "sys/fs/cgroup/memory.max": "max"}
    assert Cpu(machine(tmp_path / "3", LAPTOP | unlimited), "").memory_budget_bytes() == int(10 * GIB * 0.6)
    assert Cpu(machine(tmp_path / "4", {}), "").memory_budget_bytes() is None


# ---- choices


@pytest.mark.parametrize("profile", PROFILES, ids=lambda each: each.name)
def test_larger_models_never_get_more(tmp_path: Path, profile: Any) -> None:
    for files in ({}, LAPTOP, strix_halo()):
        found = profile(machine(tmp_path / str(len(files)), files), "")
        sizes = [10**8, 5 * 10**8, 15 * 10**8, 3 * 10**9, 7 * 10**9, 7 * 10**10]
        rows = [found.rows_in_flight(size) for size in sizes]
        tokens = [found.max_tokens_per_pass(ModelSize(size), False) for size in sizes]
        assert rows == sorted(rows, reverse=True) and rows[-1] >= 1
        assert tokens == sorted(tokens, reverse=True) and tokens[-1] >= LEAST_TOKENS
        checkpointing = [found.gradient_checkpointing(ModelSize(size), 1024) for size in sizes]
        assert checkpointing == sorted(checkpointing)


def test_gfx1151(tmp_path: Path) -> None:
    found = Gfx1151(machine(tmp_path, strix_halo()), "")
    assert (found.dtype(), found.attention, found.optimizer, found.pin_memory) == (
        "bfloat16", "sdpa", "adamw_torch", False,
    )  # fmt: skip
    table = [(size, found.rows_in_flight(int(size * 1e9)), found.max_tokens_per_pass(ModelSize(int(size * 1e9)), False))
             for size in (0.5, 1.5, 3, 7)]  # fmt: skip
    assert table == [(0.5, 128, 8192), (1.5, 128, 8192), (3, 128, 4096), (7, 64, 2048)]
    checkpointing = [found.gradient_checkpointing(ModelSize(int(size * 1e9)), 1024) for size in (0.5, 1.5, 3.1)]
    assert checkpointing == [False, False, True]
    assert found.gradient_checkpointing(ModelSize(500_000_000), 4096)


def test_little_memory_means_short_passes_then_recomputed_activations(tmp_path: Path) -> None:
    roomy = Cpu(machine(tmp_path / "0", {"proc/meminfo": meminfo(64, 60)}), "")
    tight = Cpu(machine(tmp_path / "1", {"proc/meminfo": meminfo(8, 3)}), "")
    tightest = Cpu(machine(tmp_path / "3", {"proc/meminfo": meminfo(8, 1.5)}), "")
    small, large = ModelSize(10**8), ModelSize(3 * 10**9)
    assert [each.max_tokens_per_pass(small, False) for each in (roomy, tight, tightest)] == [512, 512, 256]
    # 3 GiB x 0.6 / 2 hold 980 tokens of 0.985 MB.
    assert not tight.gradient_checkpointing(small, 950)
    assert tight.gradient_checkpointing(small, 1000)
    assert not roomy.gradient_checkpointing(large, 900)
    unknown = Cpu(machine(tmp_path / "2", {}), "")
    assert [unknown.gradient_checkpointing(ModelSize(size), 900) for size in (10**9, 3 * 10**9)] == [False, True]


SMOLLM2 = ModelShape(576, 1536, 30, 576, 192, 49_152, tied=True)
QWEN_7B = ModelShape(3584, 18_944, 28, 3584, 512, 152_064)


def test_activations_by_hand() -> None:
    small = ModelSize(134_515_008, SMOLLM2)
    # 31 layers of 8 x 576 + 2 x (2 x 576 + 2 x 576 + 2 x 192 + 4 x 1536), and half of 12 x 49,152
    assert small.activation_bytes() == 31 * 22_272 + 294_912
    # A float32 pass was measured at 1.63 MB a token with an attention mask, for which keys and values were spread out.
    assert ModelSize(134_515_008, SMOLLM2, 4).activation_bytes() == 31 * 39_936 + 294_912
    large = ModelSize(7_615_616_512, QWEN_7B)
    assert large.activation_bytes() == 29 * 210_944 + 912_384
    assert large.activation_bytes(checkpointing=True) == 28 * 7168 + 210_944 + 912_384
    assert large.activation_bytes(checkpointing=True, fused_head=True) == 28 * 7168 + 210_944 + (65_536 + 14_336) // 2
    assert ModelSize(7_000_000_000).activation_bytes() == large.activation_bytes()


def test_shapes_by_hand() -> None:
    config = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
              "num_key_value_heads": 3, "vocab_size": 49_152, "tie_word_embeddings": True}  # fmt: skip
    assert ModelShape.of(config) == SMOLLM2
    assert SMOLLM2.num_parameters == 49_152 * 576 + 30 * (2 * 576 * (576 + 192) + 3 * 576 * 1536)
    layer = 2 * 3584 * (3584 + 512) + 3 * 3584 * 18_944
    assert QWEN_7B.num_parameters == 2 * 152_064 * 3584 + 28 * layer
    # In and out of q and o, of k and v, of the three matrices of the MLP
    assert QWEN_7B.adapter_rank_size == 28 * (2 * 2 * 3584 + 2 * (3584 + 512) + 3 * (3584 + 18_944))
    assert ModelShape.of({"d_model": 576}) is ModelShape.of(None) is None
    for changes in ({"num_attention_heads": 0}, {"hidden_size": 0}, {"vocab_size": -1}, {"num_hidden_layers": "many"}):
        assert ModelShape.of(config | changes) is None


@pytest.mark.parametrize(
    ("gigabytes", "weights", "triton", "recomputed", "tokens"),
    # 24 and 16 GB with weights in bfloat16 and in 4 bits; the driver takes half a gigabyte.
    [
        (24, 15.4, False, True, 2048),
        (24, 15.4, True, True, 2048),
        (16, 5.7, False, True, 2048),
        (80, 15.4, True, False, 2048),
    ],
)
def test_a_model_of_7_billion_gets_usable_passes(
    gigabytes: int, weights: float, triton: bool, recomputed: bool, tokens: int, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (int(gigabytes * GIB - (weights + 0.5) * 1e9), 0))
    for name in ("memory_reserved", "memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: int(weights * 1e9))
    cuda, size = Cuda(machine(tmp_path, NVIDIA, triton=triton), ""), ModelSize(7_615_616_512, QWEN_7B)
    assert cuda.training_pass(size, 1400) == (tokens, recomputed)
    assert cuda.training_pass(size, 1400, 100, False) == (100, False)


def test_the_fused_head_is_taken_where_a_gpu_has_triton(tmp_path: Path) -> None:
    with_triton, without = (machine(tmp_path / str(each), {}, triton=each) for each in (True, False))
    for profile in PROFILES:
        assert profile(with_triton, "").takes_fused_head() is (profile is not Cpu)
        assert profile(without, "").takes_fused_head() is False
        given = choose(HardwareSection(profile=profile.name, fused_head=True), without)
        assert given.takes_fused_head() is True
    assert choose(HardwareSection(profile="cuda", fused_head=False), with_triton).takes_fused_head() is False


def test_the_processor_decides_the_dtype(tmp_path: Path) -> None:
    assert Cpu(machine(tmp_path / "0", LAPTOP), "").dtype() == "float32"  # what the first processor says
    for number, flag in enumerate(("avx512_bf16", "amx_bf16"), start=1):
        flags = {"proc/cpuinfo": f"flags : fpu {flag} sse2"}
        assert Cpu(machine(tmp_path / str(number), flags), "").dtype() == "bfloat16"
    assert Cpu(machine(tmp_path / "3", {}), "").dtype() == "float32"


def test_unreadable_files_are_unknown(tmp_path: Path) -> None:
    found = machine(tmp_path, {f"{CARD}/vendor": "0x1002", f"{CARD}/mem_info_gtt_total": "", "proc/meminfo": "x"})
    assert found.card_bytes("mem_info_gtt_total") is found.memory_bytes("MemTotal") is found.ttm_bytes() is None
    assert found.gfx_targets() == found.amd_display_ids() == []
