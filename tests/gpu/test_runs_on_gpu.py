"""Whole runs on a GPU: through the command line on made-up machines of each profile, resumed, judged, rolled back."""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_calls import Cli, command_line
from made_up_machines import CARD, GIB, KFD, NVIDIA, machine, meminfo, strix_halo
from scripted_runs import execute, read, rows

# The same runs as on the CPU: collected here, they train and sample on the GPU.
from test_drift_run import (  # noqa: F401
    HashVerifier,
    configured,
    test_a_resumed_run_measures_the_same,
    test_a_run_measures_how_far_its_versions_move,
    test_at_learning_rate_zero_nothing_moves_and_nothing_is_advised,
    verifier,
)
from test_loop_decline import test_the_weights_go_back_too  # noqa: F401

from halo_forge.hardware import Machine, Profile
from halo_forge.policy import adapter_digest

torch = pytest.importorskip("torch")

RADEON: dict[str, object] = {
    f"{KFD}/1/properties": "simd_count 96\ngfx_target_version 110000",
    f"{CARD}/vendor": "0x1002",
    f"{CARD}/mem_info_vram_total": 24 * GIB,
    "proc/meminfo": meminfo(64, 50),
    "dev/kfd": "",
}
MACHINES: dict[str, tuple[dict[str, object], dict[str, Any], str]] = {
    "cuda": (NVIDIA, {"name": "NVIDIA of files"}, "2.13.0+cu130"),
    "rocm": (RADEON, {"name": "Radeon of files", "gfx": "gfx1100"}, "2.13.0+rocm7.2"),
    "gfx1151": (strix_halo(), {"name": "Strix Halo of files", "gfx": "gfx1151", "memory_bytes": 120 * GIB},
                "2.13.0+rocm7.2"),
}  # fmt: skip
"""Profile -> files, what the pretended GPU is, version of torch."""
MakeMachine = Callable[[str], Machine]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Cli]:
    with command_line(monkeypatch, capsys) as run:
        yield run


@pytest.fixture
def made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pretended: None) -> MakeMachine:
    """Puts files and the pretended GPU of a profile in this machine's place."""
    from support.pretended_gpu import install

    def make(profile: str) -> Machine:
        files, options, version = MACHINES[profile]
        found = machine(tmp_path / "machine", files, torch=version)

        def made(*arguments: Any) -> Machine:
            return Machine(*arguments) if arguments else found

        for module in [each for name, each in sys.modules.items() if name.startswith("halo_forge")]:
            if getattr(module, "Machine", None) is Machine:
                monkeypatch.setattr(module, "Machine", made)
        install(**options)
        return found

    return make


def hardware_of(root: Path) -> dict[str, Any]:
    found: dict[str, Any] = read(root / "run.json")["hardware"]
    return found


@pytest.mark.pretended_gpu
@pytest.mark.parametrize("profile", MACHINES)
def test_a_run_through_the_command_line(
    profile: str,
    tmp_path: Path,
    tiny_models: dict[str, Path],
    verifier: HashVerifier,  # noqa: F811
    made_up: MakeMachine,
    cli: Cli,
) -> None:
    made_up(profile)
    config = configured(
        tmp_path,
        tiny_models["qwen2"],
        1e-2,
        training__gradient_checkpointing=True,
        training__optimizer={"across_cycles": "carry"},
        output_dir=str(tmp_path / "run"),
    )
    done = cli("raft", "run", config, "--set", "model.dtype=auto")
    assert done.code == 0, done.err
    assert f"hardware: {profile} (" in done.err
    found = hardware_of(tmp_path / "run")
    assert (found["profile"], found["model.dtype"]) == (profile, "bfloat16")
    assert json.loads(cli("raft", "status", tmp_path / "run", "--json").out)["state"] == "finished"
    digests = [adapter_digest(tmp_path / f"run/cycles/00{cycle}/adapter") for cycle in (1, 2)]
    assert digests[0] != digests[1]
    moved = read(tmp_path / "run/cycles/003/drift.json")["metrics"]["kl_to_start"]
    assert moved > 0


@pytest.mark.pretended_gpu
def test_a_gpu_that_only_torch_sees_is_the_one_that_is_named(
    tmp_path: Path,
    tiny_models: dict[str, Path],
    verifier: HashVerifier,  # noqa: F811
    cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
    pretended: None,
) -> None:
    """This machine's files show no GPU."""
    from support.pretended_gpu import install

    install(name="Strix Halo of torch", gfx="gfx1151")
    variable = "TORCH_ROCM_AOTRITON_ENABLE_EXPERIMENTAL"
    monkeypatch.setenv(variable, "x")  # so that it is put back afterwards, whatever sets it
    monkeypatch.delenv(variable)
    config = configured(tmp_path, tiny_models["llama"], 1e-2, output_dir=str(tmp_path / "run"), raft__num_cycles=1)
    done = cli("raft", "run", config)
    assert done.code == 0, done.err
    (line,) = [each for each in done.err.splitlines() if each.startswith("hardware:")]
    assert line.startswith("hardware: gfx1151 (") and "Strix Halo of torch" in line
    found = hardware_of(tmp_path / "run")
    assert found["profile"] == "gfx1151"
    assert found["environment"] == {variable: os.environ[variable]}


