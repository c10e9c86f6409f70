"""What a cycle's training does to the weights, and what it writes down about it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sft_cases import Batches, answer_loss, train, training_rows
from tiny_models import (
    TrainingOptions,
    adapter_weights,
    base_weights,
    disturb_adapter,
    load_policy,
    prompts,
    request,
    same_bits,
)

from halo_forge.core import lr_scheduler
from halo_forge.policy import ADAPTER_FILES, adapter_digest

torch = pytest.importorskip("torch")


@pytest.fixture
def policy(tiny_models: dict[str, Path]) -> Any:
    return load_policy(tiny_models["llama"])


def test_the_parameters_change_and_the_base_does_not(policy: Any, tmp_path: Path) -> None:
    base, start = base_weights(policy), adapter_weights(policy)
    done = train(policy, tmp_path / "one")
    assert same_bits(base_weights(policy), base)
    after = adapter_weights(policy)
    assert {value.dtype for value in after.values()} == {torch.float32}
    changed = [name for name in after if not torch.equal(after[name], start[name])]
    assert len(changed) == len(after)  # B at the first step, A as soon as B is not 0
    assert done.trained.metrics["adapter_norm"] > 0
    assert policy.version == 1 and (done.trained.cycle, done.trained.policy_version) == (1, 1)


def test_a_learning_rate_of_0_changes_nothing(policy: Any, tmp_path: Path) -> None:
    start = adapter_weights(policy)
    done = train(policy, tmp_path / "one", learning_rate=0.0)
    assert same_bits(adapter_weights(policy), start)
    assert [row["learning_rate"] for row in done.log] == [0.0] * 4
    assert done.trained.metrics["learning_rate_mass"] == 0.0


def test_weight_decay_reaches_the_optimizer(policy: Any, tmp_path: Path, tiny_models: dict[str, Path]) -> None:
    train(policy, tmp_path / "none", weight_decay=0.0)
    other = load_policy(tiny_models["llama"])
    train(other, tmp_path / "some", weight_decay=1.0)
    assert not same_bits(adapter_weights(policy), adapter_weights(other))


def test_training_lowers_the_loss(policy: Any, tmp_path: Path) -> None:
    rows = training_rows(policy)
    before, num_tokens = answer_loss(policy, rows)
    done = train(policy, tmp_path / "one", learning_rate=1e-2, num_train_epochs=12)
    after, _ = answer_loss(policy, rows)
    assert after.item() < 0.7 * before.item()
    assert done.trained.metrics["loss_last"] < done.trained.metrics["loss_first"]
    assert done.trained.metrics["num_tokens"] == 12 * num_tokens


def test_the_next_cycle_continues_the_adapter_in_memory(
    policy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForCausalLM

    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("the base model is loaded once")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", refuse)
    base, model = base_weights(policy), policy.model
    train(policy, tmp_path / "one", learning_rate=1e-2)
    first = adapter_weights(policy)
    rows = training_rows(policy)
    loss, num_tokens = answer_loss(policy, rows)
    second = train(policy, tmp_path / "two", rows=rows, options=TrainingOptions(per_device_train_batch_size=8))
    assert second.log[0]["loss"] == pytest.approx(loss.item() / num_tokens, rel=1e-4)
    assert policy.model is model and policy.version == 2
    assert not same_bits(adapter_weights(policy), first)
    assert same_bits(base_weights(policy), base)
    assert len(list(adapter_weights(policy))) == len(first)  # one adapter, not one more


def test_a_cycle_after_a_reload_is_the_same_as_in_memory(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    """A resumed run brings v1 from its folder and trains what the uninterrupted run trained."""
    uninterrupted = load_policy(tiny_models["llama"])
    train(uninterrupted, tmp_path / "a1")
    rows = training_rows(uninterrupted)
    expected = train(uninterrupted, tmp_path / "a2", rows=rows)
    resumed = load_policy(tiny_models["llama"])
    resumed.load_adapter(tmp_path / "a1" / "adapter", 1)
    found = train(resumed, tmp_path / "b2", rows=rows)
    assert found.trained == expected.trained and found.log == expected.log


def test_the_same_seed_gives_the_same_bytes(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    done = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        policy = load_policy(tiny_models["llama"])
        torch.rand(len(done) + 1)  # whatever else drew random numbers in this process
        done.append(train(policy, tmp_path / name, seed=seed))
    assert done[0].trained == done[1].trained and done[0].log == done[1].log
    assert done[0].trained.adapter_digest == adapter_digest(done[1].folder / "adapter")
    assert done[0].trained.adapter_digest != done[2].trained.adapter_digest  # another order of the rows


def test_the_folder_holds_a_plain_adapter(policy: Any, tmp_path: Path, tiny_models: dict[str, Path]) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    done = train(policy, tmp_path / "one", learning_rate=1e-2)
    assert sorted(path.name for path in (done.folder / "adapter").iterdir()) == sorted(ADAPTER_FILES)
    assert done.trained.adapter_digest == adapter_digest(done.folder / "adapter")
    base = AutoModelForCausalLM.from_pretrained(tiny_models["llama"], dtype=torch.float32)
    loaded = PeftModel.from_pretrained(base, done.folder / "adapter")
    ids = torch.tensor([policy.prompt_ids(training_rows(policy)[0].prompt)])
    with torch.inference_mode():
        assert torch.equal(loaded(input_ids=ids).logits, policy.model(input_ids=ids).logits)


def test_the_adapter_is_float32_on_a_bfloat16_base(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file

    policy = load_policy(tiny_models["llama"], dtype="bfloat16")
    base, start = base_weights(policy), adapter_weights(policy)
    # An update of 1e-6 is far below what bfloat16 resolves around the A weights.
    train(policy, tmp_path / "one", learning_rate=1e-6)
    after = adapter_weights(policy)
    assert {value.dtype for value in after.values()} == {torch.float32}
    assert any(not torch.equal(after[name], start[name]) for name in after if "lora_A" in name)
    assert same_bits(base_weights(policy), base)
    stored = load_file(tmp_path / "one" / "adapter" / ADAPTER_FILES[1])
    assert {value.dtype for value in stored.values()} == {torch.float32}


def test_the_wrong_version_in_memory_is_refused(policy: Any, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="v1, v0 is in memory"):
        train(policy, tmp_path / "one", cycle=2, parent_version=1)


def greedy_texts(policy: Any) -> dict[str, str]:
    from halo_forge.engines.transformers import TransformersEngine

    asked = prompts(["add two numbers", "why", "a longer question about values"])
    requests = [request(prompt_id, temperature=0.0) for prompt_id in asked]
    found = TransformersEngine(policy, batch_size=4, stop=()).sample(asked, requests, policy.version)
    return {completion.prompt_id: completion.text for completion in found}


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_the_trained_policy_samples_as_its_folder_does(
    gradient_checkpointing: bool, policy: Any, tmp_path: Path, tiny_models: dict[str, Path]
) -> None:
    start = greedy_texts(policy)
    options = TrainingOptions(gradient_checkpointing=gradient_checkpointing)
    for name in ("one", "two"):
        done = train(policy, tmp_path / name, options=options, learning_rate=1e-2, num_train_epochs=3)
        assert not policy.model.training
        fresh = load_policy(tiny_models["llama"])
        fresh.load_adapter(done.folder / "adapter", policy.version)
        assert greedy_texts(policy) == greedy_texts(fresh) != start


def test_gradient_checkpointing_changes_memory_only(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    logs = []
    for name, wanted in (("off", False), ("on", True)):
        policy = load_policy(tiny_models["llama"])
        logs.append(train(policy, tmp_path / name, options=TrainingOptions(gradient_checkpointing=wanted)).log)
    for plain, checkpointed in zip(*logs, strict=True):
        assert checkpointed == pytest.approx(plain, rel=1e-4)


def test_cycles_leave_no_wrapper_around_the_model(policy: Any, tmp_path: Path) -> None:
    """A wrapper for each cycle would make every later sampling step slower, and at last recurse too deep."""
    forward = policy.model.get_base_model().forward
    for name in ("one", "two"):
        train(policy, tmp_path / name, options=TrainingOptions(gradient_checkpointing=True))
    base = policy.model.get_base_model()
    assert base.forward == forward
    assert not any(len(module._forward_hooks) for module in base.modules())
    assert not any(getattr(module, "gradient_checkpointing", False) for module in base.modules())
    assert all(parameter.grad is None for parameter in policy.model.parameters())


def test_the_log_is_json(policy: Any, tmp_path: Path) -> None:
    done = train(policy, tmp_path / "one")
    assert json.loads(json.dumps(done.log, allow_nan=False)) == done.log
    assert json.loads(json.dumps(done.trained.to_row(), allow_nan=False))


SHAPES = [
    ("constant", {}),
    ("linear", {}),
    ("linear", {"final_ratio": 0.2}),
    ("cosine", {}),
    ("cosine_with_restarts", {"num_cycles": 2}),
    ("polynomial", {"power": 2.0}),
    ("warmup_stable_decay", {"decay_fraction": 0.4}),
]


@pytest.mark.parametrize(("shape", "kwargs"), SHAPES)
def test_every_step_is_logged_with_its_planned_learning_rate(
    shape: Any, kwargs: dict[str, Any], policy: Any, tmp_path: Path
) -> None:
    options = TrainingOptions(lr_scheduler_type=shape, lr_scheduler_kwargs=kwargs, warmup_steps=1)
    done = train(policy, tmp_path / "one", options=options, num_train_epochs=2, learning_rate=3e-3)
    factors = lr_scheduler.learning_rate_factors(shape, 8, 1, **kwargs)
    assert [row["step"] for row in done.log] == list(range(1, 9)) and set(done.num_steps) == {8}
    assert [row["learning_rate"] for row in done.log] == pytest.approx([3e-3 * factor for factor in factors], rel=1e-12)
    assert all(row["learning_rate"] > 0 for row in done.log)
    mass = done.trained.metrics["learning_rate_mass"]
    assert mass == pytest.approx(lr_scheduler.learning_rate_mass(3e-3, factors), rel=1e-9)


def test_the_logged_learning_rate_is_the_one_that_moves_the_weights(policy: Any, tmp_path: Path) -> None:
    """AdamW's first step moves every weight with a gradient by the learning rate, whatever the gradient is."""
    start = adapter_weights(policy)
    options = TrainingOptions(per_device_train_batch_size=8, lr_scheduler_type="constant")
    done = train(policy, tmp_path / "one", options=options, learning_rate=2e-3)
    assert len(done.log) == 1
    moved = torch.cat([(adapter_weights(policy)[name] - start[name]).abs().flatten() for name in start])
    assert float(moved.max()) == pytest.approx(2e-3, rel=1e-3)
    assert float(moved[moved > 0].median()) == pytest.approx(2e-3, rel=1e-3)


