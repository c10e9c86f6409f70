"""Base weights in 4 bits: what is computed with them, and what is trained, saved and refused."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from sft_cases import train, training_rows
from tiny_models import (
    ARCHITECTURES,
    TrainingOptions,
    adapter_weights,
    disturb_adapter,
    load_policy,
    prompts,
    request,
    same_bits,
)

from halo_forge.config import RaftConfig
from halo_forge.core.errors import ToolMissing
from halo_forge.policy import Policy, fused_adapter, save_merged
from halo_forge.runtime.preview import preview

torch = pytest.importorskip("torch")

from halo_forge.policy.quantized import dequantized, is_quantized  # noqa: E402 -- beside what needs torch

needs_bitsandbytes = pytest.mark.skipif(
    not any(each.name == "bitsandbytes" for each in metadata.distributions()),
    reason="bitsandbytes is not installed (make setup)",
)


def both(folder: Path) -> tuple[Policy, Policy]:
    """A policy in 4 bits, and a plain one whose weights are what the other multiplies with."""
    quantized, plain = load_policy(folder, quantization="4bit"), load_policy(folder)
    layers = dict(plain.model.named_modules())
    for name, layer in quantized.model.named_modules():
        if is_quantized(layer):
            layers[name].weight.data = dequantized(layer)
    return quantized, plain


def logits(policy: Policy) -> Any:
    ids = torch.tensor([policy.prompt_ids(row.prompt) for row in training_rows(policy)[:1]])
    with torch.no_grad():
        return policy.model(input_ids=ids).logits.float()


@needs_bitsandbytes
def test_linear_layers_are_in_4_bits_and_nothing_else(tiny_models: dict[str, Path]) -> None:
    folder = tiny_models["llama"]
    policy, plain = load_policy(folder, quantization="4bit"), load_policy(folder)
    names = {name for name, layer in policy.model.named_modules() if is_quantized(layer)}
    assert len(names) == 2 * 7 and not any("lm_head" in name or "embed" in name for name in names)
    assert {weight.dtype for weight in adapter_weights(policy).values()} == {torch.float32}
    assert same_bits(adapter_weights(policy), adapter_weights(plain))
    assert policy.num_parameters == plain.num_parameters
    assert policy.identity == {**plain.identity, "quantization": "4bit"}
    assert float((logits(policy) - logits(plain)).abs().max()) > 0.1  # 4 bits are not the weights


@needs_bitsandbytes
@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_training_after_sampling_is_that_of_the_weights_it_multiplies_with(
    name: str, gradient_checkpointing: bool, tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    options = TrainingOptions(gradient_checkpointing=gradient_checkpointing)
    found = []
    for number, policy in enumerate(both(tiny_models[name])):
        for cycle in ("one", "two"):
            with policy.sampling():
                logits(policy)
            done = train(policy, tmp_path / str(number) / cycle, options=options, learning_rate=1e-2)
        found.append((done.log, adapter_weights(policy)))
    (log, weights), (expected_log, expected) = found
    for row, expected_row in zip(log, expected_log, strict=True):
        assert row == pytest.approx(expected_row, rel=1e-3)
    for key in expected:
        torch.testing.assert_close(weights[key], expected[key], rtol=0, atol=1e-3)
        assert weights[key].dtype == torch.float32


@needs_bitsandbytes
def test_an_update_that_bfloat16_cannot_hold_is_not_lost(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    policy = load_policy(tiny_models["llama"], quantization="4bit", dtype="bfloat16")
    start = adapter_weights(policy)
    train(policy, tmp_path / "one", learning_rate=1e-6)
    after = adapter_weights(policy)
    assert all(torch.equal(weight, weight.float()) and weight.dtype == torch.float32 for weight in after.values())
    for key in (key for key in start if "lora_A" in key):
        assert 0 < float((after[key] - start[key]).abs().max()) < 1e-4


@needs_bitsandbytes
def test_the_adapter_in_one_product_is_that_of_the_library(tiny_models: dict[str, Path]) -> None:
    policy = load_policy(tiny_models["llama"], quantization="4bit")
    disturb_adapter(policy)
    theirs = logits(policy)
    with fused_adapter(policy.model):
        assert any("forward" in layer.__dict__ for layer in policy.model.modules())
        torch.testing.assert_close(logits(policy), theirs, rtol=0, atol=1e-4)


@needs_bitsandbytes
def test_greedy_answers_are_those_of_the_weights_it_multiplies_with(tiny_models: dict[str, Path]) -> None:
    from halo_forge.engines.transformers import TransformersEngine

    texts = []
    for policy in both(tiny_models["llama"]):
        disturb_adapter(policy)
        asked = prompts(["add two numbers", "why", "a longer question about values"])
        wanted = [request(prompt_id, temperature=0.0) for prompt_id in asked]
        engine = TransformersEngine(policy, batch_size=4, stop=())
        texts.append({each.prompt_id: each.text for each in engine.sample(asked, wanted, 0)})
    assert texts[0] == texts[1] and len(set(texts[0].values())) == 3


@needs_bitsandbytes
def test_the_merged_model_is_a_plain_one_that_computes_the_same(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    policy = load_policy(tiny_models["llama"], quantization="4bit")
    disturb_adapter(policy)
    before = logits(policy)
    save_merged(policy, tmp_path / "merged")
    assert "quantization_config" not in json.loads((tmp_path / "merged/config.json").read_text())
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    assert not any(is_quantized(layer) for layer in merged.modules())
    ids = torch.tensor([policy.prompt_ids(training_rows(policy)[0].prompt)])
    with torch.no_grad():
        found = merged(input_ids=ids).logits
    assert float((found - before).norm() / before.norm()) < 0.02  # it is in bfloat16
    assert torch.equal(logits(policy), before) and policy.model.get_base_model().is_quantized


@needs_bitsandbytes
def test_drift_is_measured_in_4_bits(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    from halo_forge.policy.drift_probe import DriftProbe

    found = []
    for number, policy in enumerate(both(tiny_models["llama"])):
        rows = training_rows(policy)
        folder = train(policy, tmp_path / str(number), rows=rows, learning_rate=1e-2).folder
        probe = DriftProbe(policy, {row.prompt.id: row.prompt for row in rows})
        bring = {0: None, 1: folder / "adapter"}
        answers = [row.completion for row in rows]
        facts = probe.drift(
            1, 0, lambda version, at=bring, it=policy: it.load_adapter(at[version], version), answers, []
        )
        found.append(torch.tensor([value for answer in facts.kl_to_start for value in answer]))
    torch.testing.assert_close(found[0], found[1], rtol=0.02, atol=1e-3)
    assert float(found[0].mean()) > 1e-3


# ---- where it cannot be used


@pytest.mark.parametrize(("version", "why"), [(None, "bitsandbytes is not installed"), ("0.49.2", "0.49.2 is too old")])
def test_a_missing_or_old_package_is_found_before_anything_is_loaded(
    version: str | None, why: str, tiny_models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = metadata.version

    def pretended(name: str) -> str:
        if name != "bitsandbytes":
            return real(name)
        if version is None:
            raise metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(metadata, "version", pretended)
    with pytest.raises(ToolMissing, match=why) as caught:
        load_policy(tiny_models["llama"], quantization="4bit")
    assert "bitsandbytes>=0.50" in caught.value.hint
    config = RaftConfig.model_validate(
        {"model": {"model_name_or_path": str(tiny_models["llama"]), "quantization": "4bit"}, "output_dir": "run"}
    )
    found = preview(config, 10, 10, True)
    assert any(why in warning for warning in found.warnings)
    assert found.hardware["model.quantization"] == "4bit"


def test_a_server_that_has_the_weights_in_full_is_refused() -> None:
    from pydantic import ValidationError

    model = {"model_name_or_path": "nobody/model", "quantization": "4bit"}
    server = {"kind": "openai_server", "base_url": "http://127.0.0.1:1/v1", "server": "vllm"}
    for engine in ({"kind": "vllm", "python": "/usr/bin/python3"}, server, {**server, "adapter": "none"}):
        with pytest.raises(ValidationError, match="a different policy than the one trained"):
            RaftConfig.model_validate({"model": model, "engine": engine, "output_dir": "run"})
    merged = {**server, "adapter": "merged_restart", "restart_command": ["serve", "{model}"]}
    for engine in ({"kind": "transformers"}, merged):
        RaftConfig.model_validate({"model": model, "engine": engine, "output_dir": "run"})
