"""What `auto` becomes: the dry run, run.json and the run itself say and do the same."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from made_up_machines import LAPTOP, NVIDIA, machine, strix_halo
from scripted_runs import MemoryVerifier, execute, write_inputs
from tiny_models import TrainingOptions, load_policy

from halo_forge import hardware
from halo_forge.cli import raft
from halo_forge.cli.preview import print_preview
from halo_forge.cli.status import cycle_columns
from halo_forge.config import RaftConfig, config_digest, load_config
from halo_forge.engines.scripted import ScriptedSpec
from halo_forge.engines.transformers import TransformersSpec
from halo_forge.hardware import ModelSize, Profile, choose, detect
from halo_forge.policy.device import on_this_torch
from halo_forge.runtime.auto_settings import estimated_parameters, hardware_choices
from halo_forge.runtime.preview import preview
from halo_forge.store.status import CycleRow, read_status
from halo_forge.training.lora_sft import LoraSftTrainer


def config(**sections: Any) -> RaftConfig:
    sections = {"model": {"model_name_or_path": "nobody/model-1.5b-instruct"}, "output_dir": "run", **sections}
    return RaftConfig.model_validate(sections)


def chosen(root: Path, files: dict[str, object], num_parameters: int | None = 1_500_000_000, **sections: Any) -> Any:
    settings = config(**sections)
    return hardware_choices(settings, choose(settings.hardware, machine(root, files)), num_parameters)


@pytest.fixture(autouse=True)
def processors(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """32 of them."""
    found = set(range(32))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: found)
    return found


def test_the_values_of_a_profile(tmp_path: Path) -> None:
    assert chosen(tmp_path, strix_halo()) == {
        "profile": "gfx1151",
        "why": "gfx_target_version 110501 in /sys/class/kfd",
        "num_parameters": 1_500_000_000,
        "model.dtype": "bfloat16",
        "model.quantization": "none",
        "model.attn_implementation": "sdpa",
        "training.max_tokens_per_pass": 8192,
        "training.gradient_checkpointing": False,
        "engine.batch_size": 128,
        "verifier.workers": 30,
        "hardware.memory_fraction": 0.8,
        "hardware.optimizer": "adamw_torch",
        "hardware.pin_memory": False,
        "hardware.fused_head": False,
        "environment": {"TORCH_ROCM_AOTRITON_ENABLE_EXPERIMENTAL": "1"},
    }


GIVEN = {
    "model.dtype": "float32",
    "model.quantization": "4bit",
    "model.attn_implementation": "eager",
    "training.max_tokens_per_pass": 1000,
    "training.gradient_checkpointing": True,
    "engine.batch_size": 5,
    "verifier.workers": 4,
    "hardware.memory_fraction": 0.5,
    "hardware.optimizer": "adamw_torch_fused",
    "hardware.pin_memory": True,
    "hardware.fused_head": True,
}


@pytest.mark.parametrize("key", GIVEN)
def test_every_value_can_be_given_by_its_name(tmp_path: Path, key: str) -> None:
    section, name = key.split(".")
    given: dict[str, Any] = {section: {name: GIVEN[key]}}
    if section == "verifier":
        given["verifier"]["kind"] = "c"
    if section == "model":
        given["model"]["model_name_or_path"] = "nobody/model"
    # Of a size whose passes are as long in float32, and with less memory.
    automatic, found = (chosen(tmp_path, strix_halo(), 500_000_000, **each) for each in ({}, given))
    assert found[key] == GIVEN[key] != automatic[key]
    assert {other for other in found if found[other] != automatic[other]} == {key}


@pytest.mark.parametrize(
    ("files", "num_processors", "workers", "expected"),
    [
        (strix_halo(), 32, "auto", 30),
        (NVIDIA, 8, "auto", 6),
        (NVIDIA, 2, "auto", 1),
        (NVIDIA, 1, "auto", 1),
        (NVIDIA, 8, 8, 8),
        (LAPTOP, 8, "auto", 8),
    ],
)
def test_checking_leaves_processors_to_a_gpu(
    tmp_path: Path, processors: set[int], files: dict[str, object], num_processors: int, workers: Any, expected: int
) -> None:
    processors -= set(range(num_processors, 32))
    verifier = {"kind": "c", "workers": workers}
    assert chosen(tmp_path, files, verifier=verifier)["verifier.workers"] == expected


def test_the_verifier_of_a_run_has_as_many_workers_as_are_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[int] = []
    monkeypatch.setattr(
        "halo_forge.verifiers.verifier.ThreadedVerifier",
        lambda spec: (opened.append(spec.num_workers), MemoryVerifier())[1],
    )
    profile = choose(config().hardware, machine(tmp_path, NVIDIA))
    _loads_policy(monkeypatch, profile)
    monkeypatch.setattr("halo_forge.runtime.assembly.prepare", lambda settings: profile)
    monkeypatch.setattr("scripted_runs.run_raft", lambda plan, directory, runtime: None)
    execute(write_inputs(tmp_path / "inputs"), tmp_path / "run")
    recorded = json.loads((tmp_path / "run/run.json").read_text())["hardware"]
    assert opened == [30] and recorded["verifier.workers"] == 30
    resolved = (tmp_path / "run/config.resolved.yaml").read_text()
    assert "workers: auto" in resolved, "the configuration stays what it was"


def _loads_policy(monkeypatch: pytest.MonkeyPatch, profile: Profile) -> None:
    """Opening a run loads a policy with this profile, and no model."""
    rendering = SimpleNamespace(notes=tuple)
    policy = SimpleNamespace(profile=profile, size=ModelSize(1), identity={}, rendering=rendering)
    monkeypatch.setattr(ScriptedSpec, "needs_policy", True)
    monkeypatch.setattr("halo_forge.runtime.assembly._load_policy", lambda config, profile, date, prompts: policy)
    monkeypatch.setattr("halo_forge.runtime.assembly.fitting_prompts", lambda config, prompts, date: (prompts, None))
    monkeypatch.setattr("halo_forge.runtime.assembly._rendering", lambda policy, prompts: None)


def test_a_model_of_unknown_size_and_a_run_without_a_model(tmp_path: Path) -> None:
    unknown = chosen(tmp_path, LAPTOP, None)
    assert {key for key, value in unknown.items() if value is None} == {
        "num_parameters", "training.max_tokens_per_pass", "training.gradient_checkpointing", "engine.batch_size",
    }  # fmt: skip
    scripted = {"kind": "scripted", "answers": "answers.jsonl"}
    assert chosen(tmp_path, LAPTOP, engine=scripted) == {"profile": "cpu", "why": "no GPU found"}


def test_the_size_of_a_model(tmp_path: Path) -> None:
    def size(name: str) -> int | None:
        return estimated_parameters(config(model={"model_name_or_path": name}))

    assert size("Qwen/Qwen2.5-Coder-0.5B-Instruct") == 500_000_000
    assert size("nobody/smollm2-135m") == 135_000_000
    assert size("nobody/llama3-8b-2m-context") == 8_000_000_000
    assert size("nobody/mab3-b2bomber") is None
    shape = {"hidden_size": 8, "intermediate_size": 20, "num_hidden_layers": 3, "num_attention_heads": 4,
             "num_key_value_heads": 2, "vocab_size": 100}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(shape))
    # q and o 8 x 8, k and v 8 x 4, three of 8 x 20, three times; embedding and head
    assert size(str(tmp_path)) == 3 * (2 * 64 + 2 * 32 + 3 * 160) + 2 * 800
    (tmp_path / "config.json").write_text(json.dumps({**shape, "tie_word_embeddings": True, "head_dim": 16}))
    assert size(str(tmp_path)) == 3 * (2 * 8 * 64 + 2 * 8 * 32 + 3 * 160) + 800
    (tmp_path / "config.json").write_text("[]")
    assert size(str(tmp_path)) is None


def test_hardware_does_not_decide_the_results() -> None:
    digest = config_digest(config())
    for given in ({"hardware": {"profile": "cpu"}}, {"training": {"max_tokens_per_pass": 512}}):
        assert config_digest(config(**given)) == digest


def test_the_dry_run_shows_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = {"profile": "gfx1151", "pin_memory": True}
    found = preview(config(hardware=given, engine={"batch_size": 7}), 100, 10, True)
    assert found.to_row()["hardware"]["profile"] == "gfx1151"
    print_preview(found)
    shown = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert any(line.startswith("hardware: gfx1151 (hardware.profile names it), memory budget ") for line in shown)
    assert {
        "model.dtype: bfloat16", "engine.batch_size: 7", "training.gradient_checkpointing: false",
        "hardware.pin_memory: true", "TORCH_ROCM_AOTRITON_ENABLE_EXPERIMENTAL: 1",
    } <= set(shown)  # fmt: skip


# ---- the run does what is shown


@pytest.fixture
def policy(tiny_models: dict[str, Path]) -> Any:
    return load_policy(tiny_models["llama"])


class Small(Profile):
    """A profile with values that nothing else has."""

    name, device = "small", "cpu"
    rows, tokens = ((1e12, 11),), ((1e12, 77),)

    def memory_budget_bytes(self) -> int | None:
        return None


def test_sampling_and_training_follow_the_profile(policy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy.profile = Small(machine(tmp_path, {}), "a test", optimizer="sgd")
    assert TransformersSpec.model_validate({"kind": "transformers"}).open(policy).batch_size == 11
    caught: dict[str, Any] = {}
    monkeypatch.setattr(
        "halo_forge.training._step_recorder.step_recording_trainer", lambda **arguments: caught.update(arguments)
    )
    from halo_forge.core.records import TrainingSettings

    rows = {"input_ids": [[1] * 3000, [1]]}
    settings = TrainingSettings(1, 0, "pass", 1.0, 1e-4, 1.0, 1.0, 0.0, 1)
    trainer = LoraSftTrainer(policy, TrainingOptions(), seed=0)
    trainer._build(rows, settings, [1.0], tmp_path, lambda row, num_steps: None, None, in_order=False)
    assert (caught["max_tokens"], caught["args"].optim) == (77, "sgd")
    assert caught["args"].gradient_checkpointing is True  # 3000 tokens, and nothing known about the memory
    trainer = LoraSftTrainer(policy, TrainingOptions(max_tokens_per_pass=5, gradient_checkpointing=False), seed=0)
    trainer._build(rows, settings, [1.0], tmp_path, lambda row, num_steps: None, None, in_order=False)
    assert (caught["max_tokens"], caught["args"].gradient_checkpointing) == (5, False)


def test_training_uses_one_gpu_where_several_are_visible(
    policy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library would put a copy of the model on each."""
    from trl.trainer import sft_config

    from halo_forge.core.records import TrainingSettings

    class Several(sft_config.SFTConfig):  # type: ignore[misc]
        def __post_init__(self) -> None:
            super().__post_init__()
            self._n_gpu = 2

    caught: dict[str, Any] = {}
    monkeypatch.setattr(sft_config, "SFTConfig", Several)
    monkeypatch.setattr(
        "halo_forge.training._step_recorder.step_recording_trainer", lambda **arguments: caught.update(arguments)
    )
    settings = TrainingSettings(1, 0, "pass", 1.0, 1e-4, 1.0, 1.0, 0.0, 1)
    trainer = LoraSftTrainer(policy, TrainingOptions(), seed=0)
    trainer._build({"input_ids": [[1]]}, settings, [1.0], tmp_path, lambda row, num_steps: None, None, in_order=False)
    assert caught["args"].n_gpu == 1


