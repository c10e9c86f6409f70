"""Several GPUs: the freest is used, and the others are hidden before torch is initialised."""

from __future__ import annotations

import dataclasses
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from made_up_machines import CARD, GIB, KFD, NVIDIA, machine, strix_halo

from halo_forge.config.sections import HardwareSection
from halo_forge.hardware import Gpu, Machine, as_torch_sees_it, choose, detect, free_bytes, prepare, with_one_gpu
from halo_forge.hardware.cuda import Cuda
from halo_forge.hardware.devices import ask_torch, freest, has_kernels, seen_by_torch, visibility

LARGE = Gpu("NVIDIA RTX 4090", free_bytes=20 * GIB, total_bytes=24 * GIB)
SMALL = Gpu("NVIDIA T400", free_bytes=3 * GIB, total_bytes=4 * GIB)
BUSY = dataclasses.replace(LARGE, free_bytes=GIB)
CHIP = Gpu("AMD Radeon Graphics", "gfx1151", free_bytes=120 * GIB, total_bytes=62 * GIB)
CARD_OF_AMD = Gpu("AMD Radeon RX 7900 XTX", "gfx1100", free_bytes=23 * GIB, total_bytes=24 * GIB)
# An old integrated GPU offers half of the main memory, and torch has no kernels for it.
WITHOUT_KERNELS = Gpu("AMD Radeon Graphics", "gfx1036", free_bytes=60 * GIB, total_bytes=62 * GIB, has_kernels=False)
FULL = dataclasses.replace(LARGE, free_bytes=0, failure="CUDA error: out of memory")
TWO_NVIDIA: dict[str, object] = {**NVIDIA, "dev/nvidia1": ""}
TWO_OF_AMD: dict[str, object] = {
    f"{KFD}/{n}/properties": f"gfx_target_version {t}" for n, t in enumerate((0, 110000, 100306))
}


def never(environment: Mapping[str, str]) -> list[Gpu]:
    raise AssertionError("torch was asked")


@pytest.mark.parametrize(
    ("gpus", "chosen"),
    [
        ([LARGE, SMALL], 0),
        ([SMALL, LARGE], 1),
        ([BUSY, SMALL], 1),
        ([LARGE, LARGE], 0),
        ([WITHOUT_KERNELS, CARD_OF_AMD], 1),
        ([WITHOUT_KERNELS], 0),
        ([FULL, dataclasses.replace(SMALL, free_bytes=0)], 1),
        ([WITHOUT_KERNELS, FULL], 1),
    ],
)
def test_the_freest_that_torch_has_kernels_for(gpus: list[Gpu], chosen: int) -> None:
    assert freest(gpus) == chosen


@pytest.mark.parametrize(
    ("index", "is_amd", "given", "expected"),
    [
        (1, False, {}, ("CUDA_VISIBLE_DEVICES", "1")),
        (1, False, {"CUDA_VISIBLE_DEVICES": "3, 2"}, ("CUDA_VISIBLE_DEVICES", "2")),
        (0, False, {"CUDA_VISIBLE_DEVICES": "GPU-5e, GPU-7a"}, ("CUDA_VISIBLE_DEVICES", "GPU-5e")),
        (1, True, {}, ("HIP_VISIBLE_DEVICES", "1")),
        (1, True, {"ROCR_VISIBLE_DEVICES": "4,5"}, ("HIP_VISIBLE_DEVICES", "1")),
        (1, True, {"CUDA_VISIBLE_DEVICES": "4,5"}, ("CUDA_VISIBLE_DEVICES", "5")),
    ],
)
def test_one_of_those_that_the_user_leaves(
    index: int, is_amd: bool, given: dict[str, str], expected: tuple[str, str]
) -> None:
    assert visibility(index, is_amd, given) == expected


def test_the_others_are_hidden_and_named(tmp_path: Path) -> None:
    environment: dict[str, str] = {}
    profile = detect(machine(tmp_path, TWO_NVIDIA))
    found = with_one_gpu(profile, lambda asked: [SMALL, LARGE], environment)
    assert environment == {"CUDA_VISIBLE_DEVICES": "1"}
    assert (found.gpu, found.unused) == (LARGE, (SMALL,))
    text = found.described()
    assert "the freest of 2 GPUs, by CUDA_VISIBLE_DEVICES=1): NVIDIA RTX 4090, 21.5 GB free" in text
    assert "not used: NVIDIA T400, 3.2 GB free" in text
    # What run.json keeps does not change with the free memory: resuming would note another machine each time.
    assert "GB" not in found.why


def test_a_chip_that_shares_its_memory_is_measured_by_the_kernels_figures(tmp_path: Path) -> None:
    files = strix_halo() | {f"{KFD}/2/properties": "gfx_target_version 110000", f"{CARD}/mem_info_gtt_total": 22 * GIB}
    here = machine(tmp_path, files)
    assert free_bytes(CHIP, here) == 20 * GIB and free_bytes(CARD_OF_AMD, here) == 23 * GIB
    environment: dict[str, str] = {}
    found = with_one_gpu(detect(here), lambda asked: [CHIP, CARD_OF_AMD], environment)
    assert environment == {"HIP_VISIBLE_DEVICES": "1"} and found.gpu == CARD_OF_AMD


