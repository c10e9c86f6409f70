"""Drift and advice in whole runs: a tiny model, trained by the loop itself."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from scripted_runs import MemoryVerifier, SilentObserver, differences, execute, tree, write_inputs

from halo_forge.core.metrics import catalogue
from halo_forge.core.records import Completion, Verdict
from halo_forge.store.status import read_status

pytest.importorskip("torch")

DRIFT = {name for name in catalogue() if name == "entropy" or name.startswith(("kl_", "probe/", "reverse_kl_"))}


class HashVerifier(MemoryVerifier):
    """Half of the answers pass, by their own text."""

    def verdict(self, completion: Completion) -> Verdict:
        digest = hashlib.sha256(completion.text.encode()).hexdigest()
        passed = completion.index % 2 == 0
        found = Verdict(
            prompt_id=completion.prompt_id,
            index=completion.index,
            stage="tests",
            status="passed" if passed else "failed",
            reward=float(passed),
        )
        return dataclasses.replace(found, tests_total=1, normal_digest=digest, source_digest=digest)


def configured(folder: Path, model: Path, rate: float, **changes: Any) -> Path:
    return write_inputs(
        folder,
        num_prompts=(6, 4, 1),
        model__model_name_or_path=str(model),
        model__dtype="float32",
        engine={"kind": "transformers", "max_new_tokens": 12, "stop": list("aeiou ")},  # random models do not end
        lora__r=4,
        training__learning_rate=rate,
        training__num_train_epochs=3,
        selection={"kind": "threshold", "deduplicate": False},
        evaluation__test_at_end=False,
        **changes,
    )


def metrics_of(root: Path, cycle: int, name: str) -> dict[str, Any]:
    return dict(json.loads((root / f"cycles/{cycle:03d}/{name}.json").read_text())["metrics"])


@pytest.fixture
def verifier(monkeypatch: pytest.MonkeyPatch) -> HashVerifier:
    found = HashVerifier()
    monkeypatch.setattr("halo_forge.verifiers.verifier.ThreadedVerifier", lambda spec: found)
    return found


def test_a_run_measures_how_far_its_versions_move(
    tmp_path: Path, tiny_models: dict[str, Path], verifier: HashVerifier
) -> None:
    config = configured(tmp_path, tiny_models["llama"], 1e-2)
    observer = SilentObserver()
    execute(config, tmp_path / "run", observer=observer)
    first, second, last = (metrics_of(tmp_path / "run", cycle, "measurement") for cycle in (1, 2, 3))
    assert DRIFT - first.keys() == {"kl_to_previous"}  # v0 was not trained from anything
    assert DRIFT <= second.keys()
    assert {name for name in DRIFT if name in last} == DRIFT - {name for name in DRIFT if "reverse" in name} - {
        "entropy"
    }
    assert first["kl_to_start"] == 0.0 < second["kl_to_start"] == second["kl_to_previous"]
    assert 0.0 < last["kl_to_previous"] != last["kl_to_start"] > 0.0
    assert second["reverse_kl_k3"] > 0.0
    for name, metrics in (("drift", second), ("measurement", second)):
        assert {key: metrics_of(tmp_path / "run", 2, name)[key] for key in DRIFT} == {
            key: metrics[key] for key in DRIFT
        }
    trained = metrics_of(tmp_path / "run", 2, "trained")
    assert trained["kept/nll_before"] > 0.0 and trained["kept/num_unique"] >= 1
    assert 0.0 <= trained["kept/stale_fraction"] <= 1.0
    assert [advised.policy_version for advised in observer.advice] == [0, 1, 2]
    costs = read_status(tmp_path / "run", 2).cycles[1].metrics
    assert costs["seconds/drift"] > 0.0


def test_a_resumed_run_measures_the_same(tmp_path: Path, tiny_models: dict[str, Path], verifier: HashVerifier) -> None:
    """The first process remembers what v0 made of the probe; the second computes it again."""
    config = configured(tmp_path, tiny_models["llama"], 1e-2)
    execute(config, tmp_path / "run")
    whole = tree(tmp_path / "run")
    lost = ("drift", "measurement", "decision", "advice")
    for path in [tmp_path / f"run/cycles/003/{name}.json" for name in lost] + [tmp_path / "run/result.json"]:
        path.unlink()
    execute(config, tmp_path / "run")
    assert differences(tree(tmp_path / "run"), whole) == []


def test_at_learning_rate_zero_nothing_moves_and_nothing_is_advised(
    tmp_path: Path, tiny_models: dict[str, Path], verifier: HashVerifier
) -> None:
    config = configured(tmp_path, tiny_models["llama"], 0.0)
    observer = SilentObserver()
    execute(config, tmp_path / "run", observer=observer)
    last = metrics_of(tmp_path / "run", 3, "measurement")
    assert {name: value for name, value in last.items() if "kl_" in name} == {
        "kl_to_start": 0.0,
        "kl_to_start_sequence": 0.0,
        "kl_to_previous": 0.0,
    }
    said = [row["kind"] for advised in observer.advice for row in advised.advice]
    assert set(said) <= {"zero_learning_rate", "truncation"}
    assert said.count("zero_learning_rate") == 2


def test_drift_can_be_turned_off(tmp_path: Path, tiny_models: dict[str, Path], verifier: HashVerifier) -> None:
    config = configured(tmp_path, tiny_models["llama"], 1e-3, evaluation__num_drift_samples=0, raft__num_cycles=1)
    execute(config, tmp_path / "run")
    assert metrics_of(tmp_path / "run", 2, "drift") == {}
    assert "kept/nll_before" not in metrics_of(tmp_path / "run", 1, "trained")


def test_a_model_that_takes_samples_and_drift_from_another_run_ends_with_the_same_bytes(
    tmp_path: Path, tiny_models: dict[str, Path], verifier: HashVerifier
) -> None:
    config = configured(tmp_path, tiny_models["llama"], 1e-3, raft__num_cycles=1)
    execute(config, tmp_path / "first")
    rate = "training.learning_rate=1e-2"
    execute(config, tmp_path / "alone", rate)
    execute(config, tmp_path / "second", rate, share_from=[tmp_path / "first"])
    changed = differences(tree(tmp_path / "second"), tree(tmp_path / "alone"))
    assert [name for name in changed if not name.startswith("config")] == []
    for name in ("completions.jsonl", "dev_verdicts.jsonl"):
        assert (tmp_path / "second/cycles/001" / name).samefile(tmp_path / "first/cycles/001" / name)
    weights = "cycles/001/adapter/adapter_model.safetensors"
    assert (tmp_path / "first" / weights).read_bytes() != (tmp_path / "second" / weights).read_bytes()
    assert not (tmp_path / "second/cycles/002/dev_completions.jsonl").samefile(
        tmp_path / "first/cycles/002/dev_completions.jsonl"
    ), "samples of other weights were taken"
