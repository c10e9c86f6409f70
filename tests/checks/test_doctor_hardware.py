"""The section `hardware` on machines of every kind; probes are real child processes that end in every way."""

from __future__ import annotations

import os
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from made_up_machines import CARD, GIB, LAPTOP, NVIDIA, machine, meminfo, strix_halo

from halo_forge.checks.doctor import Line, _probes
from halo_forge.checks.doctor._machine_checks import kernel_is_new_enough
from halo_forge.checks.doctor._probe_checks import MOST_ERROR, Outcome, outcome_of
from halo_forge.checks.doctor.hardware import LEAST_TORCH, hardware_section
from halo_forge.hardware import Gpu

CASES = [f"{case}, {scores} scores" for case in ("training", "prompts", "decoding") for scores in ("small", "large")]
RIGHT: dict[str, Any] = dict.fromkeys(CASES, 0.004)
REFUSED: dict[str, Any] = dict.fromkeys(CASES, "No available kernel")


def seen(free: float = 100 * GIB, total: float = 120 * GIB, architecture: str | None = "gfx1151") -> Outcome:
    gpu = {"name": "AMD Radeon Graphics", "architecture": architecture, "free_bytes": free, "total_bytes": total}
    return Outcome({"available": True, "gpus": [gpu]})


def attention(**kernels: dict[str, Any]) -> Outcome:
    return Outcome({"chosen": RIGHT, "flash": RIGHT, "efficient": RIGHT, **kernels})


WELL: dict[str, Outcome] = {
    "seen": seen(),
    "kernel": Outcome({"relative_error": 0.003}),
    "attention": attention(),
    "speed": Outcome({"flops": 30e12}),
}
ROCM = "2.14.0+rocm10.1"


def section(
    root: Path, files: dict[str, object], *, torch: str | None = ROCM, firmware: str | None = "20260110",
    probes: dict[str, Outcome] | None = None, **environment: str,
) -> Any:  # fmt: skip
    return hardware_section(
        machine(root, files, torch=torch, **environment),
        lambda command: firmware if command[0] == "dpkg-query" else None,
        lambda profile: lambda name: (WELL if probes is None else WELL | probes)[name],
    )


def lines(found: Any, name: str) -> list[Line]:
    return [line for line in found.lines if line.name == name]


def line(found: Any, name: str) -> Line:
    (only,) = lines(found, name)
    return only


def test_a_strix_halo_that_is_well(tmp_path: Path) -> None:
    found = section(tmp_path, strix_halo())
    assert found.can_run
    assert [each for each in found.lines if each.state not in ("ok", "note")] == [
        Line("platform profile", "unknown", "not available")
    ]
    assert [each.name for each in found.lines if each.fix] == []
    assert found.facts["profile"] == "gfx1151"
    assert found.facts["memory_budget_bytes"] == int(84 * GIB * 0.8)
    assert found.facts["sensors"] == ["busy", "celsius", "memory_bytes", "watts"]
    assert line(found, "matrix products").found == "30.0 TFLOP/s in bfloat16"
    assert line(found, "TORCH_ROCM_AOTRITON_ENABLE_EXPERIMENTAL").found == "1 in a run"


def test_what_cannot_be_read_is_unknown_and_never_0(tmp_path: Path) -> None:
    bare = {"sys/class/kfd/kfd/topology/nodes/1/properties": "gfx_target_version 110501", "dev/kfd": ""}
    found = section(tmp_path, bare, firmware=None)
    unknown = {each.name for each in found.lines if each.state == "unknown"}
    assert unknown == {
        "kernel", "firmware", "main memory", "VRAM", "GPU memory limit", "swap", "IOMMU", "memory budget", "sensors",
        "platform profile",
    }  # fmt: skip
    assert not any("0.0 GB" in each.found for each in found.lines)
    assert found.facts["memory_budget_bytes"] is None