def test_moments_start_fresh_in_every_cycle(policy: Any, tmp_path: Path) -> None:
    options = TrainingOptions(per_device_train_batch_size=8, lr_scheduler_type="constant")
    train(policy, tmp_path / "one", options=options, num_train_epochs=5, learning_rate=1e-2)
    between = adapter_weights(policy)
    train(policy, tmp_path / "two", options=options, learning_rate=1e-4)
    moved = torch.cat([(adapter_weights(policy)[name] - between[name]).abs().flatten() for name in between])
    assert float(moved[moved > 0].median()) == pytest.approx(1e-4, rel=1e-2)


def test_the_gradient_norm_is_logged_before_clipping(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    free, clipped = load_policy(tiny_models["llama"]), load_policy(tiny_models["llama"])
    for each in (free, clipped):
        disturb_adapter(each)
    options = TrainingOptions(per_device_train_batch_size=8)
    rows = training_rows(free)
    loss, num_tokens = answer_loss(free, rows)
    (loss / num_tokens).backward()
    squares = [float(p.grad.square().sum()) for p in free.model.parameters() if p.grad is not None]
    free.model.zero_grad()
    for each, name, max_grad_norm in ((free, "free", 1e9), (clipped, "clipped", 1e-4)):
        done = train(each, tmp_path / name, rows=rows, options=options, max_grad_norm=max_grad_norm)
        assert done.log[0]["gradient_norm"] == pytest.approx(sum(squares) ** 0.5, rel=1e-3)
        assert done.trained.metrics["clip_fraction"] == (1.0 if name == "clipped" else 0.0)


def test_max_grad_norm_0_turns_clipping_off_and_still_logs_the_norm(
    tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    logs = []
    for name, max_grad_norm in (("off", 0.0), ("high", 1e9)):
        policy = load_policy(tiny_models["llama"])
        logs.append(train(policy, tmp_path / name, max_grad_norm=max_grad_norm).log)
    assert logs[0] == logs[1]


@pytest.mark.parametrize(
    ("num_rows", "num_train_epochs", "batch", "accumulation", "num_steps"),
    [(7, 1.0, 2, 1, 4), (7, 0.5, 2, 1, 2), (7, 1.5, 2, 1, 6), (7, 3.0, 4, 1, 6), (5, 0.1, 2, 1, 1), (7, 2.0, 2, 3, 4)],
)
def test_fractional_and_several_epochs_take_the_planned_steps(
    num_rows: int, num_train_epochs: float, batch: int, accumulation: int, num_steps: int, policy: Any, tmp_path: Path
) -> None:
    options = TrainingOptions(per_device_train_batch_size=batch)
    rows = training_rows(policy, num_rows)
    settings = {"num_train_epochs": num_train_epochs, "gradient_accumulation_steps": accumulation}
    done = train(policy, tmp_path / "one", rows=rows, options=options, **settings)
    assert [row["step"] for row in done.log] == list(range(1, num_steps + 1))
    assert done.trained.metrics["optimizer_steps"] == num_steps
    assert done.trained.num_rows == num_rows
    if num_train_epochs == int(num_train_epochs):
        assert sum(row["num_rows"] for row in done.log) == num_rows * num_train_epochs


def test_a_remainder_of_the_accumulation_is_a_step_of_its_own_weight(
    policy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps of 6 rows and of 1, in passes of few tokens.  Each loss is the mean over the tokens of its step."""
    batches = Batches().spy(monkeypatch)
    rows = training_rows(policy)
    by_ids = {tuple(row.completion.token_ids): row for row in rows}
    fresh = {row.prompt.id: answer_loss(policy, [row]) for row in rows}
    longest = max(len(policy.prompt_ids(row.prompt)) + len(row.completion.token_ids) + 1 for row in rows)
    options = TrainingOptions(per_device_train_batch_size=2, max_tokens_per_pass=2 * longest)
    settings = {"gradient_accumulation_steps": 3, "learning_rate": 1e-12}
    # So small a rate that the second step still sees the start weights.
    done = train(policy, tmp_path / "one", rows=rows, options=options, **settings)
    assert [row["num_rows"] for row in done.log] == [6, 1]
    assert len(batches.shapes) > 2 and all(rows * length <= 2 * longest for rows, length in batches.shapes)
    # No pass is wider than its own longest row, and the rows of a step get shorter from pass to pass.
    assert all(int(mask[0].sum()) == mask.shape[1] for mask in batches.masks)
    widths = [length for _, length in batches.shapes]
    assert widths[:-1] == sorted(widths[:-1], reverse=True)
    for step, parts in zip(done.log, (batches.labels[:-1], batches.labels[-1:]), strict=True):
        answers = [[token for token in row if token != -100] for part in parts for row in part.tolist()]
        asked = [by_ids[tuple(answer[:-1])].prompt.id for answer in answers]
        total = sum(fresh[prompt_id][0].item() for prompt_id in asked)
        num_tokens = sum(fresh[prompt_id][1] for prompt_id in asked)
        assert step["num_tokens"] == num_tokens
        assert step["loss"] == pytest.approx(total / num_tokens, rel=1e-4)
