"""Which tokens the loss falls on, and how rows are padded."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path
from typing import Any

import pytest
from sft_cases import Batches, answer_loss, train, training_rows
from tiny_models import ARCHITECTURES, TrainingOptions, adapter_weights, disturb_adapter, load_policy

from halo_forge.policy import fused_adapter

torch = pytest.importorskip("torch")

from halo_forge.training._loss import completion_loss  # noqa: E402 -- needs torch
from halo_forge.training._step_batch import passes, step_batch  # noqa: E402 -- needs torch

ALL_AT_ONCE = TrainingOptions(per_device_train_batch_size=8)


@pytest.mark.parametrize("name", [*ARCHITECTURES, "llama_pad_is_eos"])
def test_the_first_loss_is_the_one_computed_by_hand(name: str, tiny_models: dict[str, Path], tmp_path: Path) -> None:
    """Rows of seven lengths in one padded batch, against one row at a time without padding."""
    policy = load_policy(tiny_models[name])
    disturb_adapter(policy)
    rows = training_rows(policy)
    loss, num_tokens = answer_loss(policy, rows)
    without_end, _ = answer_loss(policy, rows, end_of_turn=False)
    done = train(policy, tmp_path / "one", rows=rows, options=ALL_AT_ONCE)
    assert done.log[0]["loss"] == pytest.approx(loss.item() / num_tokens, rel=1e-4)
    assert done.log[0]["loss"] != pytest.approx(without_end.item() / (num_tokens - len(rows)), rel=1e-3)
    assert done.log[0]["num_tokens"] == num_tokens == sum(len(row.completion.token_ids) + 1 for row in rows)
    assert done.log[0]["num_rows"] == len(rows)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_gradients_are_those_of_the_library(name: str, tiny_models: dict[str, Path]) -> None:
    """Our loss with the adapter in one product, against the model's own loss on all logits and PEFT's own layers."""
    policy = load_policy(tiny_models[name])
    disturb_adapter(policy)
    rows = [(policy.prompt_ids(row.prompt), list(row.completion.token_ids)) for row in training_rows(policy)]
    longest = max(len(asked) + len(answer) for asked, answer in rows)
    padding = [longest - len(asked) - len(answer) for asked, answer in rows]
    inputs = {
        "input_ids": torch.tensor([a + b + [0] * n for (a, b), n in zip(rows, padding, strict=True)]),
        "attention_mask": torch.tensor([[1] * (longest - n) + [0] * n for n in padding]),
        "labels": torch.tensor([[-100] * len(a) + b + [-100] * n for (a, b), n in zip(rows, padding, strict=True)]),
    }
    weights = {key: value for key, value in policy.model.named_parameters() if value.requires_grad}

    def gradients(loss: torch.Tensor) -> tuple[float, dict[str, torch.Tensor]]:
        policy.model.zero_grad()
        loss.backward()
        return loss.item(), {key: value.grad.clone() for key, value in weights.items()}

    theirs, expected = gradients(policy.model(**inputs).loss)
    with fused_adapter(policy.model):
        (part,) = passes(step_batch([{"input_ids": a + b, "labels": [-100] * len(a) + b} for a, b in rows], 10_000))
        ours, found = gradients(completion_loss(policy.model, part, len(part.targets)))
    assert ours == pytest.approx(theirs, rel=1e-5)
    assert len(found) > 10 and all(gradient.abs().max() > 0 for gradient in expected.values())
    for key, gradient in expected.items():
        torch.testing.assert_close(found[key], gradient, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_attention_takes_its_causal_kernel_for_rows_of_unlike_lengths(
    name: str, tiny_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mask would have keys and values spread out to all heads, and rule out flash attention on a GPU."""
    plain, seen = torch.nn.functional.scaled_dot_product_attention, []

    def listening(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **options: Any) -> torch.Tensor:
        seen.append((options["attn_mask"] is None, options["is_causal"], key.shape[1] < query.shape[1]))
        return plain(query, key, value, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", listening)
    train(load_policy(tiny_models[name]), tmp_path / "one", options=ALL_AT_ONCE)
    assert set(seen) == {(True, True, True)}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_fused_head_learns_the_same_without_the_output_layer(
    name: str, tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    """TRL's loss in torch, as it is written for devices without Triton; its kernel needs a GPU."""
    if importlib.util.find_spec("triton") is not None:
        pytest.skip("Triton is installed, which TRL's loss takes whatever the device, and it needs a GPU")
    logs, weights, calls = [], [], []
    for fused in (False, True):
        policy = load_policy(tiny_models[name])
        policy.profile = dataclasses.replace(policy.profile, fused_head=fused)
        called: list[int] = []
        layer = policy.model.get_output_embeddings()
        layer.register_forward_hook(lambda layer, x, logits, called=called: called.append(logits.shape[1]))
        logs.append(train(policy, tmp_path / str(fused)).log)
        weights.append(adapter_weights(policy))
        calls.append(called)
    assert len(logs[0]) == 4
    for plain, fused_row in zip(*logs, strict=True):
        assert fused_row == pytest.approx(plain, rel=1e-4)
    for key, weight in weights[0].items():
        torch.testing.assert_close(weights[1][key], weight, rtol=0, atol=1e-4)
    assert calls[1] == [] and sum(calls[0]) == sum(row["num_tokens"] for row in logs[0])


@pytest.mark.parametrize("name", ["llama", "llama_pad_is_eos"])
def test_labels_are_the_sampled_ids_and_the_end_of_turn(
    name: str, tiny_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = load_policy(tiny_models[name], response_prefix="```c\n")
    rows = training_rows(policy)
    batches = Batches().spy(monkeypatch)
    train(policy, tmp_path / "one", rows=rows, options=TrainingOptions(per_device_train_batch_size=3))
    seen = []
    for ids, labels, mask in zip(batches.input_ids, batches.labels, batches.masks, strict=True):
        for row_ids, row_labels, row_mask in zip(ids.tolist(), labels.tolist(), mask.tolist(), strict=True):
            length = sum(row_mask)
            assert row_mask == [1] * length + [0] * (len(row_mask) - length)  # padding is on the right
            learned = [position for position, label in enumerate(row_labels) if label != -100]
            assert learned == list(range(learned[0], length))  # one piece, up to the last real token
            assert [row_ids[position] for position in learned] == [row_labels[position] for position in learned]
            seen.append((tuple(row_ids[: learned[0]]), tuple(row_ids[learned[0] : length])))
    expected = [
        (tuple(policy.prompt_ids(row.prompt)), (*row.completion.token_ids, policy.end_of_turn_id)) for row in rows
    ]
    assert sorted(seen) == sorted(expected)
    prefix = policy.tokenizer("```c\n", add_special_tokens=False)["input_ids"]
    assert all(list(asked[-len(prefix) :]) == prefix for asked, _ in seen)  # there, and not learned


def test_no_row_is_padded_beyond_its_batch(
    tiny_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = load_policy(tiny_models["llama"])
    batches = Batches().spy(monkeypatch)
    train(policy, tmp_path / "one", num_train_epochs=2)
    assert [shape[0] for shape in batches.shapes] == [2, 2, 2, 1] * 2
    for shape, mask in zip(batches.shapes, batches.masks, strict=True):
        assert shape[1] == int(mask.sum(dim=1).max())
    assert len({shape[1] for shape in batches.shapes}) > 2


def test_long_rows_are_not_cut(tiny_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer than the library's default of 1024 tokens; the tiny model's own limit is not enforced by anyone."""
    policy = load_policy(tiny_models["llama"])
    batches = Batches().spy(monkeypatch)
    row = training_rows(policy)[2]
    ids = row.completion.token_ids * 60
    long = dataclasses.replace(row, completion=dataclasses.replace(row.completion, token_ids=ids))
    done = train(policy, tmp_path / "one", rows=[long])
    assert len(ids) > 1100 and done.log[0]["num_tokens"] == len(ids) + 1
    assert batches.shapes == [(1, len(policy.prompt_ids(row.prompt)) + len(ids) + 1)]


@pytest.mark.parametrize("name", ["llama", "llama_pad_is_eos"])
def test_the_end_of_turn_becomes_likelier(name: str, tiny_models: dict[str, Path], tmp_path: Path) -> None:
    policy = load_policy(tiny_models[name])
    rows = training_rows(policy)

    def end_of_turn() -> float:
        with torch.no_grad():
            return float(answer_loss(policy, rows)[0] - answer_loss(policy, rows, end_of_turn=False)[0]) / len(rows)

    before = end_of_turn()
    assert policy.tokenizer.pad_token_id == policy.end_of_turn_id or name == "llama"
    train(policy, tmp_path / "one", learning_rate=1e-2, num_train_epochs=6)
    assert end_of_turn() < before - 1.0  # nats per token


def test_all_rows_of_an_epoch_are_seen_once_in_a_seeded_order(
    tiny_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = load_policy(tiny_models["llama"])
    batches = Batches().spy(monkeypatch)
    rows = training_rows(policy)
    train(
        policy, tmp_path / "one", rows=rows, num_train_epochs=2, options=TrainingOptions(per_device_train_batch_size=1)
    )
    answers = [tuple(token for token in labels[0].tolist() if token != -100) for labels in batches.labels]
    wanted = sorted((*row.completion.token_ids, policy.end_of_turn_id) for row in rows)
    assert sorted(answers[:7]) == sorted(answers[7:]) == wanted
    assert answers[:7] != answers[7:]
