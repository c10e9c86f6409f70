"""A whole scripted run: a learning-rate mass is spent whatever was kept, and written down as it was applied."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from scripted_runs import MemoryVerifier, execute, write_inputs


def test_every_cycle_spends_its_mass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("halo_forge.verifiers.verifier.ThreadedVerifier", lambda spec: MemoryVerifier())
    config = write_inputs(tmp_path, training__learning_rate=None, training__learning_rate_mass=[4e-4, 1e-4])
    execute(config, tmp_path / "run")
    for cycle, mass in (("001", 4e-4), ("002", 1e-4)):
        folder = tmp_path / "run/cycles" / cycle
        settings = json.loads((folder / "settings.json").read_text())
        steps = [json.loads(line) for line in (folder / "training_log.jsonl").read_text().splitlines()]
        assert settings["learning_rate_mass"] == mass
        assert sum(step["learning_rate"] for step in steps) == pytest.approx(mass)
        assert max(step["learning_rate"] for step in steps) == settings["learning_rate"]