@pytest.mark.parametrize("files", [NVIDIA, strix_halo(), {}])
def test_a_machine_with_one_gpu_or_none_is_not_asked(tmp_path: Path, files: dict[str, object]) -> None:
    environment: dict[str, str] = {}
    profile = detect(machine(tmp_path, files))
    assert with_one_gpu(profile, never, environment) is profile and environment == {}


def test_a_machine_that_does_not_say_how_many_is_asked(tmp_path: Path) -> None:
    """WSL shows one file for all GPUs."""
    profile = detect(machine(tmp_path, {"dev/dxg": ""}))
    environment: dict[str, str] = {}
    assert with_one_gpu(profile, lambda asked: [LARGE], environment) is profile and environment == {}
    assert with_one_gpu(profile, lambda asked: [SMALL, LARGE], environment).gpu == LARGE


def test_a_torch_that_is_initialised_already_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    environment: dict[str, str] = {}
    profile = with_one_gpu(detect(machine(tmp_path, TWO_NVIDIA)), never, environment)
    assert environment == {} and profile.gpu is None
    found = as_torch_sees_it(profile, LARGE, 2)
    assert found is not None
    assert found.why.endswith("torch was initialised before; torch uses the first of 2 GPUs")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    unknown = detect(machine(tmp_path / "wsl", {"dev/dxg": ""}))
    assert with_one_gpu(unknown, never, environment) is unknown


def test_that_torch_was_initialised_is_said_only_where_it_was(tmp_path: Path) -> None:
    def fails(environment: Mapping[str, str]) -> list[Gpu]:
        raise subprocess.SubprocessError("exit code 1: RuntimeError: no")

    found = as_torch_sees_it(with_one_gpu(detect(machine(tmp_path, TWO_NVIDIA)), fails, {}), LARGE, 2)
    assert found is not None and "exit code 1: RuntimeError: no; torch uses the first of 2" in found.why
    assert "initialised" not in found.why


@pytest.mark.parametrize("identity", [{"uuid": ("GPU-1", "GPU-2")}, {"pci": ("0000:01:00.0", "0000:02:00.0")}, {}])
def test_a_torch_that_looked_before_the_others_were_hidden_is_found_out(
    tmp_path: Path, identity: dict[str, tuple[str, str]]
) -> None:
    """`torch.cuda.is_available()` reads the variable, and `is_initialized` is false after it."""
    small, large = (
        dataclasses.replace(gpu, **{key: values[number] for key, values in identity.items()})
        for number, gpu in enumerate((SMALL, LARGE))
    )
    chosen = with_one_gpu(detect(machine(tmp_path, TWO_NVIDIA)), lambda asked: [small, large], {})
    wrong = as_torch_sees_it(chosen, small, 2)
    assert wrong is not None and (wrong.gpu, wrong.unused) == (small, (large,))
    assert "torch uses the first of 2 GPUs, not the chosen one: it had looked for GPUs before" in wrong.why
    right = as_torch_sees_it(chosen, dataclasses.replace(large, free_bytes=GIB), 1)
    assert right is not None and right.unused == (small,) and right.why == chosen.why


def test_files_alone_say_what_is_free_so_that_torch_is_not_started_before_the_others_are_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    def looks() -> bool:
        raise AssertionError("torch looked for GPUs")

    monkeypatch.setattr(torch.cuda, "is_available", looks)
    assert free_bytes(CHIP, machine(tmp_path, strix_halo())) == 84 * GIB


@pytest.mark.parametrize(
    "error",
    [OSError("no Python"), ValueError("no answer"), subprocess.SubprocessError("exit code -11: it says nothing")],
)
def test_a_torch_that_does_not_answer_stops_nothing_and_is_told_of(tmp_path: Path, error: Exception) -> None:
    def fails(environment: Mapping[str, str]) -> list[Gpu]:
        raise error

    found = with_one_gpu(detect(machine(tmp_path, TWO_OF_AMD)), fails, {})
    assert found.name == "rocm" and f"torch did not say which GPUs there are: {error}" in found.why


def test_before_torch_is_imported_a_run_has_one_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = machine(tmp_path, TWO_NVIDIA)
    monkeypatch.setattr("halo_forge.hardware.Machine", lambda: here)
    environment: dict[str, str] = {}
    found = prepare(HardwareSection(), ask=lambda asked: [SMALL, LARGE], environment=environment)
    assert environment == {"CUDA_VISIBLE_DEVICES": "1"} and found.gpu == LARGE
    assert choose(HardwareSection(), here).gpu is None, "a dry run asks nobody"


# ---- what torch says


class Properties:
    name, pci_domain_id, pci_bus_id, pci_device_id = "a GPU", 0, 0xC5, 2
    major, minor, total_memory = 9, 0, 9

    def __init__(self, chip: str) -> None:
        self.gcnArchName = f"{chip}:sramecc-:xnack-"


