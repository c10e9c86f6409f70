"""Between two passes of training: a sign of life, and a look whether processors are free."""

from __future__ import annotations

from pathlib import Path

import pytest
from sft_cases import train
from tiny_models import TrainingOptions, adapter_weights, load_policy, same_bits

from halo_forge.policy import threads
from halo_forge.supervisor import heartbeat

torch = pytest.importorskip("torch")


def test_a_sign_for_each_forward_and_backward_pass(
    tiny_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signs: list[str] = []
    monkeypatch.setattr(heartbeat, "beat", lambda: signs.append("."))
    options = TrainingOptions(per_device_train_batch_size=4, max_tokens_per_pass=1)
    done = train(load_policy(tiny_models["llama"]), tmp_path / "one", options=options)
    assert len(done.log) == 2
    assert len(signs) == sum(row["num_rows"] for row in done.log) == 7


def test_beside_other_programs_threads_give_way_and_the_adapter_is_the_same(
    tiny_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, seen = torch.get_num_threads(), set()
    moments = iter(range(-1, 10**6))  # busy once the training is going
    monkeypatch.setattr(threads, "_INTERVAL_SECONDS", 0.0)
    monkeypatch.setattr(heartbeat, "beat", lambda: seen.add(torch.get_num_threads()))
    found = []
    try:
        for used, num_threads in ((lambda: 0.0, 2), (lambda: 1000.0 * max(0, next(moments)), 1)):
            torch.set_num_threads(2)
            monkeypatch.setattr(threads, "used_by_others", used)
            policy = load_policy(tiny_models["llama"])
            train(policy, tmp_path / str(num_threads), options=TrainingOptions(per_device_train_batch_size=4))
            assert seen == {num_threads} and torch.get_num_threads() == 2
            seen.clear()
            found.append(adapter_weights(policy))
    finally:
        torch.set_num_threads(before)
    assert same_bits(*found)