@pytest.mark.pretended_gpu
@pytest.mark.parametrize("profile", MACHINES)
def test_the_doctor_finds_the_gpu_and_tries_it(
    profile: str, made_up: MakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from support.pretended_gpu import environment

    from halo_forge.checks.doctor import _probes
    from halo_forge.checks.doctor._probe_checks import ProbeOutcome, Runner, run_probe
    from halo_forge.checks.doctor.hardware import hardware_section

    found = made_up(profile)
    for name, value in environment(**MACHINES[profile][1]).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(_probes, "LARGE_SIZE", 64)  # a processor takes long for products of a GPU's size
    tried: list[str] = []

    def runner(wanted: Profile) -> Runner:
        def probe(name: str) -> ProbeOutcome:
            tried.append(name)
            # In this process, because four more that import torch take long; one shows that a child sees the same.
            child = (profile, name) == ("gfx1151", "seen")
            return run_probe(wanted, name) if child else ProbeOutcome(_probes.PROBES[name]())

        return probe

    section = hardware_section(found, lambda *arguments: None, runner)
    lines = {line.name: line for line in section.lines}
    assert section.facts["profile"] == profile
    assert MACHINES[profile][1]["name"] in lines["torch sees"].found
    assert lines["kernel launch"].state == lines["attention"].state == "ok", lines
    assert set(tried) == set(_probes.PROBES)


def test_a_run_is_the_cpus(
    tmp_path: Path,
    tiny_models: dict[str, Path],
    verifier: HashVerifier,  # noqa: F811
) -> None:
    """In float32: the same answers, and adapters that differ by rounding alone."""
    found = []
    for profile in ("cpu", "auto"):
        config = configured(tmp_path / profile, tiny_models["llama"], 1e-3, hardware__profile=profile)
        execute(config, tmp_path / profile / "run")
        found.append(tmp_path / profile / "run/cycles")
    cpu, gpu = found
    assert hardware_of(gpu.parent)["profile"] != "cpu" == hardware_of(cpu.parent)["profile"]
    for folder in ("001", "002"):
        for name in ("completions.jsonl", "dev_completions.jsonl"):
            assert rows(gpu / folder / name) == rows(cpu / folder / name)
    for name in ("drift", "trained"):
        one, other = (read(cycles / f"002/{name}.json")["metrics"] for cycles in found)
        assert other == pytest.approx(one, rel=1e-2, abs=1e-5)


@pytest.mark.pretended_gpu
def test_a_training_that_runs_out_of_memory_is_resumed_with_smaller_passes(
    tmp_path: Path,
    tiny_models: dict[str, Path],
    verifier: HashVerifier,  # noqa: F811
    made_up: MakeMachine,
    cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from support.pretended_gpu import install

    from halo_forge.training.lora_sft import LoraSftTrainer

    made_up("cuda")
    config = configured(
        tmp_path, tiny_models["llama"], 1e-2, raft__num_cycles=1, output_dir=str(tmp_path / "run"),
        training__per_device_train_batch_size=8, training__max_tokens_per_pass=4096,
    )  # fmt: skip
    small = ("--set", "training.max_tokens_per_pass=64")
    train, limit, taken = LoraSftTrainer.train, None, []

    def with_limit(*arguments: Any, **options: Any) -> Any:
        gc.collect()  # what is garbage by now must not count as room
        before = torch.cuda.memory_allocated()
        install(**({} if limit is None else {"memory_bytes": before + limit}))
        torch.cuda.reset_peak_memory_stats()
        try:
            return train(*arguments, **options)
        finally:
            taken.append(torch.cuda.max_memory_allocated() - before)
            install()

    with monkeypatch.context() as patch:
        patch.setattr(LoraSftTrainer, "train", with_limit)
        for name, options in (("one pass", ()), ("small passes", small)):
            done = cli("raft", "run", config, "--output-dir", str(tmp_path / name), *options)
            assert done.code == 0, done.err
        one_pass, small_passes = taken
        assert one_pass > 1.5 * small_passes
        limit = (one_pass + small_passes) // 2
        done = cli("raft", "run", config)
        assert done.code == 5 and "out of GPU memory" in done.err and "max_tokens_per_pass" in done.err
        completions = (tmp_path / "run/cycles/001/completions.jsonl").read_bytes()
        done = cli("raft", "run", config, "--resume", *small)
        assert done.code == 0, done.err
    assert (tmp_path / "run/cycles/001/completions.jsonl").read_bytes() == completions
    assert (tmp_path / "run/cycles/001/trained.json").exists()