@pytest.mark.parametrize(
    ("hip", "chip", "built_for", "expected"),
    [
        (None, "", ["sm_90"], Gpu("a GPU", None, "0000:c5:02.0", 7, 9, True)),
        (None, "", ["sm_80"], Gpu("a GPU", None, "0000:c5:02.0", 7, 9, False)),
        ("7.14", "gfx1151", ["gfx1100", "gfx1151"], Gpu("a GPU", "gfx1151", "0000:c5:02.0", 7, 9, True)),
        ("7.14", "gfx1036", ["gfx1100", "gfx90a:xnack-"], Gpu("a GPU", "gfx1036", "0000:c5:02.0", 7, 9, False)),
        ("7.14", "gfx1103", ["gfx11-generic"], Gpu("a GPU", "gfx1103", "0000:c5:02.0", 7, 9, True)),
        ("7.14", "gfx1103", [], Gpu("a GPU", "gfx1103", "0000:c5:02.0", 7, 9, True)),
    ],
)
def test_what_is_read_from_torch(
    monkeypatch: pytest.MonkeyPatch, hip: str | None, chip: str, built_for: list[str], expected: Gpu
) -> None:
    import torch

    for name, value in {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "get_device_properties": lambda index: Properties(chip),
        "mem_get_info": lambda index: (7, 9),
        "get_arch_list": lambda: built_for,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch.version, "hip", hip)
    assert [Gpu(**row) for row in seen_by_torch()["gpus"]] == [expected]


def test_a_real_child_answers() -> None:
    import torch

    assert len(ask_torch(os.environ)) == torch.cuda.device_count()


def test_a_gpu_that_is_full_or_lent_to_another_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def free(index: int) -> tuple[int, int]:
        if index == 0:
            raise torch.AcceleratorError("CUDA error: out of memory\nFor debugging consider ...")
        return 7, 9

    for name, value in {
        "is_available": lambda: True,
        "device_count": lambda: 2,
        "get_device_properties": lambda index: Properties(""),
        "mem_get_info": free,
        "get_arch_list": lambda: ["sm_90"],
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch.version, "hip", None)
    gpus = [Gpu(**row) for row in seen_by_torch()["gpus"]]
    assert [(gpu.free_bytes, gpu.total_bytes, gpu.failure) for gpu in gpus] == [
        (0, 9, "CUDA error: out of memory"),
        (7, 9, ""),
    ]
    assert freest(gpus) == 1
    assert "a GPU, CUDA error: out of memory" in Cuda(Machine(), "a test", unused=(gpus[0],)).described()


KERNELS: list[tuple[str | tuple[int, int], list[str], bool]] = [
    ((9, 0), ["sm_80", "sm_90"], True),
    ((8, 9), ["sm_80", "sm_86", "sm_90"], True),  # a later minor of the same major
    ((8, 0), ["sm_86"], False),
    ((7, 0), ["sm_75", "sm_80"], False),
    ((12, 0), ["sm_90", "sm_100"], False),
    ((12, 0), ["sm_90", "compute_90"], True),  # compiled for it when it is loaded
    ((7, 0), ["compute_75"], False),
    ((9, 0), ["sm_90a"], True),
    ((12, 1), ["sm_120a"], False),
    ((10, 3), ["sm_100f"], True),
    ((11, 0), ["compute_100f"], False),
    ((3, 5), [], True),
    ("gfx1036", ["gfx11-generic"], False),
    ("gfx1036", ["gfx10-3-generic"], True),
    ("gfx1151", ["gfx11-generic"], True),
    ("gfx1201", ["gfx11-generic", "gfx1200"], False),
    ("gfx90a", ["gfx9-generic", "gfx9-4-generic"], False),
    ("gfx942", ["gfx9-4-generic:sramecc+:xnack-"], True),
    ("gfx1103", ["gfx13-generic"], False),
]


@pytest.mark.parametrize(("chip", "built_for", "expected"), KERNELS)
def test_which_chips_a_torch_has_kernels_for(chip: str | tuple[int, int], built_for: list[str], expected: bool) -> None:
    assert has_kernels(chip, built_for) is expected


def test_a_child_that_fails_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("halo_forge.hardware.devices.sys.executable", "/bin/false")
    with pytest.raises(subprocess.SubprocessError, match="exit code 1: it says nothing"):
        ask_torch(os.environ)
    says = tmp_path / "python"
    says.write_text("#!/bin/sh\necho Traceback >&2\necho 'RuntimeError: no driver' >&2\nexit 3\n")
    says.chmod(0o755)
    monkeypatch.setattr("halo_forge.hardware.devices.sys.executable", str(says))
    with pytest.raises(subprocess.SubprocessError, match="exit code 3: RuntimeError: no driver"):
        ask_torch(os.environ)
    monkeypatch.setattr("halo_forge.hardware.devices.sys.executable", "/bin/true")
    with pytest.raises(ValueError):
        ask_torch(os.environ)
