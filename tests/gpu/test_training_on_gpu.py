"""Training on a GPU: the CPU's adapter, with checkpointing, carried state and averages, and what it waits for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sft_cases import train, training_rows
from tiny_models import ARCHITECTURES, TrainingOptions, adapter_weights, base_weights, load_policy, same_bits

from halo_forge.hardware import Machine, Profile, profile_class
from halo_forge.policy import OPTIMIZER_FILE

torch = pytest.importorskip("torch")

OPTIONS = TrainingOptions(per_device_train_batch_size=4)
PLAIN = profile_class("rocm")(Machine(), "a test", given=True)
"""A GPU with torch's plain AdamW; `cuda` takes the fused one."""


def load(folder: Path, profile: Profile | None = None) -> Any:
    found = load_policy(folder, profile=profile)
    assert found.device.type == ("cpu" if profile is not None and profile.name == "cpu" else "cuda")
    return found


def assert_close(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name].cpu(), value.cpu(), rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("profile", [None, PLAIN], ids=["fused AdamW", "plain AdamW"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_adapter_is_the_cpus(
    name: str, profile: Profile | None, tiny_models: dict[str, Path], on_cpu: Profile, tmp_path: Path
) -> None:
    cpu, gpu = load(tiny_models[name], on_cpu), load(tiny_models[name], profile)
    start, base = adapter_weights(cpu), base_weights(gpu)
    one = train(cpu, tmp_path / "cpu", options=OPTIONS, num_train_epochs=2)
    other = train(gpu, tmp_path / "gpu", options=OPTIONS, num_train_epochs=2)
    assert_close(adapter_weights(gpu), adapter_weights(cpu))
    assert max(float((adapter_weights(cpu)[each] - start[each]).abs().max()) for each in start) > 1e-3
    assert same_bits(base_weights(gpu), base)
    assert [row["num_tokens"] for row in other.log] == [row["num_tokens"] for row in one.log]
    for key in ("loss", "gradient_norm", "learning_rate"):
        assert [row[key] for row in other.log] == pytest.approx([row[key] for row in one.log], rel=1e-3)


def test_a_saved_adapter_is_the_one_in_memory(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    policy = load(tiny_models["qwen2"])
    train(policy, tmp_path / "one", options=OPTIONS)
    trained = adapter_weights(policy)
    policy.load_adapter(None, 0)
    assert not same_bits(adapter_weights(policy), trained)
    policy.load_adapter(tmp_path / "one" / "adapter", 1)
    assert same_bits(adapter_weights(policy), trained)


def test_checkpointing_changes_memory_only(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    found = []
    for checkpointing in (False, True):
        policy = load(tiny_models["llama"])
        rows = training_rows(policy, 16)
        options = TrainingOptions(per_device_train_batch_size=16, gradient_checkpointing=checkpointing)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        train(policy, tmp_path / str(checkpointing), rows=rows, options=options)
        found.append((adapter_weights(policy), torch.cuda.max_memory_allocated() - before))
    (plain, most), (recomputed, less) = found
    assert_close(recomputed, plain)
    assert less < 0.9 * most


def test_passes_that_are_cut_give_the_same_step(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    found = []
    for most in (4096, 64):
        policy = load(tiny_models["llama"])
        options = TrainingOptions(per_device_train_batch_size=8, max_tokens_per_pass=most)
        train(policy, tmp_path / str(most), options=options)
        found.append(adapter_weights(policy))
    assert_close(found[1], found[0])


@pytest.mark.parametrize("optimizer", ["carry", "carry_moments", "reset"])
@pytest.mark.parametrize("profile", [None, PLAIN], ids=["fused AdamW", "plain AdamW"])
def test_state_is_carried_as_on_the_cpu(
    optimizer: str, profile: Profile | None, tiny_models: dict[str, Path], on_cpu: Profile, tmp_path: Path
) -> None:
    policies = load(tiny_models["llama"], on_cpu), load(tiny_models["llama"], profile)
    for policy in policies:
        folder = tmp_path / policy.device.type
        rows = training_rows(policy)
        train(policy, folder / "one", rows=rows, options=OPTIONS, keep_optimizer=True)
        state = folder / "one" / OPTIMIZER_FILE
        train(policy, folder / "two", rows=rows, options=OPTIONS, keep_optimizer=True, optimizer_state=state,
              optimizer=optimizer, average_weight=0.5)  # fmt: skip
    assert_close(*map(adapter_weights, reversed(policies)))


@pytest.mark.pretended_gpu
@pytest.mark.parametrize("profile", [None, PLAIN], ids=["fused AdamW", "plain AdamW"])
def test_carried_state_costs_no_waits(
    profile: Profile | None, tiny_models: dict[str, Path], tmp_path: Path, pretended: None
) -> None:
    """AdamW without a fused kernel reads each step count back where it lies on the device."""
    from support.pretended_gpu import counted

    policy = load(tiny_models["llama"], profile)
    rows = training_rows(policy, 4)
    train(policy, tmp_path / "one", rows=rows, options=OPTIONS, keep_optimizer=True, num_train_epochs=2)
    waits = []
    for number, epochs in enumerate((2, 6)):
        policy.version = 1
        with counted() as found:
            train(policy, tmp_path / f"two-{number}", rows=rows, options=OPTIONS, num_train_epochs=epochs,
                  optimizer_state=tmp_path / "one" / OPTIMIZER_FILE, optimizer="carry")  # fmt: skip
        waits.append(found.waits)
    assert waits[1] - waits[0] <= 4 * 5, "of 4 optimizer steps"


@pytest.mark.pretended_gpu
def test_out_of_memory_in_training_is_raised_and_leaves_nothing(
    tiny_models: dict[str, Path], tmp_path: Path, pretended: None
) -> None:
    import gc

    from support.pretended_gpu import install

    policy = load(tiny_models["llama"])
    start = adapter_weights(policy)
    rows = training_rows(policy, 16)
    options = TrainingOptions(per_device_train_batch_size=16, max_tokens_per_pass=4096)
    gc.collect()
    before = torch.cuda.memory_allocated()
    install(memory_bytes=before + 200_000)
    with pytest.raises(torch.OutOfMemoryError):
        train(policy, tmp_path / "large", rows=rows, options=options)
    install()
    gc.collect()
    assert torch.cuda.memory_allocated() - before < 50_000, "gradients may stay, activations may not"
    assert same_bits(adapter_weights(policy), start)
    train(policy, tmp_path / "again", rows=rows, options=options)
    other = load(tiny_models["llama"])
    train(other, tmp_path / "other", rows=rows, options=options)
    assert_close(adapter_weights(policy), adapter_weights(other))


@pytest.mark.pretended_gpu
def test_a_step_waits_once_for_each_pass_and_twice_more(
    tiny_models: dict[str, Path], tmp_path: Path, pretended: None
) -> None:
    """Loss and norm are read back, and transformers looks for packed rows in each pass; rows lie in pinned memory."""
    from support.pretended_gpu import counted

    policy = load(tiny_models["llama"])
    rows = training_rows(policy, 7)
    waits = []
    for name, most, epochs in (("few", 4096, 2), ("more", 4096, 6), ("cut few", 1, 2), ("cut more", 1, 6)):
        policy.version = 0
        options = TrainingOptions(per_device_train_batch_size=8, max_tokens_per_pass=most)
        with counted() as found:
            done = train(policy, tmp_path / name, rows=rows, options=options, num_train_epochs=epochs)
        assert len(done.log) == epochs
        waits.append(found.waits)
    assert waits[1] - waits[0] <= 4 * (2 + 1)
    assert waits[3] - waits[2] <= 4 * (2 + 7)