CHANGES: list[tuple[dict[str, object], dict[str, Any], str, str, str, str]] = [
    # files, other arguments, line, state, part of what is found, part of what to do
    ({"proc/sys/kernel/osrelease": "6.14.0-37-generic"}, {}, "kernel", "failed", "too old", "6.18.4"),
    ({}, {"firmware": "20251125-1"}, "firmware", "failed", "known to hang", "20260110"),
    ({}, {"firmware": "20240318.git3b128b60-0ubuntu2"}, "firmware", "note", "older than 20260110", ""),
    ({}, {"firmware": "1:99"}, "firmware", "unknown", "no date", "20251125 hangs"),
    ({f"{CARD}/mem_info_vram_total": 64 * GIB}, {}, "VRAM", "note", "68.7 GB is reserved but not used", "BIOS"),
    ({f"{CARD}/mem_info_vram_total": 120 * GIB, "proc/sys/kernel/osrelease": "6.14.0-1018-oem"}, {}, "VRAM", "note",
     "a kernel before 6.15 uses only GTT", "BIOS"),
    ({f"{CARD}/mem_info_vram_total": 120 * GIB}, {}, "GPU memory limit", "ok", "128.8 GB reserved in the BIOS", ""),
    ({"sys/module/ttm/parameters/pages_limit": 62 * GIB // 4096}, {}, "GPU memory limit", "note", "66.6 GB",
     "sudo amd-ttm --set 94"),
    ({"proc/cmdline": "ro amd_iommu=off"}, {}, "IOMMU", "note", "off", ""),
    ({"proc/meminfo": meminfo(125.6, 20)}, {}, "memory budget", "ok", "3.4 GB", ""),
    ({f"{CARD}/hwmon/hwmon3/temp1_input": 96_000}, {}, "temperature", "note", "96 degrees", "cool"),
    ({"run/.containerenv": ""}, {}, "container", "note", "podman", ""),
    ({}, {"HSA_OVERRIDE_GFX_VERSION": "11.5.1"}, "HSA_OVERRIDE_GFX_VERSION", "note", "11.5.1", "unset HSA_OVERRIDE"),
    ({}, {"HSA_ENABLE_SDMA": "0"}, "HSA_ENABLE_SDMA", "note", "debugging", "unset"),
    ({}, {"PYTORCH_HIP_ALLOC_CONF": "expandable_segments:True"}, "PYTORCH_HIP_ALLOC_CONF", "note", "hangs", "unset"),
    ({}, {"LD_LIBRARY_PATH": "/usr/lib:/opt/rocm/lib"}, "LD_LIBRARY_PATH", "note", "mixes", "unset"),
    ({}, {"OMP_NUM_THREADS": "1"}, "OMP_NUM_THREADS", "note", "one thread", "unset"),
    ({}, {"torch": "2.9.1+rocm7.2"}, "torch", "failed", "older than 2.11", "whl/gfx1151"),
    ({}, {"torch": "2.13.0a0+rocm7.14.0a20260612"}, "torch", "note", "crashes as soon as", "whl/gfx1151"),
    ({}, {"torch": "2.15.0a0+rocm10.1.0a20260821"}, "torch", "note", "hangs in attention", "whl/gfx1151"),
    ({}, {"torch": None}, "torch", "missing", "not installed", "whl/gfx1151"),
    ({}, {"torch": "2.13.0+cpu"}, "torch", "note", "not built for the GPU", "whl/gfx1151"),
]  # fmt: skip


@pytest.mark.parametrize(("files", "arguments", "name", "state", "text", "fix"), CHANGES)
def test_each_check(
    tmp_path: Path, files: dict[str, object], arguments: dict[str, Any], name: str, state: str, text: str, fix: str
) -> None:
    found = section(tmp_path, strix_halo(**files), **arguments)
    changed = line(found, name)
    assert changed.state == state and text in changed.found
    assert fix in changed.fix and bool(fix) == bool(changed.fix)
    # Only a torch that is missing or too old keeps a run from starting.
    assert found.can_run == (state not in ("failed", "missing") or name != "torch")


def test_harmless_values_are_not_complained_about(tmp_path: Path) -> None:
    fine = {"HSA_ENABLE_SDMA": "1", "OMP_NUM_THREADS": "8", "PYTORCH_ALLOC_CONF": "max_split_size_mb:64"}
    found = section(tmp_path, strix_halo(), **fine)
    assert line(found, "environment").state == "ok"
    nvidia = section(tmp_path / "other", NVIDIA, torch="2.13.0+cu130", HSA_OVERRIDE_GFX_VERSION="11.0.0")
    assert line(nvidia, "environment").state == "ok", "nothing reads it there"


@pytest.mark.parametrize(
    ("release", "good"),
    [
        ("6.18.4", True), ("6.18.3-arch1-1", False), ("6.19.0-rc3", True), ("7.0.0-12-generic", True),
        ("6.17.0-19-generic", True), ("6.17.0-18-generic", False), ("6.14.0-1018-oem", True),
        ("6.14.0-1017-oem", False), ("6.17.0-1004-oem", True), ("6.11.0-29-generic", False), ("unheard of", None),
    ],
)  # fmt: skip
def test_kernels(release: str, good: bool | None) -> None:
    assert kernel_is_new_enough(release) is good


def test_devices_that_are_not_there_or_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = strix_halo()
    del files["dev/dri/renderD128"]
    found = section(tmp_path, files)
    assert [each.state for each in lines(found, "device")] == ["ok", "missing"]
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    refused = section(tmp_path / "other", strix_halo())
    assert all(each.state == "failed" and "usermod -aG" in each.fix for each in lines(refused, "device"))


# ---- without a GPU


@pytest.mark.parametrize("files", [{}, LAPTOP])
def test_without_a_gpu_nothing_is_tried_and_a_run_can_start(tmp_path: Path, files: dict[str, object]) -> None:
    def no_probe(name: str) -> Outcome:
        raise AssertionError(f"{name} was started")

    found = hardware_section(machine(tmp_path, files, torch="2.13.0+cpu"), lambda command: None, lambda _: no_probe)
    assert found.can_run
    assert line(found, "probes") == Line("probes", "skipped", "no GPU for a run: no GPU found")
    assert line(found, "profile").found == "cpu: no GPU found"
    without = section(tmp_path / "other", files, torch=None)
    assert not without.can_run and "whl/cpu" in line(without, "torch").fix


# ---- probes


@pytest.mark.parametrize("torch", ["2.15.0a0+rocm10.1.0a20260821", "2.13.0a0+rocm7.14.0a20260612"])
def test_a_torch_with_a_note_is_tried_all_the_same(tmp_path: Path, torch: str) -> None:
    found = section(tmp_path, strix_halo(), torch=torch)
    assert (line(found, "torch").state, line(found, "attention").state) == ("note", "ok")
    crashes = section(tmp_path, strix_halo(), torch=torch, probes={"seen": Outcome(None, "killed by SIGSEGV")})
    assert line(crashes, "torch sees").found == "killed by SIGSEGV" and not crashes.can_run


@pytest.mark.parametrize("torch", [None, "2.9.1+rocm7.2"])
def test_a_torch_that_is_missing_or_too_old_is_not_tried(tmp_path: Path, torch: str | None) -> None:
    found = section(tmp_path, strix_halo(), torch=torch)
    assert line(found, "probes") == Line("probes", "skipped", "fix torch first")


def test_a_gpu_that_only_torch_sees_is_tried_too(tmp_path: Path) -> None:
    found = section(tmp_path, LAPTOP, torch="2.13.0+rocm7.2", probes={"seen": seen(architecture="gfx1100")})
    assert line(found, "profile of this GPU").found.startswith("rocm: torch uses AMD Radeon Graphics, gfx1100, which")
    assert line(found, "kernel launch").state == line(found, "attention").state == "ok"


@pytest.mark.parametrize(
    ("outcome", "text"),
    [(Outcome({"available": False}), "no GPU found"), (Outcome(None, "killed by SIGSEGV"), "killed by SIGSEGV")],
)
def test_where_neither_files_nor_torch_see_a_gpu_a_run_can_start(tmp_path: Path, outcome: Outcome, text: str) -> None:
    found = section(tmp_path, LAPTOP, torch="2.13.0+cu130", probes={"seen": outcome})
    assert found.can_run and text in line(found, "probes").found


def test_a_gpu_that_torch_does_not_see_stops_a_run(tmp_path: Path) -> None:
    found = section(tmp_path, NVIDIA, torch="2.13.0+cu130", probes={"seen": Outcome({"available": False})})
    assert not found.can_run
    assert "hardware.profile: cpu" in line(found, "kernel launch").fix
    assert {each.state for each in found.lines if each.name in ("attention", "matrix products")} == {"skipped"}


PROBES: list[tuple[dict[str, Outcome], str, str, str, bool]] = [
    ({"kernel": Outcome(None, "killed by SIGSEGV", "pin")}, "kernel launch", "failed", "SIGSEGV", False),
    ({"kernel": Outcome({"relative_error": 0.7})}, "kernel launch", "failed", "wrong result", False),
    ({"kernel": Outcome({"relative_error": float("nan")})}, "kernel launch", "failed", "wrong result", False),
    ({"attention": attention(flash=REFUSED)}, "attention", "ok",
     "sdpa: chosen: correct; flash: refuses (No available kernel); efficient: correct", True),
    ({"attention": attention(flash=RIGHT | {CASES[4]: "no masks"})}, "attention", "ok", f"refuses {CASES[4]}", True),
    ({"attention": attention(flash=REFUSED, efficient=REFUSED)}, "attention", "note", "plain attention", True),
    ({"attention": attention(chosen=RIGHT | {CASES[5]: float("nan")})}, "attention", "failed",
     "chosen: WRONG for decoding, large scores nan; flash: correct", True),
    ({"attention": attention(chosen=RIGHT | {CASES[0]: 0.5})}, "attention", "failed", f"{CASES[0]} 0.5", True),
    ({"attention": attention(flash=RIGHT | {CASES[1]: float("nan")})}, "attention", "note", "does not choose", True),
    ({"attention": Outcome(None, "did not finish within 120 s")}, "attention", "failed", "did not finish", True),
    ({"speed": Outcome({"flops": 5.1e12})}, "matrix products", "note", "5.1 TFLOP/s", True),
    ({"seen": seen(120 * GIB, 62 * GIB)}, "torch's memory figure", "note",
     "implausible", True),
]  # fmt: skip


@pytest.mark.parametrize(("probes", "name", "state", "text", "can_run"), PROBES)
def test_what_probes_say(
    tmp_path: Path, probes: dict[str, Outcome], name: str, state: str, text: str, can_run: bool
) -> None:
    found = section(tmp_path, strix_halo(), probes=probes)
    assert line(found, name).state == state
    assert text in line(found, name).found
    assert found.can_run == can_run


@pytest.mark.parametrize(("architecture", "name"), [(None, "cuda"), ("gfx1100", "rocm"), ("gfx1151", None)])
def test_a_gpu_that_is_not_the_one_of_the_files_is_told_of(
    tmp_path: Path, architecture: str | None, name: str | None
) -> None:
    found = section(tmp_path, strix_halo(), probes={"seen": seen(architecture=architecture)})
    assert [each.found.split(":")[0] for each in lines(found, "profile of this GPU")] == (
        [] if name is None else [name]
    )


def test_the_freest_of_several_gpus_is_what_the_probes_try(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    gpus = [Gpu("NVIDIA T400", None, None, 3 * GIB, 4 * GIB), Gpu("NVIDIA RTX 4090", None, None, 20 * GIB, 24 * GIB)]
    visible: list[str] = []

    def run(name: str) -> Outcome:
        visible.append(os.environ["CUDA_VISIBLE_DEVICES"])
        return WELL[name]

    here = machine(tmp_path, {**NVIDIA, "dev/nvidia1": ""}, torch="2.13.0+cu130")
    found = hardware_section(here, lambda command: None, lambda profile: run, lambda environment: gpus)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert set(visible) == {"1"}
    gpus_line = line(found, "GPUs")
    assert gpus_line.state == "ok"
    assert "NVIDIA RTX 4090, 21.5 GB free; not used: NVIDIA T400, 3.2 GB free" in gpus_line.found


# ---- the probe of attention, with the CPU's kernels in the place of a GPU's


def probed(monkeypatch: pytest.MonkeyPatch, broken: Any = None) -> dict[str, Any]:
    """What the probe finds where `broken(original, *arguments, **options)` takes the place of a kernel of the GPU."""
    import torch
    from torch.nn import functional

    original = functional.scaled_dot_product_attention
    moved: list[Any] = []

    def to_gpu(tensor: Any) -> Any:
        moved.append(copy := tensor.clone())
        return copy

    def attend(query: Any, *others: Any, **options: Any) -> Any:
        on_gpu = any(query.untyped_storage().data_ptr() == each.untyped_storage().data_ptr() for each in moved)
        return (broken if on_gpu and broken is not None else _as_it_is)(original, query, *others, **options)

    monkeypatch.setattr(torch.Tensor, "cuda", to_gpu)
    monkeypatch.setattr(functional, "scaled_dot_product_attention", attend)
    return _probes.attention()


def _as_it_is(original: Any, *inputs: Any, **options: Any) -> Any:
    return original(*inputs, **options)


def test_an_attention_that_is_right_is_called_right(monkeypatch: pytest.MonkeyPatch) -> None:
    found = probed(monkeypatch)
    assert list(found["chosen"]) == CASES
    assert all(error <= MOST_ERROR for error in found["chosen"].values())
    assert all(isinstance(error, str) for error in found["efficient"].values()), "the CPU has no such kernel"


def half_range(original: Any, query: Any, key: Any, value: Any, **options: Any) -> Any:
    """As a kernel that keeps products of queries and keys in float16: NaN where they are too large."""
    mixed = original(query, key, value, **options)
    groups = query.shape[1] // key.shape[1]
    products = (query.float() @ key.repeat_interleave(groups, 1).float().transpose(-1, -2)).abs().amax(-1, keepdim=True)
    return mixed.masked_fill(products > 65_504, float("nan"))


def ignores_masks(original: Any, query: Any, key: Any, value: Any, attn_mask: Any = None, **options: Any) -> Any:
    return original(query, key, value, **options)


def spoils_padding(original: Any, query: Any, key: Any, value: Any, attn_mask: Any = None, **options: Any) -> Any:
    """As a kernel that divides by the sum of nothing: in the next layer every row sums over such values."""
    mixed = original(query, key, value, attn_mask=attn_mask, **options)
    if attn_mask is None or attn_mask.dtype.is_floating_point:
        return mixed
    return mixed.masked_fill(~attn_mask.any(-1, keepdim=True), float("nan"))


def one_group(original: Any, query: Any, key: Any, value: Any, **options: Any) -> Any:
    """As a kernel that gives every query head the first head of the keys."""
    return original(query, key[:, :1].expand_as(key), value[:, :1].expand_as(value), **options)


@pytest.mark.parametrize(
    ("broken", "wrong"),
    [
        (half_range, [case for case in CASES if "large" in case]),
        (ignores_masks, [case for case in CASES if "training" not in case]),
        (spoils_padding, [case for case in CASES if "prompts" in case]),
        (one_group, CASES),
    ],
)
def test_a_broken_attention_is_found(monkeypatch: pytest.MonkeyPatch, broken: Any, wrong: list[str]) -> None:
    found = probed(monkeypatch, broken)["chosen"]
    assert [case for case, error in found.items() if not error <= MOST_ERROR] == wrong


def test_an_error_that_only_gradients_have_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def detached(original: Any, query: Any, key: Any, value: Any, **options: Any) -> Any:
        return original(query, key.detach() + 0 * key, value, **options)

    found = probed(monkeypatch, detached)["chosen"]
    assert [case for case, error in found.items() if not error <= MOST_ERROR] == ["training, small scores"]


PROGRAMS: list[tuple[str, float, dict[str, Any] | None, str, str]] = [
    ('print("noise"); print(\'{"flops": 1.5}\')', 20, {"flops": 1.5}, "", ""),
    ("import sys; sys.exit('RuntimeError: HIP error: invalid device function')", 20, None,
     "exit code 1: RuntimeError: HIP error: invalid device function", "unset HSA_OVERRIDE_GFX_VERSION"),
    ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", 20, None, "killed by SIGSEGV", "pin another build"),
    ("import time; time.sleep(60)", 0.3, None, "did not finish within 0.3 s", "HSA_ENABLE_INTERRUPT=0"),
    ("print('no JSON')", 20, None, "printed no result", ""),
    ("pass", 20, None, "printed no result", ""),
]  # fmt: skip


@pytest.mark.parametrize(("program", "seconds", "result", "failure", "fix"), PROGRAMS)
def test_children_that_end_in_every_way(
    program: str, seconds: float, result: dict[str, Any] | None, failure: str, fix: str
) -> None:
    outcome = outcome_of([sys.executable, "-c", program], dict(os.environ), seconds)
    assert outcome.found == result
    assert failure in outcome.failure and bool(failure) == bool(outcome.failure)
    assert fix in outcome.fix


def test_a_real_probe_on_this_machine() -> None:
    """Imports torch in a child and says what it sees."""
    outcome = outcome_of([sys.executable, "-m", "halo_forge.checks.doctor._probes", "seen"], dict(os.environ), 300)
    assert outcome.found is not None, outcome.failure
    import torch

    assert outcome.found["available"] == torch.cuda.is_available()


def test_the_oldest_torch_is_the_one_of_the_package() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (needed,) = [each for each in project["dependencies"] if each.startswith("torch>")]
    assert needed.startswith(f"torch>={LEAST_TORCH[0]}.{LEAST_TORCH[1]},")