def test_a_gpu_that_torch_cannot_use_is_an_error_with_a_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from halo_forge.core.errors import ModelError

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ModelError, match="can use no GPU") as caught:
        on_this_torch(hardware.detect(machine(tmp_path, NVIDIA)))
    assert "hardware.profile: cpu" in caught.value.hint


@pytest.fixture
def strix_halo_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that only torch sees."""
    import torch

    properties = SimpleNamespace(name="Radeon 8060S", gcnArchName="gfx1151:xnack-", total_memory=9)
    for name, value in {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "get_device_properties": lambda index: properties,
        "mem_get_info": lambda index=0: (7, 9),
        "memory_reserved": lambda: 0,
        "memory_allocated": lambda: 0,
        "get_arch_list": list,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch.version, "hip", "7.14")


@pytest.mark.parametrize("given", [None, "0"])
def test_a_gpu_that_only_torch_sees_gets_its_variables_and_what_is_recorded_is_what_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strix_halo_of_torch: None, given: str | None
) -> None:
    name = "TORCH_ROCM_AOTRITON_ENABLE_EXPERIMENTAL"
    monkeypatch.delenv(name, raising=False)
    if given is not None:
        monkeypatch.setenv(name, given)
    here = dataclasses.replace(machine(tmp_path, LAPTOP), environment=os.environ)
    found = on_this_torch(hardware.detect(here))
    in_force = "1" if given is None else given
    assert (found.name, os.environ[name]) == ("gfx1151", in_force)
    recorded = hardware_choices(config(), found, None)
    assert (recorded["environment"], recorded["gpu"]) == ({name: in_force}, "Radeon 8060S")
    monkeypatch.delenv(name)


def test_a_run_says_what_it_is_on_and_not_what_files_suggest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], strix_halo_of_torch: None
) -> None:
    monkeypatch.setenv("TORCH_ROCM_AOTRITON_ENABLE_EXPERIMENTAL", "1")
    found = on_this_torch(hardware.detect(machine(tmp_path, LAPTOP)))
    _loads_policy(monkeypatch, found)
    monkeypatch.setattr("halo_forge.runtime.assembly.prepare", lambda settings: detect(machine(tmp_path, LAPTOP)))
    monkeypatch.setattr("halo_forge.loop.run_raft", lambda plan, directory, runtime: None)
    loaded = load_config(write_inputs(tmp_path / "inputs"), [f"output_dir={json.dumps(str(tmp_path / 'run'))}"])
    raft._execute(loaded, resume=False, as_json=True)
    said = capsys.readouterr().err.splitlines()[0]
    seen = "torch uses Radeon 8060S, gfx1151, which /sys and /dev do not show"
    assert said == f"hardware: gfx1151 ({seen}): Radeon 8060S, 0.0 GB free"


# ---- what the sensors said


def test_status_shows_what_the_sensors_said_and_no_column_without_them(tmp_path: Path) -> None:
    folder = tmp_path / "cycles/001"
    folder.mkdir(parents=True)
    (tmp_path / "run.json").write_text('{"schema_version": 1}')
    (folder / "report.json").write_text("{}")
    stage = {"time": "2030-01-01T00:00:00+00:00", "event": "stage_sealed", "folder": "001", "stage": "completions"}
    resources = {"event": "resources", "cycle": 1, "peak_memory_bytes": 5, "num_gpu_readings": 100}
    said = {"gpu_power_watts_mean": 85.4, "gpu_busy_mean": 0.91, "gpu_temperature_celsius_max": 88.0}
    # A resumed run passes the cycle again: a short look at an idle GPU is not what the cycle needed.
    again = {**resources, "num_gpu_readings": 1, "gpu_power_watts_mean": 9.0}
    rows = [
        {**stage, "seconds": 1.0, "num_tokens": 1},
        {**resources, **said},
        again,
        {**resources, "num_gpu_readings": 0},
    ]
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (row,) = read_status(tmp_path, 1).cycles
    assert {name: value for name, value in row.metrics.items() if name.startswith("gpu_")} == said
    cells = {column.name: column.cells for column in cycle_columns([row, CycleRow(2, 1, "done")], 2)}
    assert (cells["watts"], cells["GPU busy"], cells["degrees C"]) == (["85", ""], ["0.91", ""], ["88", ""])
    without = {column.name: column.cells for column in cycle_columns([CycleRow(2, 1, "done")], 2)}
    assert all(without[name] == [""] for name in ("watts", "GPU busy", "degrees C"))
