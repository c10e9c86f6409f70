"""A supervised run's training gives a sign of life for each pass, not only for each optimizer step."""

from __future__ import annotations

from pathlib import Path

import pytest
from sft_cases import train
from tiny_models import TrainingOptions, load_policy

from halo_forge import heartbeat


def test_a_sign_for_each_forward_and_backward_pass(
    tiny_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signs: list[str] = []
    monkeypatch.setattr(heartbeat, "beat", lambda: signs.append("."))
    options = TrainingOptions(per_device_train_batch_size=4, max_tokens_per_pass=1)
    done = train(load_policy(tiny_models["llama"]), tmp_path / "one", options=options)
    assert len(done.log) == 2
    assert len(signs) == sum(row["num_rows"] for row in done.log) == 7
