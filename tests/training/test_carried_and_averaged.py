"""What one cycle's training leaves to the next: the optimizer's state, and an average of two adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sft_cases import answer_loss, train, training_rows
from tiny_models import TrainingOptions, adapter_weights, load_policy, same_bits

from halo_forge.core.errors import RunDirError
from halo_forge.policy import OPTIMIZER_FILE, file_digest

torch = pytest.importorskip("torch")

OPTIONS = TrainingOptions(per_device_train_batch_size=8, lr_scheduler_type="constant")
RATE = 1e-3


@pytest.fixture
def policy(tiny_models: dict[str, Path]) -> Any:
    return load_policy(tiny_models["llama"])


def two_cycles(tiny_models: dict[str, Path], folder: Path, optimizer: str) -> tuple[Any, Any]:
    """A policy after two trainings of 3 steps on the same rows; the second starts with the first one's state."""
    policy = load_policy(tiny_models["llama"])
    rows = training_rows(policy)
    options: dict[str, Any] = {"rows": rows, "options": OPTIONS, "learning_rate": RATE, "num_train_epochs": 3}
    train(policy, folder / "one", keep_optimizer=True, **options)
    state = folder / "one" / OPTIMIZER_FILE
    second = train(policy, folder / "two", keep_optimizer=True, optimizer_state=state, optimizer=optimizer, **options)
    return policy, second


def reference(tiny_models: dict[str, Path], optimizer: str) -> dict[str, Any]:
    """The same by a plain AdamW that is kept, or whose step count is set back after 3 of 6 steps."""
    policy = load_policy(tiny_models["llama"])
    rows = training_rows(policy)
    weights = [each for each in policy.model.parameters() if each.requires_grad]
    adam = torch.optim.AdamW(weights, lr=RATE, weight_decay=0.0)
    for step in range(6):
        if step == 3 and optimizer == "carry_moments":
            for state in adam.state.values():
                state["step"] = torch.zeros_like(state["step"])
        loss, num_tokens = answer_loss(policy, rows)
        adam.zero_grad()
        (loss / num_tokens).backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        adam.step()
    return adapter_weights(policy)


@pytest.mark.parametrize("optimizer", ["carry", "carry_moments"])
def test_two_cycles_equal_one_optimizer_that_is_kept(
    optimizer: str, tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    policy, _ = two_cycles(tiny_models, tmp_path, optimizer)
    found, expected = adapter_weights(policy), reference(tiny_models, optimizer)
    for name in expected:
        assert torch.allclose(found[name], expected[name], rtol=0, atol=2e-5), name


def test_reset_carry_and_moments_differ(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    found = {
        optimizer: adapter_weights(two_cycles(tiny_models, tmp_path / optimizer, optimizer)[0])
        for optimizer in ("reset", "carry", "carry_moments")
    }
    for left, right in (("reset", "carry"), ("reset", "carry_moments"), ("carry", "carry_moments")):
        assert max(float((found[left][name] - found[right][name]).abs().max()) for name in found[left]) > 1e-4


def test_a_resumed_cycle_continues_the_state_in_the_same_bytes(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    whole, expected = two_cycles(tiny_models, tmp_path, "carry")
    resumed = load_policy(tiny_models["llama"])
    resumed.load_adapter(tmp_path / "one" / "adapter", 1)
    found = train(
        resumed,
        tmp_path / "again",
        rows=training_rows(resumed),
        options=OPTIONS,
        learning_rate=RATE,
        num_train_epochs=3,
        keep_optimizer=True,
        optimizer_state=tmp_path / "one" / OPTIMIZER_FILE,
        optimizer="carry",
    )
    assert same_bits(adapter_weights(resumed), adapter_weights(whole))
    assert found.trained == expected.trained
    assert found.trained.optimizer_digest == file_digest(tmp_path / "again" / OPTIMIZER_FILE)


def test_the_step_count_goes_on_or_starts_again(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file

    for optimizer, steps in (("carry", 6.0), ("carry_moments", 3.0), ("reset", 3.0)):
        two_cycles(tiny_models, tmp_path / optimizer, optimizer)
        state = load_file(tmp_path / optimizer / "two" / OPTIMIZER_FILE)
        assert {float(value) for name, value in state.items() if name.endswith(".step")} == {steps}
        assert {name.rpartition(".")[2] for name in state} == {"exp_avg", "exp_avg_sq", "step"}


def test_no_state_is_written_where_none_is_carried(policy: Any, tmp_path: Path) -> None:
    done = train(policy, tmp_path / "one")
    assert done.trained.optimizer_digest is None
    assert not (tmp_path / "one" / OPTIMIZER_FILE).exists()


def test_the_state_of_another_adapter_is_refused(policy: Any, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / OPTIMIZER_FILE
    save_file({"elsewhere.exp_avg": torch.zeros(2)}, str(path))
    with pytest.raises(RunDirError, match="not the optimizer state of this adapter"):
        train(policy, tmp_path / "one", optimizer_state=path, optimizer="carry")


@pytest.mark.parametrize("weight", [0.25, 0.5])
def test_average(weight: float, tiny_models: dict[str, Path], tmp_path: Path) -> None:
    plain, averaged = load_policy(tiny_models["llama"]), load_policy(tiny_models["llama"])
    train(plain, tmp_path / "one", learning_rate=1e-2)
    before, rows = adapter_weights(plain), training_rows(plain)
    train(plain, tmp_path / "two", rows=rows, learning_rate=1e-2)
    averaged.load_adapter(tmp_path / "one" / "adapter", 1)
    train(averaged, tmp_path / "averaged", rows=rows, learning_rate=1e-2, average_weight=weight)
    after, found = adapter_weights(plain), adapter_weights(averaged)
    for name in after:
        expected = (1 - weight) * before[name] + weight * after[name]
        assert torch.allclose(found[name], expected, rtol=0, atol=1e-6), name
    saved = load_policy(tiny_models["llama"])
    saved.load_adapter(tmp_path / "averaged" / "adapter", 2)
    assert same_bits(adapter_weights(saved), found)


def test_the_product_misses_the_average_of_the_products_by_the_second_order_term(policy: Any, tmp_path: Path) -> None:
    weight = 0.5
    train(policy, tmp_path / "one", learning_rate=1e-2)
    start = policy.trainable_weights()
    train(policy, tmp_path / "two", learning_rate=1e-3, num_train_epochs=2)
    end = policy.trainable_weights()
    policy.average_with(start, weight)
    middle = policy.trainable_weights()
    for name_a in (name for name in start if "lora_A" in name):
        name_b = name_a.replace("lora_A", "lora_B")
        (a0, b0), (a1, b1), (a, b) = ((each[name_a].double(), each[name_b].double()) for each in (start, end, middle))
        mean = (1 - weight) * b0 @ a0 + weight * b1 @ a1
        missed = mean - b @ a
        assert torch.allclose(missed, weight * (1 - weight) * (b1 - b0) @ (a1 - a0), rtol=0, atol=1e-7)
        # Next to what the cycle changed it is small.
        assert float(missed.norm()) < 0.1 * float((b1 @ a1 - b0 @ a0).norm())
